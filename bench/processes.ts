/**
 * What a process costs while nobody asks anything of it.
 *
 * @module
 */

/** What a process holds and has used. */
export interface ProcessCost {
  /** Time on a processor since it started, all threads, in ns. */
  readonly cpu_ns: number;
  /** Resident memory, and the part of it that is no file's. */
  readonly rss_bytes: number;
  readonly anonymous_bytes: number;
}

/** Reads the sum of all threads' times out of their `schedstat` files: the first number of each. */
export function cpuOf(schedstats: readonly string[]): number {
  return schedstats.reduce((sum, text) => sum + Number(text.split(" ")[0]), 0);
}

/** Reads a size in kB out of `/proc/PID/status`. Throws when it is not there. */
export function statusBytes(status: string, field: string): number {
  const match = new RegExp(`^${field}:\\s+(\\d+) kB$`, "m").exec(status);
  if (match === null) throw new Error(`/proc/PID/status has no ${field}`);
  return Number(match[1]) * 1024;
}

export function processCost(pid: number): ProcessCost {
  const schedstats: string[] = [];
  for (const { name } of Deno.readDirSync(`/proc/${pid}/task`)) {
    try {
      schedstats.push(Deno.readTextFileSync(`/proc/${pid}/task/${name}/schedstat`));
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error; // the thread has ended
    }
  }
  const status = Deno.readTextFileSync(`/proc/${pid}/status`);
  return {
    cpu_ns: cpuOf(schedstats),
    rss_bytes: statusBytes(status, "VmRSS"),
    anonymous_bytes: statusBytes(status, "RssAnon"),
  };
}

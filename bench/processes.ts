/**
 * What a process costs while nobody asks anything of it.
 *
 * @module
 */

/** What a process holds and has used. */
export interface ProcessCost {
  /** Time on a processor in ns, by thread. */
  readonly cpu_ns: ReadonlyMap<string, number>;
  /** Resident memory, and the part of it that is no file's. */
  readonly rss_bytes: number;
  readonly anonymous_bytes: number;
}

/** Time on a processor between two looks, in ns. A thread that has ended meanwhile does not count. */
export function cpuBetween(before: ProcessCost, after: ProcessCost): number {
  let sum_ns = 0;
  for (const [thread, ns] of after.cpu_ns) sum_ns += ns - (before.cpu_ns.get(thread) ?? 0);
  return sum_ns;
}

/** Reads a size in kB out of `/proc/PID/status`. Throws when it is not there. */
export function statusBytes(status: string, field: string): number {
  const match = new RegExp(`^${field}:\\s+(\\d+) kB$`, "m").exec(status);
  if (match === null) throw new Error(`/proc/PID/status has no ${field}`);
  return Number(match[1]) * 1024;
}

/** Ticks in a second of `/proc/PID/stat`: fixed for programs, whatever the kernel's own are. */
const TICKS = 100;

/** Time on a processor out of `/proc/PID/stat`, in seconds: all threads, those that have ended too, in ticks only. */
export function statSeconds(stat: string): number {
  // The name may hold anything, but is in parentheses. utime and stime are the fields 14 and 15.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[11]) + Number(fields[12])) / TICKS;
}

export function processSeconds(pid: number): number {
  return statSeconds(Deno.readTextFileSync(`/proc/${pid}/stat`));
}

export function processCost(pid: number): ProcessCost {
  const cpu_ns = new Map<string, number>();
  for (const { name } of Deno.readDirSync(`/proc/${pid}/task`)) {
    try {
      // Its first number is the time on a processor (proc(5)).
      const schedstat = Deno.readTextFileSync(`/proc/${pid}/task/${name}/schedstat`);
      cpu_ns.set(name, Number(schedstat.split(" ")[0]));
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error; // the thread has ended
    }
  }
  const status = Deno.readTextFileSync(`/proc/${pid}/status`);
  return {
    cpu_ns,
    rss_bytes: statusBytes(status, "VmRSS"),
    anonymous_bytes: statusBytes(status, "RssAnon"),
  };
}

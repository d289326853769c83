/**
 * Finds the processes that descend from a test run, by a variable in their environment, which children inherit
 * and a detached process keeps.
 *
 * @module
 */

const VARIABLE = "PCACHE_TEST_TAG";

/** Processes, other than this one, that were started with `PCACHE_TEST_TAG=tag`. */
export function taggedProcesses(tag: string): { pid: number; command: string }[] {
  const found: { pid: number; command: string }[] = [];
  for (const entry of Deno.readDirSync("/proc")) {
    const pid = Number(entry.name);
    if (!Number.isInteger(pid) || pid === Deno.pid) continue;
    try {
      const environment = Deno.readTextFileSync(`/proc/${pid}/environ`).split("\0");
      if (!environment.includes(`${VARIABLE}=${tag}`)) continue;
      const command = Deno.readTextFileSync(`/proc/${pid}/cmdline`).replaceAll("\0", " ").trim();
      found.push({ pid, command });
    } catch {
      // Ended while we looked, or somebody else's.
    }
  }
  return found;
}

/** Kills them, by their own ids, and waits until they are gone. */
export async function stopTagged(tag: string): Promise<void> {
  for (let left = taggedProcesses(tag); left.length > 0; left = taggedProcesses(tag)) {
    for (const { pid } of left) {
      try {
        Deno.kill(pid, "SIGKILL");
      } catch (error) {
        if (!(error instanceof Deno.errors.NotFound)) throw error;
      }
    }
    await new Promise((wake) => setTimeout(wake, 50));
  }
}

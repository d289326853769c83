/**
 * Locks of processes that are on their way out. A process that was killed takes a moment to let go of its files: as long as a disk
 * takes for what the process waits for, or the kernel to take a large mapping apart. Who comes right after it finds no other user.
 *
 * @module
 */

import { pause } from "./pause.ts";

/** A lock that takes longer to fall than this is taken for one that stays. */
const LEAVING_LIMIT_MS = 30_000;
/** The same where the process has gone: the kernel closes some files a little later. A child may have them, too. */
const GONE_LIMIT_MS = 1000;
const LOOK_MS = 5;

/** In `/proc/PID/task/TID/stat`: the thread is on its way out (`PF_EXITING` in Linux's include/linux/sched.h). */
const PF_EXITING = 0x4;
/** SIGKILL, among the signals that wait for a thread. */
const SIGKILL_BIT = 1n << 8n;

/**
 * Tries to get something that is locked while the file at `path` is, and tries again for as long as the lock's holder is on its way
 * out.
 *
 * @param attempt null: it is locked
 */
export function waitOutLeaving<T>(path: string, attempt: () => T | null): T | null {
  const from_ms = performance.now();
  let got = attempt();
  while (got === null) {
    const limit_ms = holderLimitMs(path);
    // It may have let go meanwhile.
    got = attempt();
    if (got !== null || performance.now() - from_ms >= limit_ms) break;
    pause(LOOK_MS);
  }
  return got;
}

/**
 * How long to wait for whoever holds a flock(2) on a file. The file is known by the number of its inode alone: `/proc/locks` has the
 * number of the file system's device, which is not the one of stat(2) on Btrfs and overlays. Should it be another file, a process is
 * waited for that leaves as well.
 */
function holderLimitMs(path: string): number {
  const inode = inodeOf(path);
  const limits_ms = Deno.readTextFileSync("/proc/locks").split("\n").map((line) => {
    // proc(5): "1: FLOCK ADVISORY WRITE PID MAJOR:MINOR:INODE ..."; who waits for a lock has "->" before FLOCK.
    const [, kind, , , pid, place] = line.trim().split(/ +/);
    if (kind !== "FLOCK" || place!.split(":")[2] !== inode) return 0;
    const threads = threadsOf(Number(pid));
    if (threads.includes("leaving")) return LEAVING_LIMIT_MS;
    return threads.includes("lives") ? 0 : GONE_LIMIT_MS;
  });
  return Math.max(...limits_ms);
}

/** "": the file is not there. */
function inodeOf(path: string): string {
  try {
    return String(Deno.statSync(path).ino);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return "";
    throw error;
  }
}

/**
 * Whether any thread of a process is still on its way out: they end one after another. A process without one has ended, or lives on: a program
 * that has served a device itself (mod.ts), or another process of that number.
 */
export function isLeaving(pid: number): boolean {
  return threadsOf(pid).includes("leaving");
}

type ThreadState = "lives" | "leaving" | "gone";

/** The states of a process's threads; none: it has gone, or is not ours to look at. */
function threadsOf(pid: number): ThreadState[] {
  try {
    return [...Deno.readDirSync(`/proc/${pid}/task`)].map(({ name }) =>
      threadState(`/proc/${pid}/task/${name}`)
    );
  } catch {
    return [];
  }
}

function threadState(path: string): ThreadState {
  try {
    // proc(5): behind the name, which may hold anything, the state and, six fields later, the flags.
    const [state, , , , , , flags] = Deno.readTextFileSync(`${path}/stat`)
      .replace(/^.*\) /s, "").split(" ");
    if (/^[ZX]$/.test(state!)) return "gone";
    if ((Number(flags) & PF_EXITING) !== 0) return "leaving";
    // The thread's own one is taken before the thread is marked; the process's one stays to its end.
    const pending = Deno.readTextFileSync(`${path}/status`).matchAll(/^S[ih][gd]Pnd:\s*(\w+)$/gm);
    const is_killed = pending.some(([, bits]) => (BigInt(`0x${bits}`) & SIGKILL_BIT) !== 0n);
    return is_killed ? "leaving" : "lives";
  } catch {
    return "gone";
  }
}

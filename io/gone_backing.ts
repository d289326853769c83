/**
 * What stands in the place of a backing device that has been let go: nothing may be asked of it any more. The old one is
 * still told what ends on the ring, so that it can close its socket.
 *
 * @module
 */

import type { LoopBacking } from "./backing.ts";

function refuse(): never {
  throw new Error("a backing device that has been let go is used");
}

/** No backing device, where `old` was, which is closed. */
export function goneBacking(old: LoopBacking): LoopBacking {
  return {
    size_bytes: 0,
    currentBytes: () => 0,
    resize: refuse,
    trouble: "",
    outage_count: 0,
    handle: (index, result, user) => old.handle(index, result, user),
    turn: () => false,
    nextTimerMs: () => Infinity,
    stopWaiting: () => {},
    close: () => {},
    read: refuse,
    write: refuse,
    canZero: () => false,
    zero: refuse,
    flush: refuse,
  };
}

/**
 * What stands in the place of a backing device that has been let go: nothing may be asked of it any more, and what is still
 * said about the old one is not heard.
 *
 * @module
 */

import type { LoopBacking } from "./backing.ts";

function refuse(): never {
  throw new Error("a backing device that has been let go is used");
}

/** No backing device. */
export const GONE_BACKING: LoopBacking = {
  size_bytes: 0,
  trouble: "",
  outage_count: 0,
  handle: () => {},
  turn: () => false,
  nextTimerMs: () => Infinity,
  stopWaiting: () => {},
  close: () => {},
  read: refuse,
  write: refuse,
  flush: refuse,
};

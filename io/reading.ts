/**
 * How far the reading of the log has come, for whoever waits for the device.
 *
 * @module
 */

import type { ReplayListener } from "../core/replay.ts";
import type { DeviceEvent } from "./device_config.ts";

/** What takes less is not worth a word. */
const FIRST_MS = 1000;
const PERIOD_MS = 200;

/** Tells from the first second on, a few times a second. `measure`, the length of the log in bytes, is asked for once, when it is needed. */
export function readingTeller(
  measure: () => number,
  tell: (event: DeviceEvent) => void,
  now = () => performance.now(),
): ReplayListener {
  let due_ms = now() + FIRST_MS;
  let log_bytes = -1;
  return (done_bytes) => {
    const now_ms = now();
    if (now_ms < due_ms) return;
    due_ms = now_ms + PERIOD_MS;
    if (log_bytes < 0) log_bytes = measure();
    tell({ event: "reading", done_bytes, left_bytes: Math.max(0, log_bytes - done_bytes) });
  };
}

/**
 * Sleeping without a turn of Deno's event loop.
 *
 * @module
 */

/** Sleeps. Only while nothing is served. */
export function pause(ms: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
}

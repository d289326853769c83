/**
 * Writes everything that is dirty in a cache back, without serving it.
 *
 * @module
 */

import { assert } from "../core/assert.ts";
import { CacheError } from "../core/errors.ts";
import { LocalCache } from "./local_cache.ts";
import { Removal } from "./removal.ts";

/** How often it is looked at while nothing ends. */
const LOOK_MS = 50;

/** What is told meanwhile; each of them often. */
export interface DrainListener {
  /** The log is being read. */
  reading(done_bytes: number, left_bytes: number): void;
  /** Both devices are open. */
  opened(): void;
  /** Data is being written back. */
  writing(done_bytes: number, left_bytes: number): void;
}

/** What it came to. */
export interface DrainReport {
  /** Bytes that were dirty, each write counted, and bytes that had to be written for them. */
  readonly dirty_bytes: number;
  readonly written_bytes: number;
}

/**
 * Drains the cache, and returns when the backing device has it all, durably, and the cache says so. Throws `CacheError` when that cannot
 * be done: what was not written stays in the cache.
 */
export function drain(
  cache_path: string,
  backing_path: string,
  listener: DrainListener,
): DrainReport {
  using cache = new LocalCache({
    cache_path,
    backing_path,
    data_crc: null,
    onRead: (done, left) => listener.reading(done, left),
  });
  listener.opened();
  const { engine, backing } = cache;
  const dirty_bytes = engine.counters.dirty_bytes;
  const removal = new Removal({
    engine,
    isInUse: () => false,
    admit: () => {},
    stop: () => "gone",
    backingTrouble: () => backing.trouble,
  });
  removal.ask(0, { flush: true, force: false }, performance.now());
  while (!removal.is_done) {
    const now_ms = performance.now();
    const refusal = removal.step(now_ms);
    if (refusal !== null) {
      assert(!refusal.ok, "a removal is refused with a reason");
      throw new CacheError(refusal.error);
    }
    if (removal.is_closing) backing.stopWaiting(now_ms);
    engine.pump(now_ms);
    const left_bytes = engine.counters.dirty_bytes;
    listener.writing(Math.max(0, dirty_bytes - left_bytes), left_bytes);
    if (!removal.is_done) cache.turn(LOOK_MS);
  }
  const outcome = removal.outcome();
  if (!outcome.ok) throw new CacheError(outcome.error);
  return { dirty_bytes, written_bytes: engine.counters.writeback_bytes };
}

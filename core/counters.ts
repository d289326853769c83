/**
 * What the engine counts. Plain numbers, read by `status`, `info` and tests.
 *
 * @module
 */

/** Counted since the cache was opened, but for `dirty_bytes`, which is a level. */
export class Counters {
  reads = 0;
  writes = 0;
  flushes = 0;
  /** Zeroing requests that must keep their space on the backing device, and others. */
  zeroes = 0;
  trims = 0;
  read_bytes = 0;
  written_bytes = 0;
  zeroed_bytes = 0;
  trimmed_bytes = 0;
  /** Reads by where their bytes came from: all from the cache, some of them, none. Counted when they are answered. */
  read_hits = 0;
  read_partial_hits = 0;
  read_misses = 0;
  /** Ranges of reads that another one was fetching from the backing device already. */
  placeholders_waited = 0;
  /** Requests that had to wait for space, buffers or room in the log. */
  waited = 0;
  /** Reads of ranges that were not in the cache, one for each request to the backing device. */
  fills = 0;
  /** Fills whose bytes were not kept: no space, or overwritten meanwhile. */
  fills_not_kept = 0;
  /** Bytes of misses that were not kept, as they belonged to a long sequential stream. */
  passed_bytes = 0;
  /** Ranges that did not have their checksum, when read or written back. */
  checksum_failures = 0;
  /** Of these, clean ones: read from the backing device instead. */
  healed = 0;
  /** Bytes of writes that went around the cache, straight to the backing device. */
  around_bytes = 0;
  backing_read_errors = 0;
  backing_write_errors = 0;
  backing_flush_errors = 0;
  /** Bytes of dirty keys that write-back has done with, and bytes it had to write for them. */
  writeback_key_bytes = 0;
  writeback_bytes = 0;
  /** Of these, bytes that the backing device was told to make zeroes, or to punch. */
  writeback_zeroed_bytes = 0;
  writeback_batches = 0;
  /** Keys that could not be written back and were logged again. */
  writeback_relogged = 0;
  /** Ksets that were durable and could not be read again: writes are refused from then on. */
  log_damaged = 0;
  /** Bytes that GC copied to the main part of the cache, since they had been read. */
  carried_bytes = 0;
  /** Keys that GC logged again, since their bytes stay where they are. */
  kept_keys = 0;
  gc_rounds = 0;
  gc_ksets = 0;
  segments_freed = 0;
  /** Bytes of dirty keys that are not written back yet, each write counted. */
  dirty_bytes = 0;

  /**
   * V8 keeps a field in which it has seen small whole numbers alone in another way than one that has held a fraction, and throws away what it
   * has compiled when the first one outgrows 31 bits: some have after 2 GiB of requests. So all of them have held a fraction.
   */
  constructor() {
    for (const name of Object.keys(this) as (keyof this & keyof Counters)[]) {
      this[name] = 0.5;
      this[name] = 0;
    }
  }
}

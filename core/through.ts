/**
 * Write-through: how far the backing device has what the log has, and what a request has to wait for.
 *
 * In modes writethrough and writearound a write is logged as a dirty key as ever, and answered when write-back has brought it to the
 * backing device; a flush and a FUA write are answered when that is flushed, too. So no byte reaches the backing device before the key that
 * names it is durable (no older copy can come back after a crash), write-back needs no I/O of its own for it, and whoever throws the cache
 * device away loses nothing that was flushed.
 *
 * What was dirty when such a mode began, or when the cache was opened, is a backlog: to wait for all of it would hold the first
 * request up for minutes. So a request that comes `n` keys later waits until at most `backlog - n` keys are left: writes slow
 * down to half the pace of write-back until the backlog is gone, and from then on the promise holds (`is_settled`).
 *
 * Places in the log are counted in keys, as `Log.appended` counts them; what was there at the start is below 0.
 *
 * Invariants: `flushed <= written`; the backlog only shrinks, and is 0 once the mode has settled.
 *
 * @module
 */

import type { CacheMode } from "./cache_mode.ts";

/** A range that the backing device has refused. */
export interface Refused {
  readonly sector: number;
  readonly sectors: number;
}

/** The cache mode, and the places that requests wait for. */
export class Through {
  #mode: CacheMode;
  /** Whether writes are answered only when the backing device has them. */
  is_on: boolean;
  /** Whether what is read from the backing device is kept. */
  keeps_misses: boolean;
  /** The backing device has every key before this, unless it refused it; it may still lose what is behind `flushed`. */
  written: number;
  /** The backing device has flushed every key before this. */
  flushed: number;
  /** The place that the first waiting flush needs; Infinity: none waits. */
  flush_wanted = Infinity;
  /** How many requests wait for any of that. */
  waiting = 0;
  /** What the backing device has refused of the batch that ends at `written`. */
  refused: readonly Refused[] = [];
  #backlog = 0;
  #backlog_at = 0;
  /** The mode has settled when this is flushed, and there is no backlog. */
  #settled_at = 0;

  /** `keys`: how many the log holds behind the dirty tail. */
  constructor(mode: CacheMode, keys: number) {
    this.written = this.flushed = -keys;
    this.#mode = mode;
    this.is_on = false;
    this.keeps_misses = true;
    this.setMode(mode, 0);
  }

  get mode(): CacheMode {
    return this.#mode;
  }

  /** Writes may go around the cache. */
  get is_around(): boolean {
    return this.#mode === "writearound";
  }

  /** Whether write-back is to begin without delay. */
  get is_prompt(): boolean {
    return this.is_on || this.waiting > 0;
  }

  /** `appended`: keys in the log. */
  setMode(mode: CacheMode, appended: number): void {
    const was_on = this.is_on;
    this.#mode = mode;
    this.is_on = mode === "writethrough" || mode === "writearound";
    this.keeps_misses = mode !== "writeonly";
    if (!this.is_on || was_on) return;
    this.#backlog = appended - this.flushed;
    this.#backlog_at = appended;
    this.#settled_at = appended;
  }

  /** How far write-back must be for a request behind `appended` keys. */
  target(appended: number): number {
    this.#shrink(appended);
    return appended - this.#backlog;
  }

  /** The backing device has flushed what is before `written`. */
  setFlushed(appended: number): void {
    this.flushed = this.written;
    this.#shrink(appended);
  }

  /** Whether the mode's promise holds: what was dirty before it began is on the backing device. */
  isSettled(appended: number): boolean {
    this.#shrink(appended);
    return this.#backlog === 0 && this.flushed >= this.#settled_at;
  }

  /** Whether the backing device has refused some of the range, which was written a moment ago. */
  wasRefused(sector: number, sectors: number): boolean {
    return this.refused.some((range) =>
      range.sector < sector + sectors && sector < range.sector + range.sectors
    );
  }

  #shrink(appended: number): void {
    if (this.#backlog === 0) return;
    const allowed = this.#backlog - (appended - this.#backlog_at);
    this.#backlog = Math.max(0, Math.min(allowed, appended - this.flushed));
    this.#backlog_at = appended;
    if (this.#backlog === 0) this.#settled_at = appended;
  }
}

/**
 * How fast a device writes back and reclaims, and how old its oldest dirty data is: from samples of what the engine counts,
 * one a second.
 *
 * Dirty data is written back in the order in which it came. So the oldest that is left came when the sum of all that ever came
 * grew past the sum of all that has been written back.
 *
 * Invariants: samples are in order of time; there are at most `MAX_SAMPLES`, and then every other one is dropped.
 *
 * @module
 */

import type { Counters } from "../core/counters.ts";

/** Time between two samples, at least. */
export const SAMPLE_MS = 1000;
/** Over this long rates are taken. */
const RATE_MS = 10_000;
const MAX_SAMPLES = 1024;

interface Sample {
  readonly now_ms: number;
  /** Dirty bytes that ever came. */
  readonly dirtied_bytes: number;
  readonly writeback_bytes: number;
  readonly segments_freed: number;
}

/** What is said of a device's pace. */
export interface PaceReport {
  /** Age of the oldest dirty data, in ms; 0: nothing is dirty. Exact to a second. */
  readonly dirty_age_ms: number;
  /** Bytes written to the backing device, a second. */
  readonly writeback_bytes_per_s: number;
  /** Segments made free, a second. */
  readonly segments_freed_per_s: number;
}

/** Samples of one device. */
export class Pace {
  readonly #counters: Readonly<Counters>;
  #samples: Sample[];
  #next_ms: number;

  constructor(counters: Readonly<Counters>, now_ms: number) {
    this.#counters = counters;
    this.#samples = [this.#sample(now_ms)];
    this.#next_ms = now_ms + SAMPLE_MS;
  }

  /** Takes a sample if it is time; called once a turn of the loop. */
  look(now_ms: number): void {
    if (now_ms < this.#next_ms) return;
    this.#next_ms = now_ms + SAMPLE_MS;
    if (this.#samples.length === MAX_SAMPLES) {
      this.#samples = this.#samples.filter((_, at) => at % 2 === 0);
    }
    this.#samples.push(this.#sample(now_ms));
  }

  report(now_ms: number): PaceReport {
    const now = this.#sample(now_ms);
    const from = this.#samples.find((sample) => sample.now_ms >= now_ms - RATE_MS);
    const seconds = from === undefined ? 0 : (now_ms - from.now_ms) / 1000;
    const rate = (key: "writeback_bytes" | "segments_freed") =>
      seconds === 0 ? 0 : Math.round((now[key] - from![key]) / seconds);
    return {
      dirty_age_ms: this.#dirtyAge(now_ms),
      writeback_bytes_per_s: rate("writeback_bytes"),
      segments_freed_per_s: rate("segments_freed"),
    };
  }

  #dirtyAge(now_ms: number): number {
    if (this.#counters.dirty_bytes === 0) return 0;
    const done_bytes = this.#counters.writeback_key_bytes;
    const after = this.#samples.find((sample) => sample.dirtied_bytes > done_bytes);
    return Math.round(now_ms - (after?.now_ms ?? now_ms));
  }

  #sample(now_ms: number): Sample {
    const { dirty_bytes, writeback_key_bytes, writeback_bytes, segments_freed } = this.#counters;
    const dirtied_bytes = dirty_bytes + writeback_key_bytes;
    return { now_ms, dirtied_bytes, writeback_bytes, segments_freed };
  }
}

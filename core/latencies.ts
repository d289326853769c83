/**
 * How long requests took: one histogram for each kind, in buckets of powers of two microseconds.
 *
 * The clock is the loop's, read once a turn: a request that is answered in the turn in which it came took 0.
 *
 * Invariant: a request is counted once, when its answer is taken.
 *
 * @module
 */

import { FLUSH, READ, TRIM, WRITE, ZERO } from "./requests.ts";

/** Bucket 0: under 1 us; bucket b: from 2^(b-1) us on, under 2^b us. The last one holds everything longer. */
export const LATENCY_BUCKETS = 33;

/** The histogram of one kind of request. */
export interface Histogram {
  readonly count: number;
  readonly sum_us: number;
  /** How many requests fell into each bucket. */
  readonly buckets: number[];
}

/** The histograms of all kinds. */
export interface LatencyReport {
  readonly read: Histogram;
  /** Writes, and zeroing of both kinds. */
  readonly write: Histogram;
  readonly flush: Histogram;
}

const KINDS = Math.max(READ, WRITE, FLUSH, ZERO, TRIM) + 1;

/** Counts in typed arrays: nothing is allocated for a request. */
export class Latencies {
  readonly #begin_ms: Float64Array;
  readonly #counts = new Float64Array(KINDS * LATENCY_BUCKETS);
  readonly #sums_us = new Float64Array(KINDS);

  constructor(max_requests: number) {
    this.#begin_ms = new Float64Array(max_requests);
  }

  /** The request in `slot` came. */
  begin(slot: number, now_ms: number): void {
    this.#begin_ms[slot] = now_ms;
  }

  /** It is answered. */
  end(slot: number, kind: number, now_ms: number): void {
    const us = Math.max(0, 1000 * (now_ms - this.#begin_ms[slot]!));
    const bucket = 32 - Math.clz32(Math.min(us, 0xffffffff));
    const at = kind * LATENCY_BUCKETS + bucket;
    this.#counts[at] = this.#counts[at]! + 1;
    this.#sums_us[kind] = this.#sums_us[kind]! + us;
  }

  /** What was counted. */
  report(): LatencyReport {
    return {
      read: this.#histogram(READ),
      write: this.#histogram(WRITE, ZERO, TRIM),
      flush: this.#histogram(FLUSH),
    };
  }

  #histogram(...kinds: number[]): Histogram {
    const buckets = new Array<number>(LATENCY_BUCKETS).fill(0);
    let sum_us = 0;
    for (const kind of kinds) {
      for (let i = 0; i < LATENCY_BUCKETS; i++) {
        buckets[i] = buckets[i]! + this.#counts[kind * LATENCY_BUCKETS + i]!;
      }
      sum_us += this.#sums_us[kind]!;
    }
    const count = buckets.reduce((sum, each) => sum + each, 0);
    return { count, sum_us: Math.round(sum_us), buckets };
  }
}

/**
 * Numbers for the rows of a table kept in typed arrays: taken and given back without allocation.
 *
 * Invariant: a number is either in use, on the free list, or at or above the high-water mark. Rows above the
 * mark were never touched, so a large limit costs no memory until it is used.
 *
 * @module
 */

import { assert } from "./assert.ts";

/** Hands out 0 .. limit-1. */
export class SlotPool {
  readonly limit: number;
  readonly #next: Int32Array;
  #first = -1;
  #high_water = 0;
  #in_use = 0;

  constructor(limit: number) {
    this.limit = limit;
    this.#next = new Int32Array(limit);
  }

  get in_use(): number {
    return this.#in_use;
  }

  get available(): number {
    return this.limit - this.#in_use;
  }

  /** A number that is not in use; -1 when all are. */
  take(): number {
    if (this.#first >= 0) {
      const slot = this.#first;
      this.#first = this.#next[slot]!;
      this.#in_use++;
      return slot;
    }
    if (this.#high_water === this.limit) return -1;
    this.#in_use++;
    return this.#high_water++;
  }

  put(slot: number): void {
    assert(slot >= 0 && slot < this.#high_water, "a slot that was taken is given back");
    this.#next[slot] = this.#first;
    this.#first = slot;
    this.#in_use--;
  }
}

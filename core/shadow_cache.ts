/**
 * A shadow: what a cache of some blocks would hold, without their bytes.
 *
 * It follows S3-FIFO (Yang and others, 2023): blocks come into a queue of the young; those that were accessed twice there move on
 * into the main queue, the others are forgotten but for a ghost, which lets them into the main queue when they come again. With
 * the young queue as long as the cache it is a FIFO.
 *
 * It is asked with every request: all of it lies in typed arrays, made once. A block that is known has a row, in one of three queues
 * and in the chain of its hash.
 *
 * @module
 */

import { STAYS_FROM } from "./heat_scale.ts";
import { scatter } from "./scatter.ts";
import { SlotPool } from "./slot_pool.ts";

const MOST_FREQUENCY = 3;
/** How many ghosts there are, for each block of the cache. */
const GHOST_PART = 0.9;
/** A block's state: its frequency, and this if it is in the main queue; or that it is a ghost. */
const MAIN = 4;
const GHOST = 8;
const NONE = -1;

/** Rows in the order in which they came. */
class Queue {
  readonly #next: Int32Array;
  readonly #previous: Int32Array;
  #first = NONE;
  #last = NONE;
  count = 0;

  /** `next`, `previous`: by row; a row is in one queue at most, so all share them. */
  constructor(next: Int32Array, previous: Int32Array) {
    this.#next = next;
    this.#previous = previous;
  }

  push(row: number): void {
    this.#next[row] = NONE;
    this.#previous[row] = this.#last;
    if (this.#last === NONE) this.#first = row;
    else this.#next[this.#last] = row;
    this.#last = row;
    this.count++;
  }

  shift(): number {
    const row = this.#first;
    this.remove(row);
    return row;
  }

  remove(row: number): void {
    const next = this.#next[row]!;
    const previous = this.#previous[row]!;
    if (previous === NONE) this.#first = next;
    else this.#next[previous] = next;
    if (next === NONE) this.#last = previous;
    else this.#previous[next] = previous;
    this.count--;
  }
}

/** Which of the blocks it is asked for a cache of `size` blocks would hold, `young_size` of them young. */
export class ShadowCache {
  readonly #rows: SlotPool;
  readonly #block: Float64Array;
  readonly #state: Uint8Array;
  /** By hash: its first row; by row: the next one of the same hash. */
  readonly #buckets: Int32Array;
  readonly #chain: Int32Array;
  readonly #young: Queue;
  readonly #main: Queue;
  /** They may be one more for a moment. */
  readonly #ghosts: Queue;
  readonly #most_ghosts: number;

  constructor(readonly size: number, readonly young_size: number) {
    this.#most_ghosts = Math.floor(size * GHOST_PART);
    const rows = size + this.#most_ghosts + 1;
    this.#rows = new SlotPool(rows);
    this.#block = new Float64Array(rows);
    this.#state = new Uint8Array(rows);
    this.#chain = new Int32Array(rows);
    this.#buckets = new Int32Array(2 ** Math.ceil(Math.log2(rows))).fill(NONE);
    const next = new Int32Array(rows);
    const previous = new Int32Array(rows);
    this.#young = new Queue(next, previous);
    this.#main = new Queue(next, previous);
    this.#ghosts = new Queue(next, previous);
  }

  /** Whether the block is there; it is from now on. */
  access(block: number): boolean {
    const row = this.#find(block);
    const state = row === NONE ? GHOST : this.#state[row]!;
    if (state !== GHOST) {
      if ((state & MOST_FREQUENCY) < MOST_FREQUENCY) this.#state[row] = state + 1;
      return true;
    }
    while (this.#young.count + this.#main.count >= this.size) {
      if (this.#young.count >= this.young_size || this.#main.count === 0) this.#evictYoung();
      else this.#evictMain();
    }
    this.#enter(block);
    return false;
  }

  /** Lets a block in that is not there. Its ghost, if it had one, may have been the oldest and have gone meanwhile. */
  #enter(block: number): void {
    const ghost = this.#find(block);
    if (ghost !== NONE) {
      this.#ghosts.remove(ghost);
      this.#state[ghost] = MAIN;
      this.#main.push(ghost);
      return;
    }
    const row = this.#rows.take();
    const bucket = this.#bucketOf(block);
    this.#block[row] = block;
    this.#state[row] = 0;
    this.#chain[row] = this.#buckets[bucket]!;
    this.#buckets[bucket] = row;
    this.#young.push(row);
  }

  /** The oldest young blocks move on, up to one that does not. */
  #evictYoung(): void {
    while (this.#young.count > 0) {
      const row = this.#young.shift();
      if (this.#state[row]! < STAYS_FROM) {
        this.#state[row] = GHOST;
        this.#ghosts.push(row);
        if (this.#ghosts.count > this.#most_ghosts) this.#forget(this.#ghosts.shift());
        return;
      }
      this.#state[row] = MAIN;
      this.#main.push(row);
    }
  }

  /** The first block of the main queue that was not accessed goes; others go round for one access less. */
  #evictMain(): void {
    for (;;) {
      const row = this.#main.shift();
      if (this.#state[row] === MAIN) return this.#forget(row);
      this.#state[row] = this.#state[row]! - 1;
      this.#main.push(row);
    }
  }

  #bucketOf(block: number): number {
    return scatter(block) & (this.#buckets.length - 1);
  }

  /** The block's row; NONE: it is not known. */
  #find(block: number): number {
    let row = this.#buckets[this.#bucketOf(block)]!;
    while (row !== NONE && this.#block[row] !== block) row = this.#chain[row]!;
    return row;
  }

  /** Gives back the row of a block that is in no queue. */
  #forget(row: number): void {
    const bucket = this.#bucketOf(this.#block[row]!);
    let at = this.#buckets[bucket]!;
    if (at === row) this.#buckets[bucket] = this.#chain[row]!;
    else {
      while (this.#chain[at] !== row) at = this.#chain[at]!;
      this.#chain[at] = this.#chain[row]!;
    }
    this.#rows.put(row);
  }
}

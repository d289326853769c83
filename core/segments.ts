/**
 * Segments: which are free, and what still needs the others.
 *
 * Invariants:
 * - `keys[seg]` is the number of keys of the segment's current generation in the log from the key tail on, staged
 *   ones included (FORMAT, "Key"); replay and GC count by the same test;
 * - `pins[seg]` counts what is under way: payload and fills on their way in, replies on their way out, the data head;
 * - a data segment with neither is given a new generation at once, so that its extents are dead, and is free
 *   when that generation is durable;
 * - a log segment is held until the key tail that has left it is durable.
 *
 * @module
 */

import { assert } from "./assert.ts";
import type { Generations } from "./slots.ts";

/** What the bytes of a segment are to eviction: just come, ... */
export const YOUNG = 0;
/** ... or of the main part, ... */
export const MAIN = 1;
/** ... and their turn to leave it has come. */
export const EMPTIED = 2;
/** ... or so much of it was overwritten that what is left is moved together. */
export const GATHERED = 3;

const FREE = 0;
const DATA = 1;
const LOG = 2;
const RETIRING = 3;

/** Segments that only the log may take: a full cache can then still write what is staged, and drain. */
export const LOG_RESERVE_SEGMENTS = 2;

/** The segments of one cache, by cache segment number. */
export class Segments {
  readonly total: number;
  /** By data segment: what its data head had taken when it began there; -Infinity: before the start. Units: sectors. */
  readonly born: Float64Array;
  /** By segment: YOUNG, MAIN, EMPTIED or GATHERED. */
  readonly #part: Uint8Array;
  /** How many are MAIN. */
  main_count = 0;
  /** How many the log lies in. */
  log_count = 0;
  readonly #generations: Generations;
  readonly #state: Uint8Array;
  readonly #keys: Uint32Array;
  readonly #pins: Uint32Array;
  /** Free segments, oldest first: a ring, so that wear spreads. */
  readonly #free: Uint32Array;
  #free_first = 0;
  #free_count = 0;
  /** Segments whose new generation is not durable yet. */
  readonly #retiring: Uint32Array;
  #retiring_count = 0;
  /** How many of them, from the first on, the barrier under way will free. */
  #sealed_count = 0;
  readonly #onRetired: (seg: number) => void;

  /** `onRetired` is told of each segment whose bytes have just become dead. */
  constructor(total: number, generations: Generations, onRetired: (seg: number) => void) {
    this.total = total;
    this.#generations = generations;
    this.#onRetired = onRetired;
    this.#state = new Uint8Array(total);
    this.#keys = new Uint32Array(total);
    this.born = new Float64Array(total).fill(-Infinity);
    this.#part = new Uint8Array(total);
    this.#pins = new Uint32Array(total);
    this.#free = new Uint32Array(total);
    this.#retiring = new Uint32Array(total);
  }

  /** How many segments are not free. */
  get used(): number {
    return this.total - this.#free_count;
  }

  /** How many segments are neither free nor about to be: what GC looks at. */
  get held(): number {
    return this.used - this.#retiring_count;
  }

  /** How many segments data may still take. */
  get free_for_data(): number {
    return Math.max(0, this.#free_count - LOG_RESERVE_SEGMENTS);
  }

  /** Whether a segment waits for a barrier that was not asked for yet. */
  get has_unsealed(): boolean {
    return this.#retiring_count > this.#sealed_count;
  }

  keys(seg: number): number {
    return this.#keys[seg]!;
  }

  pins(seg: number): number {
    return this.#pins[seg]!;
  }

  /** What the bytes of a data segment are to eviction: YOUNG, MAIN, EMPTIED or GATHERED. */
  part(seg: number): number {
    return this.#part[seg]!;
  }

  setPart(seg: number, part: number): void {
    if (this.#part[seg] === MAIN) this.main_count--;
    if (part === MAIN) this.main_count++;
    this.#part[seg] = part;
  }

  isLog(seg: number): boolean {
    return this.#state[seg] === LOG;
  }

  isFree(seg: number): boolean {
    return this.#state[seg] === FREE;
  }

  /** Takes a free segment for data, pinned once for the data head; -1 when none may be taken. */
  takeForData(): number {
    if (this.free_for_data === 0) return -1;
    const seg = this.#takeFree();
    this.#state[seg] = DATA;
    this.#pins[seg] = 1;
    return seg;
  }

  /** Takes a free segment for the log; -1 when there is none. */
  takeForLog(): number {
    if (this.#free_count === 0) return -1;
    const seg = this.#takeFree();
    this.#state[seg] = LOG;
    this.log_count++;
    return seg;
  }

  addKey(seg: number): void {
    this.#keys[seg] = this.#keys[seg]! + 1;
  }

  dropKeys(seg: number, count: number): void {
    assert(this.#keys[seg]! >= count, "a segment has the keys that the log gives up");
    this.#keys[seg] = this.#keys[seg]! - count;
    this.#retireIfUnused(seg);
  }

  pin(seg: number): void {
    assert(this.#state[seg] === DATA, "only a data segment is pinned");
    this.#pins[seg] = this.#pins[seg]! + 1;
  }

  unpin(seg: number): void {
    assert(this.#pins[seg]! > 0, "a pinned segment is unpinned");
    this.#pins[seg] = this.#pins[seg]! - 1;
    this.#retireIfUnused(seg);
  }

  /** The key tail has left this log segment for good. */
  dropLog(seg: number): void {
    assert(this.#state[seg] === LOG, "the key tail leaves a log segment");
    this.log_count--;
    this.#retire(seg);
  }

  /** A barrier is about to be asked for: it will cover what has retired so far. */
  sealRetired(): void {
    assert(this.#sealed_count === 0, "one barrier at a time frees segments");
    this.#sealed_count = this.#retiring_count;
  }

  /** That barrier is done: the sealed segments are free. */
  freeSealed(): void {
    for (let i = 0; i < this.#sealed_count; i++) this.#putFree(this.#retiring[i]!);
    this.#retiring.copyWithin(0, this.#sealed_count, this.#retiring_count);
    this.#retiring_count -= this.#sealed_count;
    this.#sealed_count = 0;
  }

  /** Replay: a segment that the log lies in. */
  claimForLog(seg: number): void {
    this.#state[seg] = LOG;
    this.log_count++;
  }

  /** Replay: a key of an older generation was counted before; none of those counts. */
  forgetKeys(seg: number): void {
    this.#keys[seg] = 0;
  }

  /** Replay is over: what has keys is data, what is not log is free. */
  settle(): void {
    for (let seg = 0; seg < this.total; seg++) {
      if (this.#state[seg] === LOG) continue;
      if (this.#keys[seg]! > 0) this.#state[seg] = DATA;
      else this.#putFree(seg);
    }
  }

  #retireIfUnused(seg: number): void {
    if (this.#keys[seg] === 0 && this.#pins[seg] === 0 && this.#state[seg] === DATA) {
      this.#retire(seg);
    }
  }

  #retire(seg: number): void {
    this.#state[seg] = RETIRING;
    this.setPart(seg, YOUNG);
    this.#generations.bump(seg);
    this.#retiring[this.#retiring_count++] = seg;
    this.#onRetired(seg);
  }

  #takeFree(): number {
    const seg = this.#free[this.#free_first]!;
    this.#free_first = (this.#free_first + 1) % this.total;
    this.#free_count--;
    assert(this.#keys[seg] === 0 && this.#pins[seg] === 0, "nothing needs a free segment");
    return seg;
  }

  #putFree(seg: number): void {
    this.#state[seg] = FREE;
    this.#free[(this.#free_first + this.#free_count) % this.total] = seg;
    this.#free_count++;
  }
}

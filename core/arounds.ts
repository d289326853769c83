/**
 * Writes that go around the cache, straight to the backing device: what others must know of them.
 *
 * A write may go around only where the index holds nothing: the log then names no older copy of its range, so that none can come
 * back after a crash. While it is under way it stands in the index as a placeholder (`fills.ts`): readers wait for it, and a later
 * write that takes its place is logged. Three things must not happen then:
 *
 * - write-back must not overtake it: a batch waits for those under way when its keys were read (`mark`);
 * - what it brought must not become a clean key before the backing device has flushed it, or a power cut could take back what the
 *   cache holds as clean: what is read from the backing device before that is kept as dirty (`isVolatile`);
 * - a flush must not be answered before the backing device has flushed, too (`flush`).
 *
 * A process that is killed forgets all this. So none goes around before the mode that is stored with the cache says so (`is_announced`),
 * the stored mode changes only when all that went around has ended and is flushed, and who opens a cache in that mode takes it that everything on the
 * backing device is volatile until it has been flushed once.
 *
 * @module
 */

import type { BackingFlushes } from "./backing_flushes.ts";
import { SUBTREE_SECTORS } from "./extent_index.ts";

/** The writes that go around. */
export class Arounds {
  readonly #flushes: BackingFlushes;
  /** By subtree: the flush that covers the last one there. */
  readonly #flush: Float64Array;
  #last_flush = 0;
  /** Of those under way: how many began in an even epoch, and how many in an odd one. */
  readonly #under_way: [number, number] = [0, 0];
  #epoch: 0 | 1 = 0;
  #is_barred = false;
  /** The flush before which everything is volatile. */
  readonly #first_flush: number;
  /** Whether the mode on the media is the one in which writes go around the cache. */
  is_announced: boolean;

  /** `is_announced`: the cache is opened in the mode in which writes go around it; `was_around`: and was there before. */
  constructor(
    flushes: BackingFlushes,
    subtrees: number,
    is_announced: boolean,
    was_around: boolean,
  ) {
    this.#flushes = flushes;
    this.is_announced = is_announced;
    this.#flush = new Float64Array(subtrees);
    this.#first_flush = was_around ? flushes.cover() : 0;
    this.#last_flush = this.#first_flush;
  }

  /** The log may hold what the index does not show: nothing can go around it until the cache is opened anew. */
  bar(): void {
    this.#is_barred = true;
  }

  get is_barred(): boolean {
    return this.#is_barred;
  }

  /** Whether none is under way. */
  get is_idle(): boolean {
    return this.#under_way[0] + this.#under_way[1] === 0;
  }

  /** The flush of the backing device that covers all that have ended; it has to be wanted. */
  get flush(): number {
    return this.#last_flush;
  }

  /** One begins. Returns the epoch to end it with. */
  begin(): 0 | 1 {
    this.#under_way[this.#epoch]++;
    return this.#epoch;
  }

  /** One has ended, well or not. */
  end(epoch: 0 | 1, sector: number): void {
    this.#under_way[epoch]--;
    this.#last_flush = this.#flushes.next;
    this.#flush[Math.floor(sector / SUBTREE_SECTORS)] = this.#last_flush;
  }

  /** Whether the backing device may lose what it holds of the sector's subtree. */
  isVolatile(sector: number): boolean {
    const flush = this.#flush[Math.floor(sector / SUBTREE_SECTORS)]!;
    return !this.#flushes.isDurable(Math.max(this.#first_flush, flush));
  }

  /** Those that begin from now on need not be waited for. Only when `has_passed`. */
  mark(): void {
    this.#epoch = this.#epoch === 0 ? 1 : 0;
  }

  /** Whether all that were under way at the last `mark` have ended. */
  get has_passed(): boolean {
    return this.#under_way[1 - this.#epoch] === 0;
  }
}

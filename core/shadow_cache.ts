/**
 * A shadow: what a cache of some blocks would hold, without their bytes.
 *
 * It follows S3-FIFO (Yang and others, 2023): blocks come into a queue of the young; those that were accessed twice there move on
 * into the main queue, the others are forgotten but for a ghost, which lets them into the main queue when they come again. With
 * the young queue as long as the cache it is a FIFO.
 *
 * @module
 */

const MOST_FREQUENCY = 3;
/** Accesses to a young block that let it stay. */
const STAYS_FROM = 2;
/** How many ghosts there are, for each block of the cache. */
const GHOST_PART = 0.9;
/** A block's state: its frequency, and this if it is in the main queue. */
const MAIN = 4;

/** Blocks in the order in which they came. */
class Queue {
  readonly #blocks: Float64Array;
  #first = 0;
  count = 0;

  constructor(most: number) {
    this.#blocks = new Float64Array(most);
  }

  push(block: number): void {
    this.#blocks[(this.#first + this.count++) % this.#blocks.length] = block;
  }

  shift(): number {
    const block = this.#blocks[this.#first]!;
    this.#first = (this.#first + 1) % this.#blocks.length;
    this.count--;
    return block;
  }
}

/** Which of the blocks it is asked for a cache of `size` blocks would hold, `young_size` of them young. */
export class ShadowCache {
  readonly #young: Queue;
  readonly #main: Queue;
  readonly #states = new Map<number, number>();
  /** Oldest first. */
  readonly #ghosts = new Set<number>();
  readonly #most_ghosts: number;

  constructor(readonly size: number, readonly young_size: number) {
    this.#young = new Queue(size);
    this.#main = new Queue(size + 1);
    this.#most_ghosts = Math.floor(size * GHOST_PART);
  }

  /** Whether the block is there; it is from now on. */
  access(block: number): boolean {
    const state = this.#states.get(block);
    if (state !== undefined) {
      if ((state & MOST_FREQUENCY) < MOST_FREQUENCY) this.#states.set(block, state + 1);
      return true;
    }
    while (this.#young.count + this.#main.count >= this.size) {
      if (this.#young.count >= this.young_size || this.#main.count === 0) this.#evictYoung();
      else this.#evictMain();
    }
    const is_known = this.#ghosts.delete(block);
    (is_known ? this.#main : this.#young).push(block);
    this.#states.set(block, is_known ? MAIN : 0);
    return false;
  }

  /** The oldest young blocks move on, up to one that does not. */
  #evictYoung(): void {
    while (this.#young.count > 0) {
      const block = this.#young.shift();
      if (this.#states.get(block)! < STAYS_FROM) {
        this.#states.delete(block);
        this.#ghosts.add(block);
        if (this.#ghosts.size > this.#most_ghosts) {
          this.#ghosts.delete(this.#ghosts.values().next().value!);
        }
        return;
      }
      this.#states.set(block, MAIN);
      this.#main.push(block);
    }
  }

  /** The first block of the main queue that was not accessed goes; others go round for one access less. */
  #evictMain(): void {
    for (;;) {
      const block = this.#main.shift();
      const state = this.#states.get(block)!;
      if (state === MAIN) {
        this.#states.delete(block);
        return;
      }
      this.#states.set(block, state - 1);
      this.#main.push(block);
    }
  }
}

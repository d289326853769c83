/**
 * Exact cache policies over blocks of one size, for comparison: LRU, ARC (Megiddo and Modha, 2003) and S3-FIFO (Yang and others, 2023).
 *
 * @module
 */

/** A cache that holds so many blocks. */
export interface Policy {
  /** Whether the block is there; it is from now on. */
  access(block: number): boolean;
}

export class Lru implements Policy {
  /** Oldest first. */
  readonly #blocks = new Set<number>();

  constructor(readonly size: number) {}

  access(block: number): boolean {
    const hit = this.#blocks.delete(block);
    this.#blocks.add(block);
    if (this.#blocks.size > this.size) this.#blocks.delete(first(this.#blocks));
    return hit;
  }
}

function first(blocks: Set<number>): number {
  return blocks.values().next().value!;
}

export class Arc implements Policy {
  /** Seen once, seen again: what is there; and what was evicted from either. Oldest first. */
  readonly #t1 = new Set<number>();
  readonly #t2 = new Set<number>();
  readonly #b1 = new Set<number>();
  readonly #b2 = new Set<number>();
  /** Wanted size of the first. */
  #p = 0;

  constructor(readonly size: number) {}

  access(block: number): boolean {
    if (this.#t1.delete(block) || this.#t2.delete(block)) {
      this.#t2.add(block);
      return true;
    }
    const [t1, t2, b1, b2, c] = [this.#t1, this.#t2, this.#b1, this.#b2, this.size];
    if (b1.has(block)) {
      this.#p = Math.min(c, this.#p + Math.max(1, b2.size / b1.size));
      this.#replace(false);
      b1.delete(block);
      t2.add(block);
      return false;
    }
    if (b2.has(block)) {
      this.#p = Math.max(0, this.#p - Math.max(1, b1.size / b2.size));
      this.#replace(true);
      b2.delete(block);
      t2.add(block);
      return false;
    }
    if (t1.size + b1.size === c) {
      if (t1.size < c) {
        b1.delete(first(b1));
        this.#replace(false);
      } else t1.delete(first(t1));
    } else if (t1.size + t2.size + b1.size + b2.size >= c) {
      if (t1.size + t2.size + b1.size + b2.size === 2 * c) b2.delete(first(b2));
      this.#replace(false);
    }
    t1.add(block);
    return false;
  }

  #replace(was_in_b2: boolean): void {
    const [t1, t2] = [this.#t1, this.#t2];
    if (t1.size + t2.size < this.size) return;
    const from_first = t1.size > 0 && (t1.size > this.#p || (was_in_b2 && t1.size === this.#p));
    const [from, to] = from_first || t2.size === 0 ? [t1, this.#b1] : [t2, this.#b2];
    const block = first(from);
    from.delete(block);
    to.add(block);
  }
}

/** Blocks in the order in which they came. */
class Fifo {
  #blocks: number[] = [];
  #from = 0;

  get size(): number {
    return this.#blocks.length - this.#from;
  }

  push(block: number): void {
    this.#blocks.push(block);
  }

  shift(): number {
    const block = this.#blocks[this.#from++]!;
    if (this.#from > 65536 && this.#from * 2 > this.#blocks.length) {
      this.#blocks = this.#blocks.slice(this.#from);
      this.#from = 0;
    }
    return block;
  }
}

const MOST_FREQUENCY = 3;

export class S3Fifo implements Policy {
  readonly #small = new Fifo();
  readonly #main = new Fifo();
  /** How often each block was accessed since it came. */
  readonly #frequency = new Map<number, number>();
  readonly #ghosts = new Set<number>();
  readonly #small_size: number;

  constructor(readonly size: number) {
    this.#small_size = Math.max(1, Math.round(size / 10));
  }

  access(block: number): boolean {
    const frequency = this.#frequency.get(block);
    if (frequency !== undefined) {
      this.#frequency.set(block, Math.min(MOST_FREQUENCY, frequency + 1));
      return true;
    }
    while (this.#small.size + this.#main.size >= this.size) {
      if (this.#small.size >= this.#small_size || this.#main.size === 0) this.#evictSmall();
      else this.#evictMain();
    }
    if (this.#ghosts.delete(block)) this.#main.push(block);
    else this.#small.push(block);
    this.#frequency.set(block, 0);
    return false;
  }

  #evictSmall(): void {
    while (this.#small.size > 0) {
      const block = this.#small.shift();
      if (this.#frequency.get(block)! > 1) {
        this.#main.push(block);
        this.#frequency.set(block, 0);
        if (this.#main.size > this.size - this.#small_size) this.#evictMain();
        continue;
      }
      this.#frequency.delete(block);
      this.#ghosts.add(block);
      if (this.#ghosts.size > this.size - this.#small_size) {
        this.#ghosts.delete(first(this.#ghosts));
      }
      return;
    }
  }

  #evictMain(): void {
    while (this.#main.size > 0) {
      const block = this.#main.shift();
      const frequency = this.#frequency.get(block)!;
      if (frequency === 0) {
        this.#frequency.delete(block);
        return;
      }
      this.#frequency.set(block, frequency - 1);
      this.#main.push(block);
    }
  }
}

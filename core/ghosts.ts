/**
 * Ghosts: which blocks left the cache a while ago without having been read again. One that comes back has been let go too early.
 *
 * A table of fingerprints: a ghost stays until another one takes its place, which is after about as many as there are places.
 * A block may be taken for another one, once in 65 535 times.
 *
 * @module
 */

import { BLOCK_SECTORS, blockOf } from "./heat_scale.ts";
import { scatter } from "./scatter.ts";

const LEAST_BITS = 6;
/** Two bytes each: 8 MiB. */
const MOST_BITS = 22;
const FINGERPRINT_MASK = 0xffff;

export class Ghosts {
  readonly #prints: Uint16Array;
  readonly #mask: number;

  /** For a cache of so many sectors. */
  constructor(sectors: number) {
    const blocks = sectors / BLOCK_SECTORS;
    let bits = LEAST_BITS;
    while (bits < MOST_BITS && 2 ** (bits + 1) <= blocks) bits++;
    this.#prints = new Uint16Array(2 ** bits);
    this.#mask = 2 ** bits - 1;
  }

  /** The blocks of a range have left. */
  add(sector: number, sectors: number): void {
    const last = blockOf(sector + sectors - 1);
    for (let block = blockOf(sector); block <= last; block++) {
      const hash = scatter(block);
      this.#prints[hash & this.#mask] = printOf(block, hash);
    }
  }

  /** Whether the block at the middle of a range has left a while ago. */
  has(sector: number, sectors: number): boolean {
    const block = blockOf(sector + (sectors >> 1));
    const hash = scatter(block);
    return this.#prints[hash & this.#mask] === printOf(block, hash);
  }
}

/** 1 .. 65535; 0 is no ghost's. */
function printOf(block: number, hash: number): number {
  return (scatter(block ^ (hash >>> 7)) & FINGERPRINT_MASK) || 1;
}

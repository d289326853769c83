/**
 * Runs of 32-bit words in one typed array, in size classes.
 *
 * The index and the checksum tables are many sorted runs that grow and shrink. An object for each would cost
 * more than its content and make garbage; here a run is a word offset and a class.
 *
 * Invariants:
 * - a run of class `c` owns the words `[run, run + classWords(c))`, and no two runs in use overlap;
 * - every word below `used_words` belongs to a run in use or to exactly one free list.
 *
 * @module
 */

import { assert } from "./assert.ts";

/** Run sizes, in words: 8, then four steps an octave, so that a run wastes a tenth on average. */
const CLASS_WORDS: Uint32Array = classSizes();
const NO_RUN = 0xffffffff;
const FIRST_WORDS = 1 << 12;

function classSizes(): Uint32Array {
  const sizes: number[] = [8, 16];
  for (let octave = 16; octave < 131072; octave *= 2) {
    for (let step = 5; step <= 8; step++) sizes.push(Math.ceil((octave * step) / 32) * 8);
  }
  return Uint32Array.from(new Set(sizes)).sort();
}

/** Most words that one run can have. */
export const MAX_RUN_WORDS: number = CLASS_WORDS[CLASS_WORDS.length - 1]!;

/** The smallest class whose runs hold `words` words. */
export function classFor(words: number): number {
  assert(words <= MAX_RUN_WORDS, "a run fits the largest class");
  let low = 0;
  let high = CLASS_WORDS.length - 1;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (CLASS_WORDS[middle]! >= words) high = middle;
    else low = middle + 1;
  }
  return low;
}

/** How many words a run of this class has. */
export function classWords(size_class: number): number {
  return CLASS_WORDS[size_class]!;
}

/** The arena. `words` and `halves` are replaced when it grows: read the properties again after every `take`. */
export class RunArena {
  words: Uint32Array<ArrayBuffer> = new Uint32Array(FIRST_WORDS);
  /** The same memory in units of 16 bits. */
  halves: Uint16Array<ArrayBuffer> = new Uint16Array(this.words.buffer);
  #used_words = 0;
  /** Head of each class's free list; a free run's first word names the next one. */
  readonly #free: Uint32Array = new Uint32Array(CLASS_WORDS.length).fill(NO_RUN);

  /** Words ever handed out: what the arena costs in memory, times four. */
  get used_words(): number {
    return this.#used_words;
  }

  /** Takes a run of the class; its content is undefined. Returns its word offset. */
  take(size_class: number): number {
    const free = this.#free[size_class]!;
    if (free !== NO_RUN) {
      this.#free[size_class] = this.words[free]!;
      return free;
    }
    const run = this.#used_words;
    const end = run + CLASS_WORDS[size_class]!;
    assert(end < NO_RUN, "the arena stays addressable with 32 bits");
    if (end > this.words.length) this.#grow(end);
    this.#used_words = end;
    return run;
  }

  /** Gives a run back. */
  put(run: number, size_class: number): void {
    this.words[run] = this.#free[size_class]!;
    this.#free[size_class] = run;
  }

  /** Doubles: untouched words are not resident, so the slack costs address space only. */
  #grow(least_words: number): void {
    let words = this.words.length;
    while (words < least_words) words *= 2;
    const grown = new Uint32Array(words);
    grown.set(this.words);
    this.words = grown;
    this.halves = new Uint16Array(grown.buffer);
  }
}

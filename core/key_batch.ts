/**
 * Keys on their way from the log to the index.
 *
 * A log names ranges in the order in which they were written, all over the cached device. Entered in that order, each key would wait
 * for memory that the one before it had no use for, and move what stands behind its place. Here many keys are gathered, sorted by where
 * their ranges start, and entered one after another.
 *
 * Invariants:
 * - of keys that overlap the one that was added last is entered last, so the index comes to be what it would have been without a batch;
 * - a cluster is keys that hang together by overlaps: it lies in one subtree, as every key does.
 *
 * A key is a record of four words:
 * Word 0: the subtree.
 * Word 1: where it starts in the subtree (13 bits), sectors less one (13 bits from bit 13), clean (bit 26).
 * Word 2: segment (20 bits), upper bits of its number in the batch.
 * Word 3: first sector in the data area (15 bits), lower bits of its number.
 *
 * @module
 */

import { assert } from "./assert.ts";
import { type ExtentIndex, SUBTREE_SECTORS } from "./extent_index.ts";
import { keyPlace, keySectors, keySeg, keyStretch, keyStretchSector } from "./format.ts";

/** Most keys in a batch. */
const BATCH_KEYS = 1 << 20;
/** Room for so many at first, and twice as many whenever that is full. */
const FIRST_KEYS = 64;
const RECORD_WORDS = 4;
/** A subtree's keys are in the bucket that its number's lowest bits name. */
const BUCKETS = 1 << 12;

// An own name for what is imported: V8 folds a module's constants into its code, and loads and checks imported ones at each use.
const SUBTREE = SUBTREE_SECTORS;
const START_MASK = SUBTREE - 1;
const SECTORS_SHIFT = 13;
const CLEAN = 1 << 26;
const SEGMENT_BITS = 20;
const SEGMENT_MASK = (1 << SEGMENT_BITS) - 1;
const PLACE_BITS = 15;
const PLACE_MASK = (1 << PLACE_BITS) - 1;
const LOWER_NUMBER_BITS = 32 - PLACE_BITS;

/** Keys that were added and are not in the index yet. */
export class KeyBatch {
  readonly #index: ExtentIndex;
  readonly #most: number;
  #records = new Int32Array(FIRST_KEYS * RECORD_WORDS);
  #count = 0;

  /** `most`: how many keys a batch has; tests make it small. */
  constructor(index: ExtentIndex, most = BATCH_KEYS) {
    assert(most <= BATCH_KEYS, "a key's number has 20 bits");
    this.#index = index;
    this.#most = most;
  }

  /** Adds the key at word index `at`, which was checked. `clean`: the backing device holds the same, whatever the key says. */
  add(words: Uint32Array, at: number, clean: boolean): void {
    if (this.#count === this.#most) this.enter();
    const number = this.#count++;
    const to = number * RECORD_WORDS;
    if (to === this.#records.length) this.#grow();
    const records = this.#records;
    records[to] = keyStretch(words, at);
    records[to + 1] = keyStretchSector(words, at) | ((keySectors(words, at) - 1) << SECTORS_SHIFT) |
      (clean ? CLEAN : 0);
    records[to + 2] = keySeg(words, at) | ((number >>> LOWER_NUMBER_BITS) << SEGMENT_BITS);
    records[to + 3] = keyPlace(words, at) | (number << PLACE_BITS);
  }

  /** Enters all of them into the index. */
  enter(): void {
    const end = this.#count * RECORD_WORDS;
    if (this.#count > FIRST_KEYS) this.#sort(end);
    for (let at = 0; at < end;) {
      const cluster_end = this.#clusterEnd(at, end);
      if (!this.#isAsAdded(at, cluster_end)) this.#enterAsAdded(at, cluster_end);
      else for (let key = at; key < cluster_end; key += RECORD_WORDS) this.#insert(key);
      at = cluster_end;
    }
    this.#count = 0;
  }

  #grow(): void {
    const grown = new Int32Array(this.#records.length * 2);
    grown.set(this.#records);
    this.#records = grown;
  }

  /** Sorts by subtree, then start; what is alike keeps its order. */
  #sort(end: number): void {
    const half_sorted = new Int32Array(end);
    scatter(this.#records, 1, SUBTREE, end, half_sorted);
    scatter(half_sorted, 0, BUCKETS, end, this.#records);
  }

  /** Where the cluster that begins at `from` ends. */
  #clusterEnd(from: number, end: number): number {
    const records = this.#records;
    const subtree = records[from]!;
    let reach = this.#start(from) + this.#sectors(from);
    let at = from + RECORD_WORDS;
    while (at < end && records[at] === subtree && this.#start(at) < reach) {
      reach = Math.max(reach, this.#start(at) + this.#sectors(at));
      at += RECORD_WORDS;
    }
    return at;
  }

  #isAsAdded(from: number, end: number): boolean {
    for (let at = from + RECORD_WORDS; at < end; at += RECORD_WORDS) {
      if (this.#number(at) < this.#number(at - RECORD_WORDS)) return false;
    }
    return true;
  }

  #enterAsAdded(from: number, end: number): void {
    const count = (end - from) / RECORD_WORDS;
    const keys = Array.from({ length: count }, (_, i) => from + i * RECORD_WORDS);
    for (const key of keys.sort((a, b) => this.#number(a) - this.#number(b))) this.#insert(key);
  }

  #start(at: number): number {
    return this.#records[at + 1]! & START_MASK;
  }

  #sectors(at: number): number {
    return ((this.#records[at + 1]! >>> SECTORS_SHIFT) & START_MASK) + 1;
  }

  #number(at: number): number {
    const upper = this.#records[at + 2]! >>> SEGMENT_BITS;
    return (upper << LOWER_NUMBER_BITS) | (this.#records[at + 3]! >>> PLACE_BITS);
  }

  #insert(at: number): void {
    this.#index.appendCached(
      this.#records[at]!,
      this.#start(at),
      this.#sectors(at),
      this.#records[at + 2]! & SEGMENT_MASK,
      this.#records[at + 3]! & PLACE_MASK,
      (this.#records[at + 1]! & CLEAN) !== 0,
    );
  }
}

/**
 * Moves the records before `end` into the order of their digits, of which there are `digits`: the lowest bits of word `word`. Records
 * with the same digit keep their order.
 */
function scatter(
  from: Int32Array,
  word: number,
  digits: number,
  end: number,
  to: Int32Array,
): void {
  const mask = digits - 1;
  const next = new Int32Array(digits);
  for (let at = word; at < end; at += RECORD_WORDS) {
    const digit = from[at]! & mask;
    next[digit] = next[digit]! + RECORD_WORDS;
  }
  for (let digit = 0, first = 0; digit < digits; digit++) {
    const words = next[digit]!;
    next[digit] = first;
    first += words;
  }
  for (let at = 0; at < end; at += RECORD_WORDS) {
    const digit = from[at + word]! & mask;
    const put = next[digit]!;
    to[put] = from[at]!;
    to[put + 1] = from[at + 1]!;
    to[put + 2] = from[at + 2]!;
    to[put + 3] = from[at + 3]!;
    next[digit] = put + RECORD_WORDS;
  }
}

/**
 * The checksums of the keys in each segment, for caches with data_crc.
 *
 * A checksum covers a key as it was written; an extent that was cut later must still find its key. Keys lie in a
 * segment one after another, so a sorted table for each segment, of two 32-bit words a key, answers that by bisection.
 *
 * Invariants: a table is sorted by start, longer keys first; a key lies in its data area; keys of one segment
 * overlap only where one is a part of the other (a part that was logged again, DESIGN §3).
 *
 * Word 0: start in the data area (18 bits from bit 14), sectors (14 bits). Word 1: the checksum.
 *
 * @module
 */

import { classFor, classWords, RunArena } from "./run_arena.ts";

const ENTRY_WORDS = 2;
const NO_CLASS = 0xff;
const SECTORS_BITS = 14;
const SECTORS_MASK = (1 << SECTORS_BITS) - 1;

/** Sorts by start, then longer first. */
function orderOf(start: number, sectors: number): number {
  return start * (SECTORS_MASK + 1) + (SECTORS_MASK - sectors);
}

/** Checksum tables by cache segment. Starts and lengths are in sectors of a data area. */
export class KeySums {
  readonly #arena = new RunArena();
  readonly #run: Uint32Array;
  readonly #count: Uint32Array;
  readonly #class: Uint8Array;
  /** How a segment's last entry sorts; 0, which is before any, if there is none. */
  readonly #last: Uint32Array;
  /** What `find` found. */
  found_start = 0;
  found_sectors = 0;
  /** The checksum as a signed number: an unsigned one may not fit what V8 passes without an allocation. */
  found_crc = 0;
  /** What `fetch` has read, so that it is not optimised away. */
  #fetched = 0;

  constructor(segments: number) {
    this.#run = new Uint32Array(segments);
    this.#count = new Uint32Array(segments);
    this.#class = new Uint8Array(segments).fill(NO_CLASS);
    this.#last = new Uint32Array(segments);
  }

  /** Memory held by the tables, in bytes. */
  get run_bytes(): number {
    return this.#arena.used_words * 4;
  }

  /** Enters a key's checksum, any number with its 32 bits; the same key again replaces it. */
  add(seg: number, start: number, sectors: number, crc: number): void {
    const order = orderOf(start, sectors);
    const at = this.#upperBound(seg, order);
    if (at > 0 && this.#orderAt(seg, at - 1) === order) {
      this.#arena.words[this.#run[seg]! + (at - 1) * ENTRY_WORDS + 1] = crc;
      return;
    }
    this.#makeRoom(seg);
    const words = this.#arena.words;
    const entry = this.#run[seg]! + at * ENTRY_WORDS;
    const end = this.#run[seg]! + this.#count[seg]! * ENTRY_WORDS;
    if (entry < end) words.copyWithin(entry + ENTRY_WORDS, entry, end);
    else this.#last[seg] = order;
    words[entry] = order;
    words[entry + 1] = crc;
    this.#count[seg] = this.#count[seg]! + 1;
  }

  /**
   * Reads what `find` will read for a range that starts there. Called for many ranges in a short loop, none of them waits for memory
   * behind another, as in `ExtentIndex.fetch`.
   */
  fetch(seg: number, start: number): void {
    const order = orderOf(start, 0);
    if (order < this.#last[seg]!) this.#fetched ^= this.#orderAt(seg, this.#guess(seg, order));
  }

  /** Finds a key that covers the range: true, and `found_*` tell which. */
  find(seg: number, start: number, sectors: number): boolean {
    for (let at = this.#upperBound(seg, orderOf(start, 0)) - 1; at >= 0; at--) {
      const order = this.#orderAt(seg, at);
      const key_start = order >>> SECTORS_BITS;
      const key_sectors = SECTORS_MASK - (order & SECTORS_MASK);
      if (key_start + key_sectors < start + sectors) continue;
      this.found_start = key_start;
      this.found_sectors = key_sectors;
      this.found_crc = this.#arena.words[this.#run[seg]! + at * ENTRY_WORDS + 1]! | 0;
      return true;
    }
    return false;
  }

  /** Forgets a segment's keys: its bytes are dead. */
  clear(seg: number): void {
    if (this.#class[seg] !== NO_CLASS) this.#arena.put(this.#run[seg]!, this.#class[seg]!);
    this.#class[seg] = NO_CLASS;
    this.#count[seg] = 0;
    this.#last[seg] = 0;
  }

  #orderAt(seg: number, at: number): number {
    return this.#arena.words[this.#run[seg]! + at * ENTRY_WORDS]!;
  }

  /** The entry that sorts as `order` does if all keys are of one length; `order` is before the last entry's. */
  #guess(seg: number, order: number): number {
    return Math.floor((order / this.#last[seg]!) * (this.#count[seg]! - 1));
  }

  /**
   * How many entries sort at or before `order`. Keys come nearly in order: the last one is looked at first. They are mostly of one
   * length: the next one looked at is the one that would be right then, and from there on others in growing steps.
   */
  #upperBound(seg: number, order: number): number {
    let high = this.#count[seg]!;
    if (this.#last[seg]! <= order) return high;
    let low = 0;
    let at = this.#guess(seg, order);
    const goes_up = this.#orderAt(seg, at) <= order;
    for (let step = 1; low <= at && at < high; step *= 4) {
      if ((this.#orderAt(seg, at) <= order) !== goes_up) {
        if (goes_up) high = at;
        else low = at + 1;
        break;
      }
      if (goes_up) low = at + 1;
      else high = at;
      at += goes_up ? step : -step;
    }
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#orderAt(seg, middle) <= order) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  #makeRoom(seg: number): void {
    const size_class = this.#class[seg]!;
    const needed = (this.#count[seg]! + 1) * ENTRY_WORDS;
    if (size_class !== NO_CLASS && needed <= classWords(size_class)) return;
    const grown_class = classFor(needed);
    const grown = this.#arena.take(grown_class);
    if (size_class !== NO_CLASS) {
      const run = this.#run[seg]!;
      this.#arena.words.copyWithin(grown, run, run + this.#count[seg]! * ENTRY_WORDS);
      this.#arena.put(run, size_class);
    }
    this.#run[seg] = grown;
    this.#class[seg] = grown_class;
  }
}

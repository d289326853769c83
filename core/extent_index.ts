/**
 * The index: which range of the cached device lies where in the cache.
 *
 * A subtree covers 4 MiB of the cached device and holds its extents as one sorted run of four 32-bit words
 * each, searched by bisection. An extent is either cached (it names a place in a segment's data area) or a
 * placeholder (it names the fill that is reading the range).
 *
 * Invariants, for every subtree:
 * - extents are sorted by start, have at least one sector, and do not overlap;
 * - an extent never crosses the subtree's end, and a cached one never its segment's;
 * - an extent whose generation is not its segment's is dead: it reads as if it were not there. Dead extents are
 *   left where they are when a segment is freed, and dropped when a run grows or is swept.
 *
 * Word 0: start in the subtree (16 bits), sectors (16 bits). Word 1: segment (20 bits), flags (from bit 28).
 * Word 2: first sector in the data area, or the fill. Word 3: low half of the generation.
 *
 * @module
 */

import { assert } from "./assert.ts";
import { classFor, classWords, RunArena } from "./run_arena.ts";

/** Sectors in a subtree: 4 MiB (FORMAT, "Key": a key never crosses a 4 MiB boundary). */
export const SUBTREE_SECTORS = 8192;

/** The bytes are on the backing device too. */
export const EXTENT_CLEAN = 1 << 28;
/** A range being read from the backing device. */
export const EXTENT_PLACEHOLDER = 1 << 29;

const EXTENT_WORDS = 4;
const SEGMENT_MASK = (1 << 20) - 1;
/** A subtree with no run. */
const NO_CLASS = 0xff;

/** What the index asks about generations: the low half of a segment's current one. */
export interface CurrentGenerations {
  low(seg: number): number;
}

/** The index of one cached device. Sectors are sectors of that device, from 0. */
export class ExtentIndex {
  readonly subtrees: number;
  readonly #arena = new RunArena();
  readonly #generations: CurrentGenerations;
  readonly #run: Uint32Array;
  readonly #count: Uint16Array;
  readonly #class: Uint8Array;
  #sweep_subtree = 0;
  #extents = 0;

  constructor(size_sectors: number, generations: CurrentGenerations) {
    this.subtrees = Math.ceil(size_sectors / SUBTREE_SECTORS);
    this.#generations = generations;
    this.#run = new Uint32Array(this.subtrees);
    this.#count = new Uint16Array(this.subtrees);
    this.#class = new Uint8Array(this.subtrees).fill(NO_CLASS);
  }

  /** How many extents there are, dead ones included. */
  get extents(): number {
    return this.#extents;
  }

  /** Memory held by the runs, in bytes. */
  get run_bytes(): number {
    return this.#arena.used_words * 4;
  }

  /**
   * The first extent that ends after `sector`, in the sector's subtree, dead or alive; -1 if there is none.
   * An extent number stays valid until the index is changed.
   */
  find(sector: number): number {
    const subtree = Math.floor(sector / SUBTREE_SECTORS);
    const at = this.#firstEndingAfter(subtree, sector % SUBTREE_SECTORS);
    return at < this.#count[subtree]! ? this.#run[subtree]! + at * EXTENT_WORDS : -1;
  }

  /** First sector of the extent, counted from the start of its subtree. */
  start(extent: number): number {
    return this.#arena.words[extent]! & 0xffff;
  }

  /** How many sectors the extent has. */
  sectors(extent: number): number {
    return this.#arena.words[extent]! >>> 16;
  }

  /** The cache segment of a cached extent. */
  segment(extent: number): number {
    return this.#arena.words[extent + 1]! & SEGMENT_MASK;
  }

  /** First sector of a cached extent in its segment's data area. */
  place(extent: number): number {
    return this.#arena.words[extent + 2]!;
  }

  /** The fill that a placeholder waits for. */
  fill(extent: number): number {
    return this.#arena.words[extent + 2]!;
  }

  isPlaceholder(extent: number): boolean {
    return (this.#arena.words[extent + 1]! & EXTENT_PLACEHOLDER) !== 0;
  }

  isClean(extent: number): boolean {
    return (this.#arena.words[extent + 1]! & EXTENT_CLEAN) !== 0;
  }

  /** Whether the extent's bytes are still there: its segment was not freed since. */
  isLive(extent: number): boolean {
    const words = this.#arena.words;
    const seg_flags = words[extent + 1]!;
    if ((seg_flags & EXTENT_PLACEHOLDER) !== 0) return true;
    return words[extent + 3]! === this.#generations.low(seg_flags & SEGMENT_MASK);
  }

  /** Enters cached bytes; whatever the range overlapped is cut, split or removed. */
  insertCached(
    sector: number,
    sectors: number,
    seg: number,
    place: number,
    clean: boolean,
  ): void {
    const flags = clean ? EXTENT_CLEAN : 0;
    const generation = this.#generations.low(seg);
    this.#splice(sector, sectors, true, seg | flags, place, generation);
  }

  /** Enters a placeholder; the range must hold no live extent. */
  insertPlaceholder(sector: number, sectors: number, fill: number): void {
    this.#splice(sector, sectors, true, EXTENT_PLACEHOLDER, fill, 0);
  }

  /** Takes a range out of the index, whatever it holds. */
  remove(sector: number, sectors: number): void {
    this.#splice(sector, sectors, false, 0, 0, 0);
  }

  /** Marks clean what is left in the index of the bytes that lie at `place` of `seg`. */
  markClean(sector: number, sectors: number, seg: number, place: number): void {
    const subtree = Math.floor(sector / SUBTREE_SECTORS);
    const from = sector % SUBTREE_SECTORS;
    const words = this.#arena.words;
    const end = this.#run[subtree]! + this.#count[subtree]! * EXTENT_WORDS;
    let extent = this.#run[subtree]! + this.#firstEndingAfter(subtree, from) * EXTENT_WORDS;
    for (; extent < end && this.start(extent) < from + sectors; extent += EXTENT_WORDS) {
      if (this.isPlaceholder(extent) || this.segment(extent) !== seg) continue;
      if (this.place(extent) - this.start(extent) !== place - from) continue;
      words[extent + 1] = words[extent + 1]! | EXTENT_CLEAN;
    }
  }

  /** Drops the dead extents of the next `subtrees` subtrees, in turn. */
  sweep(subtrees: number): void {
    for (let n = Math.min(subtrees, this.subtrees); n > 0; n--) {
      this.#dropDead(this.#sweep_subtree);
      this.#sweep_subtree = (this.#sweep_subtree + 1) % this.subtrees;
    }
  }

  /** Calls `visit` for each live extent in order; for tests, tools and the start, not for requests. */
  forEach(visit: (sector: number, extent: number) => void): void {
    for (let subtree = 0; subtree < this.subtrees; subtree++) {
      for (let at = 0; at < this.#count[subtree]!; at++) {
        const extent = this.#run[subtree]! + at * EXTENT_WORDS;
        if (this.isLive(extent)) visit(subtree * SUBTREE_SECTORS + this.start(extent), extent);
      }
    }
  }

  #firstEndingAfter(subtree: number, from: number): number {
    const words = this.#arena.words;
    const run = this.#run[subtree]!;
    let low = 0;
    let high = this.#count[subtree]!;
    while (low < high) {
      const middle = (low + high) >>> 1;
      const word = words[run + middle * EXTENT_WORDS]!;
      if ((word & 0xffff) + (word >>> 16) > from) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  #firstStartingAt(subtree: number, from: number, low: number): number {
    const words = this.#arena.words;
    const run = this.#run[subtree]!;
    let high = this.#count[subtree]!;
    // Most ranges overlap one extent or none: look at the neighbours before bisecting.
    if (low === high || (words[run + low * EXTENT_WORDS]! & 0xffff) >= from) return low;
    low++;
    if (low === high || (words[run + low * EXTENT_WORDS]! & 0xffff) >= from) return low;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((words[run + middle * EXTENT_WORDS]! & 0xffff) >= from) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  /**
   * Replaces whatever lies in the range by one new extent, or by nothing. What sticks out on either side stays:
   * the first overlapped extent may leave a left part, the last a right part, and they may be the same one.
   */
  #splice(
    sector: number,
    sectors: number,
    enter: boolean,
    seg_flags: number,
    place: number,
    generation: number,
  ): void {
    const subtree = Math.floor(sector / SUBTREE_SECTORS);
    const from = sector % SUBTREE_SECTORS;
    const to = from + sectors;
    assert(sectors > 0 && to <= SUBTREE_SECTORS, "an extent lies in one subtree");
    assert(subtree < this.subtrees, "an extent lies on the cached device");

    let first = this.#firstEndingAfter(subtree, from);
    let last = this.#firstStartingAt(subtree, to, first); // one past the overlapped ones
    // Room for the worst case: a split and the new extent.
    if (this.#makeRoom(subtree, last - first === 1 ? 2 : 1)) {
      first = this.#firstEndingAfter(subtree, from);
      last = this.#firstStartingAt(subtree, to, first);
    }

    const words = this.#arena.words;
    const run = this.#run[subtree]!;
    const first_at = run + first * EXTENT_WORDS;
    const last_at = run + (last - 1) * EXTENT_WORDS;
    const keeps_left = last > first && this.start(first_at) < from;
    const last_end = last > first ? this.start(last_at) + this.sectors(last_at) : 0;
    const keeps_right = last_end > to;
    const right_seg_flags = keeps_right ? words[last_at + 1]! : 0;
    const right_generation = keeps_right ? words[last_at + 3]! : 0;
    let right_place = keeps_right ? words[last_at + 2]! : 0;
    if (keeps_right && (right_seg_flags & EXTENT_PLACEHOLDER) === 0) {
      right_place += to - this.start(last_at);
    }

    const left = keeps_left ? 1 : 0;
    const entered = enter ? 1 : 0;
    const right = keeps_right ? 1 : 0;
    this.#shift(subtree, last, left + entered + right - (last - first));

    if (keeps_left) words[first_at] = this.start(first_at) | ((from - this.start(first_at)) << 16);
    let at = first_at + left * EXTENT_WORDS;
    if (enter) {
      words[at] = from | (sectors << 16);
      words[at + 1] = seg_flags;
      words[at + 2] = place;
      words[at + 3] = generation;
      at += EXTENT_WORDS;
    }
    if (keeps_right) {
      words[at] = to | ((last_end - to) << 16);
      words[at + 1] = right_seg_flags;
      words[at + 2] = right_place;
      words[at + 3] = right_generation;
    }
  }

  /** Moves the extents from number `from` on by `by` places. */
  #shift(subtree: number, from: number, by: number): void {
    if (by === 0) return;
    const run = this.#run[subtree]!;
    const count = this.#count[subtree]!;
    const start = run + from * EXTENT_WORDS;
    if (from < count) {
      this.#arena.words.copyWithin(start + by * EXTENT_WORDS, start, run + count * EXTENT_WORDS);
    }
    this.#count[subtree] = count + by;
    this.#extents += by;
  }

  #capacity(subtree: number): number {
    const size_class = this.#class[subtree]!;
    return size_class === NO_CLASS ? 0 : classWords(size_class) / EXTENT_WORDS;
  }

  /** Makes sure that `more` extents fit. True: the run was compacted or moved, positions in it changed. */
  #makeRoom(subtree: number, more: number): boolean {
    if (this.#count[subtree]! + more <= this.#capacity(subtree)) return false;
    this.#dropDead(subtree);
    if (this.#count[subtree]! + more <= this.#capacity(subtree)) return true;

    const size_class = this.#class[subtree]!;
    const grown_class = classFor((this.#count[subtree]! + more) * EXTENT_WORDS);
    const grown = this.#arena.take(grown_class);
    if (size_class !== NO_CLASS) {
      const run = this.#run[subtree]!;
      this.#arena.words.copyWithin(grown, run, run + this.#count[subtree]! * EXTENT_WORDS);
      this.#arena.put(run, size_class);
    }
    this.#run[subtree] = grown;
    this.#class[subtree] = grown_class;
    return true;
  }

  #dropDead(subtree: number): void {
    const words = this.#arena.words;
    const run = this.#run[subtree]!;
    const count = this.#count[subtree]!;
    let kept = 0;
    for (let at = 0; at < count; at++) {
      const extent = run + at * EXTENT_WORDS;
      if (!this.isLive(extent)) continue;
      const to = run + kept * EXTENT_WORDS;
      if (to !== extent) words.copyWithin(to, extent, extent + EXTENT_WORDS);
      kept++;
    }
    this.#count[subtree] = kept;
    this.#extents -= count - kept;
    if (kept === 0 && this.#class[subtree] !== NO_CLASS) {
      this.#arena.put(run, this.#class[subtree]!);
      this.#class[subtree] = NO_CLASS;
      this.#run[subtree] = 0;
    }
  }
}

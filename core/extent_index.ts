/**
 * The index: which range of the cached device lies where in the cache.
 *
 * A subtree covers 4 MiB of the cached device. Its extents stand sorted in leaves of 32, and its directory lists the leaves with
 * their first starts, so a look-up bisects twice and a change moves half a kilobyte at most. An extent is four 32-bit words; it is
 * either cached (it names a place in a segment's data area) or a placeholder (it names the fill that is reading the range).
 *
 * Invariants, for every subtree:
 * - extents are sorted by start, have at least one sector, and do not overlap;
 * - an extent never crosses the subtree's end, and a cached one never its segment's;
 * - a leaf in a directory has at least one extent, and the directory has the start of its first one;
 * - an extent whose generation is not its segment's is dead: it reads as if it were not there. Dead extents stay where they are when
 *   a segment is freed, and are dropped when a leaf is full or swept.
 *
 * Extent, word 0: start in the subtree (16 bits), sectors (16 bits). Word 1: segment (20 bits), flags (from bit 28).
 * Word 2: first sector in the data area, or the fill. Word 3: low half of the generation.
 * Directory entry, word 0: start of the first extent (16 bits), how many there are (16 bits). Word 1: the leaf.
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
const LEAF_EXTENTS = 32;
const LEAF_WORDS = LEAF_EXTENTS * EXTENT_WORDS;
const ENTRY_WORDS = 2;
const FIRST_LEAVES = 64;
/** Neighbouring leaves with this many extents in all, or fewer, are made one when they are swept. */
const MERGE_EXTENTS = 24;
const SEGMENT_MASK = (1 << 20) - 1;
/** A subtree with no directory. */
const NO_CLASS = 0xff;
const NO_LEAF = 0xffffffff;

/** What the index asks about generations: the low half of a segment's current one. */
export interface CurrentGenerations {
  low(seg: number): number;
}

/** Extents in leaves of equal size, in one typed array. */
class Leaves {
  words = new Uint32Array(FIRST_LEAVES * LEAF_WORDS);
  #used = 0;
  #first_free = NO_LEAF;

  get used_words(): number {
    return this.#used * LEAF_WORDS;
  }

  take(): number {
    const free = this.#first_free;
    if (free !== NO_LEAF) {
      this.#first_free = this.words[free * LEAF_WORDS]!;
      return free;
    }
    if ((this.#used + 1) * LEAF_WORDS > this.words.length) {
      // Untouched words are not resident: the slack of doubling costs address space only.
      const grown = new Uint32Array(this.words.length * 2);
      grown.set(this.words);
      this.words = grown;
    }
    return this.#used++;
  }

  put(leaf: number): void {
    this.words[leaf * LEAF_WORDS] = this.#first_free;
    this.#first_free = leaf;
  }
}

/** The index of one cached device. Sectors are sectors of that device, from 0. */
export class ExtentIndex {
  readonly subtrees: number;
  readonly #leaves = new Leaves();
  readonly #directories = new RunArena();
  readonly #generations: CurrentGenerations;
  readonly #directory: Uint32Array;
  readonly #leaf_count: Uint16Array;
  readonly #class: Uint8Array;
  #sweep_subtree = 0;
  #extents = 0;
  /** Where `#seek` stopped: entry in the directory, extent in its leaf. */
  #entry = 0;
  #at = 0;

  constructor(size_sectors: number, generations: CurrentGenerations) {
    this.subtrees = Math.ceil(size_sectors / SUBTREE_SECTORS);
    this.#generations = generations;
    this.#directory = new Uint32Array(this.subtrees);
    this.#leaf_count = new Uint16Array(this.subtrees);
    this.#class = new Uint8Array(this.subtrees).fill(NO_CLASS);
  }

  /** How many extents there are, dead ones included. */
  get extents(): number {
    return this.#extents;
  }

  /** Memory held by leaves and directories, in bytes. */
  get used_bytes(): number {
    return (this.#leaves.used_words + this.#directories.used_words) * 4;
  }

  /**
   * The first extent that ends after `sector`, in the sector's subtree, dead or alive; -1 if there is none.
   * An extent number stays valid until the index is changed.
   */
  find(sector: number): number {
    const subtree = Math.floor(sector / SUBTREE_SECTORS);
    if (!this.#seek(subtree, sector % SUBTREE_SECTORS)) return -1;
    return this.#leafAt(subtree, this.#entry) * LEAF_WORDS + this.#at * EXTENT_WORDS;
  }

  /** First sector of the extent, counted from the start of its subtree. */
  start(extent: number): number {
    return this.#leaves.words[extent]! & 0xffff;
  }

  /** How many sectors the extent has. */
  sectors(extent: number): number {
    return this.#leaves.words[extent]! >>> 16;
  }

  /** The cache segment of a cached extent. */
  segment(extent: number): number {
    return this.#leaves.words[extent + 1]! & SEGMENT_MASK;
  }

  /** First sector of a cached extent in its segment's data area. */
  place(extent: number): number {
    return this.#leaves.words[extent + 2]!;
  }

  /** The fill that a placeholder waits for. */
  fill(extent: number): number {
    return this.#leaves.words[extent + 2]!;
  }

  isPlaceholder(extent: number): boolean {
    return (this.#leaves.words[extent + 1]! & EXTENT_PLACEHOLDER) !== 0;
  }

  isClean(extent: number): boolean {
    return (this.#leaves.words[extent + 1]! & EXTENT_CLEAN) !== 0;
  }

  /** Whether the extent's bytes are still there: its segment was not freed since. */
  isLive(extent: number): boolean {
    const words = this.#leaves.words;
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
    this.#replace(sector, sectors, seg | flags, place, this.#generations.low(seg));
  }

  /** Enters a placeholder; the range must hold no live extent. */
  insertPlaceholder(sector: number, sectors: number, fill: number): void {
    this.#replace(sector, sectors, EXTENT_PLACEHOLDER, fill, 0);
  }

  /** Takes a range out of the index, whatever it holds. */
  remove(sector: number, sectors: number): void {
    const from = sector % SUBTREE_SECTORS;
    this.#cut(this.#subtreeOf(sector, sectors), from, from + sectors);
  }

  /** Marks clean what is left in the index of the bytes that lie at `place` of `seg`. What sticks out of the range is split off. */
  markClean(sector: number, sectors: number, seg: number, place: number): void {
    const base = this.#subtreeOf(sector, sectors) * SUBTREE_SECTORS;
    const origin = place - (sector - base);
    const end = sector - base + sectors;
    let from = sector - base;
    while (from < end) {
      const extent = this.find(base + from);
      if (extent < 0) return;
      const start = Math.max(from, this.start(extent));
      const stop = Math.min(end, this.start(extent) + this.sectors(extent));
      if (start >= end) return;
      const is_part = !this.isPlaceholder(extent) && this.segment(extent) === seg &&
        this.place(extent) - this.start(extent) === origin;
      if (is_part && this.isLive(extent)) this.#markPart(extent, base, start, stop, origin);
      from = stop;
    }
  }

  /** Marks the extent clean from `start` to `stop`, which lie in it. */
  #markPart(extent: number, base: number, start: number, stop: number, origin: number): void {
    if (this.isClean(extent)) return;
    if (stop - start === this.sectors(extent)) {
      this.#leaves.words[extent + 1] = this.#leaves.words[extent + 1]! | EXTENT_CLEAN;
      return;
    }
    this.insertCached(base + start, stop - start, this.segment(extent), origin + start, true);
  }

  /** Drops the dead extents of the next `subtrees` subtrees, in turn, and merges what that leaves half empty. */
  sweep(subtrees: number): void {
    for (let n = Math.min(subtrees, this.subtrees); n > 0; n--) {
      this.#sweepSubtree(this.#sweep_subtree);
      this.#sweep_subtree = (this.#sweep_subtree + 1) % this.subtrees;
    }
  }

  /** Calls `visit` for each live extent in order; for tests, tools and the start, not for requests. */
  forEach(visit: (sector: number, extent: number) => void): void {
    for (let subtree = 0; subtree < this.subtrees; subtree++) {
      for (let entry = 0; entry < this.#leaf_count[subtree]!; entry++) {
        const leaf = this.#leafAt(subtree, entry) * LEAF_WORDS;
        for (let at = 0; at < this.#countAt(subtree, entry); at++) {
          const extent = leaf + at * EXTENT_WORDS;
          if (this.isLive(extent)) visit(subtree * SUBTREE_SECTORS + this.start(extent), extent);
        }
      }
    }
  }

  #subtreeOf(sector: number, sectors: number): number {
    const subtree = Math.floor(sector / SUBTREE_SECTORS);
    assert(
      sectors > 0 && (sector % SUBTREE_SECTORS) + sectors <= SUBTREE_SECTORS,
      "an extent lies in one subtree",
    );
    assert(subtree < this.subtrees, "an extent lies on the cached device");
    return subtree;
  }

  // ---- looking

  /** Stops at the first extent that ends after `from`; false: there is none. */
  #seek(subtree: number, from: number): boolean {
    const entries = this.#leaf_count[subtree]!;
    if (entries === 0) return false;
    this.#entry = this.#entryFor(subtree, from);
    const leaf = this.#leafAt(subtree, this.#entry) * LEAF_WORDS;
    const count = this.#countAt(subtree, this.#entry);
    const words = this.#leaves.words;
    let low = 0;
    let high = count;
    while (low < high) {
      const middle = (low + high) >>> 1;
      const word = words[leaf + middle * EXTENT_WORDS]!;
      if ((word & 0xffff) + (word >>> 16) > from) high = middle;
      else low = middle + 1;
    }
    this.#at = low;
    if (low < count) return true;
    this.#entry++;
    this.#at = 0;
    return this.#entry < entries;
  }

  /** The last leaf that starts at or before `from`, or the first one. */
  #entryFor(subtree: number, from: number): number {
    const words = this.#directories.words;
    const run = this.#directory[subtree]!;
    let low = 0;
    let high = this.#leaf_count[subtree]! - 1;
    while (low < high) {
      const middle = (low + high + 1) >>> 1;
      if ((words[run + middle * ENTRY_WORDS]! & 0xffff) <= from) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  #leafAt(subtree: number, entry: number): number {
    return this.#directories.words[this.#directory[subtree]! + entry * ENTRY_WORDS + 1]!;
  }

  #countAt(subtree: number, entry: number): number {
    return this.#directories.words[this.#directory[subtree]! + entry * ENTRY_WORDS]! >>> 16;
  }

  // ---- changing extents

  /** Makes the range one extent. */
  #replace(
    sector: number,
    sectors: number,
    seg_flags: number,
    place: number,
    generation: number,
  ): void {
    const subtree = this.#subtreeOf(sector, sectors);
    const from = sector % SUBTREE_SECTORS;
    const word = from | (sectors << 16);
    // Most writes replace just what they overwrite.
    if (this.#seek(subtree, from)) {
      const at = this.#leafAt(subtree, this.#entry) * LEAF_WORDS + this.#at * EXTENT_WORDS;
      const words = this.#leaves.words;
      if (words[at] === word) {
        words[at + 1] = seg_flags;
        words[at + 2] = place;
        words[at + 3] = generation;
        return;
      }
      if ((words[at]! & 0xffff) < from + sectors) this.#cut(subtree, from, from + sectors);
    }
    this.#insert(subtree, word, seg_flags, place, generation);
  }

  /** Empties `[from, to)`. What sticks out on either side of it stays. */
  #cut(subtree: number, from: number, to: number): void {
    while (this.#seek(subtree, from)) {
      const extent = this.#leafAt(subtree, this.#entry) * LEAF_WORDS + this.#at * EXTENT_WORDS;
      const start = this.start(extent);
      const end = start + this.sectors(extent);
      if (start >= to) return;
      if (end > to) return this.#keepRight(subtree, extent, start, from, to, end);
      if (start < from) this.#leaves.words[extent] = start | ((from - start) << 16);
      else this.#deleteCovered(subtree, to);
    }
  }

  /** The extent at the place sought sticks out on the right, and perhaps on the left: keeps these parts. */
  #keepRight(
    subtree: number,
    extent: number,
    start: number,
    from: number,
    to: number,
    end: number,
  ): void {
    const words = this.#leaves.words;
    const seg_flags = words[extent + 1]!;
    const generation = words[extent + 3]!;
    const moves = (seg_flags & EXTENT_PLACEHOLDER) === 0;
    const place = moves ? words[extent + 2]! + (to - start) : words[extent + 2]!;
    const word = to | ((end - to) << 16);
    if (start < from) {
      words[extent] = start | ((from - start) << 16);
      return this.#insert(subtree, word, seg_flags, place, generation);
    }
    words[extent] = word;
    words[extent + 2] = place;
    if (this.#at === 0) {
      this.#setEntry(subtree, this.#entry, to, this.#countAt(subtree, this.#entry));
    }
  }

  /** Deletes, from the place sought on, the extents of the leaf that end at or before `to`. */
  #deleteCovered(subtree: number, to: number): void {
    const words = this.#leaves.words;
    const leaf = this.#leafAt(subtree, this.#entry) * LEAF_WORDS;
    const count = this.#countAt(subtree, this.#entry);
    let stop = this.#at + 1;
    while (stop < count) {
      const word = words[leaf + stop * EXTENT_WORDS]!;
      if ((word & 0xffff) + (word >>> 16) > to) break;
      stop++;
    }
    const at = leaf + this.#at * EXTENT_WORDS;
    words.copyWithin(at, leaf + stop * EXTENT_WORDS, leaf + count * EXTENT_WORDS);
    this.#shrink(subtree, this.#entry, count, count - (stop - this.#at));
  }

  /** The entry's leaf has `left` extents of `count`: notes that, and drops the leaf if it is empty. */
  #shrink(subtree: number, entry: number, count: number, left: number): void {
    this.#extents -= count - left;
    const leaf = this.#leafAt(subtree, entry);
    if (left > 0) {
      return this.#setEntry(subtree, entry, this.start(leaf * LEAF_WORDS), left);
    }
    this.#leaves.put(leaf);
    this.#removeEntry(subtree, entry);
  }

  /** Enters an extent into a range that is empty. */
  #insert(
    subtree: number,
    word: number,
    seg_flags: number,
    place: number,
    generation: number,
  ): void {
    const from = word & 0xffff;
    if (this.#leaf_count[subtree] === 0) {
      this.#insertEntry(subtree, 0, from, 0, this.#leaves.take());
    }
    let entry = this.#entryFor(subtree, from);
    // Dropping dead extents may move a leaf's start behind `from`: the leaf before it is the one then, and may be full.
    while (this.#countAt(subtree, entry) === LEAF_EXTENTS) {
      this.#makeRoom(subtree, entry, from);
      entry = this.#entryFor(subtree, from);
    }
    const words = this.#leaves.words;
    const leaf = this.#leafAt(subtree, entry) * LEAF_WORDS;
    const count = this.#countAt(subtree, entry);
    const end = leaf + count * EXTENT_WORDS;
    let at = end;
    while (at > leaf && (words[at - EXTENT_WORDS]! & 0xffff) > from) at -= EXTENT_WORDS;
    if (at < end) words.copyWithin(at + EXTENT_WORDS, at, end);
    words[at] = word;
    words[at + 1] = seg_flags;
    words[at + 2] = place;
    words[at + 3] = generation;
    this.#setEntry(subtree, entry, words[leaf]! & 0xffff, count + 1);
    this.#extents++;
  }

  /** Makes room around `from` in a full leaf: drops what is dead, or splits it. */
  #makeRoom(subtree: number, entry: number, from: number): void {
    if (this.#dropDead(subtree, entry)) {
      if (this.#leaf_count[subtree] === 0) {
        this.#insertEntry(subtree, 0, from, 0, this.#leaves.take());
      }
      return;
    }
    const leaf = this.#leafAt(subtree, entry) * LEAF_WORDS;
    const is_append = entry === this.#leaf_count[subtree]! - 1 &&
      from > this.start(leaf + LEAF_WORDS - EXTENT_WORDS);
    const added = this.#leaves.take();
    // Ascending writes leave full leaves behind; others leave halves.
    const kept = is_append ? LEAF_EXTENTS : LEAF_EXTENTS / 2;
    const words = this.#leaves.words;
    words.copyWithin(added * LEAF_WORDS, leaf + kept * EXTENT_WORDS, leaf + LEAF_WORDS);
    const added_start = is_append ? from : words[added * LEAF_WORDS]! & 0xffff;
    this.#setEntry(subtree, entry, this.start(leaf), kept);
    this.#insertEntry(subtree, entry + 1, added_start, LEAF_EXTENTS - kept, added);
  }

  /** Drops the dead extents of a leaf. Returns whether there were any. */
  #dropDead(subtree: number, entry: number): boolean {
    const words = this.#leaves.words;
    const leaf = this.#leafAt(subtree, entry) * LEAF_WORDS;
    const count = this.#countAt(subtree, entry);
    let kept = 0;
    for (let at = 0; at < count; at++) {
      const extent = leaf + at * EXTENT_WORDS;
      if (!this.isLive(extent)) continue;
      const to = leaf + kept * EXTENT_WORDS;
      if (to !== extent) words.copyWithin(to, extent, extent + EXTENT_WORDS);
      kept++;
    }
    if (kept === count) return false;
    this.#shrink(subtree, entry, count, kept);
    return true;
  }

  #sweepSubtree(subtree: number): void {
    for (let entry = this.#leaf_count[subtree]! - 1; entry >= 0; entry--) {
      this.#dropDead(subtree, entry);
      if (entry + 1 < this.#leaf_count[subtree]!) this.#mergeNext(subtree, entry);
    }
  }

  /** Makes the leaf and its next one a single leaf if they are empty enough. */
  #mergeNext(subtree: number, entry: number): void {
    const count = this.#countAt(subtree, entry);
    const next_count = this.#countAt(subtree, entry + 1);
    if (count + next_count > MERGE_EXTENTS) return;
    const leaf = this.#leafAt(subtree, entry) * LEAF_WORDS;
    const next = this.#leafAt(subtree, entry + 1);
    const words = this.#leaves.words;
    const from = next * LEAF_WORDS;
    words.copyWithin(leaf + count * EXTENT_WORDS, from, from + next_count * EXTENT_WORDS);
    this.#setEntry(subtree, entry, this.start(leaf), count + next_count);
    this.#leaves.put(next);
    this.#removeEntry(subtree, entry + 1);
  }

  // ---- changing directories

  #setEntry(subtree: number, entry: number, start: number, count: number): void {
    const at = this.#directory[subtree]! + entry * ENTRY_WORDS;
    this.#directories.words[at] = start | (count << 16);
  }

  #insertEntry(subtree: number, entry: number, start: number, count: number, leaf: number): void {
    const entries = this.#leaf_count[subtree]!;
    this.#growDirectory(subtree, entries + 1);
    const words = this.#directories.words;
    const run = this.#directory[subtree]!;
    const at = run + entry * ENTRY_WORDS;
    if (entry < entries) words.copyWithin(at + ENTRY_WORDS, at, run + entries * ENTRY_WORDS);
    words[at] = start | (count << 16);
    words[at + 1] = leaf;
    this.#leaf_count[subtree] = entries + 1;
  }

  #removeEntry(subtree: number, entry: number): void {
    const words = this.#directories.words;
    const run = this.#directory[subtree]!;
    const entries = this.#leaf_count[subtree]!;
    const at = run + entry * ENTRY_WORDS;
    words.copyWithin(at, at + ENTRY_WORDS, run + entries * ENTRY_WORDS);
    this.#leaf_count[subtree] = entries - 1;
    if (entries > 1) return;
    this.#directories.put(run, this.#class[subtree]!);
    this.#class[subtree] = NO_CLASS;
  }

  #growDirectory(subtree: number, entries: number): void {
    const size_class = this.#class[subtree]!;
    const words = entries * ENTRY_WORDS;
    if (size_class !== NO_CLASS && words <= classWords(size_class)) return;
    const grown_class = classFor(words);
    const grown = this.#directories.take(grown_class);
    if (size_class !== NO_CLASS) {
      const run = this.#directory[subtree]!;
      this.#directories.words.copyWithin(grown, run, run + words - ENTRY_WORDS);
      this.#directories.put(run, size_class);
    }
    this.#directory[subtree] = grown;
    this.#class[subtree] = grown_class;
  }
}

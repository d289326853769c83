/**
 * The index: which range of the cached device lies where in the cache.
 *
 * A subtree covers 4 MiB of the cached device. Its extents stand sorted in leaves of 31, and its directory lists the leaves, so a
 * look-up bisects twice and a change moves a quarter of a kilobyte at most. An extent is either cached (it names a place in a
 * segment's data area) or a placeholder (it names the fill that is reading the range).
 *
 * Invariants, for every subtree:
 * - extents are sorted by start, have at least one sector, and do not overlap;
 * - an extent never crosses the subtree's end, and a cached one never its segment's;
 * - a leaf in a directory has at least one extent; its bound is at or before the start of each of them, and behind the starts in
 *   the leaf before it; the first leaf's bound is 0;
 * - an extent whose epoch is not its segment's is dead: it reads as if it were not there. Dead extents stay where they are when
 *   a segment is freed, and are dropped when a leaf is full or swept;
 * - no dead extent comes to life: a segment's epoch is the same again after `epochs` frees, and each of them but the last sweeps
 *   its share of the subtrees, so that all of them have been swept.
 *
 * A look-up touches two cache lines of a leaf: its first, which has the starts and how many they are, and the one with the extent's
 * own two words. The branches on the way there do not depend on what a leaf holds.
 *
 * Leaf: 31 starts in the subtree (16 bits each; 0xffff: unused), their number (16 bits), then two words an extent.
 * Word 0: first sector in the data area (15 bits), sectors less one (13 bits from bit 15), flags (from bit 28), and how often the
 * extent was read since it came in (2 bits from bit 30; counted up to `MAX_HITS`, where eviction asks for it).
 * Word 1: segment (20 bits) and its epoch (12 bits from bit 20), or the fill.
 * Directory: the leaves' bounds (16 bits each), then their numbers (32 bits each).
 *
 * @module
 */

import { assert } from "./assert.ts";
import { classFor, classWords, RunArena } from "./run_arena.ts";

/** Sectors in a subtree: 4 MiB (FORMAT, "Key": a key never crosses a 4 MiB boundary). */
export const SUBTREE_SECTORS = 8192;
/** How many epochs a segment has before it is in the first one again. */
export const MAX_EPOCHS = 4096;

/** Most look-ups that `fetch` prepares at once: what they touch fits the processor's first cache. */
export const MAX_EXPECTED = 32;

const SECTOR_IN_SUBTREE_MASK = SUBTREE_SECTORS - 1;

/** One less than a power of two: a bisection takes five steps, whatever it meets. */
const LEAF_EXTENTS = 31;
const LEAF_BYTES = 320;
const LEAF_HALVES = LEAF_BYTES / 2;
const LEAF_WORDS = LEAF_BYTES / 4;
const LINE_WORDS = 16;
const COUNT_HALF = LEAF_EXTENTS;
const FIRST_EXTENT_WORD = 16;
const UNUSED_START = 0xffff;
const FIRST_LEAVES = 64;
/** An extent's number is its leaf's, times 32, and its place in the leaf. */
const AT_BITS = 5;
const AT_MASK = (1 << AT_BITS) - 1;
/** Large arrays begin 16 bytes behind a page, where malloc keeps its own: leaves then begin with a cache line. */
const LINE_SKIP_BYTES = 48;

const PLACE_MASK = (1 << 15) - 1;
const SECTORS_SHIFT = 15;
const SECTORS_MASK = SUBTREE_SECTORS - 1;
/** The bytes are on the backing device too. */
const CLEAN = 1 << 28;
/** A range being read from the backing device. */
const PLACEHOLDER = 1 << 29;
const HITS_SHIFT = 30;
/** Hits of an extent are counted up to here. */
export const MAX_HITS = 3;
const SEGMENT_BITS = 20;
const SEGMENT_MASK = (1 << SEGMENT_BITS) - 1;

/** Neighbouring leaves with this many extents in all, or fewer, are made one when they are swept. */
const MERGE_EXTENTS = 24;
const NO_LEAF = -1;
/** A subtree's own words, side by side since a look-up reads three of them: how many leaves its directory lists, where in the arena their bounds and numbers begin, the run's class. Where no leaf is, there is no directory. */
const SUBTREE_WORDS = 4;
const LEAF_COUNT = 0;
const FIRST_BOUND = 1;
const FIRST_NUMBER = 2;
const CLASS = 3;

/** Extents in leaves of equal size, in one buffer. */
class Leaves {
  words!: Int32Array<ArrayBuffer>;
  halves!: Uint16Array<ArrayBuffer>;
  #most = FIRST_LEAVES;
  #used = 0;
  #first_free = NO_LEAF;

  constructor() {
    this.#allocate();
  }

  get used_words(): number {
    return this.#used * LEAF_WORDS;
  }

  /** An empty leaf. */
  take(): number {
    let leaf = this.#first_free;
    if (leaf !== NO_LEAF) {
      this.#first_free = this.words[leaf * LEAF_WORDS]!;
    } else {
      if (this.#used === this.#most) this.#grow();
      leaf = this.#used++;
    }
    const first = leaf * LEAF_HALVES;
    this.halves.fill(UNUSED_START, first, first + LEAF_EXTENTS);
    this.halves[first + COUNT_HALF] = 0;
    return leaf;
  }

  put(leaf: number): void {
    this.words[leaf * LEAF_WORDS] = this.#first_free;
    this.#first_free = leaf;
  }

  /** Doubles: untouched words are not resident, so the slack costs address space only. */
  #grow(): void {
    const { words } = this;
    this.#most *= 2;
    assert(this.#most <= 1 << (31 - AT_BITS), "an extent's number has 31 bits");
    this.#allocate();
    this.words.set(words);
  }

  #allocate(): void {
    const buffer = new ArrayBuffer(LINE_SKIP_BYTES + this.#most * LEAF_BYTES);
    this.words = new Int32Array(buffer, LINE_SKIP_BYTES);
    this.halves = new Uint16Array(buffer, LINE_SKIP_BYTES);
  }
}

/** How many of a leaf's extents start at or before `from`; `first` is where its starts begin. */
function startsUpTo(halves: Uint16Array, first: number, from: number): number {
  // Each step goes on by its size if the start at its end is not behind `from`, without a branch.
  let at = first;
  at += ((halves[at + 15]! - from - 1) >>> 31) << 4;
  at += ((halves[at + 7]! - from - 1) >>> 31) << 3;
  at += ((halves[at + 3]! - from - 1) >>> 31) << 2;
  at += ((halves[at + 1]! - from - 1) >>> 31) << 1;
  at += (halves[at]! - from - 1) >>> 31;
  return at - first;
}

/** The index of one cached device. Sectors are sectors of that device, from 0. */
export class ExtentIndex {
  readonly subtrees: number;
  readonly #leaves = new Leaves();
  readonly #directories = new RunArena();
  /** By segment: word 1 of its live extents. */
  readonly #live: Int32Array;
  readonly #epoch_mask: number;
  /** How many subtrees are swept each time that a segment is freed. */
  readonly #share: number;
  /** By subtree: its own words. */
  readonly #subtree_words: Int32Array;
  #sweep_subtree = 0;
  #extents = 0;
  /** Where `#seek` stopped: entry in the directory, its leaf, extent in the leaf. */
  #entry = 0;
  #leaf = 0;
  #at = 0;
  /** Where an extent belongs that starts where `#seek` began; entry -1: the subtree has no leaf. */
  #gap_entry = -1;
  #gap_leaf = 0;
  #gap_at = 0;
  /** Sectors to be looked up soon: subtree, sector in it, leaf (before that is known: where its number is; -1: there is none). */
  readonly #expected_subtree = new Int32Array(MAX_EXPECTED);
  readonly #expected_from = new Int32Array(MAX_EXPECTED);
  readonly #expected_leaf = new Int32Array(MAX_EXPECTED);
  #expected = 0;
  /** What `fetch` has read, so that it is not optimised away. */
  #fetched = 0;

  /** `segments`: how many there are. `epochs`: a power of two; tests make it small. */
  constructor(size_sectors: number, segments: number, epochs = MAX_EPOCHS) {
    assert(segments <= SEGMENT_MASK + 1, "a segment's number has 20 bits");
    assert(epochs > 1 && epochs <= MAX_EPOCHS, "an epoch has 12 bits");
    this.subtrees = Math.ceil(size_sectors / SUBTREE_SECTORS);
    this.#live = Int32Array.from({ length: segments }, (_, seg) => seg);
    this.#epoch_mask = ((epochs - 1) << SEGMENT_BITS) | SEGMENT_MASK;
    this.#share = Math.ceil(this.subtrees / (epochs - 1));
    this.#subtree_words = new Int32Array(this.subtrees * SUBTREE_WORDS);
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
    if (!this.#seek(subtree, sector & SECTOR_IN_SUBTREE_MASK)) return -1;
    return this.#found();
  }

  /** The live cached extent that holds `sector`; -1: there is none. */
  holds(sector: number): number {
    const extent = this.find(sector);
    if (extent < 0 || this.start(extent) > (sector & SECTOR_IN_SUBTREE_MASK)) return -1;
    return this.isPlaceholder(extent) || !this.isLive(extent) ? -1 : extent;
  }

  /** Where the hole that `sector` lies in ends, at most `limit`, in its subtree: `sector` itself if that is cached. Dead extents are part of it. */
  holeEnd(sector: number, limit: number): number {
    const base = sector - (sector % SUBTREE_SECTORS);
    while (sector < limit) {
      const extent = this.find(sector);
      if (extent < 0) return limit;
      const start = base + this.start(extent);
      if (this.isLive(extent)) return Math.max(sector, Math.min(limit, start));
      sector = start + this.sectors(extent);
    }
    return limit;
  }

  /** Notes that the index will be asked about `sector`, or changed there, after the next `fetch`. Most: MAX_EXPECTED. */
  expect(sector: number): void {
    const at = this.#expected++;
    this.#expected_subtree[at] = Math.floor(sector / SUBTREE_SECTORS);
    this.#expected_from[at] = sector & SECTOR_IN_SUBTREE_MASK;
  }

  /**
   * Reads what look-ups of the expected sectors will read. In an index larger than the processor's caches a look-up waits for
   * memory five times; here none of them waits for another, in loops so short that the processor has many reads under way.
   */
  fetch(): void {
    const { words } = this.#leaves;
    const { halves: bounds, words: numbers } = this.#directories;
    const count = this.#expected;
    this.#expected = 0;
    if (count === 1) return; // there is nothing to be done meanwhile
    let fetched = 0;
    for (let i = 0; i < count; i++) {
      const subtree = this.#expected_subtree[i]!;
      fetched ^= bounds[this.#firstBound(subtree) + (this.#leafCount(subtree) >> 1)]!;
    }
    for (let i = 0; i < count; i++) {
      const subtree = this.#expected_subtree[i]!;
      const entry = this.#entryFor(subtree, this.#expected_from[i]!);
      const is_empty = this.#leafCount(subtree) === 0;
      this.#expected_leaf[i] = is_empty ? -1 : this.#firstNumber(subtree) + entry;
    }
    for (let i = 0; i < count; i++) {
      const at = this.#expected_leaf[i]!;
      this.#expected_leaf[i] = at < 0 ? 0 : numbers[at]!;
    }
    for (let i = 0; i < count; i++) {
      const leaf = this.#expected_leaf[i]! * LEAF_WORDS;
      fetched ^= words[leaf]! ^ words[leaf + LINE_WORDS]! ^ words[leaf + 2 * LINE_WORDS]! ^
        words[leaf + 3 * LINE_WORDS]! ^ words[leaf + 4 * LINE_WORDS]!;
    }
    this.#fetched = fetched;
  }

  /** First sector of the extent, counted from the start of its subtree. */
  start(extent: number): number {
    return this.#leaves.halves[(extent >> AT_BITS) * LEAF_HALVES + (extent & AT_MASK)]!;
  }

  /** How many sectors the extent has. */
  sectors(extent: number): number {
    return ((this.#word0(extent) >>> SECTORS_SHIFT) & SECTORS_MASK) + 1;
  }

  /** The cache segment of a cached extent. */
  segment(extent: number): number {
    return this.#word1(extent) & SEGMENT_MASK;
  }

  /** First sector of a cached extent in its segment's data area. */
  place(extent: number): number {
    return this.#word0(extent) & PLACE_MASK;
  }

  /** The fill that a placeholder waits for. */
  fill(extent: number): number {
    return this.#word1(extent);
  }

  isPlaceholder(extent: number): boolean {
    return (this.#word0(extent) & PLACEHOLDER) !== 0;
  }

  isClean(extent: number): boolean {
    return (this.#word0(extent) & CLEAN) !== 0;
  }

  /** How often the extent was touched since it came in, up to `MAX_HITS`. */
  hits(extent: number): number {
    return this.#word0(extent) >>> HITS_SHIFT;
  }

  /** Counts a hit of a cached extent. */
  touch(extent: number): void {
    const { words } = this.#leaves;
    const at = wordOf(extent);
    const word = words[at]!;
    if (word >>> HITS_SHIFT < MAX_HITS) words[at] = word + (1 << HITS_SHIFT);
  }

  /** Whether the extent's bytes are still there: its segment was not freed since. */
  isLive(extent: number): boolean {
    if (this.isPlaceholder(extent)) return true;
    const word = this.#word1(extent);
    return this.#live[word & SEGMENT_MASK] === word;
  }

  /** As `insertCached`, of bytes `start` sectors into a subtree, where most come behind all that the subtree has. */
  appendCached(
    subtree: number,
    start: number,
    sectors: number,
    seg: number,
    place: number,
    clean: boolean,
  ): void {
    assert(place + sectors <= PLACE_MASK + 1, "a place in a data area has 15 bits");
    assert(start + sectors <= SUBTREE_SECTORS, "an extent lies in one subtree");
    const entries = this.#leafCount(subtree);
    if (entries > 0) {
      const leaf = this.#leafAt(subtree, entries - 1);
      const count = this.#count(leaf);
      if (count < LEAF_EXTENTS && this.#end((leaf << AT_BITS) | (count - 1)) <= start) {
        this.#gap_leaf = leaf;
        this.#gap_at = count;
        const word0 = place | ((sectors - 1) << SECTORS_SHIFT) | (clean ? CLEAN : 0);
        return this.#put(start, word0, this.#live[seg]!);
      }
    }
    this.insertCached(subtree * SUBTREE_SECTORS + start, sectors, seg, place, clean);
  }

  /** Enters cached bytes; whatever the range overlapped is cut, split or removed. */
  insertCached(
    sector: number,
    sectors: number,
    seg: number,
    place: number,
    clean: boolean,
    hits = 0,
  ): void {
    assert(place + sectors <= PLACE_MASK + 1, "a place in a data area has 15 bits");
    const flags = (clean ? CLEAN : 0) | (hits << HITS_SHIFT);
    this.#replace(sector, sectors, place | flags, this.#live[seg]!);
  }

  /** Enters a placeholder; the range must hold no live extent. */
  insertPlaceholder(sector: number, sectors: number, fill: number): void {
    this.#replace(sector, sectors, PLACEHOLDER, fill);
  }

  /** Takes a range out of the index, whatever it holds. */
  remove(sector: number, sectors: number): void {
    const from = sector & SECTOR_IN_SUBTREE_MASK;
    this.#cut(this.#subtreeOf(sector, sectors), from, from + sectors);
  }

  /** The segment's bytes are gone: its extents are dead from now on. */
  freeSegment(seg: number): void {
    const word = (this.#live[seg]! + (1 << SEGMENT_BITS)) & this.#epoch_mask;
    this.#live[seg] = word;
    this.sweep(this.#share);
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
      const at = wordOf(extent);
      this.#leaves.words[at] = this.#leaves.words[at]! | CLEAN;
      return;
    }
    const hits = this.hits(extent);
    this.insertCached(base + start, stop - start, this.segment(extent), origin + start, true, hits);
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
      for (let entry = 0; entry < this.#leafCount(subtree); entry++) {
        const leaf = this.#leafAt(subtree, entry);
        for (let at = 0; at < this.#count(leaf); at++) {
          const extent = (leaf << AT_BITS) | at;
          if (this.isLive(extent)) visit(subtree * SUBTREE_SECTORS + this.start(extent), extent);
        }
      }
    }
  }

  #subtreeOf(sector: number, sectors: number): number {
    const subtree = Math.floor(sector / SUBTREE_SECTORS);
    assert(
      sectors > 0 && (sector & SECTOR_IN_SUBTREE_MASK) + sectors <= SUBTREE_SECTORS,
      "an extent lies in one subtree",
    );
    assert(subtree < this.subtrees, "an extent lies on the cached device");
    return subtree;
  }

  #word0(extent: number): number {
    return this.#leaves.words[wordOf(extent)]!;
  }

  #word1(extent: number): number {
    return this.#leaves.words[wordOf(extent) + 1]!;
  }

  /** Where the extent ends, counted from the start of its subtree. */
  #end(extent: number): number {
    return this.start(extent) + this.sectors(extent);
  }

  #leafCount(subtree: number): number {
    return this.#subtree_words[subtree * SUBTREE_WORDS + LEAF_COUNT]!;
  }

  #setLeafCount(subtree: number, count: number): void {
    this.#subtree_words[subtree * SUBTREE_WORDS + LEAF_COUNT] = count;
  }

  /** Where the bounds of a subtree's leaves begin, in the directories' halves. */
  #firstBound(subtree: number): number {
    return this.#subtree_words[subtree * SUBTREE_WORDS + FIRST_BOUND]!;
  }

  /** Where the numbers of a subtree's leaves begin, in the directories' words. */
  #firstNumber(subtree: number): number {
    return this.#subtree_words[subtree * SUBTREE_WORDS + FIRST_NUMBER]!;
  }

  #classOf(subtree: number): number {
    return this.#subtree_words[subtree * SUBTREE_WORDS + CLASS]!;
  }

  #count(leaf: number): number {
    return this.#leaves.halves[leaf * LEAF_HALVES + COUNT_HALF]!;
  }

  // ---- looking

  /** Stops at the first extent that ends after `from`; false: there is none. Notes the gap for one that starts there, too. */
  #seek(subtree: number, from: number): boolean {
    const entries = this.#leafCount(subtree);
    this.#gap_entry = -1;
    if (entries === 0) return false;
    const entry = this.#entryFor(subtree, from);
    const leaf = this.#leafAt(subtree, entry);
    const { halves } = this.#leaves;
    const at = startsUpTo(halves, leaf * LEAF_HALVES, from);
    this.#entry = this.#gap_entry = entry;
    this.#leaf = this.#gap_leaf = leaf;
    this.#gap_at = at;
    if (at > 0) {
      const extent = (leaf << AT_BITS) | (at - 1);
      this.#at = at - 1;
      if (this.#end(extent) > from) return true;
    } else if (entry > 0 && this.#reachesOver(subtree, entry - 1, from)) {
      return true;
    }
    this.#at = at;
    if (at < halves[leaf * LEAF_HALVES + COUNT_HALF]!) return true;
    if (entry + 1 === entries) return false;
    this.#entry = entry + 1;
    this.#leaf = this.#leafAt(subtree, entry + 1);
    this.#at = 0;
    return true;
  }

  /** Stops at the last extent of the leaf if it ends after `from`. */
  #reachesOver(subtree: number, entry: number, from: number): boolean {
    const leaf = this.#leafAt(subtree, entry);
    const at = this.#count(leaf) - 1;
    if (this.#end((leaf << AT_BITS) | at) <= from) return false;
    this.#entry = entry;
    this.#leaf = leaf;
    this.#at = at;
    return true;
  }

  /** The extent at which `#seek` stopped. */
  #found(): number {
    return (this.#leaf << AT_BITS) | this.#at;
  }

  /** The last leaf whose bound is at or before `from`. */
  #entryFor(subtree: number, from: number): number {
    const { halves } = this.#directories;
    const first = this.#firstBound(subtree);
    let at = first;
    for (let left = this.#leafCount(subtree); left > 1;) {
      const half = left >>> 1;
      at += ((halves[at + half]! - from - 1) >> 31) & half;
      left -= half;
    }
    return at - first;
  }

  /** An extent of the leaf before `entry` starts at `start` now, and ends at `end`. */
  #raiseBound(subtree: number, entry: number, start: number, end: number): void {
    if (entry === this.#leafCount(subtree)) return;
    const { halves } = this.#directories;
    const at = this.#firstBound(subtree) + entry;
    if (halves[at]! <= start) halves[at] = end;
  }

  #leafAt(subtree: number, entry: number): number {
    return this.#directories.words[this.#firstNumber(subtree) + entry]! | 0;
  }

  // ---- changing extents

  /** Makes the range one extent. `place_flags`: word 0 but for the sectors; `word1`: word 1. */
  #replace(sector: number, sectors: number, place_flags: number, word1: number): void {
    const subtree = this.#subtreeOf(sector, sectors);
    const from = sector & SECTOR_IN_SUBTREE_MASK;
    const word0 = place_flags | ((sectors - 1) << SECTORS_SHIFT);
    if (this.#seek(subtree, from)) {
      const extent = this.#found();
      const start = this.start(extent);
      // Most writes replace just what they overwrite.
      if (start === from && this.sectors(extent) === sectors) {
        const at = wordOf(extent);
        this.#leaves.words[at] = word0;
        this.#leaves.words[at + 1] = word1;
        return;
      }
      if (start < from + sectors) {
        this.#cut(subtree, from, from + sectors);
        this.#seek(subtree, from);
      }
    }
    this.#insert(subtree, from, word0, word1);
  }

  /** Empties `[from, to)`. What sticks out on either side of it stays. */
  #cut(subtree: number, from: number, to: number): void {
    while (this.#seek(subtree, from)) {
      const extent = this.#found();
      const start = this.start(extent);
      const end = this.#end(extent);
      if (start >= to) return;
      if (end > to) return this.#keepRight(subtree, extent, start, from, to);
      if (start < from) this.#setSectors(extent, from - start);
      else this.#deleteCovered(subtree, to);
    }
  }

  #setSectors(extent: number, sectors: number): void {
    const at = wordOf(extent);
    const rest = this.#leaves.words[at]! & ~(SECTORS_MASK << SECTORS_SHIFT);
    this.#leaves.words[at] = rest | ((sectors - 1) << SECTORS_SHIFT);
  }

  /** The extent sticks out on the right, and perhaps on the left, of what is cut: keeps these parts. */
  #keepRight(subtree: number, extent: number, start: number, from: number, to: number): void {
    const { words, halves } = this.#leaves;
    const at = wordOf(extent);
    const end = this.#end(extent);
    // A placeholder has no place: what it says there means nothing.
    const place = (words[at]! + (to - start)) & PLACE_MASK;
    const flags = words[at]! & (CLEAN | PLACEHOLDER | (MAX_HITS << HITS_SHIFT));
    const word0 = place | ((end - to - 1) << SECTORS_SHIFT) | flags;
    if (start >= from) {
      this.#raiseBound(subtree, this.#entry + 1, to, end);
      halves[(extent >> AT_BITS) * LEAF_HALVES + (extent & AT_MASK)] = to;
      words[at] = word0;
      return;
    }
    const word1 = words[at + 1]!;
    this.#setSectors(extent, from - start);
    this.#seek(subtree, to);
    this.#insert(subtree, to, word0, word1);
  }

  /** Deletes, from the place sought on, the extents of the leaf that end at or before `to`. */
  #deleteCovered(subtree: number, to: number): void {
    const leaf = this.#leaf;
    const count = this.#count(leaf);
    let stop = this.#at + 1;
    while (stop < count && this.#end((leaf << AT_BITS) | stop) <= to) stop++;
    this.#move(leaf, stop, count - stop, leaf, this.#at);
    this.#shrink(subtree, this.#entry, leaf, count, count - (stop - this.#at));
  }

  /** Moves extents, within a leaf to the left or into another leaf. */
  #move(from_leaf: number, from_at: number, count: number, to_leaf: number, to_at: number): void {
    if (count === 0) return;
    const { halves, words } = this.#leaves;
    const from_half = from_leaf * LEAF_HALVES + from_at;
    halves.copyWithin(to_leaf * LEAF_HALVES + to_at, from_half, from_half + count);
    const from_word = from_leaf * LEAF_WORDS + FIRST_EXTENT_WORD + from_at * 2;
    const to_word = to_leaf * LEAF_WORDS + FIRST_EXTENT_WORD + to_at * 2;
    words.copyWithin(to_word, from_word, from_word + count * 2);
  }

  /** The leaf has `left` extents of `count`: notes that, and drops it if it is empty. */
  #shrink(subtree: number, entry: number, leaf: number, count: number, left: number): void {
    this.#extents -= count - left;
    if (left > 0) return this.#setCount(leaf, count, left);
    this.#leaves.put(leaf);
    this.#removeEntry(subtree, entry);
  }

  /** The leaf has `count` extents; it had `before`. */
  #setCount(leaf: number, before: number, count: number): void {
    const { halves } = this.#leaves;
    const first = leaf * LEAF_HALVES;
    for (let at = count; at < before; at++) halves[first + at] = UNUSED_START;
    halves[first + COUNT_HALF] = count;
  }

  /** Enters an extent that starts where `#seek` has just begun; its range is empty. */
  #insert(subtree: number, from: number, word0: number, word1: number): void {
    while (this.#gap_entry < 0 || this.#count(this.#gap_leaf) === LEAF_EXTENTS) {
      if (this.#gap_entry < 0) this.#insertEntry(subtree, 0, 0, this.#leaves.take());
      else this.#makeRoom(subtree, this.#gap_entry, this.#gap_leaf, from);
      this.#seek(subtree, from);
    }
    this.#put(from, word0, word1);
  }

  /** Puts an extent into the gap, in a leaf that has room. */
  #put(from: number, word0: number, word1: number): void {
    const { halves, words } = this.#leaves;
    const first_half = this.#gap_leaf * LEAF_HALVES;
    const first_word = this.#gap_leaf * LEAF_WORDS + FIRST_EXTENT_WORD;
    const count = halves[first_half + COUNT_HALF]!;
    for (let at = count; at > this.#gap_at; at--) {
      halves[first_half + at] = halves[first_half + at - 1]!;
      const word = first_word + at * 2;
      words[word] = words[word - 2]!;
      words[word + 1] = words[word - 1]!;
    }
    halves[first_half + this.#gap_at] = from;
    words[first_word + this.#gap_at * 2] = word0;
    words[first_word + this.#gap_at * 2 + 1] = word1;
    halves[first_half + COUNT_HALF] = count + 1;
    this.#extents++;
  }

  /** Makes room around `from` in a full leaf: drops what is dead, or splits it. */
  #makeRoom(subtree: number, entry: number, leaf: number, from: number): void {
    if (this.#dropDead(subtree, entry)) return;
    const added = this.#leaves.take();
    const { halves } = this.#leaves;
    const is_append = entry === this.#leafCount(subtree) - 1 &&
      from > halves[leaf * LEAF_HALVES + LEAF_EXTENTS - 1]!;
    // Ascending writes leave full leaves behind; others leave halves.
    if (is_append) return this.#insertEntry(subtree, entry + 1, from, added);
    const kept = (LEAF_EXTENTS + 1) / 2;
    this.#move(leaf, kept, LEAF_EXTENTS - kept, added, 0);
    this.#setCount(leaf, LEAF_EXTENTS, kept);
    this.#setCount(added, 0, LEAF_EXTENTS - kept);
    this.#insertEntry(subtree, entry + 1, halves[added * LEAF_HALVES]!, added);
  }

  /** Drops the dead extents of a leaf, and the leaf if it is empty then. Returns whether there were any. */
  #dropDead(subtree: number, entry: number): boolean {
    const leaf = this.#leafAt(subtree, entry);
    const count = this.#count(leaf);
    let kept = 0;
    for (let at = 0; at < count; at++) {
      if (!this.isLive((leaf << AT_BITS) | at)) continue;
      if (kept < at) this.#move(leaf, at, 1, leaf, kept);
      kept++;
    }
    if (kept === count) return false;
    this.#shrink(subtree, entry, leaf, count, kept);
    return true;
  }

  #sweepSubtree(subtree: number): void {
    for (let entry = this.#leafCount(subtree) - 1; entry >= 0; entry--) {
      this.#dropDead(subtree, entry);
      if (entry + 1 < this.#leafCount(subtree)) this.#mergeNext(subtree, entry);
    }
  }

  /** Makes the leaf and its next one a single leaf if they are empty enough. */
  #mergeNext(subtree: number, entry: number): void {
    const leaf = this.#leafAt(subtree, entry);
    const next = this.#leafAt(subtree, entry + 1);
    const count = this.#count(leaf);
    const next_count = this.#count(next);
    if (count + next_count > MERGE_EXTENTS) return;
    this.#move(next, 0, next_count, leaf, count);
    this.#setCount(leaf, count, count + next_count);
    this.#leaves.put(next);
    this.#removeEntry(subtree, entry + 1);
  }

  // ---- changing directories

  #insertEntry(subtree: number, entry: number, bound: number, leaf: number): void {
    const entries = this.#leafCount(subtree);
    this.#growDirectory(subtree, entries);
    const { halves, words } = this.#directories;
    const bounds = this.#firstBound(subtree);
    const numbers = this.#firstNumber(subtree);
    // Where nothing has to move, as at a subtree's end, the calls alone would cost as much as the rest.
    if (entry < entries) {
      halves.copyWithin(bounds + entry + 1, bounds + entry, bounds + entries);
      words.copyWithin(numbers + entry + 1, numbers + entry, numbers + entries);
    }
    halves[bounds + entry] = bound;
    words[numbers + entry] = leaf;
    this.#setLeafCount(subtree, entries + 1);
  }

  #removeEntry(subtree: number, entry: number): void {
    const { halves, words } = this.#directories;
    const bounds = this.#firstBound(subtree);
    const numbers = this.#firstNumber(subtree);
    const entries = this.#leafCount(subtree);
    if (entry + 1 < entries) {
      halves.copyWithin(bounds + entry, bounds + entry + 1, bounds + entries);
      words.copyWithin(numbers + entry, numbers + entry + 1, numbers + entries);
    }
    this.#setLeafCount(subtree, entries - 1);
    if (entries > 1) halves[bounds] = 0;
    else this.#directories.put(bounds / 2, this.#classOf(subtree));
  }

  /** Makes sure that the directory, which has `entries`, takes one more. A run holds two bounds in a word, then the numbers. */
  #growDirectory(subtree: number, entries: number): void {
    const size_class = this.#classOf(subtree);
    if (entries > 0 && entries < entriesIn(size_class)) return;
    const grown_class = classFor(Math.ceil((entries + 1) / 2) * 3);
    const run = this.#directories.take(grown_class);
    const { halves, words } = this.#directories;
    const bounds = this.#firstBound(subtree);
    const numbers = this.#firstNumber(subtree);
    const own = subtree * SUBTREE_WORDS;
    this.#subtree_words[own + FIRST_BOUND] = run * 2;
    this.#subtree_words[own + FIRST_NUMBER] = run + entriesIn(grown_class) / 2;
    this.#subtree_words[own + CLASS] = grown_class;
    if (entries === 0) return;
    halves.copyWithin(run * 2, bounds, bounds + entries);
    words.copyWithin(this.#firstNumber(subtree), numbers, numbers + entries);
    this.#directories.put(bounds / 2, size_class);
  }
}

/** How many entries, an even number, a directory of this class has room for. */
function entriesIn(size_class: number): number {
  return Math.floor(classWords(size_class) / 3) * 2;
}

/** Where the two words of an extent are. */
function wordOf(extent: number): number {
  return (extent >> AT_BITS) * LEAF_WORDS + FIRST_EXTENT_WORD + (extent & AT_MASK) * 2;
}

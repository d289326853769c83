/**
 * The log: keys are staged in memory, and committed as ksets (FORMAT, "Key set").
 *
 * A commit takes what is staged, lays out its ksets from the key head on, and then
 *
 *   1. clears the places of the ksets, and of the end mark behind the last one, where there may be anything: what a crash has left of
 *      a torn kset, or what a segment held before. It clears to the end of a page, so a small commit mostly finds that done;
 *   2. waits for a barrier, which also covers the data that the keys name;
 *   3. stores the ksets and last ksets;
 *   4. waits for a barrier. Only then are the keys durable, and flushes that waited for them answered.
 *
 * So at any crash the log ends at a place where zeroes were made durable before, or a torn kset is, and no kset is ever valid before
 * its data. One queue thread feeds this log, so there is one kset stream and the log is in the order in which
 * keys were appended (DESIGN §3 allows several; the format does not tell).
 *
 * Invariants: `durable <= planned <= appended`, counted in keys since the start; staged keys are those from
 * `durable` on, at most as many as were set; `head` is where the next kset goes, behind the last durable one; what was cleared begins at
 * the head or behind it, and is durable when the ksets are stored.
 *
 * @module
 */

import { assert } from "./assert.ts";
import type { Barriers } from "./barriers.ts";
import {
  KEY_WORDS,
  KSET_HEADER_BYTES,
  KSET_HEADER_WORDS,
  KSET_MAX_BYTES,
  KSET_MAX_KEYS,
  ksetBytes,
  putKey,
  putLastKset,
  sealKset,
  SECTOR_BYTES,
} from "./format.ts";
import type { OpenedCache } from "./media.ts";
import type { Memory } from "./platform.ts";
import type { Segments } from "./segments.ts";
import { Staging } from "./staging.ts";

/** Most keys staged: what a second of small writes can bring where commits wait for a disk. */
export const STAGED_KEYS = 1 << 18;
/** Most ksets in one commit; more are committed by the next. */
const COMMIT_KSETS = 1024;
/** A kset is closed this long after its first key (FORMAT's kernel does the same). */
export const KSET_AGE_MS = 1000;

// Own names for what is imported: V8 folds a module's constants into its code, and loads and checks imported ones at each use.
const SECTOR = SECTOR_BYTES;
const WORDS = KEY_WORDS;
const HEADER_WORDS = KSET_HEADER_WORDS;

const IDLE = 0;
const MARKING = 1;
const STORING = 2;

/** So far, at most, clearing goes beyond what is wanted: to a multiple of it in the data area. */
const CLEAR_BYTES = 4096;
const ZEROES = new Uint8Array(CLEAR_BYTES);

/** The log's writing end. */
export class Log {
  readonly #cache: OpenedCache;
  readonly #memory: Memory;
  readonly #segments: Segments;
  readonly #barriers: Barriers;
  readonly #kset_keys: number;

  readonly #staging: Staging;
  /** The number of the staging area's key that is the log's key number 0. */
  readonly #first_key: number;
  readonly #staged_keys: number;
  /** A ring of keys. The next one goes to word `#next_word`. */
  readonly #staged: Uint32Array;
  #next_word: number;
  readonly #kset_words = new Uint32Array(Math.ceil(KSET_MAX_BYTES / 4));
  readonly #kset = new Uint8Array(this.#kset_words.buffer);
  /** The time that keys are appended at, in ms of the engine's clock. */
  now_ms: number;
  #appended = 0;
  #planned = 0;
  #durable = 0;
  #reserved = 0;
  #first_staged_ms = 0;
  #wanted = 0;

  #head_seg: number;
  #head_off: number;
  /** In the segment that the log has come to: from its next kset up to here there are zeroes. */
  #clear_off: number;
  #state = IDLE;
  /** The last attempt found no segment to go on in. */
  #is_stuck = false;
  #barrier = 0;
  #plan_count = 0;
  /** The plan, a row a kset: where it goes, how many keys; 0 keys: a last kset naming segment `#plan_next`. */
  readonly #plan_seg = new Uint32Array(2 * COMMIT_KSETS);
  readonly #plan_off = new Uint32Array(2 * COMMIT_KSETS);
  readonly #plan_keys = new Uint32Array(2 * COMMIT_KSETS);
  readonly #plan_next = new Uint32Array(2 * COMMIT_KSETS);
  #ksets_written = 0;

  /**
   * `head_seg`, `head_off`: the key head that replay found. `staging`: where staged keys lie; those that it holds were entered by
   * replay, and are appended already.
   */
  constructor(
    cache: OpenedCache,
    memory: Memory,
    segments: Segments,
    barriers: Barriers,
    head_seg: number,
    head_off: number,
    now_ms: number,
    staging = Staging.inMemory(STAGED_KEYS),
  ) {
    this.now_ms = now_ms;
    this.#staging = staging;
    this.#staged_keys = staging.keys;
    this.#staged = staging.ring;
    this.#first_key = staging.durable;
    this.#appended = staging.appended - staging.durable;
    this.#first_staged_ms = now_ms;
    this.#next_word = staging.wordOf(staging.appended);
    staging.setDurable(staging.durable, head_seg, head_off);
    this.#cache = cache;
    this.#memory = memory;
    this.#segments = segments;
    this.#barriers = barriers;
    this.#head_seg = head_seg;
    this.#head_off = head_off;
    this.#clear_off = head_off;
    // A segment must hold a kset, and behind it either the end mark or a last kset.
    const room = cache.data_bytes - 2 * KSET_HEADER_BYTES;
    this.#kset_keys = Math.min(KSET_MAX_KEYS, Math.floor(room / (KEY_WORDS * 4)));
  }

  /** Key head: segment of the next kset. */
  get head_seg(): number {
    return this.#head_seg;
  }

  /** Key head: offset of the next kset in its segment's data area. */
  get head_off(): number {
    return this.#head_off;
  }

  /** How many keys were appended since the start. */
  get appended(): number {
    return this.#appended;
  }

  /** How many of them are durable. */
  get durable(): number {
    return this.#durable;
  }

  get ksets_written(): number {
    return this.#ksets_written;
  }

  /** How many keys may still be reserved. */
  get available(): number {
    return this.#staged_keys - (this.#appended - this.#durable) - this.#reserved;
  }

  /** Whether the log waits for a segment to go on in. */
  get is_stuck(): boolean {
    return this.#is_stuck;
  }

  /** Whether there is room enough for keys that nobody waits for. */
  get has_room(): boolean {
    return this.available > this.#staged_keys / 2;
  }

  /** Sets room aside for keys that come later, so that a write never finds the log full after it took space. */
  reserve(keys: number): void {
    assert(keys <= this.available, "room in the log is checked before it is reserved");
    this.#reserved += keys;
  }

  unreserve(keys: number): void {
    assert(keys <= this.#reserved, "what was reserved is given back");
    this.#reserved -= keys;
  }

  /**
   * Stages a key whose bytes are in place and persisted; the room was reserved, one key of it is used up. The
   * segment counts the key from now on. `crc`: any number with the checksum's 32 bits. (Sectors and signed numbers: what has
   * more than 31 bits is an object to V8 when it is passed on.)
   */
  append(
    sector: number,
    sectors: number,
    flags: number,
    seg: number,
    place: number,
    crc: number,
  ): void {
    this.unreserve(1);
    if (this.#appended === this.#planned) this.#first_staged_ms = this.now_ms;
    const at = this.#next_word;
    const gen = this.#cache.generations.get(seg);
    const off = sector * SECTOR;
    putKey(this.#staged, at, off, sectors * SECTOR, flags, seg, place * SECTOR, gen, crc);
    this.#next_word = at + WORDS === this.#staged.length ? 0 : at + WORDS;
    this.#appended++;
    this.#staging.setAppended(this.#first_key + this.#appended);
    this.#segments.addKey(seg);
  }

  /** Asks for everything appended so far to be durable soon. */
  want(): void {
    this.#wanted = this.#appended;
  }

  /** When the staged keys are due, in ms of the engine's clock; Infinity: none are, or time alone will not help. */
  dueMs(): number {
    if (this.#state !== IDLE || this.#is_stuck) return Infinity;
    return this.#agedMs();
  }

  /** Takes the commit as far as it goes. Returns whether anything changed. */
  step(now_ms: number): boolean {
    if (this.#state === IDLE) return this.#isDue(now_ms) && this.#plan(now_ms);
    if (!this.#barriers.isDone(this.#barrier)) return false;
    if (this.#state === MARKING) this.#store();
    else this.#finish();
    return true;
  }

  #isDue(now_ms: number): boolean {
    const staged = this.#appended - this.#planned;
    if (staged === 0) return false;
    const enough = this.#memory.barrier_is_cheap ? this.#kset_keys : this.#staged_keys / 4;
    return staged >= enough || this.#isForced(now_ms);
  }

  /** Whether a kset that is not full is to be closed, too. */
  #isForced(now_ms: number): boolean {
    if (this.#wanted > this.#planned) return true;
    return this.#appended > this.#planned && now_ms >= this.#first_staged_ms + KSET_AGE_MS;
  }

  /** When the oldest staged key that is in no kset yet will have waited long enough. */
  #agedMs(): number {
    return this.#appended === this.#planned ? Infinity : this.#first_staged_ms + KSET_AGE_MS;
  }

  /** Lays out the ksets and clears their places. False: there is no segment for the log to go on in. */
  #plan(now_ms: number): boolean {
    let seg = this.#head_seg;
    let off = this.#head_off;
    const staged = this.#appended - this.#planned;
    const is_forced = this.#isForced(now_ms);
    let left = is_forced ? staged : staged - staged % this.#kset_keys;
    const most = left;
    this.#plan_count = 0;
    this.#clear(seg, off + KSET_HEADER_BYTES);
    for (let ksets = 0; left > 0 && ksets < COMMIT_KSETS; ksets++) {
      const keys = Math.min(left, this.#kset_keys);
      if (off + ksetBytes(keys) + KSET_HEADER_BYTES > this.#cache.data_bytes) {
        const next = this.#segments.takeForLog();
        if (next < 0) break;
        this.#planRow(seg, off, 0, next);
        seg = next;
        off = 0;
        this.#clear_off = 0;
      }
      this.#planRow(seg, off, keys, 0);
      off += ksetBytes(keys);
      this.#clear(seg, off + KSET_HEADER_BYTES);
      left -= keys;
    }
    const taken = most - left;
    this.#is_stuck = taken === 0;
    if (this.#is_stuck) {
      assert(this.#plan_count === 0, "a segment taken for the log is used");
      return false;
    }
    this.#planned += taken;
    if (is_forced) this.#first_staged_ms = 0; // what did not fit is as old: it stays due
    this.#barrier = this.#barriers.cover();
    this.#state = MARKING;
    return true;
  }

  #planRow(seg: number, off: number, keys: number, next: number): void {
    this.#plan_seg[this.#plan_count] = seg;
    this.#plan_off[this.#plan_count] = off;
    this.#plan_keys[this.#plan_count] = keys;
    this.#plan_next[this.#plan_count] = next;
    this.#plan_count++;
  }

  /** Sees to it that there are zeroes up to `to_off` of the segment, where the next ksets go and the end mark behind them. */
  #clear(seg: number, to_off: number): void {
    if (to_off <= this.#clear_off) return;
    const { data_bytes } = this.#cache;
    const end_off = Math.min(Math.ceil(to_off / CLEAR_BYTES) * CLEAR_BYTES, data_bytes);
    const start_addr = this.#cache.dataAddr(seg, 0);
    this.#memory.aim(start_addr + this.#clear_off, start_addr + end_off, start_addr + data_bytes);
    while (this.#clear_off < end_off) {
      const len_bytes = Math.min(end_off - this.#clear_off, CLEAR_BYTES);
      this.#put(seg, this.#clear_off, ZEROES, len_bytes);
      this.#clear_off += len_bytes;
    }
  }

  /** The data is durable, and so are the zeroes: stores the ksets. */
  #store(): void {
    let key = this.#durable;
    for (let row = 0; row < this.#plan_count; row++) {
      const seg = this.#plan_seg[row]!;
      const off = this.#plan_off[row]!;
      const keys = this.#plan_keys[row]!;
      if (keys === 0) {
        putLastKset(this.#kset, 0, this.#plan_next[row]!);
        this.#put(seg, off, this.#kset, KSET_HEADER_BYTES);
        continue;
      }
      this.#copyKeys(key, keys);
      sealKset(this.#kset, 0, keys);
      this.#put(seg, off, this.#kset, ksetBytes(keys));
      key += keys;
      this.#ksets_written++;
    }
    assert(key === this.#planned, "a commit stores the keys it planned");
    this.#barrier = this.#barriers.cover();
    this.#state = STORING;
  }

  #copyKeys(first: number, keys: number): void {
    const from = this.#staged;
    const to = this.#kset_words;
    let at = this.#staging.wordOf(this.#first_key + first);
    const end = HEADER_WORDS + keys * WORDS;
    for (let word = HEADER_WORDS; word < end; word++) {
      to[word] = from[at]!;
      if (++at === from.length) at = 0;
    }
  }

  #put(seg: number, off: number, bytes: Uint8Array, len_bytes: number): void {
    const addr = this.#cache.dataAddr(seg, off);
    this.#memory.write(addr, bytes, len_bytes);
    this.#memory.persist(addr, len_bytes);
  }

  #finish(): void {
    const row = this.#plan_count - 1;
    this.#head_seg = this.#plan_seg[row]!;
    this.#head_off = this.#plan_off[row]! + ksetBytes(this.#plan_keys[row]!);
    this.#durable = this.#planned;
    this.#staging.setDurable(this.#first_key + this.#durable, this.#head_seg, this.#head_off);
    this.#state = IDLE;
  }
}

/**
 * Repairs the log of a cache whose other structures are whole.
 *
 * A kset that is broken, with others behind it, is stored again, as long as it was: keys that are proven (`kset_mending.ts`) stand in it as they
 * did, and dead keys take the places of the others. A key of a whole kset that must be refused is replaced likewise.
 *
 * Where nothing shows how the log goes on, it ends; a broken part before the dirty tail is left out, since its data is on the backing device.
 *
 * Invariants:
 * - It reads the whole log first and writes then; both end for any content.
 * - A dead key has a generation below its segment's (FORMAT, "Key"): no reader looks at what else it says.
 *
 * @module
 */

import { assert } from "./assert.ts";
import { type CheckOptions, isDamagedLastKset, isEndMark, nextKset } from "./check.ts";
import { CacheError } from "./errors.ts";
import {
  checkKset,
  DATA_OFF_BYTES,
  dataBytes,
  type Geometry,
  KEY_BYTES,
  KEY_CLEAN,
  KEY_WORDS,
  keyCrc,
  keyFlags,
  keyGen,
  keyLen,
  keyOff,
  keySeg,
  keySegOff,
  KSET_HEADER_BYTES,
  KSET_HEADER_WORDS,
  KSET_IS_KEYS,
  KSET_MAX_BYTES,
  KSET_MAX_KEYS,
  ksetBytes,
  ksetKeyNum,
  ksetNextSeg,
  putKey,
  putLastKset,
  sealKset,
  SECTOR_BYTES,
  segmentAddr,
} from "./format.ts";
import { keyRefusal, LOG_END, LOG_KEYS, LOG_LAST, LogReader } from "./log_reader.ts";
import { mendKset } from "./kset_mending.ts";
import type { OpenedCache } from "./media.ts";
import type { Memory } from "./platform.ts";

/** How many losses are told one by one. */
const MAX_TOLD = 100;
/** How many keys `hasSums` looks at. */
const SAMPLED_KEYS = 256;

/** A kset that is to be stored again. */
interface Patch {
  readonly seg: number;
  readonly off: number;
  /** Its keys, as they are or null: a dead one. */
  readonly keys: (Uint32Array | null)[];
}

/** One repair of a log. */
export class LogRepair {
  readonly repairs: string[] = [];
  readonly losses: string[] = [];
  readonly #cache: OpenedCache;
  readonly #memory: Memory;
  readonly #size_bytes: number;
  readonly #reader: LogReader;
  readonly #is_log: Uint8Array;
  readonly #has_keys: Uint8Array;
  readonly #patches: Patch[] = [];
  #lost_keys = 0;

  /** `memory` is written to. */
  constructor(cache: OpenedCache, memory: Memory, options: CheckOptions) {
    this.#cache = cache;
    this.#memory = memory;
    this.#size_bytes = options.size_bytes ?? Number.MAX_SAFE_INTEGER;
    this.#reader = new LogReader(cache, memory, cache.key_tail.seg, cache.key_tail.off);
    this.#is_log = new Uint8Array(cache.n_segs);
    this.#has_keys = new Uint8Array(cache.n_segs);
  }

  /** Repairs it, as far as that goes: a check says how far that was. */
  run(): void {
    if (!this.#walk()) this.#startAtDirtyTail();
    for (const patch of this.#patches) this.#store(patch);
    this.#dropKeysOfLogSegments();
    const untold = this.#lost_keys - MAX_TOLD;
    if (untold > 0) this.losses.push(`${untold} more keys`);
  }

  /** Whether a cache of which no info is left carries checksums of data: whether those of most keys are right. */
  static hasSums(memory: Memory, geometry: Geometry, chain: readonly number[]): boolean {
    const data_bytes = dataBytes(geometry);
    const bytes = new Uint8Array(Math.min(KSET_MAX_BYTES, data_bytes));
    const words = new Uint32Array(bytes.buffer, 0, bytes.length >>> 2);
    let right = 0;
    let seen = 0;
    for (const device_seg of chain) {
      if (seen >= SAMPLED_KEYS) break;
      memory.read(segmentAddr(geometry, device_seg) + DATA_OFF_BYTES, bytes, bytes.length);
      if (checkKset(bytes, 0, bytes.length) !== KSET_IS_KEYS) continue;
      for (let i = 0; i < ksetKeyNum(bytes, 0); i++) {
        const at = KSET_HEADER_WORDS + i * KEY_WORDS;
        const seg = keySeg(words, at);
        const len = keyLen(words, at);
        if (seg >= chain.length || len === 0 || keySegOff(words, at) + len > data_bytes) continue;
        seen++;
        const addr = segmentAddr(geometry, chain[seg]!) + DATA_OFF_BYTES + keySegOff(words, at);
        if (memory.crc32c(addr, len) === keyCrc(words, at)) right++;
      }
    }
    return right > seen / 2;
  }

  /** The newest generation of `of_seg` that a kset names, from a place on until the log ends or breaks. */
  static newestGeneration(
    cache: OpenedCache,
    memory: Memory,
    of_seg: number,
    seg: number,
    off: number,
  ): number {
    const reader = new LogReader(cache, memory, seg, off);
    let newest = 0;
    for (let entered = 0; entered <= cache.n_segs;) {
      let kind = reader.reread();
      if (kind === LOG_END) {
        // Over a broken kset to the next one: a generation that is too old would bring dead keys to life.
        const bytes = readAt(cache, memory, reader.seg, reader.off);
        const next = bytes.length < KSET_HEADER_BYTES || isEndMark(bytes) ? -1 : nextKset(bytes);
        if (next < 0) break;
        reader.off += next;
        kind = reader.reread();
        if (kind === LOG_END) break;
      }
      if (kind === LOG_LAST) entered++;
      for (let i = 0; kind === LOG_KEYS && i < reader.key_num; i++) {
        const at = reader.keyAt(i);
        if (keySeg(reader.words, at) !== of_seg) continue;
        if (keyRefusal(reader.words, at, cache, Number.MAX_SAFE_INTEGER) !== "") continue;
        newest = Math.max(newest, keyGen(reader.words, at));
      }
      reader.advance(kind);
    }
    return newest;
  }

  /** Goes along the log and notes what is to be stored. False: it does not reach the dirty tail. */
  #walk(): boolean {
    const reader = this.#reader;
    const { dirty_tail } = this.#cache;
    let met_dirty_tail = false;
    this.#is_log[reader.seg] = 1;
    for (;;) {
      met_dirty_tail ||= reader.seg === dirty_tail.seg && reader.off === dirty_tail.off;
      let kind: number;
      try {
        kind = reader.read();
      } catch (error) {
        if (!(error instanceof CacheError)) throw error;
        kind = LOG_END;
      }
      if (kind === LOG_KEYS) this.#lookAtKeys();
      if (kind === LOG_LAST && this.#is_log[reader.next_seg] === 1) {
        this.#end("a last kset that leads back into the log");
        return met_dirty_tail;
      }
      if (kind === LOG_LAST) this.#is_log[reader.next_seg] = 1;
      if (kind !== LOG_END) {
        reader.advance(kind);
        continue;
      }
      const bytes = readAt(this.#cache, this.#memory, reader.seg, reader.off);
      if (bytes.length < KSET_HEADER_BYTES) return met_dirty_tail;
      if (isEndMark(bytes) && met_dirty_tail) return true;
      const next = nextKset(bytes);
      if (next >= 0) {
        this.#lookAtBroken(bytes, (next - KSET_HEADER_BYTES) / KEY_BYTES);
        reader.off += next;
        continue;
      }
      if (!this.#goOnInSegment(bytes, met_dirty_tail)) {
        if (isEndMark(bytes)) return met_dirty_tail;
        this.#end("a kset that is torn or damaged, and nothing follows it");
        return met_dirty_tail;
      }
    }
  }

  /**
   * Where a last kset is broken: the log goes on where it says, or else in the only segment that starts with a kset and is not the log's yet.
   * Segments that the log has left long ago start with ksets, too: that there must be more is proven by what is left of a last kset, or by the
   * dirty tail.
   */
  #goOnInSegment(bytes: Uint8Array, met_dirty_tail: boolean): boolean {
    if (!isDamagedLastKset(bytes) && met_dirty_tail) return false;
    const { seg, off, position } = this.#reader;
    const starts: number[] = [];
    for (let other = 0; other < this.#cache.n_segs; other++) {
      if (this.#is_log[other] === 1) continue;
      const reader = new LogReader(this.#cache, this.#memory, other, 0);
      if (reader.reread() !== LOG_END) starts.push(other);
    }
    const claimed = ksetNextSeg(bytes, 0);
    const next = starts.includes(claimed) ? claimed : starts.length === 1 ? starts[0]! : -1;
    if (next < 0) return false;
    const kset = new Uint8Array(KSET_HEADER_BYTES);
    putLastKset(kset, 0, next);
    this.#memory.write(this.#cache.dataAddr(seg, off), kset, kset.length);
    this.repairs.push(`last kset at ${position}: made anew, the log goes on in segment ${next}`);
    return true;
  }

  /** Ends the log here. */
  #end(why: string): void {
    const { seg, off, position } = this.#reader;
    const mark = new Uint8Array(KSET_HEADER_BYTES);
    this.#memory.write(this.#cache.dataAddr(seg, off), mark, mark.length);
    this.repairs.push(`log: ends at ${position}, where it has ${why}`);
  }

  /** The log before the dirty tail is broken: what is dirty is behind it. */
  #startAtDirtyTail(): void {
    const { dirty_tail, key_tail } = this.#cache;
    const { position } = this.#reader;
    this.#is_log.fill(0);
    this.#has_keys.fill(0);
    this.#patches.length = 0;
    this.repairs.length = 0;
    this.losses.length = 0;
    this.#lost_keys = 0;
    this.#reader.seg = dirty_tail.seg;
    this.#reader.off = dirty_tail.off;
    this.repairs.push(
      `key tail: ${dirty_tail.seg}:${dirty_tail.off}, as the dirty tail, since the log before it breaks off at ` +
        `${position}; what was clean before it is not cached any more`,
    );
    key_tail.store(dirty_tail.seg, dirty_tail.off);
    this.#walk();
  }

  /** A whole kset: keys in it that must be refused go. */
  #lookAtKeys(): void {
    const reader = this.#reader;
    let has_refused = false;
    const keys: (Uint32Array | null)[] = [];
    for (let i = 0; i < reader.key_num; i++) {
      const at = reader.keyAt(i);
      const refusal = keyRefusal(reader.words, at, this.#cache, this.#size_bytes);
      if (refusal === "") {
        this.#noteKey(reader.words, at);
        keys.push(reader.words.slice(at, at + KEY_WORDS));
        continue;
      }
      has_refused = true;
      keys.push(null);
      this.repairs.push(`key ${i} of the kset at ${reader.position}: ${refusal}: it goes`);
      this.#lose(reader.words, at);
    }
    if (has_refused) this.#patches.push({ seg: reader.seg, off: reader.off, keys });
  }

  #noteKey(words: Uint32Array, at: number): void {
    const seg = keySeg(words, at);
    if (keyGen(words, at) >= this.#cache.generations.get(seg)) this.#has_keys[seg] = 1;
  }

  /** A broken kset of `key_num` keys, with another one behind it. */
  #lookAtBroken(bytes: Uint8Array, key_num: number): void {
    const { seg, off, position } = this.#reader;
    const isDataRight = (words: Uint32Array, at: number) => this.#isDataRight(words, at);
    const { fault, words, is_proven } = mendKset(
      bytes,
      key_num,
      this.#cache.data_crc ? isDataRight : null,
    );
    const keys = is_proven.map((is_proven, i) => {
      const at = KSET_HEADER_WORDS + i * KEY_WORDS;
      // A bit that was flipped back may have been one of a forged kset.
      if (!is_proven || keyRefusal(words, at, this.#cache, this.#size_bytes) !== "") {
        this.#lose(words, at);
        return null;
      }
      this.#noteKey(words, at);
      return words.slice(at, at + KEY_WORDS);
    });
    this.#patches.push({ seg, off, keys });
    const gone = keys.filter((key) => key === null).length;
    const rest = gone === 0
      ? "put right"
      : `${gone} of its ${key_num} keys go, nothing proves them`;
    this.repairs.push(`kset at ${position}: ${fault}: ${rest}`);
  }

  /** Whether a key of a broken kset is possible, and its data has the checksum that it names. */
  #isDataRight(words: Uint32Array, at: number): boolean {
    if (keyRefusal(words, at, this.#cache, this.#size_bytes) !== "") return false;
    const seg = keySeg(words, at);
    if (keyGen(words, at) !== this.#cache.generations.get(seg)) return false;
    const addr = this.#cache.dataAddr(seg, keySegOff(words, at));
    return this.#memory.crc32c(addr, keyLen(words, at)) === keyCrc(words, at);
  }

  #lose(words: Uint32Array, at: number, position = this.#reader.position): void {
    this.#lost_keys++;
    if (this.#lost_keys > MAX_TOLD) return;
    const kind = (keyFlags(words, at) & KEY_CLEAN) !== 0 ? "clean" : "dirty";
    this.losses.push(
      `a ${kind} key at ${position}, which says: bytes ${keyOff(words, at)}+${
        keyLen(words, at)
      } of the cached device`,
    );
  }

  /** "Segments hold either ksets or data": a key that says otherwise was never written by a cache. */
  #dropKeysOfLogSegments(): void {
    const { key_tail, generations } = this.#cache;
    const reader = new LogReader(this.#cache, this.#memory, key_tail.seg, key_tail.off);
    for (let kind = reader.reread(); kind !== LOG_END; kind = reader.reread()) {
      const keys: (Uint32Array | null)[] = [];
      for (let i = 0; kind === LOG_KEYS && i < reader.key_num; i++) {
        const at = reader.keyAt(i);
        const seg = keySeg(reader.words, at);
        const is_wrong = this.#is_log[seg] === 1 &&
          keyGen(reader.words, at) >= generations.get(seg);
        keys.push(is_wrong ? null : reader.words.slice(at, at + KEY_WORDS));
        if (is_wrong) this.#lose(reader.words, at, reader.position);
      }
      if (keys.includes(null)) {
        this.repairs.push(`kset at ${reader.position}: keys that name a segment of the log go`);
        this.#store({ seg: reader.seg, off: reader.off, keys });
      }
      reader.advance(kind);
    }
  }

  #store({ seg, off, keys }: Patch): void {
    assert(keys.length <= KSET_MAX_KEYS, "a kset has at most 128 keys");
    const bytes = new Uint8Array(ksetBytes(keys.length));
    const words = new Uint32Array(bytes.buffer);
    for (const [i, key] of keys.entries()) {
      const at = KSET_HEADER_WORDS + i * KEY_WORDS;
      if (key === null) this.#putDeadKey(words, at);
      else words.set(key, at);
    }
    if (keys.length > 0) sealKset(bytes, 0, keys.length);
    this.#memory.write(this.#cache.dataAddr(seg, off), bytes, bytes.length);
  }

  #putDeadKey(words: Uint32Array, at: number): void {
    const seg = this.#deadSegment();
    const gen = this.#cache.generations.get(seg) - 1;
    putKey(words, at, 0, SECTOR_BYTES, KEY_CLEAN, seg, 0, gen, 0);
  }

  /** A segment with an earlier generation; one that holds nothing gets its next one if need be. */
  #deadSegment(): number {
    const { generations, n_segs } = this.#cache;
    let unused = -1;
    for (let seg = 0; seg < n_segs; seg++) {
      if (generations.get(seg) > 0) return seg;
      if (this.#is_log[seg] === 0 && this.#has_keys[seg] === 0) unused = seg;
    }
    if (unused < 0) throw new CacheError("it cannot be repaired: no segment is free of keys");
    generations.format(unused, 1);
    return unused;
  }
}

/** What stands at a place of the log, to the end of the data area, or two of the longest ksets. */
function readAt(cache: OpenedCache, memory: Memory, seg: number, off: number): Uint8Array {
  const bytes = new Uint8Array(Math.min(2 * KSET_MAX_BYTES, Math.max(0, cache.data_bytes - off)));
  memory.read(cache.dataAddr(seg, off), bytes, bytes.length);
  return bytes;
}

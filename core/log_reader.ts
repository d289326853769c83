/**
 * Reads the log: one kset after another, along last ksets into further segments.
 *
 * Invariants: what `read` returns has a valid checksum and lies in its segment's data area; the fields of its keys
 * are checked by `checkKey` alone, and only by replay: write-back and GC read what replay, or the log, vouched for.
 *
 * @module
 */

import { CacheError } from "./errors.ts";
import {
  checkKset,
  KEY_CLEAN,
  KEY_STRETCH_BYTES,
  KEY_WORDS,
  keyFlags,
  keyGen,
  keyLen,
  keyOff,
  keySeg,
  keySegOff,
  KSET_HEADER_BYTES,
  KSET_HEADER_WORDS,
  KSET_IS_KEYS,
  KSET_IS_LAST,
  KSET_IS_REFUSED,
  KSET_MAX_BYTES,
  ksetBytes,
  ksetKeyNum,
  ksetNextSeg,
  ksetRefusal,
  MAX_GENERATION,
  SECTOR_BYTES,
} from "./format.ts";
import type { OpenedCache } from "./media.ts";
import type { Memory } from "./platform.ts";

/** There is no kset here: the log ends. */
export const LOG_END = 0;
/** A kset of `key_num` keys. */
export const LOG_KEYS = 1;
/** A last kset: the log goes on at the start of segment `next_seg`. */
export const LOG_LAST = 2;

/** A place in the log, and the kset that was read there. */
export class LogReader {
  /** Cache segment of the next kset. */
  seg: number;
  /** Offset in bytes of the next kset in that segment's data area. */
  off: number;
  /** The keys of the kset that `read` returned, from word KSET_HEADER_WORDS on. */
  readonly words: Uint32Array<ArrayBuffer> = new Uint32Array(Math.ceil(KSET_MAX_BYTES / 4));
  key_num = 0;
  next_seg = 0;
  readonly #bytes = new Uint8Array(this.words.buffer);
  readonly #cache: OpenedCache;
  readonly #memory: Memory;

  constructor(cache: OpenedCache, memory: Memory, seg: number, off: number) {
    this.#cache = cache;
    this.#memory = memory;
    this.seg = seg;
    this.off = off;
  }

  /** "segment:offset", as the status line shows positions. */
  get position(): string {
    return `${this.seg}:${this.off}`;
  }

  /** Where in `words` key number `i` of the kset stands. */
  keyAt(i: number): number {
    return KSET_HEADER_WORDS + i * KEY_WORDS;
  }

  /**
   * Reads the kset at `seg`:`off`: LOG_END, LOG_KEYS or LOG_LAST. Does not move. Throws `CacheError` for what calls
   * itself a kset and must be refused.
   */
  read(): number {
    const room = this.#cache.data_bytes - this.off;
    if (room < KSET_HEADER_BYTES) return LOG_END;
    const addr = this.#cache.dataAddr(this.seg, this.off);
    // The header first: most reads at the log's end find none.
    this.#memory.read(addr, this.#bytes, KSET_HEADER_BYTES);
    const claimed = ksetBytes(Math.min(ksetKeyNum(this.#bytes, 0), 128));
    this.#memory.read(addr, this.#bytes, Math.min(claimed, room));
    const kind = checkKset(this.#bytes, 0, room);
    if (kind === KSET_IS_REFUSED) {
      throw new CacheError(`kset at ${this.position}: ${ksetRefusal(this.#bytes, 0, room)}`);
    }
    if (kind === KSET_IS_KEYS) {
      this.key_num = ksetKeyNum(this.#bytes, 0);
      return LOG_KEYS;
    }
    if (kind !== KSET_IS_LAST) return LOG_END;
    this.next_seg = ksetNextSeg(this.#bytes, 0);
    if (this.next_seg >= this.#cache.n_segs) {
      throw new CacheError(
        `last kset at ${this.position}: next segment ${this.next_seg}, but there are ${this.#cache.n_segs}`,
      );
    }
    return LOG_LAST;
  }

  /**
   * As `read`, where a kset is known to be: one that must be refused now was damaged since, and counts as LOG_END.
   */
  reread(): number {
    try {
      return this.read();
    } catch (error) {
      if (!(error instanceof CacheError)) throw error;
      return LOG_END;
    }
  }

  /** Moves behind the kset that `read` has just returned. */
  advance(kind: number): void {
    if (kind === LOG_LAST) {
      this.seg = this.next_seg;
      this.off = 0;
    } else {
      this.off += ksetBytes(this.key_num);
    }
  }

  /**
   * Checks key number `i` against the cache and a cached device of `size_bytes` (FORMAT, "What a reader must
   * refuse"). Throws `CacheError`.
   */
  checkKey(i: number, size_bytes: number): void {
    const refusal = keyRefusal(this.words, this.keyAt(i), this.#cache, size_bytes);
    if (refusal !== "") {
      throw new CacheError(`key ${i} of the kset at ${this.position}: ${refusal}`);
    }
  }
}

// Own names for what is imported: V8 folds a module's constants into its code, and loads and checks imported ones at each use.
const SECTOR = SECTOR_BYTES;
const STRETCH = KEY_STRETCH_BYTES;
const CLEAN = KEY_CLEAN;
const MOST_GENERATION = MAX_GENERATION;

/** Why the key at word `at` must be refused in a cached device of `size_bytes`; "": it need not. */
export function keyRefusal(
  words: Uint32Array,
  at: number,
  cache: OpenedCache,
  size_bytes: number,
): string {
  const len = keyLen(words, at);
  const seg_off = keySegOff(words, at);
  const in_stretch = words[at]! & (STRETCH - 1);
  if (len === 0) return "length 0, but a key has at least one sector";
  if (((in_stretch | len) & (SECTOR - 1)) !== 0) {
    return `${rangeOf(words, at)}, but keys are aligned to ${SECTOR_BYTES} bytes`;
  }
  if (keyOff(words, at) + len > size_bytes) {
    return `${rangeOf(words, at)}, but the cached device has ${size_bytes} bytes`;
  }
  if (in_stretch + len > STRETCH) {
    return `${rangeOf(words, at)}, but a key never crosses a multiple of ${KEY_STRETCH_BYTES}`;
  }
  const flags = keyFlags(words, at);
  if ((flags & ~CLEAN) !== 0) {
    return `flags 0x${flags.toString(16)}, but only 0x${KEY_CLEAN.toString(16)} (clean) is known`;
  }
  if (keySeg(words, at) >= cache.n_segs) {
    return `segment ${keySeg(words, at)}, but there are ${cache.n_segs}`;
  }
  if ((seg_off & (SECTOR - 1)) !== 0) {
    return `offset ${seg_off} in its segment, but it must be a multiple of ${SECTOR_BYTES}`;
  }
  if (seg_off + len > cache.data_bytes) {
    return `bytes ${seg_off}+${len} of its segment, but a data area has ${cache.data_bytes}`;
  }
  if (keyGen(words, at) > MOST_GENERATION) {
    return `generation ${keyGen(words, at)}, but at most ${MAX_GENERATION} is possible`;
  }
  return "";
}

function rangeOf(words: Uint32Array, at: number): string {
  return `range ${keyOff(words, at)}+${keyLen(words, at)}`;
}

/**
 * The on-media format of a cache device: sizes, offsets, magics, and the codecs of keys and ksets (FORMAT.md, whose section
 * names are given in quotation marks). It is Linux's dm-pcache format, bit for bit.
 *
 * Invariants:
 * - Nothing here allocates: codecs work on the caller's typed arrays.
 * - A decoder may be given any bytes. It checks what it says it checks and otherwise returns what is there.
 * - A 64-bit field is a plain number `lo + hi * 2^32`. Above 2^53 it is not exact, but still above any limit: whoever
 *   decodes compares with a limit and refuses.
 *
 * @module
 */

import { assert } from "./assert.ts";
import { crc32cBits } from "./crc32c.ts";

// The format is little-endian and so are the typed arrays that read it.
assert(new Uint8Array(Uint32Array.of(1).buffer)[0] === 1, "the machine is little-endian");

/** The unit of the cached device: requests, keys and the backing device are aligned to it. */
export const SECTOR_BYTES = 512;
const SECTOR_SHIFT = 9;
const TWO_POW_32 = 2 ** 32;

// ---- "Map of the device"

/** Sizes that tests make smaller. Media that others are to read use `KERNEL_GEOMETRY`. */
export interface Geometry {
  /** Size of a segment: a power of two, at least 32 KiB. */
  readonly segment_bytes: number;
  /** A smaller cache device is refused. */
  readonly min_cache_bytes: number;
}

/** The format's own sizes: segments of 16 MiB, a cache device of at least 512 MiB. */
export const KERNEL_GEOMETRY: Geometry = {
  segment_bytes: 16 * 1024 * 1024,
  min_cache_bytes: 512 * 1024 * 1024,
};

export const SUPERBLOCK_ADDR = 0x1000;
export const INFO_ADDR = 0x2000;
export const INFO_STRIDE_BYTES = 4096;
export const KEY_TAIL_ADDR = 0x4000;
export const DIRTY_TAIL_ADDR = 0x4020;
export const POSITION_STRIDE_BYTES = 16;
export const SEGMENTS_ADDR = 0x5000;
/** Most segments of one cache device (16 TiB). */
export const MAX_SEGMENTS = 1_048_576;

/** How many segments fit on a cache device of `cache_bytes`: 0 or more. */
export function segmentsOn(geometry: Geometry, cache_bytes: number): number {
  const fit = Math.floor((cache_bytes - SEGMENTS_ADDR) / geometry.segment_bytes);
  return Math.max(0, Math.min(fit, MAX_SEGMENTS));
}

/** Address of the first byte of device segment `device_seg`. */
export function segmentAddr(geometry: Geometry, device_seg: number): number {
  return SEGMENTS_ADDR + device_seg * geometry.segment_bytes;
}

// ---- "Superblock"

export const SUPERBLOCK_BYTES = 24;
export const SUPERBLOCK_MAGIC_LO = 0x96c596ef;
export const SUPERBLOCK_MAGIC_HI = 0x65b05efa;
/** Superblock flag: written by a big-endian machine. */
export const SB_BIG_ENDIAN = 1;

// ---- "Metadata header"

export const HEADER_BYTES = 8;
/** The one version of every duplicated structure that is known. */
export const HEADER_VERSION = 0;

// ---- "Cache info"

export const INFO_BYTES = 24;
export const INFO_DATA_CRC = 1 << 0;
export const INFO_INIT_DONE = 1 << 1;
export const INFO_MODE_SHIFT = 2;
export const INFO_MODE_MASK = 0xf;
export const MODE_WRITEBACK = 0;
export const MODE_MAX = 3;
export const INFO_GC_SHIFT = 6;
export const INFO_GC_MASK = 0x7f;
/** Every bit that has a meaning. */
export const INFO_KNOWN_FLAGS = 0x1fff;
export const GC_PERCENT_DEFAULT = 70;
export const GC_PERCENT_MAX = 90;

// ---- "Positions"

export const POSITION_BYTES = 16;

// ---- "A segment"

export const SEGMENT_INFO_BYTES = 16;
export const SEGMENT_INFO_STRIDE_BYTES = 4096;
export const SEGMENT_HAS_NEXT = 1 << 0;
export const SEGMENT_TYPE_SHIFT = 1;
export const SEGMENT_TYPE_MASK = 0xf;
export const SEGMENT_TYPE_CACHE_DATA = 1;
/** Every bit that has a meaning. */
export const SEGMENT_KNOWN_FLAGS = 0x1f;
/** Offset of the generation slots in a segment. */
export const GENERATION_OFF_BYTES = 8 * 1024;
export const GENERATION_BYTES = 16;
export const GENERATION_STRIDE_BYTES = 16;
/** Offset of the data area in a segment. */
export const DATA_OFF_BYTES = 12 * 1024;
/** A generation above this is refused: no segment lives so long, and counting on stays exact. */
export const MAX_GENERATION = 2 ** 52;

/** Size of a segment's data area. */
export function dataBytes(geometry: Geometry): number {
  return geometry.segment_bytes - DATA_OFF_BYTES;
}

// ---- "Key": ten little-endian 32-bit words

export const KEY_BYTES = 40;
export const KEY_WORDS = 10;
/** No key crosses a multiple of this on the cached device. */
export const KEY_STRETCH_BYTES = 1 << 22;
const STRETCH_SHIFT = 22;
/** Key flag: the backing device holds the same bytes. */
export const KEY_CLEAN = 1 << 1;

/** Byte offset on the cached device of the key at word index `at`. */
export function keyOff(words: Uint32Array, at: number): number {
  return words[at]! + words[at + 1]! * TWO_POW_32;
}

/** Number of the stretch of the cached device that the key at word index `at` lies in. Below 2^53 bytes, as every device is. */
export function keyStretch(words: Uint32Array, at: number): number {
  return (words[at + 1]! << (32 - STRETCH_SHIFT)) | (words[at]! >>> STRETCH_SHIFT);
}

/** Where in that stretch it begins, in sectors. */
export function keyStretchSector(words: Uint32Array, at: number): number {
  return (words[at]! & (KEY_STRETCH_BYTES - 1)) >>> SECTOR_SHIFT;
}

/** Length in bytes of the key at word index `at`. */
export function keyLen(words: Uint32Array, at: number): number {
  return words[at + 2]!;
}

/** The same in sectors. */
export function keySectors(words: Uint32Array, at: number): number {
  return words[at + 2]! >>> SECTOR_SHIFT;
}

/** Flags of the key at word index `at`. */
export function keyFlags(words: Uint32Array, at: number): number {
  return words[at + 3]!;
}

/** Cache segment that holds the bytes of the key at word index `at`. */
export function keySeg(words: Uint32Array, at: number): number {
  return words[at + 4]!;
}

/** Offset in bytes in that segment's data area. */
export function keySegOff(words: Uint32Array, at: number): number {
  return words[at + 5]!;
}

/** The same in sectors. */
export function keyPlace(words: Uint32Array, at: number): number {
  return words[at + 5]! >>> SECTOR_SHIFT;
}

/** Generation of that segment when the space was taken. */
export function keyGen(words: Uint32Array, at: number): number {
  return words[at + 6]! + words[at + 7]! * TWO_POW_32;
}

/** CRC-32C of the key's bytes as they were written; means something only when data_crc is on. */
export function keyCrc(words: Uint32Array, at: number): number {
  return words[at + 8]!;
}

/** Writes a key at word index `at`; units as in the functions above. */
export function putKey(
  words: Uint32Array,
  at: number,
  off: number,
  len: number,
  flags: number,
  seg: number,
  seg_off: number,
  gen: number,
  crc: number,
): void {
  // A store into the array takes the low 32 bits.
  words[at] = off;
  words[at + 1] = off / TWO_POW_32;
  words[at + 2] = len;
  words[at + 3] = flags;
  words[at + 4] = seg;
  words[at + 5] = seg_off;
  words[at + 6] = gen;
  words[at + 7] = gen / TWO_POW_32;
  words[at + 8] = crc;
  words[at + 9] = 0;
}

// ---- "Key set": a header of six words, then the keys

export const KSET_HEADER_BYTES = 24;
export const KSET_HEADER_WORDS = 6;
export const KSET_MAX_KEYS = 128;
export const KSET_MAX_BYTES = KSET_HEADER_BYTES + KSET_MAX_KEYS * KEY_BYTES;
export const KSET_MAGIC_LO = 0x4e164f1a;
export const KSET_MAGIC_HI = 0x676894a6;
/** Kset flag: the log goes on at the start of another segment. */
export const KSET_LAST = 1 << 0;

/** Size of a kset of `key_num` keys. */
export function ksetBytes(key_num: number): number {
  return KSET_HEADER_BYTES + key_num * KEY_BYTES;
}

/** `checkKset`: there is no kset here: the log ends. */
export const KSET_IS_NONE = 0;
/** `checkKset`: a kset of `ksetKeyNum` keys, 1..128. */
export const KSET_IS_KEYS = 1;
/** `checkKset`: a last kset naming the segment `ksetNextSeg`, which the caller checks. */
export const KSET_IS_LAST = 2;
/** `checkKset`: what is here calls itself a kset and must be refused: `ksetRefusal` says why. */
export const KSET_IS_REFUSED = 3;

/** An unsigned 32-bit field at any alignment. */
export function u32At(bytes: Uint8Array, at: number): number {
  return (bytes[at]! | bytes[at + 1]! << 8 | bytes[at + 2]! << 16 | bytes[at + 3]! << 24) >>> 0;
}

/** Writes an unsigned 32-bit field at any alignment. */
export function putU32(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value;
  bytes[at + 1] = value >>> 8;
  bytes[at + 2] = value >>> 16;
  bytes[at + 3] = value >>> 24;
}

/** Number of keys in the kset at `at`; 1..128 once `checkKset` said `KSET_IS_KEYS`. */
export function ksetKeyNum(bytes: Uint8Array, at: number): number {
  return u32At(bytes, at + 4);
}

/** The cache segment in which the log goes on after the last kset at `at`: any number, not checked. */
export function ksetNextSeg(bytes: Uint8Array, at: number): number {
  return u32At(bytes, at + 4);
}

/**
 * What stands at `bytes[at]`: one of `KSET_IS_...`. `limit` is where the segment's data area ends, as an index into `bytes`;
 * `bytes` must hold what lies before it, or `KSET_MAX_BYTES` from `at` if that is less. Checks magic, flags, number of keys,
 * extent and checksum; the keys' own fields are the caller's to check.
 */
export function checkKset(bytes: Uint8Array, at: number, limit: number): number {
  if (at + KSET_HEADER_BYTES > limit) return KSET_IS_NONE;
  if (u32At(bytes, at + 8) !== KSET_MAGIC_LO || u32At(bytes, at + 12) !== KSET_MAGIC_HI) {
    return KSET_IS_NONE;
  }
  const flags_lo = u32At(bytes, at + 16);
  const is_last = (flags_lo & KSET_LAST) !== 0;
  const key_num = ksetKeyNum(bytes, at);
  // A kset without keys is never written; a header that a power cut tore can look like one.
  if (!is_last && key_num === 0) return KSET_IS_NONE;
  const end = at + ksetBytes(is_last ? 0 : key_num);
  if (!is_last && (key_num > KSET_MAX_KEYS || end > limit)) {
    return isTornLastKset(bytes, at) ? KSET_IS_NONE : KSET_IS_REFUSED;
  }
  if (crc32cBits(bytes, at + 4, end) !== (u32At(bytes, at) | 0)) return KSET_IS_NONE;
  if (flags_lo > KSET_LAST || u32At(bytes, at + 20) !== 0) return KSET_IS_REFUSED;
  return is_last ? KSET_IS_LAST : KSET_IS_KEYS;
}

/**
 * Whether a power cut left this of a last kset: all but its flags, so that the segment it names reads as a number of keys.
 * The checksum tells: it is right once the flag is there.
 */
function isTornLastKset(bytes: Uint8Array, at: number): boolean {
  if (u32At(bytes, at + 16) !== 0) return false;
  putU32(bytes, at + 16, KSET_LAST);
  const is_torn = crc32cBits(bytes, at + 4, at + KSET_HEADER_BYTES) === (u32At(bytes, at) | 0);
  putU32(bytes, at + 16, 0);
  return is_torn;
}

/** Why `checkKset` refused the kset at `at`: the value, then what was wanted. */
export function ksetRefusal(bytes: Uint8Array, at: number, limit: number): string {
  const key_num = ksetKeyNum(bytes, at);
  const is_last = (u32At(bytes, at + 16) & KSET_LAST) !== 0;
  if (!is_last && key_num > KSET_MAX_KEYS) {
    return `key_num ${key_num}, but a kset has at most ${KSET_MAX_KEYS} keys`;
  }
  if (!is_last && at + ksetBytes(key_num) > limit) {
    return `${ksetBytes(key_num)} bytes long, but its segment ends ${
      limit - at
    } bytes after its start`;
  }
  const flags = u32At(bytes, at + 16) + u32At(bytes, at + 20) * TWO_POW_32;
  return `flags 0x${flags.toString(16)}, but only 0x${KSET_LAST.toString(16)} (last) is known`;
}

/** Completes the kset of `key_num` keys at `bytes[at]`, whose keys stand in place already: writes its header. */
export function sealKset(bytes: Uint8Array, at: number, key_num: number): void {
  assert(1 <= key_num && key_num <= KSET_MAX_KEYS, "a kset has 1..128 keys");
  putKsetHeader(bytes, at, key_num, 0);
  putU32(bytes, at, crc32cBits(bytes, at + 4, at + ksetBytes(key_num)));
}

/** Writes a last kset at `bytes[at]`: the log goes on at the start of cache segment `next_seg`. */
export function putLastKset(bytes: Uint8Array, at: number, next_seg: number): void {
  putKsetHeader(bytes, at, next_seg, KSET_LAST);
  putU32(bytes, at, crc32cBits(bytes, at + 4, at + KSET_HEADER_BYTES));
}

function putKsetHeader(bytes: Uint8Array, at: number, second_word: number, flags: number): void {
  putU32(bytes, at + 4, second_word);
  putU32(bytes, at + 8, KSET_MAGIC_LO);
  putU32(bytes, at + 12, KSET_MAGIC_HI);
  putU32(bytes, at + 16, flags);
  putU32(bytes, at + 20, 0);
}

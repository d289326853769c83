/**
 * CRC-32C as the cache device's format uses it (FORMAT, "Checksums"): polynomial 0x82F63B78, reflected, started from a
 * seed, no inversion before or after. The same function as ISA-L's `crc32_iscsi`, for where that library is not.
 *
 * Invariants:
 * - The result is an unsigned 32-bit number.
 * - crc32c(b, 0, n) == crc32c(b, k, n, crc32c(b, 0, k)) for any k: a checksum may be carried on.
 *
 * @module
 */

import { assert } from "./assert.ts";

/** The seed of every checksum in the format (FORMAT, "Checksums"). */
export const CRC_SEED = 0x3b15a;

const POLYNOMIAL = 0x82f63b78;
/** Bytes that one turn of the loop takes ("slicing by 8"). */
const STEP_BYTES = 8;

/** The words of arrays that were summed before: a view made for each checksum would be garbage on the hot path. */
const WORDS_OF = new WeakMap<Uint8Array, Int32Array>();

/** TABLES[n * 256 + byte]: what `byte` adds to the checksum when `n` more bytes follow it. */
const TABLES = makeTables();

function makeTables(): Int32Array {
  const tables = new Int32Array(STEP_BYTES * 256);
  for (let byte = 0; byte < 256; byte++) {
    let crc = byte;
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ POLYNOMIAL : crc >>> 1;
    tables[byte] = crc;
  }
  for (let at = 256; at < tables.length; at++) {
    const before = tables[at - 256]!;
    tables[at] = (before >>> 8) ^ tables[before & 0xff]!;
  }
  return tables;
}

/** CRC-32C of `bytes[from, to)`, started from `seed`. */
export function crc32c(bytes: Uint8Array, from: number, to: number, seed = CRC_SEED): number {
  return crc32cBits(bytes, from, to, seed) >>> 0;
}

/** The same 32 bits as a signed number, which V8 passes on without an allocation. */
export function crc32cBits(bytes: Uint8Array, from: number, to: number, seed = CRC_SEED): number {
  assert(0 <= from && from <= to && to <= bytes.length, "crc32c: the range lies in the bytes");
  const t = TABLES;
  let crc = seed | 0;
  let at = from;
  // Bytes up to the first word that a typed array can start at, then two words a turn, then the rest.
  const skip = unalignedBytes(bytes);
  while (at < to && ((at - skip) & 3) !== 0) crc = step(crc, bytes[at++]!);
  const words = wordsOf(bytes);
  const first = Math.floor((at - skip) / 4);
  const end = first + Math.floor((to - at) / STEP_BYTES) * 2;
  for (let i = first; i < end; i += 2) {
    const a = crc ^ words[i]!;
    const b = words[i + 1]!;
    crc = t[1792 + (a & 0xff)]! ^ t[1536 + ((a >>> 8) & 0xff)]! ^
      t[1280 + ((a >>> 16) & 0xff)]! ^ t[1024 + (a >>> 24)]! ^
      t[768 + (b & 0xff)]! ^ t[512 + ((b >>> 8) & 0xff)]! ^
      t[256 + ((b >>> 16) & 0xff)]! ^ t[b >>> 24]!;
  }
  for (at += (end - first) * 4; at < to; at++) crc = step(crc, bytes[at]!);
  return crc;
}

/** How many bytes lie before the first word that a typed array can start at: 0..3. */
function unalignedBytes(bytes: Uint8Array): number {
  return -bytes.byteOffset & 3;
}

/** The array's whole words, from the first that is aligned. */
function wordsOf(bytes: Uint8Array): Int32Array {
  let words = WORDS_OF.get(bytes);
  if (words === undefined) {
    const skip = unalignedBytes(bytes);
    const length = Math.max(0, bytes.length - skip) >>> 2;
    words = length === 0
      ? new Int32Array()
      : new Int32Array(bytes.buffer, bytes.byteOffset + skip, length);
    WORDS_OF.set(bytes, words);
  }
  return words;
}

function step(crc: number, byte: number): number {
  return (crc >>> 8) ^ TABLES[(crc ^ byte) & 0xff]!;
}

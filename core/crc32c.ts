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
const LANES = 16;

/** TABLES[lane * 256 + byte]: what `byte` adds to the checksum when `lane` more bytes follow it. */
const TABLES = makeTables();

function makeTables(): Int32Array {
  const tables = new Int32Array(LANES * 256);
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
  assert(0 <= from && from <= to && to <= bytes.length, "crc32c: the range lies in the bytes");
  const t = TABLES;
  let crc = seed | 0;
  let at = from;
  // Sixteen bytes a turn: sixteen independent look-ups instead of a chain of sixteen.
  for (const end = to - LANES; at <= end; at += LANES) {
    crc = t[3840 + ((crc ^ bytes[at]!) & 0xff)]! ^
      t[3584 + (((crc >>> 8) ^ bytes[at + 1]!) & 0xff)]! ^
      t[3328 + (((crc >>> 16) ^ bytes[at + 2]!) & 0xff)]! ^
      t[3072 + ((crc >>> 24) ^ bytes[at + 3]!)]! ^
      t[2816 + bytes[at + 4]!]! ^ t[2560 + bytes[at + 5]!]! ^
      t[2304 + bytes[at + 6]!]! ^ t[2048 + bytes[at + 7]!]! ^
      t[1792 + bytes[at + 8]!]! ^ t[1536 + bytes[at + 9]!]! ^
      t[1280 + bytes[at + 10]!]! ^ t[1024 + bytes[at + 11]!]! ^
      t[768 + bytes[at + 12]!]! ^ t[512 + bytes[at + 13]!]! ^
      t[256 + bytes[at + 14]!]! ^ t[bytes[at + 15]!]!;
  }
  for (; at < to; at++) crc = (crc >>> 8) ^ t[(crc ^ bytes[at]!) & 0xff]!;
  return crc >>> 0;
}

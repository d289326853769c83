/**
 * What can be known of a kset whose checksum is wrong, but whose length is known because the next one follows.
 *
 * - If the checksum is right once the header says what it must say, only the header was damaged.
 * - If it is right once a certain bit is flipped, that bit was. (Any two such bits would make a difference of two bits that CRC-32C does not
 *   see, and at this length there is none below four.)
 * - Else, with data_crc, a key whose data does not have the checksum that it names is damaged. Damage is taken to be one stretch. The key
 *   behind it may have been reached in its first field, which data does not prove, so it is not trusted either. Damage that no key's data shows
 *   may be anywhere.
 *
 * @module
 */

import { assert } from "./assert.ts";
import { crc32c } from "./crc32c.ts";
import {
  KEY_WORDS,
  KSET_HEADER_WORDS,
  KSET_MAGIC_HI,
  KSET_MAGIC_LO,
  ksetBytes,
  putU32,
  u32At,
} from "./format.ts";

/** CRC-32C's polynomial, reflected. */
const POLYNOMIAL = 0x82f63b78;

/** A kset, as far as it can be known. */
export interface MendedKset {
  /** What was damaged, for people. */
  readonly fault: string;
  /** The kset with what could be put right; keys start at word `KSET_HEADER_WORDS`. */
  readonly words: Uint32Array;
  /** Which keys are what they were. */
  readonly is_proven: readonly boolean[];
}

/**
 * Looks at the broken kset of `key_num` keys in `bytes`. `isDataRight` says whether the key at a word of `words` is possible, and its data has the
 * checksum that it names; null: there are no checksums of data.
 */
export function mendKset(
  bytes: Uint8Array,
  key_num: number,
  isDataRight: ((words: Uint32Array, at: number) => boolean) | null,
): MendedKset {
  const kset = bytes.slice(0, ksetBytes(key_num));
  assert(kset.length === ksetBytes(key_num), "all of the kset is there");
  const words = new Uint32Array(kset.buffer);
  const is_header_right = u32At(kset, 4) === key_num && u32At(kset, 8) === KSET_MAGIC_LO &&
    u32At(kset, 12) === KSET_MAGIC_HI && u32At(kset, 16) === 0 && u32At(kset, 20) === 0;
  putU32(kset, 4, key_num);
  putU32(kset, 8, KSET_MAGIC_LO);
  putU32(kset, 12, KSET_MAGIC_HI);
  putU32(kset, 16, 0);
  putU32(kset, 20, 0);
  const difference = (crc32c(kset, 4, kset.length) ^ u32At(kset, 0)) >>> 0;
  const all = Array.from({ length: key_num }, () => true);
  if (difference === 0) return { fault: "its header is damaged", words, is_proven: all };
  if ((difference & (difference - 1)) === 0) {
    return { fault: "its checksum has a flipped bit", words, is_proven: all };
  }
  const bit = flippedBit(difference, (kset.length - 4) * 8);
  if (bit >= 0) {
    const at = 4 + (bit >>> 3);
    kset[at] = kset[at]! ^ (1 << (bit & 7));
    return { fault: `bit ${bit & 7} of its byte ${at} is flipped`, words, is_proven: all };
  }
  const is_right = all.map((_, i) =>
    isDataRight !== null && isDataRight(words, KSET_HEADER_WORDS + i * KEY_WORDS)
  );
  return { fault: "it is damaged", words, is_proven: proven(is_right, is_header_right) };
}

/** Which single bit of a message of `bits`, flipped, changes its checksum so; -1: none. */
function flippedBit(difference: number, bits: number): number {
  let change = POLYNOMIAL;
  for (let bit = bits - 1; bit >= 0; bit--) {
    if (change === difference) return bit;
    change = ((change >>> 1) ^ ((change & 1) === 1 ? POLYNOMIAL : 0)) >>> 0;
  }
  return -1;
}

/** The keys outside of the one stretch that is damaged; none if nothing shows where it is, or if there are several. */
function proven(is_right: readonly boolean[], is_header_right: boolean): boolean[] {
  const none = is_right.map(() => false);
  // The header stands before the keys: number -1.
  const first = is_header_right ? is_right.indexOf(false) : -1;
  const last = is_right.lastIndexOf(false);
  if (is_header_right && first < 0) return none;
  const is_one = is_right.every((right, i) => !right || i < first || i > last);
  return is_one ? is_right.map((_, i) => i < first || i > last + 1) : none;
}

import { assertEquals, assertThrows } from "@std/assert";
import { AssertionFailure } from "./assert.ts";
import { crc32c } from "./crc32c.ts";
import {
  checkKset,
  dataBytes,
  KERNEL_GEOMETRY,
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
  KSET_IS_LAST,
  KSET_IS_NONE,
  KSET_IS_REFUSED,
  KSET_MAX_BYTES,
  ksetBytes,
  ksetKeyNum,
  ksetNextSeg,
  ksetRefusal,
  putKey,
  putLastKset,
  putU32,
  sealKset,
  segmentAddr,
  segmentsOn,
  u32At,
} from "./format.ts";

const GIB = 1024 ** 3;

/** A sealed kset of `key_num` keys at byte `at` of an array that has room for the largest. */
function kset(key_num: number, at = 0): Uint8Array<ArrayBuffer> {
  const words = new Uint32Array((at + KSET_MAX_BYTES + KEY_BYTES) / 4);
  const bytes = new Uint8Array(words.buffer);
  for (let i = 0; i < key_num; i++) {
    const word = at / 4 + KSET_HEADER_WORDS + i * KEY_WORDS;
    putKey(words, word, i * 4096, 4096, 0, 1, i * 4096, 3, i);
  }
  sealKset(bytes, at, key_num);
  return bytes;
}

/** Gives the header at 0 a checksum that is right for `len` bytes. */
function reseal(bytes: Uint8Array, len: number): void {
  putU32(bytes, 0, crc32c(bytes, 4, len));
}

Deno.test("format: the sizes that FORMAT names", () => {
  assertEquals(dataBytes(KERNEL_GEOMETRY), 16_764_928);
  assertEquals(segmentAddr(KERNEL_GEOMETRY, 0), 0x5000);
  assertEquals(segmentAddr(KERNEL_GEOMETRY, 1_048_575), 0x5000 + 1_048_575 * 16 * 1024 ** 2);
  assertEquals(segmentsOn(KERNEL_GEOMETRY, 0.5 * GIB), 31);
  assertEquals(segmentsOn(KERNEL_GEOMETRY, 0.5 * GIB + 0x4fff), 31);
  assertEquals(segmentsOn(KERNEL_GEOMETRY, 0.5 * GIB + 0x5000), 32);
  assertEquals(segmentsOn(KERNEL_GEOMETRY, 0), 0);
  assertEquals(segmentsOn(KERNEL_GEOMETRY, 2 ** 50), 1_048_576);
});

Deno.test("key: every field comes back, also beyond 32 bits", () => {
  const words = new Uint32Array(30);
  type Fields = [number, number, number, number, number, number, number];
  const cases: Fields[] = [
    [0, 512, 0, 0, 0, 0, 0],
    [2 ** 44 - 512, 4 * 1024 ** 2, KEY_CLEAN, 1_048_575, 16_764_416, 2 ** 52, 0xffff_ffff],
    [2 ** 32, 0xffff_fe00, 3, 0xffff_ffff, 0xffff_ffff, 2 ** 32 + 1, 0x8000_0000],
  ];
  for (const [i, want] of cases.entries()) putKey(words, i * KEY_WORDS, ...want);
  for (const [i, want] of cases.entries()) {
    const at = i * KEY_WORDS;
    assertEquals(
      [keyOff, keyLen, keyFlags, keySeg, keySegOff, keyGen, keyCrc].map((f) => f(words, at)),
      want,
    );
    assertEquals(words[at + 9], 0);
  }
});

Deno.test("key: the bytes are those of FORMAT", () => {
  const words = new Uint32Array(KEY_WORDS);
  putKey(
    words,
    0,
    0x2030405060600,
    0x11121314,
    2,
    0x21222324,
    0x31323334,
    0x1424344454647,
    0x51525354,
  );
  const view = new DataView(words.buffer);
  assertEquals(view.getBigUint64(0, true), 0x2030405060600n);
  assertEquals(view.getUint32(8, true), 0x11121314);
  assertEquals(view.getUint32(12, true), 2);
  assertEquals(view.getUint32(16, true), 0x21222324);
  assertEquals(view.getUint32(20, true), 0x31323334);
  assertEquals(view.getBigUint64(24, true), 0x1424344454647n);
  assertEquals(view.getUint32(32, true), 0x51525354);
});

Deno.test("kset: sealed ones are seen, of every size, anywhere", () => {
  for (const at of [0, 24, 4096]) {
    for (const key_num of [1, 2, 127, 128]) {
      const bytes = kset(key_num, at);
      assertEquals(checkKset(bytes, at, bytes.length), KSET_IS_KEYS);
      assertEquals(ksetKeyNum(bytes, at), key_num);
      assertEquals(checkKset(bytes, at, at + ksetBytes(key_num)), KSET_IS_KEYS);
    }
  }
  assertThrows(() => kset(0), AssertionFailure);
  assertThrows(() => kset(129), AssertionFailure);
});

Deno.test("kset: a flipped bit anywhere in it makes it none, or refused for its key_num or flags", () => {
  const bytes = kset(3);
  for (let bit = 0; bit < ksetBytes(3) * 8; bit++) {
    bytes[bit >> 3]! ^= 1 << (bit & 7);
    const kind = checkKset(bytes, 0, bytes.length);
    // key_num over 128 is refused, since how far the checksum goes cannot be known.
    const is_large_key_num = bit >= 4 * 8 && bit < 8 * 8 && ksetKeyNum(bytes, 0) > 128;
    assertEquals(kind, is_large_key_num ? KSET_IS_REFUSED : KSET_IS_NONE, `bit ${bit}`);
    bytes[bit >> 3]! ^= 1 << (bit & 7);
  }
  assertEquals(checkKset(bytes, 0, bytes.length), KSET_IS_KEYS);
});

Deno.test("kset: zeros, and what lies too near the end, are none", () => {
  assertEquals(checkKset(new Uint8Array(64), 0, 64), KSET_IS_NONE);
  const bytes = kset(1);
  assertEquals(checkKset(bytes, 0, KSET_HEADER_BYTES - 1), KSET_IS_NONE);
  assertEquals(checkKset(bytes, bytes.length - 23, bytes.length), KSET_IS_NONE);
  putU32(bytes, 4, 0);
  reseal(bytes, KSET_HEADER_BYTES);
  assertEquals(checkKset(bytes, 0, bytes.length), KSET_IS_NONE, "no keys");
});

Deno.test("kset: what must be refused says why", () => {
  const large = kset(128);
  putU32(large, 4, 129);
  reseal(large, ksetBytes(129));
  assertEquals(checkKset(large, 0, large.length), KSET_IS_REFUSED);
  assertEquals(ksetRefusal(large, 0, large.length), "key_num 129, but a kset has at most 128 keys");

  const overrun = kset(2);
  assertEquals(checkKset(overrun, 0, 103), KSET_IS_REFUSED);
  assertEquals(
    ksetRefusal(overrun, 0, 103),
    "104 bytes long, but its segment ends 103 bytes after its start",
  );

  for (
    const [flags, flags_hi, want] of [[2, 0, "0x2"], [3, 0, "0x3"], [0, 1, "0x100000000"]] as const
  ) {
    const bytes = kset(1);
    putU32(bytes, 16, flags);
    putU32(bytes, 20, flags_hi);
    reseal(bytes, flags & 1 ? KSET_HEADER_BYTES : ksetBytes(1));
    assertEquals(checkKset(bytes, 0, bytes.length), KSET_IS_REFUSED);
    assertEquals(ksetRefusal(bytes, 0, 999), `flags ${want}, but only 0x1 (last) is known`);
  }
});

Deno.test("last kset: names any segment, which the caller checks", () => {
  const bytes = new Uint8Array(40);
  for (const next_seg of [0, 1, 129, 0xffff_ffff]) {
    putLastKset(bytes, 8, next_seg);
    assertEquals(checkKset(bytes, 8, 32), KSET_IS_LAST);
    assertEquals(ksetNextSeg(bytes, 8), next_seg);
    assertEquals(checkKset(bytes, 8, 31), KSET_IS_NONE);
  }
  assertEquals(u32At(bytes, 8), crc32c(bytes, 12, 32));
});

Deno.test("last kset: whatever words of it a power cut left, there is none, or all of it", () => {
  for (const next_seg of [0, 1, 128, 129, 0xffff_ffff]) {
    const whole = new Uint8Array(KSET_HEADER_BYTES);
    putLastKset(whole, 0, next_seg);
    for (let kept = 0; kept < 8; kept++) {
      const torn = new Uint8Array(KSET_HEADER_BYTES);
      for (let word = 0; word < 3; word++) {
        if (kept & 1 << word) torn.set(whole.subarray(word * 8, word * 8 + 8), word * 8);
      }
      const before = torn.slice();
      const want = kept === 7 ? KSET_IS_LAST : KSET_IS_NONE;
      assertEquals(checkKset(torn, 0, torn.length), want, `next ${next_seg}, words ${kept}`);
      assertEquals(torn, before);
    }
  }
});

import { assertEquals, assertThrows } from "@std/assert";
import { AssertionFailure } from "./assert.ts";
import { crc32c } from "./crc32c.ts";

const INVERTED = 0xffff_ffff;

/** The definition, bit by bit. */
function slow(bytes: Uint8Array, from: number, to: number, seed: number): number {
  let crc = seed;
  for (let at = from; at < to; at++) {
    crc ^= bytes[at]!;
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
  }
  return crc >>> 0;
}

function patterned(length: number): Uint8Array<ArrayBuffer> {
  return Uint8Array.from({ length }, (_, i) => Math.imul(i + 1, 0x9e3779b1) >>> 24);
}

Deno.test("crc32c: the published check values", () => {
  // RFC 3720, appendix B.4, which inverts before and after.
  const cases: [Uint8Array, number][] = [
    [new Uint8Array(32), 0x8a9136aa],
    [new Uint8Array(32).fill(0xff), 0x62a8ab43],
    [Uint8Array.from({ length: 32 }, (_, i) => i), 0x46dd794e],
    [Uint8Array.from({ length: 32 }, (_, i) => 31 - i), 0x113fdb5c],
    [new TextEncoder().encode("123456789"), 0xe3069283],
  ];
  for (const [bytes, want] of cases) {
    assertEquals((crc32c(bytes, 0, bytes.length, INVERTED) ^ INVERTED) >>> 0, want);
  }
});

Deno.test("crc32c: every length and alignment, with the format's seed", () => {
  const bytes = patterned(160);
  for (let from = 0; from < 20; from++) {
    for (let to = from; to <= bytes.length; to++) {
      assertEquals(crc32c(bytes, from, to), slow(bytes, from, to, 0x3b15a), `${from}..${to}`);
    }
  }
});

Deno.test("crc32c: an array that starts at an odd place of its buffer", () => {
  const whole = patterned(300);
  for (let start = 0; start < 9; start++) {
    const part = whole.subarray(start, start + 200);
    assertEquals(crc32c(part, 3, 190), crc32c(whole, start + 3, start + 190));
  }
});

Deno.test("crc32c: can be carried on", () => {
  const bytes = patterned(100);
  const whole = crc32c(bytes, 0, bytes.length);
  for (let cut = 0; cut <= bytes.length; cut++) {
    assertEquals(crc32c(bytes, cut, bytes.length, crc32c(bytes, 0, cut)), whole);
  }
});

Deno.test("crc32c: a range outside the bytes is a bug", () => {
  assertThrows(() => crc32c(new Uint8Array(8), 0, 9), AssertionFailure);
  assertThrows(() => crc32c(new Uint8Array(8), -1, 4), AssertionFailure);
  assertThrows(() => crc32c(new Uint8Array(8), 5, 4), AssertionFailure);
});

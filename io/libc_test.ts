import { assertEquals, assertThrows } from "@std/assert";
import { CacheError } from "../core/errors.ts";
import { cString, ERRNO, errorText, libc, result, Word } from "./libc.ts";

Deno.test("errno is that of the last call that failed", () => {
  assertEquals(result(libc.open(cString("/no/such/file"), 0, 0), ERRNO[0]), -2);
  assertEquals(result(libc.close(100_000), ERRNO[0]), -9);
  assertEquals(result(7, ERRNO[0]), 7);
  assertEquals(errorText(2), "No such file or directory");
  assertEquals(errorText(16), "Device or resource busy");
});

Deno.test("Word: a number as 64 bits, up to the largest safe integer", () => {
  const word = new Word();
  for (const n of [0, 1, 2 ** 31, 2 ** 32 - 1, 2 ** 32, 2 ** 40 + 5, Number.MAX_SAFE_INTEGER]) {
    assertEquals(word.set(n), BigInt(n));
  }
});

Deno.test("cString: ends with a zero byte, and holds no other", () => {
  assertEquals(cString("/ä"), new Uint8Array([0x2f, 0xc3, 0xa4, 0]));
  assertThrows(() => cString("a\0b"), CacheError, "holds a zero byte");
});

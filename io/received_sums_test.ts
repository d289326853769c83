import { assert, assertEquals } from "@std/assert";
import { ReceivedSums } from "./received_sums.ts";

Deno.test("a sum is known of just the bytes that were stored last, until something else is", () => {
  const sums = new ReceivedSums();
  assert(!sums.has(0, 4096));
  for (let n = 0; n < 512; n++) sums.set(512 + n * 4096, 4096, n * 0x800001);
  for (let n = 0; n < 512; n++) {
    assert(sums.has(512 + n * 4096, 4096));
    assertEquals(sums.sum, (n * 0x800001) | 0);
  }
  assert(!sums.has(512, 4095));
  assert(!sums.has(511, 4096));
  sums.set(512, 100, 7); // the first part of a payload that is stored over it
  assert(!sums.has(512, 4096));
  assert(sums.has(512, 100));
  sums.clear();
  assert(!sums.has(512, 100));
  assert(!sums.has(512 + 4096, 4096));
});

/** A permutation hits every number once. */

import { assertEquals } from "@std/assert";
import { Permutation } from "./permutation.ts";

Deno.test("a permutation is one", () => {
  for (const least of [1, 4, 1000, 5000, 1 << 17]) {
    const permutation = new Permutation(least);
    assertEquals(permutation.size >= least, true);
    const seen = new Uint8Array(permutation.size);
    for (let n = 0; n < permutation.size; n++) seen[permutation.at(n)]!++;
    assertEquals(seen.every((times) => times === 1), true, `${least}`);
  }
});

Deno.test("neighbours do not stay neighbours", () => {
  const permutation = new Permutation(1 << 16);
  let near = 0;
  for (let n = 0; n < 1000; n++) {
    if (Math.abs(permutation.at(n + 1) - permutation.at(n)) < 64) near++;
  }
  assertEquals(near < 20, true, `${near} of 1000 are near`);
});

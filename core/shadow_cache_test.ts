/** Shadows: what they hold of small sequences. */

import { assertEquals } from "@std/assert";
import { ShadowCache } from "./shadow_cache.ts";

function hits(cache: ShadowCache, blocks: number[]): string {
  return blocks.map((block) => cache.access(block) ? "h" : ".").join("");
}

Deno.test("young as long as the cache: a FIFO", () => {
  const cache = new ShadowCache(3, 3);
  assertEquals(hits(cache, [1, 2, 3, 1, 4, 2]), "...h.h");
  assertEquals(cache.access(1), false, "a hit does not make it younger");
});

Deno.test("what is accessed twice while it is young stays through a scan, and goes when it is not asked for again", () => {
  const cache = new ShadowCache(10, 2);
  assertEquals(hits(cache, [1, 1, 1]), ".hh");
  for (let block = 100; block < 150; block++) assertEquals(cache.access(block), false);
  assertEquals(cache.access(1), true);
});

Deno.test("a ghost comes into the main queue at once", () => {
  const cache = new ShadowCache(10, 2);
  for (let block = 0; block < 11; block++) cache.access(block); // 0 has left
  assertEquals(cache.access(0), false);
  for (let block = 100; block < 150; block++) cache.access(block);
  assertEquals(cache.access(0), true);
});

/** Shadows: what they hold of small sequences. */

import { assertEquals } from "@std/assert";
import { Random } from "../tests/random.ts";
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

/** The same with lists, which are searched from their start. */
class Model {
  readonly #young: number[] = [];
  readonly #main: number[] = [];
  readonly #ghosts: number[] = [];
  readonly #frequency = new Map<number, number>();

  constructor(readonly size: number, readonly young_size: number) {}

  access(block: number): boolean {
    const frequency = this.#frequency.get(block);
    if (frequency !== undefined) {
      this.#frequency.set(block, Math.min(3, frequency + 1));
      return true;
    }
    while (this.#young.length + this.#main.length >= this.size) {
      if (this.#young.length >= this.young_size || this.#main.length === 0) this.#evictYoung();
      else this.#evictMain();
    }
    const ghost = this.#ghosts.indexOf(block);
    if (ghost >= 0) this.#ghosts.splice(ghost, 1);
    (ghost >= 0 ? this.#main : this.#young).push(block);
    this.#frequency.set(block, 0);
    return false;
  }

  #evictYoung(): void {
    for (let block = this.#young.shift(); block !== undefined; block = this.#young.shift()) {
      if (this.#frequency.get(block)! < 2) {
        this.#frequency.delete(block);
        this.#ghosts.push(block);
        if (this.#ghosts.length > Math.floor(this.size * 0.9)) this.#ghosts.shift();
        return;
      }
      this.#frequency.set(block, 0);
      this.#main.push(block);
    }
  }

  #evictMain(): void {
    const block = this.#main.shift()!;
    const frequency = this.#frequency.get(block)!;
    this.#frequency.delete(block);
    if (frequency === 0) return;
    this.#frequency.set(block, frequency - 1);
    this.#main.push(block);
  }
}

Deno.test("it holds what a simple one holds that keeps lists", () => {
  for (const [size, young_size] of [[1, 1], [3, 3], [64, 1], [64, 6], [64, 64]] as const) {
    const cache = new ShadowCache(size, young_size);
    const model = new Model(size, young_size);
    const random = new Random(size + young_size);
    for (let n = 0; n < 5000; n++) {
      const block = random.below(random.chance(0.5) ? size : 4 * size);
      const is_there = model.access(block);
      assertEquals(cache.access(block), is_there, `access ${n}, size ${size}, young ${young_size}`);
    }
  }
});

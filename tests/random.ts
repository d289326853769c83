/**
 * Random numbers from a seed: the same seed gives the same test on every machine.
 *
 * @module
 */

/** A small generator (sfc32), good enough to choose operations with. */
export class Random {
  #a: number;
  #b = 0x9e3779b9 | 0;
  #c = 0x243f6a88 | 0;
  #counter = 1;

  constructor(readonly seed: number) {
    this.#a = seed | 0;
    for (let i = 0; i < 12; i++) this.u32();
  }

  /** The next 32 bits, as an unsigned number. */
  u32(): number {
    const sum = (((this.#a + this.#b) | 0) + this.#counter) | 0;
    this.#counter = (this.#counter + 1) | 0;
    this.#a = this.#b ^ (this.#b >>> 9);
    this.#b = (this.#c + (this.#c << 3)) | 0;
    this.#c = (((this.#c << 21) | (this.#c >>> 11)) + sum) | 0;
    return sum >>> 0;
  }

  /** A number from 0 to `limit - 1`. */
  below(limit: number): number {
    return Math.floor((this.u32() / 0x1_0000_0000) * limit);
  }

  /** A number from `least` to `most`, both possible. */
  between(least: number, most: number): number {
    return least + this.below(most - least + 1);
  }

  /** True with the given probability, 0..1. */
  chance(probability: number): boolean {
    return this.u32() < probability * 0x1_0000_0000;
  }

  /** One of the items. */
  pick<T>(items: readonly T[]): T {
    return items[this.below(items.length)]!;
  }
}

/** The seed for a run: `$PCACHE_SEED` when set (to see a failure again), else the one given. */
export function seedOr(given: number): number {
  const text = Deno.env.get("PCACHE_SEED");
  if (text === undefined) return given;
  const seed = Number(text);
  if (!Number.isInteger(seed)) throw new Error(`PCACHE_SEED is "${text}", wanted an integer`);
  return seed;
}

/** Fills `bytes` with content that belongs to `id` alone. */
export function fillFor(id: number, bytes: Uint8Array): void {
  const words = new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length >>> 2);
  const start = Math.imul(id, 0x85ebca6b);
  for (let i = 0; i < words.length; i++) {
    const mixed = Math.imul(i + start, 0x9e3779b1);
    words[i] = mixed ^ (mixed >>> 15);
  }
  for (let i = words.length * 4; i < bytes.length; i++) bytes[i] = (id * 31 + i) & 0xff;
}

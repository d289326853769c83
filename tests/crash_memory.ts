/**
 * A simulated cache device that loses power between two stores, or between a store and its barrier.
 *
 * Two kinds of end: the process is killed, and every store made is there; or the machine loses power, and of the stores
 * that were not persisted before a barrier any 8-byte word may be there or not (`crash/crash_memory.ts`).
 *
 * @module
 */

import { CrashMemory as WatchedMemory } from "./crash/crash_memory.ts";
import type { Random } from "./random.ts";
import { SimMemory, type SimMemoryOptions } from "./sim_memory.ts";

/** Thrown by the store or barrier at which the power fails, instead of what it was to do. */
export class PowerCut extends Error {}

export class CrashMemory extends WatchedMemory {
  /** Stores to the cache device and barriers so far. */
  events = 0;
  readonly #cut_at_event: number;
  readonly #options: SimMemoryOptions;

  /**
   * `content` is what the cache device holds at first, and it is durable. The power fails at the store or barrier number
   * `cut_at_event`, counted from 0.
   */
  constructor(options: SimMemoryOptions, content: Uint8Array, cut_at_event = Infinity) {
    super({ ...options, medium: "pmem" });
    this.#options = options;
    this.cache.set(content);
    this.durable.set(content);
    this.#cut_at_event = cut_at_event;
  }

  override write(addr: number, from: Uint8Array, len_bytes: number): void {
    this.#beforeEvent();
    super.write(addr, from, len_bytes);
  }

  override barrierSync(): void {
    this.#beforeEvent();
    super.barrierSync();
  }

  /** The cache device after the process was killed. */
  afterKill(): SimMemory {
    return this.#survivor(this.cache);
  }

  /** The cache device after the power failed. */
  afterPowerCut(random: Random): SimMemory {
    const content = this.durable.slice(0, this.cache_bytes);
    const words = new Int32Array(content.buffer, 0, content.length >> 2);
    for (let i = 0; i < this.count; i++) {
      if (random.chance(0.5)) continue;
      words[2 * this.atom[i]!] = this.lo[i]!;
      words[2 * this.atom[i]! + 1] = this.hi[i]!;
    }
    return this.#survivor(content);
  }

  #beforeEvent(): void {
    if (this.events >= this.#cut_at_event) {
      throw new PowerCut(`the power fails at event ${this.events}`);
    }
    this.events++;
  }

  #survivor(content: Uint8Array): SimMemory {
    const memory = new SimMemory(this.#options);
    memory.cache.set(content);
    return memory;
  }
}

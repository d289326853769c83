/**
 * A simulated cache device that loses power between two stores, or between a store and its barrier.
 *
 * Two kinds of end: the process is killed, and every store made is there; or the machine loses power, and of the stores
 * that were not persisted before a barrier any 8-byte word may be there or not (an aligned word is never torn).
 *
 * @module
 */

import { SimMemory, type SimMemoryOptions } from "./sim_memory.ts";
import type { Random } from "./random.ts";

const WORD_BYTES = 8;

/** Thrown by the store or barrier at which the power fails, instead of what it was to do. */
export class PowerCut extends Error {}

export class CrashMemory extends SimMemory {
  /** Stores to the cache device and barriers so far. */
  events = 0;
  readonly #cut_at_event: number;
  readonly #options: SimMemoryOptions;
  /** What survives for certain. */
  readonly #durable: Uint8Array;
  /** Stores since the last barrier, in order. */
  #pending: { readonly addr: number; readonly bytes: Uint8Array }[] = [];
  #persisted: { readonly addr: number; readonly len: number }[] = [];

  /**
   * `content` is what the cache device holds at first, and it is durable. The power fails at the store or barrier number
   * `cut_at_event`, counted from 0.
   */
  constructor(options: SimMemoryOptions, content: Uint8Array, cut_at_event = Infinity) {
    super(options);
    this.#options = options;
    this.cache.set(content);
    this.#durable = content.slice();
    this.#cut_at_event = cut_at_event;
  }

  override write(addr: number, from: Uint8Array, len_bytes: number): void {
    this.#beforeStore(addr, len_bytes);
    super.write(addr, from, len_bytes);
    this.#afterStore(addr, len_bytes);
  }

  override copy(to_addr: number, from_addr: number, len_bytes: number): void {
    this.#beforeStore(to_addr, len_bytes);
    super.copy(to_addr, from_addr, len_bytes);
    this.#afterStore(to_addr, len_bytes);
  }

  override persist(addr: number, len_bytes: number): void {
    super.persist(addr, len_bytes);
    this.#persisted.push({ addr, len: len_bytes });
  }

  override barrierSync(): void {
    this.#beforeEvent();
    super.barrierSync();
    this.#settle();
  }

  override barrier(): boolean {
    this.#beforeEvent();
    if (!super.barrier()) throw new Error("CrashMemory: barriers must not be asynchronous");
    this.#settle();
    return true;
  }

  /** The cache device after the process was killed. */
  afterKill(): SimMemory {
    return this.#survivor(this.cache);
  }

  /** The cache device after the power failed. */
  afterPowerCut(random: Random): SimMemory {
    const content = this.#durable.slice();
    for (const { addr, bytes } of this.#pending) {
      for (let at = addr; at < addr + bytes.length;) {
        const word_end = Math.min(
          (Math.floor(at / WORD_BYTES) + 1) * WORD_BYTES,
          addr + bytes.length,
        );
        if (random.chance(0.5)) content.set(bytes.subarray(at - addr, word_end - addr), at);
        at = word_end;
      }
    }
    return this.#survivor(content);
  }

  #beforeStore(addr: number, len_bytes: number): void {
    if (addr < this.cache_bytes && len_bytes > 0) this.#beforeEvent();
  }

  #beforeEvent(): void {
    if (this.events >= this.#cut_at_event) {
      throw new PowerCut(`the power fails at event ${this.events}`);
    }
    this.events++;
  }

  #afterStore(addr: number, len_bytes: number): void {
    if (addr >= this.cache_bytes) return;
    this.#pending.push({ addr, bytes: this.bytes.slice(addr, addr + len_bytes) });
  }

  /** A barrier makes durable what was persisted before it, and only that. */
  #settle(): void {
    for (const { addr, len } of this.#persisted) {
      this.#durable.set(this.bytes.subarray(addr, addr + len), addr);
    }
    const persisted = this.#persisted;
    this.#pending = this.#pending.filter(({ addr, bytes }) =>
      !persisted.some((p) => p.addr <= addr && addr + bytes.length <= p.addr + p.len)
    );
    this.#persisted = [];
  }

  #survivor(content: Uint8Array): SimMemory {
    const memory = new SimMemory(this.#options);
    memory.cache.set(content);
    return memory;
  }
}

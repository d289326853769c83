/**
 * A cache device and transfer buffers in one plain byte array: the engine's `Memory` without a machine.
 *
 * Every access is checked: one that lies outside the cache device and outside the buffers throws `RangeError`, which no
 * part of the engine catches.
 *
 * @module
 */

import { crc32c } from "../core/crc32c.ts";
import type { Memory } from "../core/platform.ts";

const PAGE = 4096;

/** What a simulated memory is made of; what is left out is 0 or false. */
export interface SimMemoryOptions {
  readonly cache_bytes: number;
  readonly buffer_bytes?: number;
  readonly barrier_is_cheap?: boolean;
  /** True: `barrier` returns false, and the test says `completeBarrier` later. */
  readonly barriers_are_asynchronous?: boolean;
}

export class SimMemory implements Memory {
  readonly cache_bytes: number;
  readonly buffer_addr: number;
  readonly buffer_bytes: number;
  readonly barrier_is_cheap: boolean;
  /** All of it, by address. Tests read and damage it here. */
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** Barriers that have been done, of both kinds. */
  barriers = 0;
  /** Stores to the cache device: calls of `write` and `copy`. */
  stores = 0;
  readonly #asynchronous: boolean;
  #under_way = false;

  constructor(options: SimMemoryOptions) {
    this.cache_bytes = options.cache_bytes;
    this.buffer_addr = Math.ceil(options.cache_bytes / PAGE) * PAGE;
    this.buffer_bytes = options.buffer_bytes ?? 0;
    this.barrier_is_cheap = options.barrier_is_cheap ?? false;
    this.#asynchronous = options.barriers_are_asynchronous ?? false;
    this.bytes = new Uint8Array(this.buffer_addr + this.buffer_bytes);
  }

  /** The cache device alone. */
  get cache(): Uint8Array<ArrayBuffer> {
    return this.bytes.subarray(0, this.cache_bytes);
  }
  /** True while an asynchronous barrier waits for `completeBarrier`. */
  get barrier_is_under_way(): boolean {
    return this.#under_way;
  }

  read(addr: number, into: Uint8Array, len_bytes: number): void {
    this.#check("read", addr, len_bytes);
    checkBuffer("read", into, len_bytes);
    into.set(this.bytes.subarray(addr, addr + len_bytes));
  }

  write(addr: number, from: Uint8Array, len_bytes: number): void {
    this.#check("write", addr, len_bytes);
    checkBuffer("write", from, len_bytes);
    this.#countStore(addr);
    this.bytes.set(from.subarray(0, len_bytes), addr);
  }

  copy(to_addr: number, from_addr: number, len_bytes: number): void {
    this.#check("copy to", to_addr, len_bytes);
    this.#check("copy from", from_addr, len_bytes);
    this.#countStore(to_addr);
    this.bytes.copyWithin(to_addr, from_addr, from_addr + len_bytes);
  }

  /** A payload is received: the machine stores `from` at `addr`, without the engine. */
  receive(addr: number, from: Uint8Array): void {
    this.#check("receive", addr, from.length);
    this.#countStore(addr);
    this.bytes.set(from, addr);
  }

  crc32c(addr: number, len_bytes: number): number {
    this.#check("crc32c", addr, len_bytes);
    return crc32c(this.bytes, addr, addr + len_bytes);
  }

  aim(from_addr: number, to_addr: number, end_addr: number): void {
    this.#check("aim", from_addr, end_addr - from_addr);
    if (from_addr >= to_addr || to_addr > end_addr || end_addr > this.cache_bytes) {
      throw new RangeError(`aim: stores from ${from_addr} to ${to_addr}, then up to ${end_addr}`);
    }
  }

  persist(addr: number, len_bytes: number): void {
    this.#check("persist", addr, len_bytes);
    if (addr >= this.cache_bytes) {
      throw new RangeError(`persist at ${addr}: not on the cache device`);
    }
  }

  persistSummed(addr: number, len_bytes: number): number {
    this.persist(addr, len_bytes);
    return this.crc32c(addr, len_bytes);
  }

  barrier(): boolean {
    if (this.#under_way) throw new Error("barrier: one is under way already");
    if (this.#asynchronous) this.#under_way = true;
    else this.barriers++;
    return !this.#asynchronous;
  }

  /** Ends the asynchronous barrier; the test then tells the engine with `barrierDone`. Returns its error number. */
  completeBarrier(): number {
    if (!this.#under_way) throw new Error("completeBarrier: none is under way");
    this.#under_way = false;
    this.barriers++;
    return 0;
  }

  barrierSync(): void {
    if (this.#under_way) throw new Error("barrierSync: another barrier is under way");
    this.barriers++;
  }

  /** Forgets a barrier that was under way when the engine was dropped. */
  dropBarrier(): void {
    this.#under_way = false;
  }

  #countStore(addr: number): void {
    if (addr < this.cache_bytes) this.stores++;
  }

  #check(what: string, addr: number, len_bytes: number): void {
    const end = addr + len_bytes;
    const is_on_cache = addr >= 0 && end <= this.cache_bytes;
    const is_in_buffers = addr >= this.buffer_addr && end <= this.buffer_addr + this.buffer_bytes;
    if (
      !Number.isInteger(addr) || !Number.isInteger(len_bytes) || len_bytes < 0 ||
      !(is_on_cache || is_in_buffers)
    ) {
      throw new RangeError(
        `${what}: ${len_bytes} bytes at ${addr}, but the cache device ends at ${this.cache_bytes} and the buffers are ` +
          `${this.buffer_bytes} bytes at ${this.buffer_addr}`,
      );
    }
  }
}

function checkBuffer(what: string, buffer: Uint8Array, len_bytes: number): void {
  if (buffer.length < len_bytes) {
    throw new RangeError(
      `${what}: ${len_bytes} bytes, but the caller's array has ${buffer.length}`,
    );
  }
}

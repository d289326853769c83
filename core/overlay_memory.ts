/**
 * A cache device as it would be: stores are kept in pages beside it, and reach it only by `apply`.
 *
 * @module
 */

import { assert } from "./assert.ts";
import { crc32c } from "./crc32c.ts";
import { SEGMENTS_ADDR } from "./format.ts";
import type { Memory } from "./platform.ts";

const PAGE_BYTES = 4096;

/** Stores over a `Memory` that stays as it is. It has no transfer buffers. */
export class OverlayMemory implements Memory {
  readonly cache_bytes: number;
  readonly buffer_addr: number;
  readonly buffer_bytes = 0;
  readonly barrier_is_cheap = true;
  readonly #base: Memory;
  /** By page number. */
  readonly #pages = new Map<number, Uint8Array>();

  constructor(base: Memory) {
    this.#base = base;
    this.cache_bytes = base.cache_bytes;
    this.buffer_addr = base.buffer_addr;
  }

  /** Whether anything differs from the device. */
  get is_changed(): boolean {
    return this.#pages.size > 0;
  }

  read(addr: number, into: Uint8Array, len_bytes: number): void {
    this.#base.read(addr, into, len_bytes);
    this.#visit(addr, len_bytes, (page, from, to, at) => {
      const stored = this.#pages.get(page);
      if (stored !== undefined) into.set(stored.subarray(from, to), at);
    });
  }

  write(addr: number, from_bytes: Uint8Array, len_bytes: number): void {
    this.#visit(addr, len_bytes, (page, from, _, at) => {
      const part = from_bytes.subarray(at, Math.min(len_bytes, at + PAGE_BYTES - from));
      this.#pageFor(page).set(part, from);
    });
  }

  copy(to_addr: number, from_addr: number, len_bytes: number): void {
    const bytes = new Uint8Array(len_bytes);
    this.read(from_addr, bytes, len_bytes);
    this.write(to_addr, bytes, len_bytes);
  }

  crc32c(addr: number, len_bytes: number): number {
    let is_changed = false;
    this.#visit(addr, len_bytes, (page) => is_changed ||= this.#pages.has(page));
    if (!is_changed) return this.#base.crc32c(addr, len_bytes);
    const bytes = new Uint8Array(len_bytes);
    this.read(addr, bytes, len_bytes);
    return crc32c(bytes, 0, len_bytes);
  }

  aim(): void {}
  persist(): void {}
  persistSummed(addr: number, len_bytes: number): number {
    return this.crc32c(addr, len_bytes);
  }
  barrier(): boolean {
    return true;
  }
  barrierSync(): void {}

  /**
   * Stores it all, and makes it durable: what the log and the segments say first, then the structures that lead to them, the superblock
   * last. So what is cut short is found as damaged as before. Throws when the medium failed.
   */
  apply(): void {
    const pages = [...this.#pages.keys()].sort((a, b) => b - a);
    for (const page of pages) {
      const addr = page * PAGE_BYTES;
      if (addr < SEGMENTS_ADDR) this.#base.barrierSync();
      this.#base.write(addr, this.#pages.get(page)!, PAGE_BYTES);
      this.#base.persist(addr, PAGE_BYTES);
    }
    this.#base.barrierSync();
    this.#pages.clear();
  }

  #pageFor(page: number): Uint8Array {
    let bytes = this.#pages.get(page);
    if (bytes === undefined) {
      bytes = new Uint8Array(PAGE_BYTES);
      this.#base.read(page * PAGE_BYTES, bytes, PAGE_BYTES);
      this.#pages.set(page, bytes);
    }
    return bytes;
  }

  /** Calls for each page of a range: its number, the part of it, and how far into the range that is. */
  #visit(
    addr: number,
    len_bytes: number,
    visit: (page: number, from: number, to: number, at: number) => void,
  ): void {
    assert(addr >= 0 && addr + len_bytes <= this.cache_bytes, "inside the cache device");
    for (let at = 0; at < len_bytes;) {
      const from = (addr + at) % PAGE_BYTES;
      const to = Math.min(PAGE_BYTES, from + len_bytes - at);
      visit(Math.floor((addr + at) / PAGE_BYTES), from, to, at);
      at += to - from;
    }
  }
}

/**
 * A machine for the engine alone: nothing is checked, nothing moves, nothing is waited for.
 *
 * Data bytes do not exist: whatever the engine stores with `write` (ksets, slots) is kept in chunks that appear when
 * they are first stored to, and copies and checksums of data are not done. So a cache of 100 GiB with ten million
 * extents takes what its log takes, and what is measured is the engine and not the memory's bandwidth.
 *
 * @module
 */

import type { Backing, Gather, Memory } from "../core/platform.ts";

const CHUNK_BYTES = 64 * 1024;
const CHUNK_WORDS = CHUNK_BYTES / 4;
const BUFFER_BYTES = 64 * 1024 * 1024;

/** A cache device of any size, of which only the metadata is kept. It allocates nothing but its chunks. */
export class ScratchMemory implements Memory {
  readonly cache_bytes: number;
  readonly buffer_addr: number;
  readonly buffer_bytes: number = BUFFER_BYTES;
  readonly barrier_is_cheap = true;
  readonly #chunks: (Uint32Array | undefined)[];
  /** Chunks that are not stored to yet: `reserve`. */
  #spare: Uint32Array[] = [];
  /** The engine's own arrays, of which there are few, as words. */
  readonly #words = new Map<Uint8Array, Uint32Array>();

  constructor(cache_bytes: number) {
    this.cache_bytes = cache_bytes;
    this.buffer_addr = Math.ceil(cache_bytes / 4096) * 4096;
    this.#chunks = new Array(Math.ceil(cache_bytes / CHUNK_BYTES)).fill(undefined);
  }

  /** Memory held by the chunks. */
  get kept_bytes(): number {
    return this.#chunks.filter((chunk) => chunk !== undefined).length * CHUNK_BYTES;
  }

  /**
   * Makes the chunks for the next so many stored bytes now. V8 puts `write` into the engine's functions where it can: a chunk that
   * appears there would be counted as the engine's.
   */
  reserve(len_bytes: number): void {
    const count = Math.ceil(len_bytes / CHUNK_BYTES);
    this.#spare = Array.from({ length: count }, () => new Uint32Array(CHUNK_WORDS));
  }

  read(addr: number, into: Uint8Array, len_bytes: number): void {
    const words = this.#wordsOf(into);
    let chunk = this.#chunks[Math.floor(addr / CHUNK_BYTES)];
    let at = (addr % CHUNK_BYTES) / 4;
    for (let i = 0; i < len_bytes / 4; i++, at++) {
      if (at === CHUNK_WORDS) {
        chunk = this.#chunks[Math.floor((addr + i * 4) / CHUNK_BYTES)];
        at = 0;
      }
      words[i] = chunk === undefined ? 0 : chunk[at]!;
    }
  }

  write(addr: number, from: Uint8Array, len_bytes: number): void {
    const words = this.#wordsOf(from);
    let chunk = this.#chunkAt(addr);
    let at = (addr % CHUNK_BYTES) / 4;
    for (let i = 0; i < len_bytes / 4; i++, at++) {
      if (at === CHUNK_WORDS) {
        chunk = this.#chunkAt(addr + i * 4);
        at = 0;
      }
      chunk[at] = words[i]!;
    }
  }

  copy(): void {}

  /**
   * A number of 32 bits that depends on the range alone, so it is always right, and as large as a checksum is. So short that V8 always
   * inlines it: an address that is handed to a function that is not is an object, which would be counted as the engine's.
   */
  crc32c(addr: number): number {
    return Math.imul(addr, 0x9e3779b1) >>> 0;
  }

  aim(): void {}

  persist(): void {}

  persistSummed(addr: number): number {
    return this.crc32c(addr);
  }

  barrier(): boolean {
    return true;
  }

  barrierSync(): void {}

  #chunkAt(addr: number): Uint32Array {
    return this.#chunks[Math.floor(addr / CHUNK_BYTES)] ??= this.#spare.pop() ??
      new Uint32Array(CHUNK_WORDS);
  }

  #wordsOf(bytes: Uint8Array): Uint32Array {
    let words = this.#words.get(bytes);
    if (words === undefined) {
      words = new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length >>> 2);
      this.#words.set(bytes, words);
    }
    return words;
  }
}

/** A backing device whose requests end as soon as they are asked for. */
export class InstantBacking implements Backing {
  readonly size_bytes: number;
  reads = 0;
  writes = 0;
  written_bytes = 0;
  readonly #ended = new Int32Array(1024);
  #count = 0;

  constructor(size_bytes: number) {
    this.size_bytes = size_bytes;
  }

  read(id: number): void {
    this.reads++;
    this.#end(id);
  }

  write(id: number, _off_bytes: number, len_bytes: number, _from: Gather): void {
    this.writes++;
    this.written_bytes += len_bytes;
    this.#end(id);
  }

  canZero(): boolean {
    return true;
  }

  zero(id: number): void {
    this.#end(id);
  }

  flush(id: number): void {
    this.#end(id);
  }

  /** The next request that has ended; -1: none. */
  take(): number {
    return this.#count === 0 ? -1 : this.#ended[--this.#count]!;
  }

  #end(id: number): void {
    this.#ended[this.#count++] = id;
  }
}

/**
 * A cache device that no device process serves, opened for a tool of its own.
 *
 * @module
 */

import { assert } from "../core/assert.ts";
import type { Memory } from "../core/platform.ts";
import { Arena } from "./arena.ts";
import { checkNotAwaited } from "./awaited_cache.ts";
import { closeDevice, openDevice } from "./files.ts";
import { Medium } from "./medium.ts";
import { openRing } from "./ring.ts";
import { findRunRoot } from "./run_dir.ts";

/** Bytes are read into a buffer before they are summed: the longest key. */
const BUFFER_BYTES = 4 * 1024 * 1024;
const RING_ENTRIES = 8;
const RING_BYTES = 1024 * 1024;

/** An open cache device. It is locked: nobody else can use it before it is closed. */
export class OfflineCache implements Disposable {
  readonly path: string;
  /** Writes nothing before `prepare`. */
  readonly memory: Memory;
  readonly #medium: Medium;
  readonly #cleanup: DisposableStack;

  /** Throws `CacheError` when it cannot be opened, or is in use. */
  constructor(path: string) {
    using cleanup = new DisposableStack();
    const file = openDevice("cache", path);
    cleanup.defer(() => closeDevice(file));
    const arena = new Arena({
      cache_bytes: file.size_bytes,
      buffer_bytes: BUFFER_BYTES,
      io_bytes: RING_BYTES,
    });
    cleanup.defer(() => arena.close());
    const ring = openRing(arena, RING_ENTRIES);
    cleanup.defer(() => ring.close());
    this.path = path;
    this.#medium = new Medium(arena, file, ring, 0);
    this.memory = new ReadMemory(this.#medium, arena);
    this.#cleanup = cleanup.move();
  }

  /** From now on it may be written to. Throws `CacheError` when a block device waits for it, or there is no space for all of it. */
  prepare(): void {
    checkNotAwaited(findRunRoot(), this.path, null);
    this.#medium.prepare();
  }

  [Symbol.dispose](): void {
    this.#cleanup.dispose();
  }
}

/**
 * The cache device, of which also data is read by system calls: a damaged page is an error then, and does not kill the tool that is to find
 * it.
 */
class ReadMemory implements Memory {
  readonly cache_bytes: number;
  readonly buffer_addr: number;
  readonly buffer_bytes: number;
  readonly barrier_is_cheap: boolean;
  readonly #medium: Medium;
  readonly #buffer: Uint8Array;

  constructor(medium: Medium, arena: Arena) {
    this.cache_bytes = medium.cache_bytes;
    this.buffer_addr = medium.buffer_addr;
    this.buffer_bytes = medium.buffer_bytes;
    this.barrier_is_cheap = medium.barrier_is_cheap;
    this.#medium = medium;
    this.#buffer = arena.bytes.subarray(arena.buffer_addr, arena.buffer_addr + arena.buffer_bytes);
  }

  read(addr: number, into: Uint8Array, len_bytes: number): void {
    this.#medium.read(addr, into, len_bytes);
  }

  crc32c(addr: number, len_bytes: number): number {
    assert(len_bytes <= BUFFER_BYTES, "a key fits into the buffer");
    this.#medium.read(addr, this.#buffer, len_bytes);
    return this.#medium.crc32c(this.buffer_addr, len_bytes);
  }

  write(addr: number, from: Uint8Array, len_bytes: number): void {
    this.#medium.write(addr, from, len_bytes);
  }

  copy(to_addr: number, from_addr: number, len_bytes: number): void {
    this.#medium.copy(to_addr, from_addr, len_bytes);
  }

  aim(from_addr: number, to_addr: number, end_addr: number): void {
    this.#medium.aim(from_addr, to_addr, end_addr);
  }

  persist(addr: number, len_bytes: number): void {
    this.#medium.persist(addr, len_bytes);
  }

  persistSummed(addr: number, len_bytes: number): number {
    return this.#medium.persistSummed(addr, len_bytes);
  }

  barrier(): boolean {
    return this.#medium.barrier();
  }

  barrierSync(): void {
    this.#medium.barrierSync();
  }
}

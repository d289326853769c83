/**
 * The arena: one reserved stretch of virtual memory, seen as one `ArrayBuffer`, in which everything lies that
 * bytes move between. An address (`addr`) is an offset into it, a plain number:
 *
 *   [0, cache_bytes)                the cache device, mapped; it may grow over the addresses behind it, as far as the next area
 *   [buffer_addr, + buffer_bytes)   the engine's transfer buffers
 *   [io_addr, + io_bytes)           what io itself needs: receive buffers, reply headers, iovecs; given out by `alloc`
 *
 * So a copy is `bytes.copyWithin(to, from, from + len)`, with no FFI call and no allocation, and the kernel is given
 * base + addr, written as two 32-bit words. The base is aligned for huge pages and for device DAX.
 *
 * Reserved memory costs nothing until it is touched.
 *
 * @module
 */

import { assert } from "../core/assert.ts";
import { CacheError } from "../core/errors.ts";
import { ERRNO, errorText, libc } from "./libc.ts";

const PAGE_BYTES = 4096;
const HUGE_BYTES = 2 * 1024 * 1024;
/** One `ArrayBuffer` of this size was measured to work; more than this is refused. */
const MAX_ARENA_BYTES = 2 ** 40;
/** Room that a cache device of the largest size leaves for buffers. */
const SLACK_BYTES = 2 ** 32;
/** Largest cache device that can be mapped. */
export const MAX_CACHE_BYTES = MAX_ARENA_BYTES - SLACK_BYTES;

const PROT_NONE = 0;
const PROT_READ_WRITE = 3;
const MAP_SHARED = 0x01;
const MAP_PRIVATE = 0x02;
const MAP_SHARED_VALIDATE = 0x03;
const MAP_FIXED = 0x10;
const MAP_ANONYMOUS = 0x20;
const MAP_NORESERVE = 0x4000;
const MAP_SYNC = 0x80000;
const MADV_DONTNEED = 4;
/** What mmap returns on failure: (void *) -1. */
const MAP_FAILED = 2n ** 64n - 1n;

/** What an arena is to hold. */
export interface ArenaOptions {
  /** Size of the cache device; 0 for none. */
  cache_bytes: number;
  /** Addresses to be kept for the cache device: more than it has, for one that may grow. `cache_bytes` if left out. */
  room_bytes?: number;
  /** Size of the engine's transfer buffers. */
  buffer_bytes: number;
  /** Size of what `alloc` gives out. */
  io_bytes: number;
}

function roundUp(n: number, unit: number): number {
  return Math.ceil(n / unit) * unit;
}

/** Maps, and returns the address as a bigint, or the negated error number. */
function map(
  at: bigint,
  len_bytes: number,
  protection: number,
  flags: number,
  fd: number,
  off_bytes = 0,
): bigint {
  const pointer = libc.mmap(at, BigInt(len_bytes), protection, flags, fd, BigInt(off_bytes));
  const error = ERRNO[0];
  const address = Deno.UnsafePointer.value(pointer);
  return BigInt.asUintN(64, BigInt(address)) === MAP_FAILED ? -BigInt(error) : BigInt(address);
}

/** The process's memory for one device. See the module's description. */
export class Arena {
  /** The whole arena. Touching a byte outside what is mapped kills the process: check addresses first. */
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** Size of the cache device, as it is mapped. */
  cache_bytes: number;
  /** First address of the transfer buffers; a multiple of 2 MiB. The cache device cannot grow over it. */
  readonly buffer_addr: number;
  readonly buffer_bytes: number;
  /** First address of io's own area, and where `alloc` goes on. */
  readonly io_addr: number;
  readonly io_bytes: number;
  #next_addr: number;
  readonly #base: number;
  readonly #reserved_at: bigint;
  readonly #reserved_bytes: number;
  readonly #absolute_words = new Uint32Array(2);
  readonly #absolute = new BigUint64Array(this.#absolute_words.buffer);

  /**
   * Reserves the arena and makes its buffers usable. The cache device is mapped later, by `mapCache`.
   *
   * @throws CacheError when the cache device is too large or the system has no memory for the buffers
   */
  constructor(options: ArenaOptions) {
    const { cache_bytes, room_bytes = cache_bytes } = options;
    if (cache_bytes > MAX_CACHE_BYTES) {
      throw new CacheError(
        `cache device: ${cache_bytes} bytes: at most ${MAX_CACHE_BYTES} bytes can be mapped`,
      );
    }
    this.cache_bytes = cache_bytes;
    this.buffer_addr = roundUp(Math.min(room_bytes, MAX_CACHE_BYTES), HUGE_BYTES);
    this.buffer_bytes = roundUp(options.buffer_bytes, PAGE_BYTES);
    this.io_addr = this.buffer_addr + this.buffer_bytes;
    this.io_bytes = roundUp(options.io_bytes, PAGE_BYTES);
    const total_bytes = this.io_addr + this.io_bytes;
    assert(total_bytes <= MAX_ARENA_BYTES, `arena of ${total_bytes} bytes: buffers over the slack`);
    this.#next_addr = this.io_addr;

    this.#reserved_bytes = total_bytes + HUGE_BYTES;
    this.#reserved_at = map(
      0n,
      this.#reserved_bytes,
      PROT_NONE,
      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
      -1,
    );
    if (this.#reserved_at < 0n) {
      throw new CacheError(
        `arena: ${this.#reserved_bytes} bytes of address space: ${
          errorText(-Number(this.#reserved_at))
        }`,
      );
    }
    this.#base = roundUp(Number(this.#reserved_at), HUGE_BYTES);
    const own_bytes = total_bytes - this.buffer_addr;
    if (own_bytes > 0) {
      const own = map(
        BigInt(this.#base + this.buffer_addr),
        own_bytes,
        PROT_READ_WRITE,
        MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
        -1,
      );
      if (own < 0n) {
        this.close();
        throw new CacheError(`arena: ${own_bytes} bytes of buffers: ${errorText(-Number(own))}`);
      }
    }
    const pointer = Deno.UnsafePointer.create(BigInt(this.#base))!;
    this.bytes = new Uint8Array(Deno.UnsafePointerView.getArrayBuffer(pointer, total_bytes));
  }

  /**
   * Maps the cache device to address 0. With `sync` the mapping guarantees that a flushed cache line is durable
   * (MAP_SYNC, DAX only).
   *
   * @returns 0 or an error number
   */
  mapCache(fd: number, sync: boolean): number {
    assert(this.cache_bytes > 0, "mapCache: the arena was made without a cache");
    const flags = MAP_FIXED | (sync ? MAP_SHARED_VALIDATE | MAP_SYNC : MAP_SHARED);
    const at = map(BigInt(this.#base), this.cache_bytes, PROT_READ_WRITE, flags, fd);
    return at < 0n ? -Number(at) : 0;
  }

  /**
   * Maps what the cache device has gained behind what is mapped, which stays as it is. There is room for it.
   *
   * @returns 0 or an error number
   */
  growCache(fd: number, sync: boolean, cache_bytes: number): number {
    assert(
      cache_bytes >= this.cache_bytes && cache_bytes <= this.buffer_addr,
      "growCache: it is larger, and there is room",
    );
    const from_bytes = this.cache_bytes - this.cache_bytes % PAGE_BYTES;
    const flags = MAP_FIXED | (sync ? MAP_SHARED_VALIDATE | MAP_SYNC : MAP_SHARED);
    const at_addr = BigInt(this.#base + from_bytes);
    const len_bytes = cache_bytes - from_bytes;
    const at = map(at_addr, len_bytes, PROT_READ_WRITE, flags, fd, from_bytes);
    if (at < 0n) return -Number(at);
    this.cache_bytes = cache_bytes;
    return 0;
  }

  /** Takes the cache device out again; what was mapped there must not be touched any more. */
  unmapCache(): void {
    const flags = MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    const at = map(BigInt(this.#base), this.cache_bytes, PROT_NONE, flags, -1);
    assert(at >= 0n, "unmapCache: no address space is taken, it cannot fail");
  }

  /** A piece of io's own area, zeroed, for good. `align_bytes` is a power of two up to 4096. */
  alloc(len_bytes: number, align_bytes = 64): number {
    const addr = roundUp(this.#next_addr, align_bytes);
    assert(
      addr + len_bytes <= this.io_addr + this.io_bytes,
      `arena: ${len_bytes} bytes asked for, ${this.io_addr + this.io_bytes - addr} left`,
    );
    this.#next_addr = addr + len_bytes;
    return addr;
  }

  /** Gives the pages of a piece of io's own area back to the system; it reads as zeroes until it is written again. */
  discard(addr: number, len_bytes: number): void {
    assert(
      addr >= this.io_addr && addr % PAGE_BYTES === 0,
      "discard: pages of io's own are wanted",
    );
    const end_addr = addr + roundUp(len_bytes, PAGE_BYTES);
    libc.madvise(this.absolute(addr), BigInt(end_addr - addr), MADV_DONTNEED);
  }

  /** A view of 32-bit words over a part of the arena: for iovecs, headers, SQEs. Make it once and keep it. */
  words(addr: number, len_bytes: number): Uint32Array<ArrayBuffer> {
    return new Uint32Array(this.bytes.buffer, addr, len_bytes / 4);
  }

  /** Writes the absolute address of `addr` into two words, at `index` and after. */
  putAddress(words: Uint32Array, index: number, addr: number): void {
    const absolute = this.#base + addr;
    words[index] = absolute >>> 0;
    words[index + 1] = absolute / 4294967296;
  }

  /** The absolute address of `addr` as a number. */
  address(addr: number): number {
    return this.#base + addr;
  }

  /** The absolute address of `addr`, only to be passed straight to a `u64` parameter (libc.ts says why). */
  absolute(addr: number): bigint {
    const absolute = this.#base + addr;
    this.#absolute_words[0] = absolute >>> 0;
    this.#absolute_words[1] = absolute / 4294967296;
    return this.#absolute[0]!;
  }

  /** Unmaps everything. Nothing may touch `bytes` or a view of it afterwards: that kills the process. */
  close(): void {
    libc.munmap(this.#reserved_at, BigInt(this.#reserved_bytes));
  }
}

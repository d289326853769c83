/**
 * A `struct msghdr` with its `struct iovec`s in the arena, for x86-64 and every other 64-bit little-endian Linux.
 *
 * Invariants:
 * - `count` ranges are listed; the ones before `first` have been transferred.
 * - The message header always points at range `first`.
 *
 * @module
 */

import { assert } from "../../core/assert.ts";
import type { NbdArena } from "./ports.ts";

/** struct msghdr: name 8, namelen 4 + 4, iov 8, iovlen 8, control 8, controllen 8, flags 4 + 4. */
const MSGHDR_BYTES = 64;
const IOV_BYTES = 16;
const IOV_WORDS = IOV_BYTES / 4;
const MSG_IOV_WORD = 4;
const MSG_IOVLEN_WORD = 6;

export class Iovecs {
  /** Address of the message header, for `recvmsg` and `sendmsg`. */
  readonly msghdr_addr: number;
  /** The absolute one. */
  readonly msghdr: bigint;
  readonly limit: number;
  count = 0;
  /** Bytes that are still to be transferred. */
  left_bytes = 0;
  #first = 0;
  /** Address right after the last range, to join neighbours. */
  #end_addr = -1;
  readonly #arena: NbdArena;
  readonly #iov_addr: number;
  readonly #msghdr: Uint32Array;
  readonly #iovecs: Uint32Array;

  /** Bytes of arena memory that `limit` ranges need. */
  static sizeBytes(limit: number): number {
    return MSGHDR_BYTES + limit * IOV_BYTES;
  }

  constructor(arena: NbdArena, addr: number, limit: number) {
    this.#arena = arena;
    this.limit = limit;
    this.msghdr_addr = addr;
    this.msghdr = arena.absolute(addr);
    this.#iov_addr = addr + MSGHDR_BYTES;
    const buffer = arena.bytes.buffer;
    this.#msghdr = new Uint32Array(buffer, addr, MSGHDR_BYTES / 4);
    this.#iovecs = new Uint32Array(buffer, this.#iov_addr, limit * IOV_WORDS);
  }

  /** The first range that is left; they end before `count`. */
  get first(): number {
    return this.#first;
  }

  /** Absolute address of a range. */
  address(index: number): number {
    const at = index * IOV_WORDS;
    return this.#iovecs[at]! + this.#iovecs[at + 1]! * 4294967296;
  }

  /** Bytes of a range. */
  len(index: number): number {
    return this.#iovecs[index * IOV_WORDS + 2]!;
  }

  clear(): void {
    this.count = 0;
    this.left_bytes = 0;
    this.#first = 0;
    this.#end_addr = -1;
  }

  /** Adds a range; false when there is no room for it. Ranges that touch become one. */
  add(addr: number, len_bytes: number): boolean {
    const words = this.#iovecs;
    if (addr === this.#end_addr) {
      words[(this.count - 1) * IOV_WORDS + 2]! += len_bytes;
    } else {
      if (this.count === this.limit) return false;
      const at = this.count * IOV_WORDS;
      this.#arena.putAddress(words, at, addr);
      words[at + 2] = len_bytes;
      words[at + 3] = 0;
      this.count += 1;
    }
    this.#end_addr = addr + len_bytes;
    this.left_bytes += len_bytes;
    return true;
  }

  /** Makes the message header name the ranges that are left. */
  seal(): void {
    this.#arena.putAddress(this.#msghdr, MSG_IOV_WORD, this.#iov_addr + this.#first * IOV_BYTES);
    this.#msghdr[MSG_IOVLEN_WORD] = this.count - this.#first;
  }

  /** Takes note that `len_bytes` more were transferred. No range may be added after that. */
  advance(len_bytes: number): void {
    assert(len_bytes <= this.left_bytes, "more was transferred than asked for");
    this.left_bytes -= len_bytes;
    const words = this.#iovecs;
    for (let rest_bytes = len_bytes; rest_bytes > 0;) {
      const at = this.#first * IOV_WORDS;
      const range_bytes = words[at + 2]!;
      if (rest_bytes < range_bytes) {
        const low = words[at]! + rest_bytes;
        words[at] = low;
        if (low > 0xffffffff) words[at + 1]! += 1;
        words[at + 2] = range_bytes - rest_bytes;
        break;
      }
      rest_bytes -= range_bytes;
      this.#first += 1;
    }
    this.seal();
  }
}

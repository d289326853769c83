/**
 * A backing device that ends its requests when the test says so, in any order, and moves the bytes at the start
 * or at the end of a request, as a real one may.
 *
 * @module
 */

import { assert } from "../core/assert.ts";
import { type Backing, type Gather, MAX_BACKING_IDS, MAX_GATHER } from "../core/platform.ts";
import type { Random } from "./random.ts";

const SECTOR = 512;

/** One request under way. */
export interface SimRequest {
  readonly kind: "read" | "write" | "zero" | "flush";
  readonly id: number;
  readonly off: number;
  readonly len: number;
  /** Memory ranges, in order: [address, length]. */
  readonly ranges: readonly (readonly [number, number])[];
  readonly moved_early: boolean;
  /** A write of which the caller says that requests wait for it. */
  readonly is_aside: boolean;
  /** How it ends: 0, or an error number, with which it moves nothing. */
  readonly errno: number;
}

/** Decides, when a request starts, how it ends. */
export type Fault = (kind: SimRequest["kind"], off: number, len: number) => number;

/** A backing device over a byte array. */
export class SimBacking implements Backing {
  readonly size_bytes: number;
  readonly pending: SimRequest[] = [];
  /** Counts of requests ended, by kind. */
  readonly ended = { read: 0, write: 0, zero: 0, flush: 0 };
  /** Set to false to make it one that cannot zero. */
  can_zero = true;
  /** Set to make requests fail. */
  fault: Fault = () => 0;

  constructor(
    readonly bytes: Uint8Array,
    readonly memory_bytes: Uint8Array,
    readonly random: Random,
  ) {
    this.size_bytes = bytes.length;
  }

  read(id: number, off_bytes: number, len_bytes: number, to_addr: number): void {
    this.#start("read", id, off_bytes, len_bytes, [[to_addr, len_bytes]]);
  }

  write(id: number, off_bytes: number, len_bytes: number, from: Gather, is_aside = false): void {
    assert(from.count >= 1 && from.count <= MAX_GATHER, `backing write of ${from.count} ranges`);
    const ranges: [number, number][] = [];
    let total = 0;
    for (let i = 0; i < from.count; i++) {
      ranges.push([from.addr(i), from.len(i)]);
      total += from.len(i);
    }
    assert(total === len_bytes, `backing write: ranges hold ${total} bytes, not ${len_bytes}`);
    this.#checkApart(off_bytes, len_bytes);
    this.#start("write", id, off_bytes, len_bytes, ranges, is_aside);
  }

  canZero(_off_bytes: number, _len_bytes: number, _may_punch: boolean): boolean {
    return this.can_zero;
  }

  zero(id: number, off_bytes: number, len_bytes: number, _may_punch: boolean): void {
    this.#checkApart(off_bytes, len_bytes);
    this.#start("zero", id, off_bytes, len_bytes, []);
  }

  #checkApart(off_bytes: number, len_bytes: number): void {
    for (const other of this.pending) {
      const apart = off_bytes + len_bytes <= other.off || other.off + other.len <= off_bytes;
      assert(
        apart || (other.kind !== "write" && other.kind !== "zero"),
        `backing writes at ${off_bytes} and ${other.off} overlap while both are under way`,
      );
    }
  }

  flush(id: number): void {
    this.#start("flush", id, 0, 0, []);
  }

  #start(
    kind: SimRequest["kind"],
    id: number,
    off: number,
    len: number,
    ranges: [number, number][],
    is_aside = false,
  ): void {
    assert(Number.isInteger(id) && id >= 0 && id < MAX_BACKING_IDS, `backing request id ${id}`);
    assert(this.pending.every((other) => other.id !== id), `backing request id ${id} is in use`);
    assert(off % SECTOR === 0 && len % SECTOR === 0, `backing ${kind} of ${len} bytes at ${off}`);
    assert(kind === "flush" || len > 0, `backing ${kind} of no byte`);
    assert(off >= 0 && off + len <= this.size_bytes, `backing ${kind} of ${len} bytes at ${off}`);
    for (const [addr, bytes] of ranges) {
      assert(
        addr >= 0 && bytes > 0 && addr + bytes <= this.memory_bytes.length,
        `backing ${kind}: memory range ${addr}+${bytes}`,
      );
    }
    const errno = this.fault(kind, off, len);
    const moved_early = kind !== "flush" && errno === 0 && this.random.chance(0.5);
    const request: SimRequest = { kind, id, off, len, ranges, moved_early, is_aside, errno };
    this.pending.push(request);
    if (moved_early) this.move(request);
  }

  /** The request's bytes move. */
  protected move(request: SimRequest): void {
    let at = request.off;
    if (request.kind === "zero") this.bytes.fill(0, at, at + request.len);
    for (const [addr, len] of request.ranges) {
      if (request.kind === "read") this.memory_bytes.set(this.bytes.subarray(at, at + len), addr);
      else this.bytes.set(this.memory_bytes.subarray(addr, addr + len), at);
      at += len;
    }
  }

  /** Ends one request, chosen at random, and reports it. False when none is under way. */
  endOne(done: (id: number, errno: number) => void): boolean {
    if (this.pending.length === 0) return false;
    const index = this.random.below(this.pending.length);
    const request = this.pending[index]!;
    this.pending[index] = this.pending.at(-1)!;
    this.pending.pop();
    if (request.errno === 0 && !request.moved_early) this.move(request);
    this.ended[request.kind]++;
    this.end(request);
    done(request.id, request.errno);
    return true;
  }

  /** The request has ended, and is about to be reported. */
  protected end(_request: SimRequest): void {}

  /** The engine is gone: what it had under way ends or not, each by chance, and is reported to nobody. */
  abandon(): void {
    for (const request of this.pending) {
      const is_write = request.kind === "write" || request.kind === "zero";
      const may_move = is_write && request.errno === 0 && !request.moved_early;
      if (may_move && this.random.chance(0.5)) this.move(request);
    }
    this.pending.length = 0;
  }
}

/**
 * Requests and their pieces, as rows of typed arrays.
 *
 * A request is cut into pieces: memory ranges that its bytes come from (a read) or go to (a write), linked in the
 * order of the request's bytes. Piece and request numbers are reused; -1 ends a list.
 *
 * Invariants:
 * - a piece of a read pins the segment it lies in, or holds a reference on the fill whose buffer it lies in;
 * - a piece of a write pins the segment it lies in until its key is in the log's staging area;
 * - a request in a queue is in exactly one, linked by `next`.
 *
 * @module
 */

import { SlotPool } from "./slot_pool.ts";

/** Most requests under way at once. */
export const MAX_REQUESTS = 4096;
/** Most pieces: a read of 32 MiB may be cut at every sector, several such at once wait for each other. */
export const MAX_PIECES = 1 << 18;
/** Longest request, in bytes (announced as NBD's maximum block size). */
export const MAX_REQUEST_BYTES = 32 * 1024 * 1024;
/** Longest zeroing, in bytes. It has no payload, and is done a part at a time. */
export const MAX_ZERO_BYTES = 2 ** 32 - 1;

export const READ = 1;
export const WRITE = 2;
export const FLUSH = 3;
/** Zeroing that the backing device must keep allocated. */
export const ZERO = 4;
/** Zeroing for which it may punch holes. */
export const TRIM = 5;

/** Waits for space, buffers or pieces. */
export const WAITING = 1;
/** A write whose space is taken, which the caller has not been told yet. */
export const PLACED = 2;
/** A write whose payload is on its way. */
export const RECEIVING = 3;
/** Waits for fills, or for the log. */
export const PENDING = 4;
/** Its answer is known. */
export const ANSWERED = 5;
/** Its client vanished while it was in a queue: freed when its turn comes. */
export const ABANDONED = 6;

// V8 folds a constant into compiled code only if the module keeps it to itself.
const IS_WAITING = WAITING;

/** The request table. Every field is read and written by number: `requests.error[slot]`. */
export class Requests {
  readonly pool: SlotPool;
  readonly kind: Uint8Array;
  readonly state: Uint8Array;
  readonly fua: Uint8Array;
  readonly error: Uint8Array;
  /** A read whose misses are not kept (`streams.ts`). */
  readonly passes: Uint8Array;
  readonly off_bytes: Float64Array;
  readonly len_bytes: Uint32Array;
  /** How many fills are still to come before it can go on; set by who waits. */
  readonly waits: Uint32Array;
  /** The log must be durable up to here before the answer; set by who waits. */
  readonly log_target: Float64Array;
  /** Write-back must be so far, and the backing device's flush of this number have ended; set by who waits (`flushes.ts`). */
  readonly write_target: Float64Array;
  readonly backing_flush: Float64Array;
  /** How many flushes of the backing device had failed when the wait began. */
  readonly flush_failures: Float64Array;
  readonly first_piece: Int32Array;
  readonly last_piece: Int32Array;
  readonly next: Int32Array;

  constructor(most: number = MAX_REQUESTS) {
    this.pool = new SlotPool(most);
    this.kind = new Uint8Array(most);
    this.state = new Uint8Array(most);
    this.fua = new Uint8Array(most);
    this.error = new Uint8Array(most);
    this.passes = new Uint8Array(most);
    this.off_bytes = new Float64Array(most);
    this.len_bytes = new Uint32Array(most);
    this.waits = new Uint32Array(most);
    this.log_target = new Float64Array(most);
    this.write_target = new Float64Array(most);
    this.backing_flush = new Float64Array(most);
    this.flush_failures = new Float64Array(most);
    this.first_piece = new Int32Array(most);
    this.last_piece = new Int32Array(most);
    this.next = new Int32Array(most);
  }

  /** A fresh row; -1 when all are in use. */
  take(kind: number, off_bytes: number, len_bytes: number, fua: boolean): number {
    const slot = this.pool.take();
    if (slot < 0) return -1;
    this.kind[slot] = kind;
    this.state[slot] = IS_WAITING;
    this.fua[slot] = fua ? 1 : 0;
    this.error[slot] = 0;
    this.off_bytes[slot] = off_bytes;
    this.len_bytes[slot] = len_bytes;
    this.first_piece[slot] = -1;
    this.last_piece[slot] = -1;
    return slot;
  }
}

/** The pieces of all requests. */
export class Pieces {
  readonly pool: SlotPool;
  /** Where the bytes are, or go. */
  readonly addr: Float64Array;
  readonly len_bytes: Uint32Array;
  readonly next: Int32Array;
  readonly request: Int32Array;
  /** The pinned segment, or -1. */
  readonly seg: Int32Array;
  /** The fill it waits for or lies in, or -1. */
  readonly fill: Int32Array;
  /** The next piece that waits for the same fill; means something while it does. */
  readonly next_waiter: Int32Array;
  /** A write's key: first sector on the cached device, sectors (0 in a read), first sector in the data area of `seg`. */
  readonly sector: Float64Array;
  readonly sectors: Uint32Array;
  readonly place: Uint32Array;

  constructor(most: number = MAX_PIECES) {
    this.pool = new SlotPool(most);
    this.addr = new Float64Array(most);
    this.len_bytes = new Uint32Array(most);
    this.next = new Int32Array(most);
    this.request = new Int32Array(most);
    this.seg = new Int32Array(most);
    this.fill = new Int32Array(most);
    this.next_waiter = new Int32Array(most);
    this.sector = new Float64Array(most);
    this.sectors = new Uint32Array(most);
    this.place = new Uint32Array(most);
  }

  /**
   * Appends a new piece to the request's list; the caller has checked that one is available, and sets its `addr`. (An argument
   * with more than 31 bits would be an object to V8.)
   */
  append(requests: Requests, slot: number, len_bytes: number): number {
    const piece = this.pool.take();
    this.len_bytes[piece] = len_bytes;
    this.next[piece] = -1;
    this.request[piece] = slot;
    this.seg[piece] = -1;
    this.fill[piece] = -1;
    this.sectors[piece] = 0;
    const last = requests.last_piece[slot]!;
    if (last < 0) requests.first_piece[slot] = piece;
    else this.next[last] = piece;
    requests.last_piece[slot] = piece;
    return piece;
  }
}

/** Requests in order, linked through `Requests.next`. */
export class RequestQueue {
  readonly #requests: Requests;
  #first = -1;
  #last = -1;

  constructor(requests: Requests) {
    this.#requests = requests;
  }

  get is_empty(): boolean {
    return this.#first < 0;
  }

  /** The one whose turn it is; -1: none. */
  peek(): number {
    return this.#first;
  }

  push(slot: number): void {
    this.#requests.next[slot] = -1;
    if (this.#last < 0) this.#first = slot;
    else this.#requests.next[this.#last] = slot;
    this.#last = slot;
  }

  /** The one behind the first, for `dropFirst`. */
  afterFirst(): number {
    return this.#requests.next[this.#first]!;
  }

  /** Takes the first one off, which has been linked elsewhere since; `after` was behind it. */
  dropFirst(after: number): void {
    this.#first = after;
    if (after < 0) this.#last = -1;
  }

  /** Takes the first one; -1: none. */
  shift(): number {
    const slot = this.#first;
    if (slot < 0) return -1;
    this.#first = this.#requests.next[slot]!;
    if (this.#first < 0) this.#last = -1;
    return slot;
  }
}

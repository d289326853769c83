/**
 * The requests of a block device, between the driver and the engine.
 *
 *   fetching -> waiting -> engine -> copying -> fetching     reads: bytes go out when the engine has answered
 *   fetching -> waiting -> engine -> copying -> engine -> fetching     writes: bytes come in when their place is known
 *   fetching -> gone                                         the device is stopped
 *
 * Invariants:
 * - Every tag has one command in the ring while it is `fetching`; the driver ends it with a request, or with ENODEV.
 * - A tag's descriptor is the driver's own memory and stays as it is until the request has been committed.
 * - Bytes go between the request and the cache device without a stop (USER_COPY): a copy is a readv or writev on the
 *   character device whose ranges are the engine's pieces.
 *
 * @module
 */

import { assert } from "../../core/assert.ts";
import { EIO } from "../../core/errors.ts";
import type { Arena } from "../arena.ts";
import type { Held } from "../frontend.ts";
import { EAGAIN, EINTR } from "../libc.ts";
import type { RequestEngine } from "../request_engine.ts";
import { KIND_UBLK_COPY, KIND_UBLK_REQUEST, tokenOf } from "../tokens.ts";
import type { UringRing } from "../uring.ts";
import * as ublk from "./protocol.ts";
import { type Served, validateRequest } from "./request.ts";

// Own names for what every request needs: V8 folds a module's constants into its code, and loads and checks imported ones.
const OP_READ = ublk.OP_READ;
const OP_WRITE = ublk.OP_WRITE;
const OP_FLUSH = ublk.OP_FLUSH;
const OP_DISCARD = ublk.OP_DISCARD;
const OP_MASK = ublk.OP_MASK;
const FLAG_FUA = ublk.FLAG_FUA;
const FLAG_NOUNMAP = ublk.FLAG_NOUNMAP;
const COMMIT_AND_FETCH = ublk.IO_COMMIT_AND_FETCH;
const DESC_WORDS = ublk.DESC_BYTES / 4;
const REQUEST_USER = tokenOf(KIND_UBLK_REQUEST);
const COPY_USER = tokenOf(KIND_UBLK_COPY);
const SECTOR_BYTES = 512;
const WORD = 4294967296;

/** Ranges of one copy; a request of more pieces takes several. */
const MAX_IOVECS = 32;
const IOVEC_BYTES = 16;
const IOVEC_WORDS = 4;
const NO_SLOT = -1;
/** The driver's word that a device is stopped, or is let go by its server. */
const ENODEV = 19;

/** What a queue's commands need. */
export type QueueRing = Pick<UringRing, "command" | "readv" | "writev">;
export type QueueArena = Pick<Arena, "alloc" | "words" | "putAddress">;

export interface QueuesOptions {
  readonly arena: QueueArena;
  readonly ring: QueueRing;
  readonly engine: RequestEngine;
  readonly served: Served;
  /** The character device, and what is mapped of it: descriptors of each queue. */
  readonly target: {
    readonly fd: number;
    readonly depth: number;
    readonly descriptors: readonly Uint32Array[];
  };
}

/** Most tags of all queues. */
export const MAX_TAGS = 256;

/** All queues of one device, on one ring. A `tag` is a number over all of them. */
export class Queues {
  /** Bytes of arena memory that they need. */
  static readonly ARENA_BYTES = MAX_TAGS * MAX_IOVECS * IOVEC_BYTES + 4096;

  /** What the driver ended a command with that is neither a request nor the device's end; 0: nothing. */
  failure = 0;
  readonly #ring: QueueRing;
  readonly #engine: RequestEngine;
  readonly #served: Served;
  readonly #arena: QueueArena;
  readonly #fd: number;
  readonly #tags: number;
  readonly #depth: number;
  readonly #descriptors: readonly Uint32Array[];
  readonly #iovecs: Uint32Array;
  readonly #iovecs_addr: number;

  readonly #slot: Int32Array;
  readonly #op: Uint8Array;
  readonly #len_bytes: Float64Array;
  /** How far a copy is: bytes of the request, and the piece it goes on in, and where in that. */
  readonly #done_bytes: Float64Array;
  readonly #piece: Int32Array;
  readonly #piece_done_bytes: Float64Array;
  readonly #tag_of_slot: Int32Array;
  /** Tags that wait for a slot or for the end of a suspension, in order. */
  readonly #waiting: Int32Array;
  #first_waiting = 0;
  #waiting_count = 0;
  #gone_count = 0;
  #in_engine = 0;
  #is_holding = false;
  #holds_answers = false;
  #fed = false;

  constructor(o: QueuesOptions) {
    const tags = o.target.depth * o.target.descriptors.length;
    assert(tags <= MAX_TAGS, `ublk: ${tags} tags, at most ${MAX_TAGS}`);
    this.#ring = o.ring;
    this.#engine = o.engine;
    this.#served = o.served;
    this.#arena = o.arena;
    this.#fd = o.target.fd;
    this.#tags = tags;
    this.#depth = o.target.depth;
    this.#descriptors = o.target.descriptors;
    const iovecs_bytes = tags * MAX_IOVECS * IOVEC_BYTES;
    this.#iovecs_addr = o.arena.alloc(iovecs_bytes);
    this.#iovecs = o.arena.words(this.#iovecs_addr, iovecs_bytes);
    this.#slot = new Int32Array(tags).fill(NO_SLOT);
    this.#op = new Uint8Array(tags);
    this.#len_bytes = new Float64Array(tags);
    this.#done_bytes = new Float64Array(tags);
    this.#piece = new Int32Array(tags);
    this.#piece_done_bytes = new Float64Array(tags);
    this.#tag_of_slot = new Int32Array(o.engine.max_requests);
    this.#waiting = new Int32Array(tags);
  }

  /** Asks the driver for requests. */
  start(): void {
    for (let tag = 0; tag < this.#tags; tag++) {
      this.#ring.command(REQUEST_USER + tag, this.#fd, ublk.IO_FETCH, this.#nameOf(tag), 0);
    }
  }

  /** Whether the driver has given up every tag: nothing of the character device is under way. */
  get is_gone(): boolean {
    return this.#gone_count === this.#tags;
  }

  /** Requests that the engine has, or whose bytes are being copied. */
  get unanswered_count(): number {
    return this.#in_engine;
  }

  /** As `NbdServer.hold`. */
  hold(what: Held): void {
    this.#is_holding = what !== null;
    this.#holds_answers = what === "requests and answers";
  }

  /** A command of a tag has ended: there is a request, or there will be none any more. */
  requested(tag: number, result: number): void {
    if (result === 0) return this.#wait(tag);
    this.#gone_count += 1;
    if (result !== -ENODEV) this.failure = -result;
  }

  /** A copy of a tag has ended, or a part of it. */
  copied(tag: number, result: number): void {
    if (result === -EINTR || result === -EAGAIN) return this.#copy(tag);
    if (result <= 0) return this.#copyFailed(tag);
    this.#advance(tag, result);
    if (this.#done_bytes[tag]! < this.#len_bytes[tag]!) return this.#copy(tag);
    const slot = this.#slot[tag]!;
    if (this.#op[tag] === OP_WRITE) {
      this.#fed = true;
      return this.#engine.payloadArrived(slot);
    }
    this.#commit(tag, this.#len_bytes[tag]!);
    this.#engine.release(slot);
  }

  /**
   * Hands on what the engine has placed and answered, and begins requests that wait; to be called before the engine is pumped, so that
   * what is answered leaves first, and right after. True: the engine has got more to do.
   */
  turn(): boolean {
    this.#takeWaiting();
    const engine = this.#engine;
    for (let slot = engine.takePlaced(); slot >= 0; slot = engine.takePlaced()) {
      this.#beginCopy(this.#tag_of_slot[slot]!, slot);
    }
    if (!this.#holds_answers) {
      for (let slot = engine.takeAnswered(); slot >= 0; slot = engine.takeAnswered()) {
        this.#answered(this.#tag_of_slot[slot]!, slot);
      }
    }
    const fed = this.#fed;
    this.#fed = false;
    return fed;
  }

  /** Queue and tag as the driver names them: `q_id` and `tag` of struct ublksrv_io_cmd. */
  #nameOf(tag: number): number {
    const queue = Math.floor(tag / this.#depth);
    return queue | ((tag - queue * this.#depth) << 16);
  }

  #wait(tag: number): void {
    this.#waiting[(this.#first_waiting + this.#waiting_count) % this.#tags] = tag;
    this.#waiting_count += 1;
  }

  #takeWaiting(): void {
    while (this.#waiting_count > 0 && !this.#is_holding) {
      if (!this.#begin(this.#waiting[this.#first_waiting]!)) return;
      this.#first_waiting = (this.#first_waiting + 1) % this.#tags;
      this.#waiting_count -= 1;
    }
  }

  /** Begins a request, or answers it when it is not valid. False: the engine has no slot for it now. */
  #begin(tag: number): boolean {
    const queue = Math.floor(tag / this.#depth);
    const descriptors = this.#descriptors[queue]!;
    const at = (tag - queue * this.#depth) * DESC_WORDS;
    const op_flags = descriptors[at + ublk.DESC_OP]!;
    const op = op_flags & OP_MASK;
    const start = descriptors[at + ublk.DESC_START]! +
      descriptors[at + ublk.DESC_START + 1]! * WORD;
    const off_bytes = start * SECTOR_BYTES;
    const len_bytes = descriptors[at + ublk.DESC_SECTORS]! * SECTOR_BYTES;
    const errno = validateRequest(op, off_bytes, len_bytes, this.#served);
    if (errno !== 0) {
      this.#fetchNext(tag, -errno);
      return true;
    }
    const slot = this.#beginInEngine(op, op_flags, off_bytes, len_bytes);
    if (slot < 0) return false;
    this.#slot[tag] = slot;
    this.#op[tag] = op;
    this.#len_bytes[tag] = len_bytes;
    this.#tag_of_slot[slot] = tag;
    this.#in_engine += 1;
    this.#fed = true;
    return true;
  }

  #beginInEngine(op: number, op_flags: number, off_bytes: number, len_bytes: number): number {
    const fua = (op_flags & FLAG_FUA) !== 0;
    switch (op) {
      case OP_READ:
        return this.#engine.beginRead(off_bytes, len_bytes);
      case OP_WRITE:
        return this.#engine.beginWrite(off_bytes, len_bytes, fua);
      case OP_FLUSH:
        return this.#engine.beginFlush();
      default: {
        const may_punch = op === OP_DISCARD || (op_flags & FLAG_NOUNMAP) === 0;
        return this.#engine.beginZero(off_bytes, len_bytes, may_punch, fua);
      }
    }
  }

  #answered(tag: number, slot: number): void {
    const errno = this.#engine.error(slot);
    if (errno === 0 && this.#op[tag] === OP_READ) return this.#beginCopy(tag, slot);
    this.#commit(tag, errno === 0 ? this.#len_bytes[tag]! : -errno);
    this.#engine.release(slot);
  }

  #beginCopy(tag: number, slot: number): void {
    this.#done_bytes[tag] = 0;
    this.#piece[tag] = this.#engine.firstPiece(slot);
    this.#piece_done_bytes[tag] = 0;
    this.#copy(tag);
  }

  /** Hands the next ranges of a copy to the kernel. */
  #copy(tag: number): void {
    const first = tag * MAX_IOVECS;
    const count = this.#gather(tag, first);
    const queue = Math.floor(tag / this.#depth);
    const off_bytes = ublk.DATA_OFF_BYTES + queue * ublk.QUEUE_BYTES +
      (tag - queue * this.#depth) * ublk.TAG_BYTES + this.#done_bytes[tag]!;
    const iovec_addr = this.#iovecs_addr + first * IOVEC_BYTES;
    if (this.#op[tag] === OP_WRITE) {
      this.#ring.readv(COPY_USER + tag, this.#fd, iovec_addr, count, off_bytes);
    } else this.#ring.writev(COPY_USER + tag, this.#fd, iovec_addr, count, off_bytes);
  }

  #gather(tag: number, first: number): number {
    const engine = this.#engine;
    let skip_bytes = this.#piece_done_bytes[tag]!;
    let count = 0;
    for (
      let piece = this.#piece[tag]!;
      piece >= 0 && count < MAX_IOVECS;
      piece = engine.nextPiece(piece)
    ) {
      const at = (first + count) * IOVEC_WORDS;
      this.#arena.putAddress(this.#iovecs, at, engine.pieceAddr(piece) + skip_bytes);
      this.#iovecs[at + 2] = engine.pieceLen(piece) - skip_bytes;
      skip_bytes = 0;
      count += 1;
    }
    return count;
  }

  #advance(tag: number, bytes: number): void {
    this.#done_bytes[tag]! += bytes;
    let left = this.#piece_done_bytes[tag]! + bytes;
    let piece = this.#piece[tag]!;
    while (piece >= 0 && left >= this.#engine.pieceLen(piece)) {
      left -= this.#engine.pieceLen(piece);
      piece = this.#engine.nextPiece(piece);
    }
    this.#piece[tag] = piece;
    this.#piece_done_bytes[tag] = left;
  }

  /** Memory of the cache device cannot be read or written there. */
  #copyFailed(tag: number): void {
    const slot = this.#slot[tag]!;
    this.#commit(tag, -EIO);
    if (this.#op[tag] === OP_WRITE) this.#engine.payloadLost(slot);
    else this.#engine.release(slot);
    this.#fed = true;
  }

  /** The engine is done with a tag's request. */
  #commit(tag: number, result: number): void {
    this.#slot[tag] = NO_SLOT;
    this.#in_engine -= 1;
    this.#fetchNext(tag, result);
  }

  /** Answers a request, with bytes or an error number negated, and asks for the tag's next one. */
  #fetchNext(tag: number, result: number): void {
    this.#ring.command(REQUEST_USER + tag, this.#fd, COMMIT_AND_FETCH, this.#nameOf(tag), result);
  }
}

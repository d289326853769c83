/**
 * The sending side of a connection: replies wait here in order and leave in as few messages as possible, the
 * bytes of a read straight from where they lie.
 *
 * Invariants:
 * - At most one message is under way. Nothing that it names is changed or released before it has left.
 * - Every slot pushed is released exactly once: when its reply has left, or when the connection is dropped.
 * - Entries head..next-1 of the ring are in the message under way, next..tail-1 wait. `#next_piece` is the
 *   piece of entry `next` with which its next message begins, or NONE when its header has not left yet.
 *
 * @module
 */

import { assert } from "../../core/assert.ts";
import { Iovecs } from "./iovecs.ts";
import type { NbdArena, NbdEngine } from "./ports.ts";
import { SIMPLE_REPLY_BYTES, SIMPLE_REPLY_MAGIC } from "./protocol.ts";

/** Replies that can wait in one connection: a power of two. */
export const MAX_REPLIES = 256;
/** Largest piece of negotiation that is sent at once. */
const RAW_BYTES = 4096;
/** Linux's UIO_MAXIOV. */
const MAX_IOVECS = 1024;
/** A message that holds so much is not made longer: the socket takes less than this at a time anyway. */
const MESSAGE_FULL_BYTES = 1024 * 1024;

const NONE = -1;
const INDEX_MASK = MAX_REPLIES - 1;
const HEADER_WORDS = SIMPLE_REPLY_BYTES / 4;

const HEADERS_BYTES = MAX_REPLIES * SIMPLE_REPLY_BYTES;

export class Sender {
  /** A message is on its way to the client. */
  busy = false;
  readonly iovecs: Iovecs;
  readonly #engine: NbdEngine;
  readonly #headers_addr: number;
  readonly #headers: Uint32Array;
  readonly #raw_addr: number;
  readonly #raw: Uint8Array;
  /** Slot of each entry, NONE where the reply needed none. */
  readonly #slots = new Int32Array(MAX_REPLIES);
  /** 1 where the reply carries the bytes of a read. */
  readonly #has_payload = new Uint8Array(MAX_REPLIES);
  // Running numbers; masked when used as an index.
  #head = 0;
  #next = 0;
  #tail = 0;
  #next_piece = NONE;
  #header_is_out = false;

  /** Bytes of arena memory that a sender needs. */
  static readonly SIZE_BYTES = HEADERS_BYTES + RAW_BYTES + Iovecs.sizeBytes(MAX_IOVECS);

  constructor(arena: NbdArena, addr: number, engine: NbdEngine) {
    this.#engine = engine;
    this.#headers_addr = addr;
    this.#headers = new Uint32Array(arena.bytes.buffer, addr, HEADERS_BYTES / 4);
    this.#raw_addr = addr + HEADERS_BYTES;
    this.#raw = new Uint8Array(arena.bytes.buffer, this.#raw_addr, RAW_BYTES);
    this.iovecs = new Iovecs(arena, this.#raw_addr + RAW_BYTES, MAX_IOVECS);
    const magic = swap32(SIMPLE_REPLY_MAGIC);
    for (let i = 0; i < MAX_REPLIES; i++) this.#headers[i * HEADER_WORDS] = magic;
  }

  /** Replies that wait or are on their way. */
  get count(): number {
    return this.#tail - this.#head;
  }

  /** Begins a message of the negotiation. */
  startRaw(bytes: Uint8Array): void {
    assert(!this.busy && this.count === 0, "negotiation meets replies");
    assert(bytes.length > 0 && bytes.length <= RAW_BYTES, "negotiation message too long");
    this.#raw.set(bytes);
    this.iovecs.clear();
    this.iovecs.add(this.#raw_addr, bytes.length);
    this.iovecs.seal();
    this.busy = true;
  }

  /**
   * Queues a reply. `cookie0` and `cookie1` are the words of the client's cookie as they came. `slot` is NONE (-1)
   * for a request that never reached the engine.
   */
  push(cookie0: number, cookie1: number, errno: number, slot: number, has_payload: boolean): void {
    assert(this.#tail - this.#head < MAX_REPLIES, "more replies than requests");
    const index = this.#tail & INDEX_MASK;
    const at = index * HEADER_WORDS;
    this.#headers[at + 1] = swap32(errno);
    this.#headers[at + 2] = cookie0;
    this.#headers[at + 3] = cookie1;
    this.#slots[index] = slot;
    this.#has_payload[index] = has_payload && errno === 0 ? 1 : 0;
    this.#tail += 1;
  }

  /** Begins the next message of replies; false when there is nothing to send. */
  start(): boolean {
    assert(!this.busy, "two messages at once");
    if (this.#next === this.#tail) return false;
    this.iovecs.clear();
    while (this.#next !== this.#tail && this.iovecs.left_bytes < MESSAGE_FULL_BYTES) {
      if (!this.#addReply(this.#next & INDEX_MASK)) break;
      this.#next += 1;
    }
    this.iovecs.seal();
    this.busy = true;
    return true;
  }

  /** Adds what is left of a reply; false when the message has no room for all of it. */
  #addReply(index: number): boolean {
    if (!this.#header_is_out) {
      const header_addr = this.#headers_addr + index * SIMPLE_REPLY_BYTES;
      if (!this.iovecs.add(header_addr, SIMPLE_REPLY_BYTES)) return false;
      this.#header_is_out = true;
      this.#next_piece = this.#has_payload[index] === 1
        ? this.#engine.firstPiece(this.#slots[index]!)
        : NONE;
    }
    while (this.#next_piece !== NONE) {
      const piece = this.#next_piece;
      if (!this.iovecs.add(this.#engine.pieceAddr(piece), this.#engine.pieceLen(piece))) {
        return false;
      }
      this.#next_piece = this.#engine.nextPiece(piece);
    }
    this.#header_is_out = false;
    return true;
  }

  /**
   * Takes note that the client's socket took `len_bytes` more of the message. Returns how many requests this
   * ended; while `busy` stays true, the rest of the message has to be sent.
   */
  sent(len_bytes: number): number {
    assert(this.busy, "sent without a message");
    this.iovecs.advance(len_bytes);
    if (this.iovecs.left_bytes > 0) return 0;
    this.busy = false;
    return this.#releaseUntil(this.#next);
  }

  /** The connection is gone and no message is under way: forgets all replies, and returns how many. */
  drop(): number {
    this.busy = false;
    const dropped = this.#releaseUntil(this.#tail);
    this.#next = this.#tail;
    this.#next_piece = NONE;
    this.#header_is_out = false;
    return dropped;
  }

  #releaseUntil(end: number): number {
    const released = end - this.#head;
    for (; this.#head !== end; this.#head += 1) {
      const slot = this.#slots[this.#head & INDEX_MASK]!;
      if (slot !== NONE) this.#engine.release(slot);
    }
    return released;
  }
}

/** Turns a 32-bit number of the host into one of the network. */
function swap32(value: number): number {
  return ((value & 0xff) << 24 | (value & 0xff00) << 8 | (value >>> 8) & 0xff00 | value >>> 24) >>>
    0;
}

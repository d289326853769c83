/**
 * The sending side of a connection: replies wait here in order and leave in as few messages as possible, the
 * bytes of a read straight from where they lie.
 *
 * A reply is one header, or one chunk in the other styles, and what follows it: nothing, the pieces of a read, or the text of
 * a failure. A block status reply is whole in an area of its own; of a read with zeroes the headers of all chunks are.
 *
 * Invariants:
 * - At most one message is under way. Nothing that it names is changed or released before it has left.
 * - Every slot pushed is released exactly once: when its reply has left, or when the connection is dropped.
 * - Entries head..next-1 of the ring are in the message under way, next..tail-1 wait. `#next_piece` is the
 *   piece of entry `next` with which its next message begins, or NONE when its header has not left yet.
 * - The areas in use belong to the entries of the kinds STATUS and SPLIT, in their order.
 *
 * @module
 */

import { assert } from "../../core/assert.ts";
import { OK } from "../../core/errors.ts";
import type { RangeStates } from "../../core/range_states.ts";
import { engineFailure, errnoOf } from "./failures.ts";
import type { Hub } from "./hub.ts";
import { Iovecs } from "./iovecs.ts";
import type { NbdEngine } from "./ports.ts";
import * as nbd from "./protocol.ts";
import { EXTENDED, type Session, SIMPLE, STRUCTURED } from "./session.ts";
import { addSplit, SPLIT_BYTES, SPLIT_RANGES, writeSplit } from "./split_reply.ts";
import { STATUS_BYTES, writeStatus } from "./status_reply.ts";

/** Replies that can wait in one connection: a power of two. */
export const MAX_REPLIES = 256;
/** Replies in areas among them. */
const MAX_AREAS = 4;
/** Largest piece of negotiation that is sent at once. */
const RAW_BYTES = 4096;
/** Linux's UIO_MAXIOV. */
const MAX_IOVECS = 1024;
/** A message that holds so much is not made longer: the socket takes less than this at a time anyway. */
const MESSAGE_FULL_BYTES = 1024 * 1024;

const MIN_READ_COST_BYTES = 64 * 1024;

const NONE = -1;
const INDEX_MASK = MAX_REPLIES - 1;

/** What follows the header of an entry. */
const BARE = 0;
const DATA = 1;
const FAILURE = 2;
/** No header and nothing after it: the reply is in an area. */
const STATUS = 3;
/** The headers of its chunks are in an area, between them go the pieces that are not zeroes. */
const SPLIT = 4;

/** Before the bytes of an OFFSET_DATA chunk. */
const OFFSET_BYTES = 8;
const EXTENDED_DATA_BYTES = nbd.EXTENDED_REPLY_BYTES + OFFSET_BYTES;

/** The longest header, and room for all of them and for what is left over at the end. */
const MAX_HEADER_WORDS = EXTENDED_DATA_BYTES / 4;
const HEADERS_WORDS = (MAX_REPLIES + 2) * MAX_HEADER_WORDS;
const HEADERS_BYTES = HEADERS_WORDS * 4;
const AREA_BYTES = Math.max(STATUS_BYTES, SPLIT_BYTES);
const AREAS_BYTES = MAX_AREAS * AREA_BYTES;

// As they stand in a header, read as words of the host.
const SIMPLE_MAGIC = swap32(nbd.SIMPLE_REPLY_MAGIC);
const STRUCTURED_MAGIC = swap32(nbd.STRUCTURED_REPLY_MAGIC);
const EXTENDED_MAGIC = swap32(nbd.EXTENDED_REPLY_MAGIC);
const LAST_NONE = swap32((nbd.REPLY_FLAG_DONE << 16) | nbd.REPLY_TYPE_NONE);
const LAST_DATA = swap32((nbd.REPLY_FLAG_DONE << 16) | nbd.REPLY_TYPE_OFFSET_DATA);
const LAST_ERROR = swap32((nbd.REPLY_FLAG_DONE << 16) | nbd.REPLY_TYPE_ERROR);
const SIMPLE_STYLE = SIMPLE;
const STRUCTURED_STYLE = STRUCTURED;
const EXTENDED_STYLE = EXTENDED;
const READ = nbd.CMD_READ;
const CACHE = nbd.CMD_CACHE;
const NO_ERROR = OK;
const SIMPLE_BYTES = nbd.SIMPLE_REPLY_BYTES;
const STRUCTURED_BYTES = nbd.STRUCTURED_REPLY_BYTES;
const EXTENDED_BYTES = nbd.EXTENDED_REPLY_BYTES;

export class Sender {
  /** A message is on its way to the client. */
  busy = false;
  /** The reads that have begun and are not yet released, see `readCost`. */
  read_bytes = 0;
  readonly iovecs: Iovecs;
  readonly #hub: Hub;
  readonly #engine: NbdEngine;
  readonly #headers_addr: number;
  readonly #headers: Uint32Array;
  readonly #raw_addr: number;
  readonly #raw: Uint8Array;
  readonly #areas_addr: number;
  readonly #areas: DataView;
  #style = SIMPLE;
  /** Slot of each entry, NONE where the reply needed none. */
  readonly #slots = new Int32Array(MAX_REPLIES);
  readonly #kind = new Uint8Array(MAX_REPLIES);
  /** Where its header begins, in words, and its length. Headers touch, so that those of bare replies leave as one range. */
  readonly #header_at = new Uint32Array(MAX_REPLIES);
  readonly #header_bytes = new Uint8Array(MAX_REPLIES);
  /** Of a failure: which one. Of what is in an area: its length in bytes. */
  readonly #detail = new Uint32Array(MAX_REPLIES);
  // Running numbers; masked when used as an index.
  #head = 0;
  #next = 0;
  #tail = 0;
  #next_piece = NONE;
  #header_is_out = false;
  /** Where the next header goes: a ring. */
  #header_next = 0;
  /** Areas, a ring: the next free one, the first one whose message has not begun, and how many are in use. */
  #area_next = 0;
  #area_sent = 0;
  #areas_used = 0;

  /** Bytes of arena memory that a sender needs. */
  static readonly SIZE_BYTES = HEADERS_BYTES + RAW_BYTES + AREAS_BYTES +
    Iovecs.sizeBytes(MAX_IOVECS);

  constructor(hub: Hub, addr: number) {
    this.#hub = hub;
    this.#engine = hub.engine;
    const { buffer } = hub.arena.bytes;
    this.#headers_addr = addr;
    this.#headers = new Uint32Array(buffer, addr, HEADERS_BYTES / 4);
    this.#raw_addr = addr + HEADERS_BYTES;
    this.#raw = new Uint8Array(buffer, this.#raw_addr, RAW_BYTES);
    this.#areas_addr = this.#raw_addr + RAW_BYTES;
    this.#areas = new DataView(buffer, this.#areas_addr, AREAS_BYTES);
    this.iovecs = new Iovecs(hub.arena, this.#areas_addr + AREAS_BYTES, MAX_IOVECS);
  }

  /** Replies that wait or are on their way. */
  get count(): number {
    return this.#tail - this.#head;
  }

  /** Whether a block status reply finds room. If not: when others have left. */
  get has_status_room(): boolean {
    return this.#areas_used < MAX_AREAS;
  }

  /** The transmission phase begins: replies are of this style from now on. */
  useStyle(style: number): void {
    assert(this.count === 0, "the style of replies changes under them");
    this.#style = style;
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

  /** Queues the reply to a request that the engine has answered. */
  pushAnswer(slot: number): void {
    const hub = this.#hub;
    const errno = this.#engine.error(slot);
    const type = hub.slot_type[slot]!;
    const index = this.#open(hub.slot_words, 4 * slot, slot);
    if (errno !== NO_ERROR) this.#failure(index, engineFailure(type, errno));
    else if (type === READ) this.#data(index, slot, hub.slot_bytes[slot]!);
    else this.#done(index);
  }

  /** Queues an error reply to a request that never reached the engine. `words`: its cookie and offset, as they came. */
  pushFailure(words: Uint32Array, failed: number): void {
    this.#failure(this.#open(words, 0, NONE), failed);
  }

  /** Queues the reply to a BLOCK_STATUS request; there has to be room for one. `most`: extents of each context. */
  pushStatus(
    words: Uint32Array,
    session: Session,
    off_bytes: number,
    states: RangeStates,
    most: number,
  ): void {
    assert(this.has_status_room, "no room for a block status reply");
    const index = this.#open(words, 0, NONE);
    const at = this.#area_next * AREA_BYTES;
    this.#kind[index] = STATUS;
    const areas = this.#areas;
    this.#detail[index] = writeStatus(areas, at, words, session, off_bytes, states, most);
    this.#takeArea();
  }

  #takeArea(): void {
    this.#area_next = (this.#area_next + 1) % MAX_AREAS;
    this.#areas_used += 1;
  }

  /** Takes the next entry, with the words that every header of the style has. */
  #open(from: Uint32Array, at: number, slot: number): number {
    assert(this.#tail - this.#head < MAX_REPLIES, "more replies than requests");
    const index = this.#tail & INDEX_MASK;
    this.#tail += 1;
    this.#slots[index] = slot;
    const words = this.#headers;
    const to = this.#header_next + MAX_HEADER_WORDS > HEADERS_WORDS ? 0 : this.#header_next;
    this.#header_at[index] = to;
    words[to + 2] = from[at]!;
    words[to + 3] = from[at + 1]!;
    if (this.#style === SIMPLE_STYLE) return index;
    if (this.#style === EXTENDED_STYLE) {
      words[to] = EXTENDED_MAGIC;
      words[to + 4] = words[to + 8] = from[at + 2]!;
      words[to + 5] = words[to + 9] = from[at + 3]!;
      words[to + 6] = 0;
    } else {
      words[to + 5] = from[at + 2]!;
      words[to + 6] = from[at + 3]!;
    }
    return index;
  }

  /** The bytes of a read follow: a simple reply, or one chunk that is the last as well, or several if there are zeroes in it. */
  #data(index: number, slot: number, len_bytes: number): void {
    this.#kind[index] = DATA;
    if (this.#style === SIMPLE_STYLE) this.#simple(index, NO_ERROR);
    else if (!this.#engine.knows_zeroes || !this.#split(index, slot)) {
      this.#chunk(index, LAST_DATA, OFFSET_BYTES + len_bytes, OFFSET_BYTES);
    }
  }

  /** False: it is to be one chunk. */
  #split(index: number, slot: number): boolean {
    if (this.#hub.slot_is_whole[slot] !== 0 || !this.has_status_room) return false;
    const at = this.#area_next * AREA_BYTES;
    const is_extended = this.#style === EXTENDED_STYLE;
    const words = this.#hub.slot_words;
    const len_bytes = writeSplit(this.#areas, at, this.#engine, slot, words, is_extended);
    if (len_bytes === 0) return false;
    this.#kind[index] = SPLIT;
    this.#detail[index] = len_bytes;
    this.#takeArea();
    return true;
  }

  /** A success that says nothing more. Where structured replies were agreed on, a simple one is allowed and shorter. */
  #done(index: number): void {
    this.#kind[index] = BARE;
    if (this.#style === EXTENDED_STYLE) this.#chunk(index, LAST_NONE, 0, 0);
    else this.#simple(index, NO_ERROR);
  }

  #failure(index: number, failed: number): void {
    if (this.#style === SIMPLE_STYLE) {
      this.#kind[index] = BARE;
      this.#simple(index, errnoOf(failed));
      return;
    }
    this.#kind[index] = FAILURE;
    this.#detail[index] = failed;
    this.#chunk(index, LAST_ERROR, this.#hub.failures.len(failed), 0);
  }

  #simple(index: number, errno: number): void {
    const words = this.#headers;
    const at = this.#header_at[index]!;
    words[at] = SIMPLE_MAGIC;
    words[at + 1] = errno === NO_ERROR ? 0 : swap32(errno);
    this.#close(index, SIMPLE_BYTES);
  }

  /** A chunk's header, and so much of its payload as stands behind it among the headers. */
  #chunk(index: number, flags_and_type: number, len_bytes: number, behind_bytes: number): void {
    const words = this.#headers;
    const at = this.#header_at[index]!;
    words[at + 1] = flags_and_type;
    if (this.#style === STRUCTURED_STYLE) {
      words[at] = STRUCTURED_MAGIC;
      words[at + 4] = swap32(len_bytes);
      this.#close(index, STRUCTURED_BYTES + behind_bytes);
    } else {
      words[at + 7] = swap32(len_bytes);
      this.#close(index, EXTENDED_BYTES + behind_bytes);
    }
  }

  #close(index: number, header_bytes: number): void {
    this.#header_bytes[index] = header_bytes;
    this.#header_next = this.#header_at[index]! + header_bytes / 4;
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
      const kind = this.#kind[index]!;
      if (kind === STATUS) return this.#addStatus(index);
      if (kind === SPLIT) return this.#addSplit(index);
      if (kind === FAILURE) return this.#addFailure(index);
      const header_addr = this.#headers_addr + this.#header_at[index]! * 4;
      if (!this.iovecs.add(header_addr, this.#header_bytes[index]!)) return false;
      if (kind === BARE) return true;
      this.#header_is_out = true;
      this.#next_piece = this.#engine.firstPiece(this.#slots[index]!);
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

  /** Header and text, or neither of them. */
  #addFailure(index: number): boolean {
    if (this.iovecs.count + 2 > this.iovecs.limit) return false;
    const { failures } = this.#hub;
    const failed = this.#detail[index]!;
    this.iovecs.add(this.#headers_addr + this.#header_at[index]! * 4, this.#header_bytes[index]!);
    return this.iovecs.add(failures.addr(failed), failures.len(failed));
  }

  #addStatus(index: number): boolean {
    const addr = this.#areas_addr + this.#area_sent * AREA_BYTES;
    if (!this.iovecs.add(addr, this.#detail[index]!)) return false;
    this.#area_sent = (this.#area_sent + 1) % MAX_AREAS;
    return true;
  }

  /** All of it, or nothing. */
  #addSplit(index: number): boolean {
    const { iovecs } = this;
    if (iovecs.count + SPLIT_RANGES > iovecs.limit) return false;
    const at = this.#area_sent * AREA_BYTES;
    const is_extended = this.#style === EXTENDED_STYLE;
    const [len_bytes, slot] = [this.#detail[index]!, this.#slots[index]!];
    addSplit(
      iovecs,
      this.#areas,
      at,
      this.#areas_addr + at,
      len_bytes,
      this.#engine,
      slot,
      is_extended,
    );
    this.#area_sent = (this.#area_sent + 1) % MAX_AREAS;
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
    this.#area_sent = this.#area_next;
    this.#next_piece = NONE;
    this.#header_is_out = false;
    return dropped;
  }

  #releaseUntil(end: number): number {
    const released = end - this.#head;
    for (; this.#head !== end; this.#head += 1) {
      const index = this.#head & INDEX_MASK;
      if (this.#kind[index]! >= STATUS) this.#areas_used -= 1;
      const slot = this.#slots[index]!;
      if (slot !== NONE) this.release(slot);
    }
    return released;
  }

  /** Gives a request back to the engine. */
  release(slot: number): void {
    const hub = this.#hub;
    const type = hub.slot_type[slot]!;
    if (type === READ || type === CACHE) this.read_bytes -= readCost(hub.slot_bytes[slot]!);
    this.#engine.release(slot);
  }
}

/** What a read counts as, in bytes: a short one holds a request and a segment like a long one. */
export function readCost(len_bytes: number): number {
  return Math.max(len_bytes, MIN_READ_COST_BYTES);
}

/** Turns a 32-bit number of the host into one of the network. */
function swap32(value: number): number {
  return ((value & 0xff) << 24 | (value & 0xff00) << 8 | (value >>> 8) & 0xff00 | value >>> 24) >>>
    0;
}

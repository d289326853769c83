/**
 * The backing device over the ring: an export of an NBD server.
 *
 * A request becomes one *part* or several, as many as the server's longest request makes necessary; a part is what
 * goes over the wire, and its row of the tables below is in its cookie. Many parts leave in one message, writes straight from
 * where their bytes lie. Answers come in any order; short payloads are received together with headers and copied, long ones
 * received into their place.
 *
 * When the connection breaks, everything that has not ended is begun anew on the next one. Reads and writes may be done twice: the
 * engine keeps what they name as it is until they end. Flushes are another matter:
 *
 * - **A flush succeeds only if every write that was answered before it, and is covered by no earlier flush, was answered on
 *   the connection that the flush is sent on.** The server that is there after an outage may have lost what another one, or
 *   it itself before it was started again, had promised to keep in its memory. So the first flush after such an outage fails,
 *   and write-back writes its batch again (core/writeback.ts). What that flush was told of counts as settled.
 *
 * Further invariants:
 * - no memory is given back to the engine while a receive or a message under way names it;
 * - a row is free, or its part was sent on this connection and is not answered; an answer that names another is no answer
 *   of this server's: the connection ends;
 * - a read that has waited for `READ_WAIT_S` fails, connected or not; its rows stay taken until the server has answered them,
 *   what comes is thrown away. Writes and flushes wait for ever, unless `stopWaiting` was called.
 *
 * @module
 */

import { assert } from "../core/assert.ts";
import { CacheError, EIO, ESHUTDOWN, OK } from "../core/errors.ts";
import { type Gather, MAX_BACKING_IDS, MAX_GATHER } from "../core/platform.ts";
import { SlotPool } from "../core/slot_pool.ts";
import type { Arena } from "./arena.ts";
import type { BackingUser, LoopBacking } from "./backing.ts";
import { Iovecs } from "./nbd/iovecs.ts";
import { Link, type LinkOptions } from "./nbd/link.ts";
import {
  CMD_DISC,
  CMD_FLUSH,
  CMD_READ,
  CMD_WRITE,
  FLAG_ROTATIONAL,
  FLAG_SEND_FLUSH,
  REQUEST_BYTES,
  REQUEST_MAGIC,
  SIMPLE_REPLY_BYTES,
  SIMPLE_REPLY_MAGIC,
} from "./nbd/protocol.ts";
import type { Ring } from "./ring.ts";

/** A read that has waited for so long ends with EIO. */
export const READ_WAIT_S = 30;
/** How often that is looked at. */
const LOOK_MS = 1000;
/** After `stopWaiting`, what the server has not answered by then fails. */
const STOP_MS = 5000;

const SECTOR_BYTES = 512;
/** Most parts that the server has not answered. */
const MAX_PARTS = 1024;
const BUFFER_BYTES = 128 * 1024;
/** After a payload of this length so much is received at once, so that the next long one goes straight to its place. */
const LONG_PAYLOAD_BYTES = 32 * 1024;
const SHORT_RECEIVE_BYTES = 4096;
/** Linux's UIO_MAXIOV. */
const MAX_IOVECS = 1024;
/** A message that holds so much is not made longer: the socket takes less than this at a time anyway. */
const MESSAGE_FULL_BYTES = 1024 * 1024;

const NONE = 0;
const READ = 1;
const WRITE = 2;
const FLUSH = 3;
const COMMANDS = [-1, CMD_READ, CMD_WRITE, CMD_FLUSH];

/** States of a row. */
const FREE = 0;
const SENT = 1;
/** Answered while the message that carries it is still leaving. */
const EARLY = 2;

/** Indices in the ring's tokens. */
const RECV_INDEX = 0;
const SEND_INDEX = 1;

/** What an NBD backing device is made of. */
export interface NbdBackingOptions {
  readonly arena: Arena;
  readonly ring: Ring;
  readonly sockets: LinkOptions["sockets"];
  /** What the ring's tokens of this device begin with. */
  readonly user_kind: number;
  /** For messages. */
  readonly uri: string;
  readonly export_name: string;
  readonly tls: LinkOptions["tls"];
  /** Starts to connect to the next of the server's addresses: a descriptor, or an error number negated. */
  readonly connect: () => number;
  /** How many addresses there are. */
  readonly address_count: number;
}

/** A backing device on an NBD server. */
export class NbdBacking implements LoopBacking {
  size_bytes = 0;

  readonly #arena: Arena;
  readonly #ring: Ring;
  readonly #link: Link;
  #was_up = false;
  #max_part_bytes = 0;

  // Requests under way, by id.
  readonly #op = new Uint8Array(MAX_BACKING_IDS);
  readonly #off_bytes = new Float64Array(MAX_BACKING_IDS);
  readonly #len_bytes = new Float64Array(MAX_BACKING_IDS);
  /** How much of it is in parts that were made, how many parts are not answered, and how one of them failed. */
  readonly #parted_bytes = new Float64Array(MAX_BACKING_IDS);
  readonly #parts = new Uint16Array(MAX_BACKING_IDS);
  readonly #errno = new Uint32Array(MAX_BACKING_IDS);
  /** A read's place; a write's ranges, and the one that its next part begins in. */
  readonly #addr = new Float64Array(MAX_BACKING_IDS);
  readonly #range_addr = new Float64Array(MAX_BACKING_IDS * MAX_GATHER);
  readonly #range_len = new Uint32Array(MAX_BACKING_IDS * MAX_GATHER);
  readonly #range_count = new Uint16Array(MAX_BACKING_IDS);
  readonly #range = new Uint16Array(MAX_BACKING_IDS);
  readonly #range_done_bytes = new Uint32Array(MAX_BACKING_IDS);
  /** How often `#look` has seen a read wait; what `#written` was when a flush was sent. */
  readonly #age = new Uint8Array(MAX_BACKING_IDS);
  readonly #mark = new Float64Array(MAX_BACKING_IDS);
  /** Those that are not, or not in full, made into parts. */
  readonly #queue = new IdQueue();
  #reads = 0;
  #look_at_ms = Infinity;
  /** Set by `stopWaiting`: no connection is made any more, and when the one there is has to have done its work. */
  #is_stopping = false;
  #stop_at_ms = Infinity;
  /** Requests have come since the last turn. */
  #is_fresh = false;
  #has_ended = false;

  /**
   * Writes answered so far. Of them the first `#settled` are durable, or reported as lost; the first `#endangered` were
   * answered on connections that are gone.
   */
  #written = 0;
  #settled = 0;
  #endangered = 0;

  // Parts, by row.
  readonly #rows = new SlotPool(MAX_PARTS);
  readonly #row_state = new Uint8Array(MAX_PARTS);
  /** 1 while the message that carries it is leaving. */
  readonly #row_is_leaving = new Uint8Array(MAX_PARTS);
  /** Its request; -1: nobody waits for it any more. */
  readonly #row_id = new Int16Array(MAX_PARTS);
  /** The other half of its cookie, and the errno of an early answer. */
  readonly #row_serial = new Uint32Array(MAX_PARTS);
  readonly #row_errno = new Uint32Array(MAX_PARTS);
  /** What a read gets, and where it goes. */
  readonly #row_payload_bytes = new Uint32Array(MAX_PARTS);
  readonly #row_addr = new Float64Array(MAX_PARTS);
  #serial = 0;

  // The message under way: its ranges and its rows.
  readonly #message: Iovecs;
  readonly #headers_addr: number;
  readonly #headers: DataView;
  readonly #message_rows = new Uint16Array(MAX_PARTS);
  #message_row_count = 0;

  // What comes: bytes #from to #to of the buffer are not looked at yet.
  readonly #buffer_addr: number;
  readonly #buffer: DataView;
  #from = 0;
  #to = 0;
  /** The row whose payload comes, what is left of it, and where it goes, -1: nowhere. */
  #payload_row = -1;
  #payload_left_bytes = 0;
  #payload_addr = -1;
  #is_placing = false;
  #receive_bytes = BUFFER_BYTES;
  readonly #payload: Iovecs;

  private constructor(options: NbdBackingOptions) {
    const { arena, user_kind } = options;
    this.#arena = arena;
    this.#ring = options.ring;
    this.#message = new Iovecs(arena, arena.alloc(Iovecs.sizeBytes(MAX_IOVECS)), MAX_IOVECS);
    this.#payload = new Iovecs(arena, arena.alloc(Iovecs.sizeBytes(1)), 1);
    this.#headers_addr = arena.alloc(MAX_PARTS * REQUEST_BYTES);
    this.#buffer_addr = arena.alloc(BUFFER_BYTES, 4096);
    const { buffer } = arena.bytes;
    this.#headers = new DataView(buffer, this.#headers_addr, MAX_PARTS * REQUEST_BYTES);
    this.#buffer = new DataView(buffer, this.#buffer_addr, BUFFER_BYTES);
    this.#link = new Link({
      ...options,
      recv_user: (user_kind << 24 | RECV_INDEX) >>> 0,
      send_user: (user_kind << 24 | SEND_INDEX) >>> 0,
      buffer_addr: this.#buffer_addr,
      buffer_bytes: BUFFER_BYTES,
    });
  }

  /**
   * Connects, and waits for it: each address is tried once. Nothing else may be under way on the ring.
   *
   * @throws {CacheError} `Error opening backing device: URI: ...` There is no server, or its export cannot be used.
   */
  static open(options: NbdBackingOptions): NbdBacking {
    const backing = new NbdBacking(options);
    for (let i = 0; i < options.address_count && !backing.#was_up; i++) backing.#connect();
    const { remote, reason } = backing.#link;
    if (!backing.#was_up || remote === null) {
      throw new CacheError(`Error opening backing device: ${options.uri}: ${reason}`);
    }
    backing.resize(remote.size_bytes);
    return backing;
  }

  #connect(): void {
    const link = this.#link;
    link.connect(performance.now());
    while (link.state === "greeting" || link.state === "ending") {
      this.#ring.wait(link.nextTimerMs(performance.now()));
      while (this.#ring.next()) this.handle(this.#ring.user & 0xffffff, this.#ring.result, NOBODY);
      link.checkDeadline(performance.now());
    }
  }

  /** What the server said of its export. */
  get is_rotational(): boolean {
    return (this.#link.remote!.flags & FLAG_ROTATIONAL) !== 0;
  }

  /** What the server said when it was connected to last. */
  currentBytes(): number {
    return this.#link.remote?.size_bytes ?? this.size_bytes;
  }

  resize(size_bytes: number): void {
    this.size_bytes = size_bytes - size_bytes % SECTOR_BYTES;
    this.#link.least_bytes = this.size_bytes;
  }

  get trouble(): string {
    return this.#link.state === "up" ? "" : this.#link.reason;
  }

  get outage_count(): number {
    return this.#link.outage_count;
  }

  read(id: number, off_bytes: number, len_bytes: number, to_addr: number): void {
    this.#begin(READ, id, off_bytes, len_bytes);
    this.#addr[id] = to_addr;
    this.#age[id] = 0;
    this.#reads++;
  }

  write(id: number, off_bytes: number, len_bytes: number, from: Gather): void {
    assert(0 < from.count && from.count <= MAX_GATHER, "backing: ranges of a write");
    this.#begin(WRITE, id, off_bytes, len_bytes);
    for (let i = 0, at = id * MAX_GATHER; i < from.count; i++, at++) {
      this.#range_addr[at] = from.addr(i);
      this.#range_len[at] = from.len(i);
    }
    this.#range_count[id] = from.count;
  }

  // Zeroes are written: a server need not be able to do more.
  canZero(): boolean {
    return false;
  }

  zero(): never {
    throw new Error("backing: a server is asked to make zeroes");
  }

  flush(id: number): void {
    this.#begin(FLUSH, id, 0, 0);
  }

  #begin(op: number, id: number, off_bytes: number, len_bytes: number): void {
    assert(id < MAX_BACKING_IDS && this.#op[id] === NONE, "backing: the id is free");
    assert(off_bytes + len_bytes <= this.size_bytes, "backing: the range is on the device");
    this.#op[id] = op;
    this.#off_bytes[id] = off_bytes;
    this.#len_bytes[id] = len_bytes;
    this.#requeue(id);
    this.#is_fresh = true;
  }

  /** Puts a request at the end of the queue, as if nothing had been done for it. */
  #requeue(id: number): void {
    this.#parted_bytes[id] = 0;
    this.#parts[id] = 0;
    this.#errno[id] = OK;
    this.#range[id] = 0;
    this.#range_done_bytes[id] = 0;
    this.#queue.push(id);
  }

  handle(index: number, result: number, user: BackingUser): void {
    if (index === RECV_INDEX) {
      const len_bytes = this.#link.received(result);
      if (len_bytes > 0) this.#received(len_bytes, user);
    } else {
      const len_bytes = this.#link.sent(result);
      if (len_bytes > 0) this.#sent(len_bytes, user);
    }
    this.#follow();
  }

  turn(now_ms: number, user: BackingUser): boolean {
    this.#has_ended = false;
    this.#is_fresh = false;
    if (this.#is_stopping) this.#stop(now_ms);
    else this.#link.turn(now_ms);
    this.#look(now_ms, user);
    this.#follow();
    if (this.#is_stopping && this.#link.state === "down") this.#failAll(user);
    this.#send(user);
    return this.#has_ended;
  }

  nextTimerMs(now_ms: number): number {
    if (this.#is_fresh) return 0;
    const timed_ms = Math.max(0, Math.min(this.#look_at_ms, this.#stop_at_ms) - now_ms);
    return this.#is_stopping ? timed_ms : Math.min(timed_ms, this.#link.nextTimerMs(now_ms));
  }

  stopWaiting(now_ms: number): void {
    if (this.#is_stopping) return;
    this.#is_stopping = true;
    this.#stop_at_ms = now_ms + STOP_MS;
  }

  #stop(now_ms: number): void {
    if (now_ms < this.#stop_at_ms) return;
    this.#stop_at_ms = Infinity;
    this.#link.drop("the device is being removed");
  }

  /**
   * Takes leave of the server, without waiting: what is still under way on the ring ends soon, and the socket is closed
   * when `handle` has been told so.
   */
  close(): void {
    if (this.#link.state === "up" && !this.#link.is_sending) {
      this.#putHeader(0, CMD_DISC, 0, 0);
      this.#message.clear();
      this.#message.add(this.#headers_addr, REQUEST_BYTES);
      this.#message.seal();
      this.#link.sendLast(this.#message);
      this.#ring.wait(0);
    }
    this.#link.drop("the device lets go of it");
  }

  /** Does what a new connection, or the loss of one, calls for. */
  #follow(): void {
    const { state, remote } = this.#link;
    if (!this.#was_up && state === "up") {
      this.#was_up = true;
      const most_bytes = Math.min(remote!.max_block_bytes, 2 ** 31);
      this.#max_part_bytes = most_bytes - most_bytes % SECTOR_BYTES;
      this.#from = this.#to = 0;
      this.#receive_bytes = BUFFER_BYTES;
      this.#receive();
    } else if (this.#was_up && state === "down") {
      this.#was_up = false;
      this.#startAnew();
    }
  }

  /** The connection is gone: what was under way on it has not happened, or may happen again. */
  #startAnew(): void {
    this.#endangered = this.#written;
    for (let row = 0; row < MAX_PARTS; row++) if (this.#row_state[row] !== FREE) this.#freeRow(row);
    this.#message_row_count = 0;
    this.#payload_row = -1;
    this.#payload_left_bytes = 0;
    this.#is_placing = false;
    this.#queue.clear();
    for (let id = 0; id < MAX_BACKING_IDS; id++) if (this.#op[id] !== NONE) this.#requeue(id);
  }

  /** Hands on as many parts as fit into a message. */
  #send(user: BackingUser): void {
    if (this.#link.state !== "up" || this.#link.is_sending) return;
    const message = this.#message;
    message.clear();
    this.#message_row_count = 0;
    while (this.#queue.count > 0 && message.left_bytes < MESSAGE_FULL_BYTES) {
      const id = this.#queue.first;
      if (this.#op[id] === FLUSH && !this.#canFlush(id, user)) continue;
      if (!this.#addPart(id)) break;
      if (this.#parted_bytes[id] === this.#len_bytes[id]) this.#queue.shift();
    }
    if (message.count === 0) return;
    message.seal();
    this.#link.send(message);
  }

  /** Whether the flush at the head of the queue is to be sent. If not it has ended. */
  #canFlush(id: number, user: BackingUser): boolean {
    const is_lost = this.#settled < this.#endangered;
    if (is_lost) this.#settled = this.#endangered;
    this.#mark[id] = this.#written;
    if (!is_lost && (this.#link.remote!.flags & FLAG_SEND_FLUSH) !== 0) return true;
    this.#queue.shift();
    this.#end(id, is_lost ? EIO : OK, user);
    return false;
  }

  /** Adds the next part of a request to the message. False: there is no room for it. */
  #addPart(id: number): boolean {
    const message = this.#message;
    const ranges = this.#op[id] === WRITE ? this.#range_count[id]! - this.#range[id]! : 0;
    if (message.count + 1 + ranges > message.limit || this.#rows.available === 0) return false;
    const done_bytes = this.#parted_bytes[id]!;
    const len_bytes = Math.min(this.#len_bytes[id]! - done_bytes, this.#max_part_bytes);
    const row = this.#rows.take();
    this.#serial = (this.#serial + 1) >>> 0;
    this.#row_state[row] = SENT;
    this.#row_is_leaving[row] = 1;
    this.#row_id[row] = id;
    this.#row_serial[row] = this.#serial;
    this.#row_payload_bytes[row] = this.#op[id] === READ ? len_bytes : 0;
    this.#row_addr[row] = this.#addr[id]! + done_bytes;
    this.#putHeader(row, COMMANDS[this.#op[id]!]!, this.#off_bytes[id]! + done_bytes, len_bytes);
    message.add(this.#headers_addr + row * REQUEST_BYTES, REQUEST_BYTES);
    if (this.#op[id] === WRITE) this.#addRanges(id, len_bytes);
    this.#message_rows[this.#message_row_count++] = row;
    this.#parted_bytes[id] = done_bytes + len_bytes;
    this.#parts[id]!++;
    return true;
  }

  #putHeader(row: number, command: number, off_bytes: number, len_bytes: number): void {
    const at = row * REQUEST_BYTES;
    const view = this.#headers;
    view.setUint32(at, REQUEST_MAGIC);
    view.setUint32(at + 4, command);
    view.setUint32(at + 8, this.#row_serial[row]!);
    view.setUint32(at + 12, row);
    view.setUint32(at + 16, off_bytes / 4294967296);
    view.setUint32(at + 20, off_bytes >>> 0);
    view.setUint32(at + 24, len_bytes);
  }

  /** Adds the next `len_bytes` of a write's ranges to the message. */
  #addRanges(id: number, len_bytes: number): void {
    for (let left_bytes = len_bytes; left_bytes > 0;) {
      const at = id * MAX_GATHER + this.#range[id]!;
      const done_bytes = this.#range_done_bytes[id]!;
      const take_bytes = Math.min(this.#range_len[at]! - done_bytes, left_bytes);
      this.#message.add(this.#range_addr[at]! + done_bytes, take_bytes);
      left_bytes -= take_bytes;
      this.#range_done_bytes[id] = done_bytes + take_bytes;
      if (this.#range_done_bytes[id] !== this.#range_len[at]) continue;
      this.#range[id]!++;
      this.#range_done_bytes[id] = 0;
    }
  }

  /** So much more of the message has left. */
  #sent(len_bytes: number, user: BackingUser): void {
    this.#message.advance(len_bytes);
    if (this.#message.left_bytes > 0) return this.#link.send(this.#message);
    const count = this.#message_row_count;
    this.#message_row_count = 0;
    for (let i = 0; i < count; i++) {
      const row = this.#message_rows[i]!;
      this.#row_is_leaving[row] = 0;
      if (this.#row_state[row] === EARLY) this.#endPart(row, this.#row_errno[row]!, user);
    }
  }

  /** So many bytes have come. */
  #received(len_bytes: number, user: BackingUser): void {
    if (this.#is_placing) {
      this.#is_placing = false;
      this.#payload_addr += len_bytes;
      this.#payload_left_bytes -= len_bytes;
      if (this.#payload_left_bytes === 0) this.#endPayload(user);
    } else {
      this.#to += len_bytes;
      this.#parse(user);
    }
    this.#receive();
  }

  /** Begins the next receive: the rest of a payload into its place, or whatever comes into the buffer. */
  #receive(): void {
    if (this.#link.state !== "up") return;
    if (this.#payload_left_bytes > 0 && this.#payload_addr >= 0) {
      this.#is_placing = true;
      this.#payload.clear();
      this.#payload.add(this.#payload_addr, this.#payload_left_bytes);
      this.#payload.seal();
      return this.#link.recvmsg(this.#payload);
    }
    const base = this.#buffer_addr;
    if (this.#from > 0) {
      this.#arena.bytes.copyWithin(base, base + this.#from, base + this.#to);
    }
    this.#to -= this.#from;
    this.#from = 0;
    this.#link.recv(base + this.#to, this.#receive_bytes - this.#to);
  }

  /** Takes the answers that are in the buffer. */
  #parse(user: BackingUser): void {
    for (;;) {
      if (this.#payload_left_bytes > 0) {
        const len_bytes = Math.min(this.#to - this.#from, this.#payload_left_bytes);
        this.#copyPayload(len_bytes);
        if (this.#payload_left_bytes > 0) return;
        this.#endPayload(user);
      }
      if (this.#to - this.#from < SIMPLE_REPLY_BYTES) return;
      const at = this.#from;
      this.#from += SIMPLE_REPLY_BYTES;
      if (!this.#takeAnswer(at, user)) return;
    }
  }

  #copyPayload(len_bytes: number): void {
    const from_addr = this.#buffer_addr + this.#from;
    if (this.#payload_addr >= 0) {
      this.#arena.bytes.copyWithin(this.#payload_addr, from_addr, from_addr + len_bytes);
      this.#payload_addr += len_bytes;
    }
    this.#from += len_bytes;
    this.#payload_left_bytes -= len_bytes;
  }

  #endPayload(user: BackingUser): void {
    const row = this.#payload_row;
    this.#payload_row = -1;
    this.#answered(row, OK, user);
  }

  /** Takes the answer whose header is in the buffer. False: the connection has ended. */
  #takeAnswer(at: number, user: BackingUser): boolean {
    const view = this.#buffer;
    const errno = view.getUint32(at + 4);
    const row = view.getUint32(at + 12);
    const is_answer = view.getUint32(at) === SIMPLE_REPLY_MAGIC && row < MAX_PARTS &&
      this.#row_state[row] === SENT && this.#row_serial[row] === view.getUint32(at + 8);
    if (!is_answer) {
      this.#link.drop("the server answers what it was not asked");
      return false;
    }
    if (errno === ESHUTDOWN) {
      this.#link.drop("the server is about to stop");
      return false;
    }
    this.#link.proven();
    const payload_bytes = errno === OK ? this.#row_payload_bytes[row]! : 0;
    if (payload_bytes === 0) {
      this.#answered(row, errno, user);
      return true;
    }
    this.#receive_bytes = payload_bytes >= LONG_PAYLOAD_BYTES ? SHORT_RECEIVE_BYTES : BUFFER_BYTES;
    this.#payload_row = row;
    this.#payload_left_bytes = payload_bytes;
    this.#payload_addr = this.#row_id[row]! < 0 ? -1 : this.#row_addr[row]!;
    return true;
  }

  /** A part is answered. Its request can end when the message that names its memory has left. */
  #answered(row: number, errno: number, user: BackingUser): void {
    if (this.#row_is_leaving[row] === 1) {
      this.#row_state[row] = EARLY;
      this.#row_errno[row] = errno;
    } else {
      this.#endPart(row, errno, user);
    }
  }

  #endPart(row: number, errno: number, user: BackingUser): void {
    const id = this.#row_id[row]!;
    this.#freeRow(row);
    if (id < 0) return;
    this.#parts[id]!--;
    if (errno !== OK) this.#errno[id] = errno;
    if (this.#parts[id] === 0 && this.#parted_bytes[id] === this.#len_bytes[id]) {
      this.#end(id, this.#errno[id]!, user);
    }
  }

  #freeRow(row: number): void {
    this.#row_state[row] = FREE;
    this.#rows.put(row);
  }

  #end(id: number, errno: number, user: BackingUser): void {
    const op = this.#op[id];
    if (op === READ) this.#reads--;
    if (op === WRITE && errno === OK) this.#written++;
    if (op === FLUSH && errno === OK) this.#settled = Math.max(this.#settled, this.#mark[id]!);
    this.#op[id] = NONE;
    this.#has_ended = true;
    user.backingDone(id, errno);
  }

  /** Fails the reads that have waited too long. */
  #look(now_ms: number, user: BackingUser): void {
    if (this.#reads === 0) {
      this.#look_at_ms = Infinity;
    } else if (this.#look_at_ms === Infinity) {
      this.#look_at_ms = now_ms + LOOK_MS;
    } else if (now_ms >= this.#look_at_ms) {
      this.#look_at_ms = now_ms + LOOK_MS;
      for (let id = 0; id < MAX_BACKING_IDS; id++) {
        if (this.#op[id] === READ && this.#age[id]!++ >= READ_WAIT_S) this.#giveUp(id, user);
      }
    }
  }

  #giveUp(id: number, user: BackingUser): void {
    this.#age[id] = READ_WAIT_S;
    if (this.#payload_row >= 0 && this.#row_id[this.#payload_row] === id) {
      // A receive names its memory: the request ends when the connection has.
      return this.#link.drop("the server has stopped in the middle of an answer");
    }
    for (let row = 0; row < MAX_PARTS; row++) {
      if (this.#row_state[row] !== FREE && this.#row_id[row] === id) this.#row_id[row] = -1;
    }
    this.#queue.remove(id);
    this.#end(id, EIO, user);
  }

  /** There is no connection and none will be. */
  #failAll(user: BackingUser): void {
    this.#queue.clear();
    for (let id = 0; id < MAX_BACKING_IDS; id++) {
      if (this.#op[id] !== NONE) this.#end(id, EIO, user);
    }
  }
}

/** Nothing ends while a backing device is opened. */
const NOBODY: BackingUser = {
  backingDone: () => assert(false, "backing: an end without a request"),
};

/** Ids in order, each at most once. */
class IdQueue {
  count = 0;
  readonly #ids = new Uint16Array(MAX_BACKING_IDS);
  #first = 0;

  /** The oldest. */
  get first(): number {
    return this.#ids[this.#first]!;
  }

  push(id: number): void {
    this.#ids[(this.#first + this.count) % MAX_BACKING_IDS] = id;
    this.count++;
  }

  shift(): void {
    this.#first = (this.#first + 1) % MAX_BACKING_IDS;
    this.count--;
  }

  clear(): void {
    this.count = 0;
  }

  /** Takes an id out, wherever it is. */
  remove(id: number): void {
    for (let left = this.count; left > 0; left--) {
      const first = this.first;
      this.shift();
      if (first !== id) this.push(first);
    }
  }
}

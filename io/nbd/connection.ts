/**
 * One client, from its first byte to its last. Bytes come into the connection's receive buffer, many requests at a
 * time. A payload is copied from there to its place in the cache device; what is left of a long one is received
 * straight into its place. Answers leave through the sender.
 *
 * Invariants:
 * - At most one receive and one send are under way. The connection's place is free only when none is, the socket
 *   is closed and no request of it is known to the engine.
 * - `#at..#filled` of the buffer are the bytes not yet handled; they begin with a request header exactly when
 *   `#mode` is HEADER.
 * - `active` counts the requests whose reply has not left: at most `max_active`.
 * - In the modes PLACE and PAYLOAD, `#write_slot` is a write that the engine waits for.
 * - Nothing is received while a message of the negotiation leaves: what follows STARTTLS is for TLS alone.
 * - Bytes received straight into their place: the write is not given up before the receive has ended.
 *
 * @module
 */

import { assert } from "../../core/assert.ts";
import { MAX_RANGES } from "../../core/range_states.ts";
import { NO_FAILURE } from "./failures.ts";
import { Handshake } from "./handshake.ts";
import type { Hub } from "./hub.ts";
import { Iovecs } from "./iovecs.ts";
import type { NbdTlsStream } from "./ports.ts";
import {
  CMD_BLOCK_STATUS,
  CMD_CACHE,
  CMD_DISC,
  CMD_FLAG_DF,
  CMD_FLAG_FUA,
  CMD_FLAG_NO_HOLE,
  CMD_FLAG_REQ_ONE,
  CMD_FLUSH,
  CMD_READ,
  CMD_TRIM,
  CMD_WRITE,
  MAX_SKIPPED_BYTES,
} from "./protocol.ts";
import { lacksPayload, payloadBytes, validateRequest } from "./request.ts";
import { readCost, Sender } from "./sender.ts";
import { EXTENDED, PLAIN_SESSION, requestBytes, requestMagic, type Session } from "./session.ts";
import { wantedStates } from "./status_reply.ts";

/** Free: not in use. Dead: waiting for what is under way to end. */
export const enum State {
  FREE,
  NEGOTIATE,
  SERVE,
  /** No further requests: answer what is there, then close. */
  FINISH,
  DEAD,
}

/** What the next bytes of the client are. */
const enum Mode {
  HEADER,
  /** The payload of a write that has no place yet. */
  PLACE,
  PAYLOAD,
  /** The payload of a refused write. */
  SKIP,
}

/** Receive buffer of a connection that has few beside it: holds 31 writes of 4 KiB. */
export const RECV_BYTES = 128 * 1024;
/** Of one among hundreds, whose requests come together anyway. An option of the negotiation has to fit. */
export const NARROW_RECV_BYTES = 32 * 1024;
/** A payload's rest of this length is received into its place; a shorter one comes with the next requests. */
const DIRECT_BYTES = 32 * 1024;
/** After such a payload the next one is expected to be as long: only so much of it is received into the buffer. */
const NARROW_BYTES = 4096;
/** So few bytes are moved to the start of the buffer without a thought. */
const CHEAP_MOVE_BYTES = 4096;
/** A longer message would not find room at once, but for a part: it is left to the ring, which waits. */
const SEND_NOW_BYTES = 64 * 1024;
/** A client that has not finished the TLS handshake by then is dropped. */
const TLS_HANDSHAKE_MS = 10_000;
/** Ranges of one straight receive. */
const RECV_IOVECS = 64;
/**
 * While so many bytes of reads are under way, or answered and not taken by the client, no further read begins: a quarter of the
 * transfer buffers. A client that is slow to take them gets less, since they hold buffers and segments that others need.
 */
const MAX_WINDOW_BYTES = 16 * 1024 * 1024;
const MIN_WINDOW_BYTES = 128 * 1024;
/** How long a client may take for so many bytes of a payload, or of the replies that it is sent. */
export const PATIENCE_MS = 30_000;
const PATIENCE_BYTES = 1024 * 1024;

// Own names for what every request needs: V8 folds a module's constants into its code, and loads and checks imported ones.
const READ = CMD_READ;
const WRITE = CMD_WRITE;
const CACHE = CMD_CACHE;
const DISC = CMD_DISC;
const BLOCK_STATUS = CMD_BLOCK_STATUS;
const FLAG_FUA = CMD_FLAG_FUA;
const FLAG_DF = CMD_FLAG_DF;
const GOOD = NO_FAILURE;

const NONE = -1;
const EINTR = 4;
const EAGAIN = 11;

export interface ConnectionOptions {
  readonly recv_bytes: number;
  /** Most requests under way. */
  readonly max_active: number;
  readonly keeps_memory: boolean;
}

export class Connection {
  readonly index: number;
  state = State.FREE;
  /** Order of arrival among all connections. */
  serial = 0;
  active = 0;
  /** Requests wait in the buffer until others have ended. */
  stalled = false;
  /** Has to be looked at in the next turn. */
  marked = false;
  /** It is one of the kernel's, of the device's own block device. */
  is_attached = false;

  readonly #hub: Hub;
  readonly #max_active: number;
  readonly #keeps_memory: boolean;
  readonly #sender: Sender;
  readonly #recv_addr: number;
  readonly #recv_bytes: number;
  readonly #recv: Uint8Array;
  readonly #recv_view: DataView;
  readonly #places: Iovecs;
  #handshake: Handshake;
  #session = PLAIN_SESSION;
  #is_extended = false;
  #request_magic = 0;
  #request_bytes = 0;
  #fd = NONE;
  /** The TLS connection over the socket; null: there is none. */
  #tls: NbdTlsStream | null = null;
  /** STARTTLS was accepted, and the answer to it is leaving. */
  #is_tls_next = false;
  /** When the handshake has to be over; NaN: the clock was not looked at. */
  #tls_deadline_ms = NaN;
  #receiving = false;
  #direct = false;
  #sending = false;
  /** The last write had a long payload. */
  #narrow = false;
  /** The client will send no more. */
  #ended = false;
  #mode = Mode.HEADER;
  #at = 0;
  #filled = 0;
  /** Payload bytes still to come, in the modes PLACE, PAYLOAD and SKIP. */
  #left_bytes = 0;
  /** Bytes moved since `#moved_ms`, while the client is waited for; what has come or left whole counts as enough. */
  #moved_bytes = 0;
  #moved_ms = Infinity;
  /** No further read begins while reads of so many bytes are there. */
  #window_bytes = MAX_WINDOW_BYTES;
  /** Messages that have left, and how many had when the client was last looked after. */
  #messages = 0;
  #messages_seen = 0;
  #write_slot = NONE;
  #piece = NONE;
  #piece_done_bytes = 0;

  /** Bytes of arena memory that a connection with such a receive buffer needs. */
  static sizeBytes(recv_bytes: number): number {
    return recv_bytes + Sender.SIZE_BYTES + Iovecs.sizeBytes(RECV_IOVECS);
  }

  /** Its memory begins at `addr`; the pages are given back when the place is free, unless it `keeps_memory`. */
  constructor(hub: Hub, index: number, addr: number, o: ConnectionOptions) {
    const { recv_bytes, max_active, keeps_memory } = o;
    this.#hub = hub;
    this.index = index;
    this.#max_active = max_active;
    this.#keeps_memory = keeps_memory;
    this.#recv_addr = addr;
    this.#recv_bytes = recv_bytes;
    this.#recv = new Uint8Array(hub.arena.bytes.buffer, addr, recv_bytes);
    this.#recv_view = new DataView(hub.arena.bytes.buffer, addr, recv_bytes);
    this.#sender = new Sender(hub, addr + recv_bytes);
    const places_addr = addr + recv_bytes + Sender.SIZE_BYTES;
    this.#places = new Iovecs(hub.arena, places_addr, RECV_IOVECS);
    this.#handshake = this.#newHandshake();
  }

  /** Takes an accepted socket. */
  open(fd: number, serial: number): void {
    this.#occupy(fd, serial);
    this.state = State.NEGOTIATE;
    this.#handshake = this.#newHandshake();
    this.#sender.startRaw(this.#handshake.greeting());
    this.#send();
    this.#receive();
  }

  /** Takes a socket whose other end the kernel has: nothing is negotiated. */
  openAttached(fd: number, serial: number): void {
    this.#occupy(fd, serial);
    this.is_attached = true;
    this.#hub.attached_count += 1;
    this.#beginServing(PLAIN_SESSION);
    this.#receive();
  }

  #occupy(fd: number, serial: number): void {
    assert(this.state === State.FREE && this.active === 0, "connection place in use");
    this.serial = serial;
    this.is_attached = false;
    this.stalled = false;
    this.marked = false;
    this.#fd = fd;
    this.#ended = false;
    this.#mode = Mode.HEADER;
    this.#at = 0;
    this.#filled = 0;
    this.#left_bytes = 0;
    this.#narrow = false;
    this.#moved_ms = Infinity;
    this.#window_bytes = MAX_WINDOW_BYTES;
  }

  #newHandshake(): Handshake {
    const { served, tls } = this.#hub;
    return new Handshake(served, tls === null ? "off" : tls.is_required ? "require" : "on");
  }

  /** True in the transmission phase: the device is in use. */
  get isServing(): boolean {
    return this.state === State.SERVE || this.state === State.FINISH;
  }

  /** A write is known to the engine whose payload has not come. */
  get has_unfinished(): boolean {
    return this.#write_slot !== NONE;
  }

  /** Requests that the engine is to answer, but for such a write. */
  get unanswered_count(): number {
    return this.active - this.#sender.count - (this.has_unfinished ? 1 : 0);
  }

  /** A receive ended with `result`: bytes, 0 at the end, or a negative error number. */
  received(completed: number): void {
    const result = this.#tls === null ? completed : this.#tls.received(completed);
    this.#receiving = false;
    const direct = this.#direct;
    this.#direct = false;
    if (this.state === State.DEAD || this.state === State.FINISH) {
      this.#settle();
      return;
    }
    if (result > 0 && direct) this.#placeReceived(result);
    else if (result > 0) this.#filled += result;
    else if (result === 0) this.#ended = true;
    else if (result !== -EINTR && result !== -EAGAIN) {
      this.kill();
      return;
    }
    this.advance();
  }

  /** A send ended with `result`: bytes, or a negative error number. */
  sent(completed: number): void {
    const result = this.#tls === null ? completed : this.#tls.sent(completed);
    this.#sending = false;
    if (this.state === State.DEAD || (result <= 0 && result !== -EINTR && result !== -EAGAIN)) {
      this.kill();
      return;
    }
    if (result > 0) this.#requestsEnded(this.#sender.sent(result));
    if (this.#sender.busy) this.#moved_bytes += result;
    else this.#messageLeft();
    if (this.#sender.busy) this.#send();
    else if (this.state === State.NEGOTIATE) this.advance();
    else this.flushReplies();
    this.#settle();
  }

  #messageLeft(): void {
    this.#messages += 1;
    this.#moved_bytes += PATIENCE_BYTES;
    this.#window_bytes = Math.min(2 * this.#window_bytes, MAX_WINDOW_BYTES);
  }

  /** The engine has answered a request of this client. */
  answered(slot: number): void {
    if (this.state === State.DEAD) {
      this.#sender.release(slot);
      this.#requestsEnded(1);
      this.#settle();
      return;
    }
    this.#sender.pushAnswer(slot);
    if (slot === this.#write_slot) this.#placeRefused();
    this.marked = true;
  }

  /** The engine has failed the write before it took space: nobody wants its payload. */
  #placeRefused(): void {
    assert(this.#mode === Mode.PLACE, "a write was answered before its payload came");
    this.#mode = Mode.SKIP;
    this.#write_slot = NONE;
  }

  /** The engine has taken space for the write that this connection waits for. */
  placed(slot: number): void {
    assert(
      this.#mode === Mode.PLACE && slot === this.#write_slot,
      "placed a write nobody waits for",
    );
    this.#mode = Mode.PAYLOAD;
    this.#piece = this.#hub.engine.firstPiece(slot);
    this.#piece_done_bytes = 0;
    this.marked = true;
  }

  /**
   * Sends what waits, unless a message is under way. Most messages find room in the socket and have left when this returns: what
   * they name is free for others before the loop sleeps, and no completion ends that sleep.
   */
  flushReplies(): void {
    const sender = this.#sender;
    while (this.isServing && !sender.busy && sender.start()) {
      if (sender.iovecs.left_bytes > SEND_NOW_BYTES) return this.#send();
      const result = this.#tls === null
        ? this.#hub.sockets.sendNow(this.#fd, sender.iovecs.msghdr)
        : this.#tls.sendNow(sender.iovecs);
      if (result > 0) this.#requestsEnded(sender.sent(result));
      else if (result !== -EINTR && result !== -EAGAIN) return this.kill();
      if (sender.busy) this.#send();
    }
  }

  /** Handles what is in the buffer, as far as it goes now, and receives more. */
  advance(): void {
    if (this.stalled && this.is_attached && this.#hasGone()) return this.kill();
    this.stalled = false;
    while (this.#step());
    this.marked = false;
    if (this.state === State.SERVE && this.#ended) this.#lastWords();
    this.flushReplies();
    this.#receive();
    this.#settle();
  }

  /** Goes on after a suspension, in the next turn. */
  goOn(): void {
    if (!this.isServing) return;
    if (this.is_attached && this.#hasGone()) this.kill();
    else this.marked = true;
  }

  /**
   * Whether the kernel has given the connection up. What waited here for so long has then been asked again on another one: done
   * now it might undo what was written after that.
   */
  #hasGone(): boolean {
    return this.#hub.sockets.hasHungUp(this.#fd);
  }

  /**
   * Looks whether the client goes on with what holds space or requests: a payload that has a place, replies that it has to take. One
   * that does not is dropped. True: the client is waited for, look again.
   */
  look(now_ms: number): boolean {
    if (this.#isShakingHands) return this.#lookAtHandshake(now_ms);
    const is_waited_for = this.#sending || this.#mode === Mode.PAYLOAD && !this.#is_held;
    if (this.state === State.FREE || this.state === State.DEAD || !is_waited_for) {
      this.#moved_ms = Infinity;
      return false;
    }
    if (this.#moved_ms === Infinity || this.#moved_bytes >= PATIENCE_BYTES) {
      this.#moved_ms = now_ms;
      this.#moved_bytes = 0;
    }
    if (this.#sending && this.#messages === this.#messages_seen) {
      this.#window_bytes = Math.max(this.#window_bytes / 4, MIN_WINDOW_BYTES);
    }
    this.#messages_seen = this.#messages;
    if (now_ms - this.#moved_ms < PATIENCE_MS) return true;
    this.kill();
    return false;
  }

  /** Drops the connection: nothing more is answered; what is under way ends by itself. */
  kill(): void {
    if (this.state === State.FREE) return;
    if (this.state !== State.DEAD) {
      this.state = State.DEAD;
      this.stalled = false;
      this.#hub.sockets.shutdown(this.#fd);
    }
    this.#settle();
  }

  /** Handles one message, or part of one; false when it takes something else to go on. */
  #step(): boolean {
    if (this.state === State.NEGOTIATE) return this.#negotiate();
    if (this.state !== State.SERVE) return false;
    if (this.#is_held) return this.#heldStep();
    switch (this.#mode) {
      case Mode.HEADER:
        return this.#takeRequest();
      case Mode.PLACE:
        return false;
      case Mode.PAYLOAD:
        return this.#copyPayload();
      case Mode.SKIP:
        return this.#skipPayload();
    }
  }

  /** Whether nothing is taken from this client now. */
  get #is_held(): boolean {
    const hub = this.#hub;
    return hub.is_holding && !(hub.takes_payloads && this.has_unfinished);
  }

  /** Of a suspended device's client nothing is taken but its leave. */
  #heldStep(): boolean {
    const has_header = this.#mode === Mode.HEADER && this.#filled - this.#at >= this.#request_bytes;
    if (has_header && this.#recv_view.getUint16(this.#at + 6) === DISC) this.#takeLeave();
    return false;
  }

  #takeLeave(): boolean {
    this.state = State.FINISH;
    if (this.is_attached) this.#hub.has_taken_leave = true;
    return false;
  }

  /** The client has sent its last byte: answers what was asked in full, forgets the rest. */
  #lastWords(): void {
    if (this.is_attached) return this.kill();
    if (this.stalled) return;
    if (this.#mode === Mode.PLACE && this.#filled - this.#at >= this.#left_bytes) return;
    if (this.#mode === Mode.HEADER && this.#at === this.#filled) this.state = State.FINISH;
    else if (!this.#is_held) this.kill();
  }

  #negotiate(): boolean {
    if (this.#sender.busy) return false;
    if (this.#is_tls_next) this.#startTls();
    const step = this.#handshake.step(this.#recv.slice(this.#at, this.#filled));
    if (step === null) {
      if (this.#ended) this.kill();
      return false;
    }
    this.#at += step.consumed_bytes;
    if (step.then === "tls" && !this.#canStartTls()) return false;
    if (step.reply.length > 0) {
      this.#sender.startRaw(step.reply);
      this.#send();
    }
    if (step.then === "serve") this.#beginServing(this.#handshake.session);
    if (step.then === "close") this.state = State.FINISH;
    return true;
  }

  /** What has come behind STARTTLS was said in the clear, by whoever stands between: it must not count as said under TLS. */
  #canStartTls(): boolean {
    this.#is_tls_next = this.#at === this.#filled;
    if (!this.#is_tls_next) this.kill();
    return this.#is_tls_next;
  }

  #startTls(): void {
    const hub = this.#hub;
    assert(!this.#receiving && this.#at === this.#filled, "bytes beside the TLS handshake");
    this.#is_tls_next = false;
    this.#handshake = this.#handshake.secured();
    this.#tls = hub.tls!.open(this.#fd, hub.recv_user + this.index, hub.send_user + this.index);
    this.#tls_deadline_ms = NaN;
    hub.waits_for_clients = true;
  }

  get #isShakingHands(): boolean {
    return this.state === State.NEGOTIATE && this.#tls !== null && !this.#tls.is_established;
  }

  /** Drops a client whose TLS handshake takes too long. True: look again. */
  #lookAtHandshake(now_ms: number): boolean {
    if (Number.isNaN(this.#tls_deadline_ms)) this.#tls_deadline_ms = now_ms + TLS_HANDSHAKE_MS;
    if (now_ms < this.#tls_deadline_ms) return true;
    this.kill();
    return false;
  }

  #beginServing(session: Session): void {
    this.#session = session;
    this.#is_extended = session.style === EXTENDED;
    this.#request_magic = requestMagic(session.style);
    this.#request_bytes = requestBytes(session.style);
    this.#sender.useStyle(session.style);
    this.state = State.SERVE;
  }

  /** Begins the request at `#at`. False: more bytes are needed, or others have to end first. */
  #takeRequest(): boolean {
    if (this.#filled - this.#at < this.#request_bytes) return false;
    const view = this.#recv_view;
    const at = this.#at;
    if (view.getUint32(at) !== this.#request_magic) {
      this.kill();
      return false;
    }
    if (this.active >= this.#max_active) return this.#stall();
    const flags = view.getUint16(at + 4);
    const type = view.getUint16(at + 6);
    const off_bytes = view.getUint32(at + 16) * 0x100000000 + view.getUint32(at + 20);
    const len_bytes = this.#is_extended
      ? view.getUint32(at + 24) * 0x100000000 + view.getUint32(at + 28)
      : view.getUint32(at + 24);
    if (type === DISC) return this.#takeLeave();
    if (lacksPayload(type, flags, this.#session)) {
      this.kill();
      return false;
    }
    const session = this.#session;
    const failed = validateRequest(type, flags, off_bytes, len_bytes, this.#hub.served, session);
    if (failed !== GOOD) return this.#refuse(type, flags, len_bytes, failed);
    if (type === BLOCK_STATUS) return this.#tellStatus(flags, off_bytes, len_bytes);
    return this.#begin(type, flags, off_bytes, len_bytes);
  }

  /** Answers with an error and skips the payload. One that is longer than anybody sends ends the connection. */
  #refuse(type: number, flags: number, len_bytes: number, failed: number): boolean {
    const payload_bytes = payloadBytes(type, flags, len_bytes, this.#session);
    if (payload_bytes > this.#maxSkippedBytes()) {
      this.kill();
      return false;
    }
    this.#sender.pushFailure(this.#requestWords(), failed);
    this.active += 1;
    this.#at += this.#request_bytes;
    if (payload_bytes > 0) {
      this.#mode = Mode.SKIP;
      this.#left_bytes = payload_bytes;
    }
    return true;
  }

  /** "Extended request message": a server should not take a payload that is longer than what it has announced. */
  #maxSkippedBytes(): number {
    return this.#is_extended ? this.#hub.served.max_request_bytes : MAX_SKIPPED_BYTES;
  }

  /** Answers a BLOCK_STATUS request: what is known now, without the engine's doing. */
  #tellStatus(flags: number, off_bytes: number, len_bytes: number): boolean {
    if (!this.#sender.has_status_room) return this.#stall();
    const { engine, states } = this.#hub;
    engine.listRangeStates(off_bytes, len_bytes, wantedStates(this.#session), states);
    const words = this.#requestWords();
    const most = (flags & CMD_FLAG_REQ_ONE) !== 0 ? 1 : MAX_RANGES;
    this.#sender.pushStatus(words, this.#session, off_bytes, states, most);
    this.active += 1;
    this.#at += this.#request_bytes;
    return true;
  }

  #begin(type: number, flags: number, off_bytes: number, len_bytes: number): boolean {
    const hub = this.#hub;
    const is_read = type === READ || type === CACHE;
    if (is_read && this.#sender.read_bytes >= this.#window_bytes) return this.#stall();
    const slot = is_read
      ? hub.engine.beginRead(off_bytes, len_bytes)
      : type === WRITE
      ? hub.engine.beginWrite(off_bytes, len_bytes, (flags & FLAG_FUA) !== 0)
      : type === CMD_FLUSH
      ? hub.engine.beginFlush()
      : this.#beginZero(type, flags, off_bytes, len_bytes);
    if (slot === NONE) return this.#stall();
    if (is_read) this.#sender.read_bytes += readCost(len_bytes);
    hub.fed = true;
    hub.slot_owner[slot] = this.index;
    hub.slot_type[slot] = type;
    hub.slot_is_whole[slot] = flags & FLAG_DF;
    hub.slot_bytes[slot] = len_bytes;
    this.#copyWords(hub.slot_words, 4 * slot);
    this.active += 1;
    this.#at += this.#request_bytes;
    if (type === WRITE) {
      this.#write_slot = slot;
      this.#left_bytes = len_bytes;
      this.#narrow = this.#isDirect(len_bytes);
      this.#mode = Mode.PLACE;
      hub.collectPlaced();
    }
    return true;
  }

  #beginZero(type: number, flags: number, off_bytes: number, len_bytes: number): number {
    const may_punch = type === CMD_TRIM || (flags & CMD_FLAG_NO_HOLE) === 0;
    const fua = (flags & CMD_FLAG_FUA) !== 0;
    return this.#hub.engine.beginZero(off_bytes, len_bytes, may_punch, fua);
  }

  /** Cookie and offset of the request at `#at`, as the words that replies carry; valid until it is called again. */
  #requestWords(): Uint32Array {
    this.#copyWords(this.#hub.request_words, 0);
    return this.#hub.request_words;
  }

  /** Copies them in the host's order, whatever that is: they are never looked at. */
  #copyWords(to: Uint32Array, at: number): void {
    const view = this.#recv_view;
    const from = this.#at + 8;
    to[at] = view.getUint32(from, true);
    to[at + 1] = view.getUint32(from + 4, true);
    to[at + 2] = view.getUint32(from + 8, true);
    to[at + 3] = view.getUint32(from + 12, true);
  }

  #stall(): boolean {
    this.stalled = true;
    return false;
  }

  #copyPayload(): boolean {
    const { engine, memory } = this.#hub;
    while (this.#left_bytes > 0 && this.#at < this.#filled) {
      const piece_left_bytes = engine.pieceLen(this.#piece) - this.#piece_done_bytes;
      const len_bytes = Math.min(piece_left_bytes, this.#filled - this.#at);
      const from = this.#recv_addr + this.#at;
      memory.receive(engine.pieceAddr(this.#piece), this.#piece_done_bytes, from, len_bytes);
      this.#at += len_bytes;
      this.#payloadAdvance(len_bytes);
    }
    return this.#payloadEnd();
  }

  /** Moves the cursor over the pieces. */
  #payloadAdvance(len_bytes: number): void {
    const engine = this.#hub.engine;
    this.#left_bytes -= len_bytes;
    this.#moved_bytes += len_bytes;
    let rest_bytes = len_bytes;
    while (rest_bytes > 0) {
      const piece_left_bytes = engine.pieceLen(this.#piece) - this.#piece_done_bytes;
      if (rest_bytes < piece_left_bytes) {
        this.#piece_done_bytes += rest_bytes;
        return;
      }
      rest_bytes -= piece_left_bytes;
      this.#piece = engine.nextPiece(this.#piece);
      this.#piece_done_bytes = 0;
    }
  }

  #payloadEnd(): boolean {
    if (this.#left_bytes > 0) return false;
    const slot = this.#write_slot;
    this.#write_slot = NONE;
    this.#mode = Mode.HEADER;
    this.#moved_bytes += PATIENCE_BYTES;
    this.#hub.engine.payloadArrived(slot);
    this.#hub.fed = true;
    return true;
  }

  #skipPayload(): boolean {
    const len_bytes = Math.min(this.#left_bytes, this.#filled - this.#at);
    this.#at += len_bytes;
    this.#left_bytes -= len_bytes;
    if (this.#left_bytes > 0) return false;
    this.#mode = Mode.HEADER;
    return true;
  }

  /** Bytes have been received straight into the pieces. If these were the last, `#copyPayload` ends the payload. */
  #placeReceived(len_bytes: number): void {
    assert(len_bytes <= this.#left_bytes, "received more than the payload");
    this.#payloadAdvance(len_bytes);
  }

  /** Starts to receive, if there is room. A full buffer holds the client back. */
  #receive(): void {
    if (this.#receiving || this.#ended) return;
    if (this.state !== State.SERVE && this.state !== State.NEGOTIATE) return;
    if (this.state === State.NEGOTIATE && this.#sender.busy) return;
    const hub = this.#hub;
    if (this.#is_held && this.state === State.SERVE) return;
    const user = hub.recv_user + this.index;
    if (this.#mode === Mode.PAYLOAD) hub.waits_for_clients = true;
    if (this.#mode === Mode.PAYLOAD && this.#isDirect(this.#left_bytes)) {
      this.#listPlaces();
      this.#direct = true;
      if (this.#tls === null) hub.ring.recvmsg(user, this.#fd, this.#places.msghdr_addr);
      else this.#tls.recvmsg(this.#places);
    } else {
      this.#compact();
      const free_bytes = this.#recv_bytes - this.#filled;
      const room_bytes = this.#narrow ? Math.min(free_bytes, NARROW_BYTES) : free_bytes;
      if (room_bytes === 0) return;
      const addr = this.#recv_addr + this.#filled;
      // A client without a request under way has just been answered, and its next one is not there yet.
      if (this.#tls === null) hub.ring.recv(user, this.#fd, addr, room_bytes, this.active === 0);
      else this.#tls.recv(addr, room_bytes);
    }
    this.#receiving = true;
  }

  /** Whether so much of a payload is received straight into its place. */
  #isDirect(len_bytes: number): boolean {
    return len_bytes >= DIRECT_BYTES && !this.#hub.memory.receives_past_caches;
  }

  /** Lists where the rest of the payload goes. */
  #listPlaces(): void {
    assert(this.#at === this.#filled, "payload left in the buffer");
    const engine = this.#hub.engine;
    this.#places.clear();
    let done_bytes = this.#piece_done_bytes;
    for (let piece = this.#piece; piece !== NONE; piece = engine.nextPiece(piece)) {
      const addr = engine.pieceAddr(piece) + done_bytes;
      if (!this.#places.add(addr, engine.pieceLen(piece) - done_bytes)) break;
      done_bytes = 0;
    }
    this.#places.seal();
  }

  /** Makes room at the end of the buffer, when that costs little or half of the buffer is free. */
  #compact(): void {
    const len_bytes = this.#filled - this.#at;
    if (this.#at === 0) return;
    if (len_bytes > CHEAP_MOVE_BYTES && this.#at < this.#recv_bytes / 2) return;
    if (len_bytes > 0) this.#recv.copyWithin(0, this.#at, this.#filled);
    this.#at = 0;
    this.#filled = len_bytes;
  }

  #send(): void {
    const hub = this.#hub;
    hub.waits_for_clients = true;
    const { iovecs } = this.#sender;
    if (this.#tls !== null) this.#tls.send(iovecs);
    else hub.ring.sendmsg(hub.send_user + this.index, this.#fd, iovecs.msghdr_addr);
    this.#sending = true;
  }

  #requestsEnded(count: number): void {
    if (count === 0) return;
    this.active -= count;
    assert(this.active >= 0, "more replies than requests");
    this.#hub.fed = true;
    this.#hub.ended = true;
  }

  /** Goes on with a connection that is to end, as far as what is under way allows. */
  #settle(): void {
    if (this.state === State.FINISH) this.#finish();
    if (this.state === State.DEAD) this.#bury();
  }

  #finish(): void {
    if (this.active > 0 || this.#sending) return;
    this.state = State.DEAD;
    this.#tls?.bye();
    this.#hub.sockets.shutdown(this.#fd);
  }

  #bury(): void {
    const hub = this.#hub;
    if (this.#write_slot !== NONE && !this.#direct) {
      hub.engine.payloadLost(this.#write_slot);
      this.#write_slot = NONE;
      this.#mode = Mode.HEADER;
      this.#requestsEnded(1);
    }
    if (!this.#sending) this.#requestsEnded(this.#sender.drop());
    if (this.#sending || this.#receiving) return;
    if (this.#fd !== NONE) {
      this.#tls?.close();
      this.#tls = null;
      this.#is_tls_next = false;
      hub.sockets.close(this.#fd);
      this.#fd = NONE;
      if (this.is_attached) hub.attached_count -= 1;
    }
    if (this.active > 0) return;
    this.state = State.FREE;
    if (this.#keeps_memory) return;
    hub.arena.discard(this.#recv_addr, Connection.sizeBytes(this.#recv_bytes));
  }
}

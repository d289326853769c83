/**
 * A machine and an engine for the tests of the NBD server: a ring whose sockets are byte queues and whose transfers
 * are as short, as late and as shuffled as a seed says, and an engine that checks how it is used.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import { assert } from "../../core/assert.ts";
import { EIO, OK } from "../../core/errors.ts";
import { CLEAN, DIRTY, HOLE, NOT_CACHED, type RangeStates, ZERO } from "../../core/range_states.ts";
import type { Iovecs } from "./iovecs.ts";
import type { NbdArena, NbdEngine, NbdRing, NbdSockets, NbdTls, NbdTlsStream } from "./ports.ts";

/** Numbers from a seed (mulberry32): `next(n)` is 0..n-1. */
export class Random {
  #state: number;
  constructor(seed: number) {
    this.#state = seed >>> 0;
  }
  next(n: number): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let t = this.#state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) % n;
  }
  chance(percent: number): boolean {
    return this.next(100) < percent;
  }
}

/** Absolute addresses begin here: low words near their end, so that sums carry into the high word. */
const BASE = 0x7f00_ffff_f000;

export class FakeArena implements NbdArena {
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly view: DataView;
  #next: number;
  /** The first `engine_bytes` belong to the engine. */
  constructor(engine_bytes: number, io_bytes: number) {
    this.bytes = new Uint8Array(engine_bytes + io_bytes);
    this.view = new DataView(this.bytes.buffer);
    this.#next = engine_bytes;
  }
  alloc(len_bytes: number, align_bytes: number): number {
    const addr = Math.ceil(this.#next / align_bytes) * align_bytes;
    assert(addr + len_bytes <= this.bytes.length, "fake arena too small");
    this.#next = addr + len_bytes;
    return addr;
  }
  discard(addr: number, len_bytes: number): void {
    this.bytes.fill(0, addr, addr + len_bytes);
  }
  absolute(addr: number): bigint {
    return BigInt(BASE + addr);
  }
  putAddress(words: Uint32Array, index: number, addr: number): void {
    words[index] = (BASE + addr) >>> 0;
    words[index + 1] = Math.floor((BASE + addr) / 2 ** 32);
  }
  /** The address that two words name. */
  addressAt(addr: number): number {
    const { view } = this;
    return this.relative(view.getUint32(addr, true) + view.getUint32(addr + 4, true) * 2 ** 32);
  }
  /** The address in the arena of an absolute one, checked to lie inside. */
  relative(absolute: number): number {
    assert(absolute >= BASE && absolute < BASE + this.bytes.length, "wild address");
    return absolute - BASE;
  }
}

/** Bytes in order. */
export class ByteQueue {
  #bytes = new Uint8Array(1024);
  #from = 0;
  #to = 0;
  get length(): number {
    return this.#to - this.#from;
  }
  push(bytes: ArrayLike<number>): void {
    if (this.#to + bytes.length > this.#bytes.length) {
      const grown = new Uint8Array(2 * (this.length + bytes.length));
      grown.set(this.#bytes.subarray(this.#from, this.#to));
      [this.#bytes, this.#from, this.#to] = [grown, 0, this.length];
    }
    this.#bytes.set(bytes, this.#to);
    this.#to += bytes.length;
  }
  take(count: number): Uint8Array {
    const taken = this.peek(count).slice();
    this.#from += count;
    return taken;
  }
  /** The next bytes, without taking them; valid until something is added. */
  peek(count: number): Uint8Array {
    assert(count <= this.length, `${this.length} bytes there, ${count} wanted`);
    return this.#bytes.subarray(this.#from, this.#from + count);
  }
  drop(count: number): void {
    assert(count <= this.length, `${this.length} bytes there, ${count} wanted`);
    this.#from += count;
  }
}

/** One client: what it has sent and not yet been received, and what it got. */
export class FakeSocket {
  readonly fd: number;
  readonly inbox = new ByteQueue();
  readonly outbox = new ByteQueue();
  /** The client has closed its sending side. */
  client_ended = false;
  /** The client is gone altogether. */
  client_gone = false;
  /** The client does not read. */
  stuck = false;
  shut = false;
  closed = false;
  constructor(fd: number) {
    this.fd = fd;
  }
}

interface Operation {
  kind: "accept" | "recv" | "recvmsg" | "sendmsg";
  user: number;
  fd: number;
  addr: number;
  len_bytes: number;
}

const EAGAIN = 11;
const EPIPE = 32;
const EPROTO = 71;
const EMFILE = 24;

export class FakeRing implements NbdRing, NbdSockets {
  readonly sockets = new Map<number, FakeSocket>();
  /** Clients that knock. */
  readonly knocking: FakeSocket[] = [];
  /** So many accepts fail. */
  failing_accepts = 0;
  /** Longest transfer; 0: as long as can be. */
  chop_bytes = 0;
  readonly #arena: FakeArena;
  readonly #random: Random;
  readonly #operations: Operation[] = [];
  /** Places of those that can end. */
  readonly #ready: number[] = [];
  #next_fd = 100;
  user = 0;
  result = 0;

  constructor(arena: FakeArena, random: Random) {
    this.#arena = arena;
    this.#random = random;
  }

  connect(): FakeSocket {
    const socket = this.pair();
    this.knocking.push(socket);
    return socket;
  }

  /** A socket that nobody has to accept. */
  pair(): FakeSocket {
    const socket = new FakeSocket(this.#next_fd++);
    this.sockets.set(socket.fd, socket);
    return socket;
  }

  accept(user: number, fd: number): void {
    this.#operations.push({ kind: "accept", user, fd, addr: 0, len_bytes: 0 });
  }
  recv(user: number, fd: number, addr: number, len_bytes: number): void {
    assert(len_bytes > 0, "receive of nothing");
    this.#add({ kind: "recv", user, fd, addr, len_bytes });
  }
  recvmsg(user: number, fd: number, addr: number): void {
    this.#add({ kind: "recvmsg", user, fd, addr, len_bytes: 0 });
  }
  sendmsg(user: number, fd: number, addr: number): void {
    this.#add({ kind: "sendmsg", user, fd, addr, len_bytes: 0 });
  }

  /** Takes nothing now and then, though there is room. */
  sendNow(fd: number, msghdr: bigint): number {
    const socket = this.sockets.get(fd)!;
    assert(!socket.closed, "send on a closed socket");
    const is_under_way = this.#operations.some((o) => o.fd === fd && o.kind === "sendmsg");
    assert(!is_under_way, "a send overtakes another");
    const gone = socket.shut || socket.client_gone;
    if (!gone && (socket.stuck || this.#random.chance(30))) return -EAGAIN;
    const addr = this.#arena.relative(Number(msghdr));
    return this.#performSend({ kind: "sendmsg", user: 0, fd, addr, len_bytes: 0 }, socket);
  }

  #add(operation: Operation): void {
    assert(!this.sockets.get(operation.fd)!.closed, "operation on a closed socket");
    const sends = operation.kind === "sendmsg";
    for (const o of this.#operations) {
      const is_same = o.fd === operation.fd && (o.kind === "sendmsg") === sends;
      assert(!is_same, "two of a kind on one socket");
    }
    this.#operations.push(operation);
  }

  shutdown(fd: number): void {
    assert(!this.sockets.get(fd)!.closed, "shutdown of a closed socket");
    this.sockets.get(fd)!.shut = true;
  }
  close(fd: number): void {
    const socket = this.sockets.get(fd)!;
    assert(!socket.closed, "closed twice");
    assert(!this.#operations.some((o) => o.fd === fd), "closed with something under way");
    socket.closed = true;
  }
  keepAlive(_fd: number): void {}
  hasHungUp(fd: number): boolean {
    const socket = this.sockets.get(fd)!;
    return socket.client_ended || socket.client_gone;
  }

  /** Ends one operation that can end, chosen at random; false when there is none. */
  next(): boolean {
    const ready = this.#ready;
    let count = 0;
    for (let i = 0; i < this.#operations.length; i++) {
      if (this.#isReady(this.#operations[i]!)) ready[count++] = i;
    }
    if (count === 0) return false;
    const at = ready[this.#random.next(count)]!;
    const operation = this.#operations[at]!;
    this.#operations[at] = this.#operations.at(-1)!;
    this.#operations.pop();
    this.user = operation.user;
    this.result = this.#perform(operation);
    return true;
  }

  #isReady(o: Operation): boolean {
    if (o.kind === "accept") return this.knocking.length > 0;
    const socket = this.sockets.get(o.fd)!;
    if (socket.shut) return true;
    if (o.kind === "sendmsg") return socket.client_gone || !socket.stuck;
    return socket.inbox.length > 0 || socket.client_ended || socket.client_gone;
  }

  #perform(o: Operation): number {
    if (o.kind === "accept") {
      if (this.failing_accepts > 0) {
        this.failing_accepts -= 1;
        return -EMFILE;
      }
      return this.knocking.shift()!.fd;
    }
    const socket = this.sockets.get(o.fd)!;
    if (o.kind === "sendmsg") return this.#performSend(o, socket);
    if (socket.shut) return this.#performCut(o);
    const ranges = o.kind === "recv" ? [[o.addr, o.len_bytes] as const] : this.#ranges(o.addr);
    let left_bytes = this.#allowed(Math.min(socket.inbox.length, sum(ranges)));
    const moved_bytes = left_bytes;
    for (const [addr, len_bytes] of ranges) {
      const now_bytes = Math.min(left_bytes, len_bytes);
      this.#arena.bytes.set(socket.inbox.peek(now_bytes), addr);
      socket.inbox.drop(now_bytes);
      left_bytes -= now_bytes;
    }
    return moved_bytes;
  }

  /** A receive that a shutdown ends may have moved bytes before. */
  #performCut(o: Operation): number {
    if (o.kind === "recvmsg") {
      const [addr, len_bytes] = this.#ranges(o.addr)[0]!;
      this.#arena.bytes.fill(0x55, addr, addr + len_bytes);
    }
    return 0;
  }

  #performSend(o: Operation, socket: FakeSocket): number {
    if (socket.shut || socket.client_gone) return -EPIPE;
    const ranges = this.#ranges(o.addr);
    let left_bytes = this.#allowed(sum(ranges));
    const moved_bytes = left_bytes;
    for (const [addr, len_bytes] of ranges) {
      const now_bytes = Math.min(left_bytes, len_bytes);
      socket.outbox.push(this.#arena.bytes.subarray(addr, addr + now_bytes));
      left_bytes -= now_bytes;
    }
    return moved_bytes;
  }

  #allowed(len_bytes: number): number {
    if (this.chop_bytes === 0 || len_bytes === 0) return len_bytes;
    return Math.min(len_bytes, 1 + this.#random.next(this.chop_bytes));
  }

  #ranges(msghdr_addr: number): (readonly [number, number])[] {
    const { view } = this.#arena;
    const iov_addr = this.#arena.addressAt(msghdr_addr + 16);
    const count = view.getUint32(msghdr_addr + 24, true);
    assert(count > 0 && count <= 1024, "message without ranges, or with too many");
    const ranges: (readonly [number, number])[] = [];
    for (let i = 0; i < count; i++) {
      const at = iov_addr + 16 * i;
      const addr = this.#arena.addressAt(at);
      const len_bytes = view.getUint32(at + 8, true);
      assert(view.getUint32(at + 12, true) === 0 && len_bytes > 0, "bad range");
      assert(addr + len_bytes <= this.#arena.bytes.length, "range ends outside");
      ranges.push([addr, len_bytes]);
    }
    return ranges;
  }
}

/** What a client of the fake TLS shakes hands with. */
export const HELLO = 0x16;

/** TLS in name only: a handshake of one byte, and then the bytes as they are. */
export class FakeTls implements NbdTls {
  readonly is_required: boolean;
  /** Streams that are not closed. */
  open_count = 0;
  /** Streams that have said goodbye. */
  bye_count = 0;
  readonly #arena: FakeArena;
  readonly #ring: FakeRing;

  constructor(arena: FakeArena, ring: FakeRing, is_required: boolean) {
    this.#arena = arena;
    this.#ring = ring;
    this.is_required = is_required;
  }

  open(fd: number, recv_user: number, send_user: number): NbdTlsStream {
    const [ring, { bytes }] = [this.#ring, this.#arena];
    let hello_addr = 0;
    this.open_count += 1;
    const stream = {
      is_established: false,
      recv: (addr: number, len_bytes: number) => {
        hello_addr = addr;
        ring.recv(recv_user, fd, addr, stream.is_established ? len_bytes : 1);
      },
      recvmsg: (into: Iovecs) => ring.recvmsg(recv_user, fd, into.msghdr_addr),
      send: (from: Iovecs) => ring.sendmsg(send_user, fd, from.msghdr_addr),
      sendNow: (from: Iovecs) => {
        assert(stream.is_established, "bytes before the handshake");
        return ring.sendNow(fd, from.msghdr);
      },
      received: (result: number) => {
        if (stream.is_established || result <= 0) return result;
        stream.is_established = bytes[hello_addr] === HELLO;
        return stream.is_established ? -EAGAIN : -EPROTO;
      },
      sent: (result: number) => result,
      bye: () => void (this.bye_count += 1),
      close: () => void (this.open_count -= 1),
    };
    return stream;
  }
}

function sum(ranges: (readonly [number, number])[]): number {
  return ranges.reduce((total, [, len_bytes]) => total + len_bytes, 0);
}

type SlotState = "waiting" | "placed" | "arrived" | "working" | "answered" | "taken";

interface FakeRequest {
  kind: "read" | "write" | "zero" | "flush";
  state: SlotState;
  off_bytes: number;
  len_bytes: number;
  errno: number;
  pieces: number[];
}

/** So much of the fake cached device is in one state. */
export const STATE_BYTES = 3000;

/** What the parts of the fake cached device are said to be, in turn. */
const STATES = [NOT_CACHED, CLEAN, DIRTY, DIRTY | ZERO, CLEAN | ZERO | HOLE];

/** What an unused window of the fake engine is full of. */
const UNUSED = 0xdd;

/**
 * Serves requests from `content`, each cut into pieces of at most `piece_bytes` that lie in memory back to front. It answers when `pump` is called, as many
 * as the seed says. Reads of the last 512 bytes fail with EIO.
 */
export class FakeEngine implements NbdEngine {
  readonly size_bytes: number;
  readonly max_requests: number;
  readonly content: Uint8Array;
  /** Nothing is placed while this is set: the cache is full. */
  is_full = false;
  /** Writes that have no place yet fail: the medium is gone. */
  is_broken = false;
  /** Nothing is answered while this is set. */
  is_asleep = false;
  /** Percent of the requests that move on in one pump. */
  pace_percent = 100;
  piece_bytes = 1 << 20;
  flushes = 0;
  fua_writes = 0;
  /** Zeroing that may punch, and that may not. */
  trims = 0;
  zeroes = 0;
  /** So many slots are in use. */
  requests_in_use = 0;
  readonly #memory: Uint8Array<ArrayBuffer>;
  readonly #random: Random;
  readonly #requests: (FakeRequest | null)[];
  readonly #placed: number[] = [];
  readonly #answered: number[] = [];
  readonly #piece_addr: number[] = [];
  readonly #piece_len: number[] = [];
  readonly #piece_next: number[] = [];
  readonly #free_pieces: number[] = [];
  readonly #window_bytes: number;
  readonly #unused: Uint8Array;

  /** Slot `i` has its bytes at `i * window_bytes` of the memory. */
  constructor(
    memory: Uint8Array<ArrayBuffer>,
    random: Random,
    size_bytes: number,
    slots: number,
    window: number,
  ) {
    this.#memory = memory;
    this.#random = random;
    this.size_bytes = size_bytes;
    this.max_requests = slots;
    this.content = new Uint8Array(size_bytes);
    this.#requests = new Array(slots).fill(null);
    this.#window_bytes = window;
    this.#unused = new Uint8Array(window).fill(UNUSED);
    memory.fill(UNUSED, 0, slots * window);
  }

  beginRead(off_bytes: number, len_bytes: number): number {
    return this.#begin("read", "working", off_bytes, len_bytes);
  }
  beginWrite(off_bytes: number, len_bytes: number, fua: boolean): number {
    const slot = this.#begin("write", "waiting", off_bytes, len_bytes);
    if (slot >= 0 && fua) this.fua_writes += 1;
    const may_place = slot >= 0 && !this.is_full && !this.is_broken;
    if (may_place && this.#random.chance(this.pace_percent)) this.#place(slot);
    return slot;
  }
  beginZero(off_bytes: number, len_bytes: number, may_punch: boolean, fua: boolean): number {
    const slot = this.#begin("zero", "working", off_bytes, len_bytes);
    if (slot < 0) return slot;
    if (fua) this.fua_writes += 1;
    if (may_punch) this.trims += 1;
    else this.zeroes += 1;
    return slot;
  }
  beginFlush(): number {
    const slot = this.#begin("flush", "working", 0, 0);
    if (slot >= 0) this.flushes += 1;
    return slot;
  }

  #begin(kind: FakeRequest["kind"], state: SlotState, off_bytes: number, len_bytes: number) {
    assert(kind === "flush" || len_bytes > 0, "empty request");
    assert(off_bytes + len_bytes <= this.size_bytes, "request outside the device");
    const has_pieces = kind === "read" || kind === "write";
    assert(!has_pieces || len_bytes <= this.#window_bytes, "request too long for the test");
    const slot = this.#requests.indexOf(null);
    if (slot < 0) return -1;
    const difference = Buffer.compare(this.#windowOf(slot), this.#unused);
    assert(difference === 0, "bytes were received into a place that was given back");
    this.#requests[slot] = { kind, state, off_bytes, len_bytes, errno: OK, pieces: [] };
    this.requests_in_use += 1;
    if (has_pieces) this.#cut(slot);
    return slot;
  }

  #cut(slot: number): void {
    const request = this.#requests[slot]!;
    for (let done_bytes = 0; done_bytes < request.len_bytes;) {
      const rest_bytes = request.len_bytes - done_bytes;
      const len_bytes = Math.min(rest_bytes, 1 + this.#random.next(this.piece_bytes));
      const piece = this.#free_pieces.pop() ?? this.#piece_addr.length;
      this.#piece_addr[piece] = slot * this.#window_bytes + rest_bytes - len_bytes;
      this.#piece_len[piece] = len_bytes;
      this.#piece_next[piece] = -1;
      const before = request.pieces.at(-1);
      if (before !== undefined) this.#piece_next[before] = piece;
      request.pieces.push(piece);
      done_bytes += len_bytes;
    }
  }

  #place(slot: number): void {
    this.#requests[slot]!.state = "placed";
    this.#placed.push(slot);
  }

  takePlaced(): number {
    return this.#placed.shift() ?? -1;
  }

  takeAnswered(): number {
    const slot = this.#answered.shift() ?? -1;
    if (slot >= 0) this.#in(slot, "answered").state = "taken";
    return slot;
  }

  payloadArrived(slot: number): void {
    assert(!this.#placed.includes(slot), "payload before its place was taken");
    const request = this.#in(slot, "placed");
    let off_bytes = request.off_bytes;
    for (const piece of request.pieces) {
      this.content.set(this.#bytesOf(piece), off_bytes);
      off_bytes += this.#piece_len[piece]!;
    }
    request.state = "working";
  }

  payloadLost(slot: number): void {
    const request = this.#requests[slot]!;
    assert(request.state !== "arrived" && request.state !== "taken", "lost too late");
    for (const queue of [this.#placed, this.#answered]) {
      const at = queue.indexOf(slot);
      if (at >= 0) queue.splice(at, 1);
    }
    this.#free(slot);
  }

  /** States change every `STATE_BYTES`, in turn. */
  listRangeStates(off_bytes: number, len_bytes: number, wanted: number, into: RangeStates): void {
    assert(len_bytes > 0 && off_bytes + len_bytes <= this.size_bytes, "states of what is outside");
    const end_bytes = off_bytes + len_bytes;
    into.count = 0;
    for (let at = off_bytes; at < end_bytes;) {
      const nth = Math.floor(at / STATE_BYTES);
      at = Math.min(end_bytes, (nth + 1) * STATE_BYTES);
      if (!into.add(at, STATES[nth % STATES.length]! & wanted)) return;
    }
  }

  error(slot: number): number {
    return this.#in(slot, "taken").errno;
  }
  firstPiece(slot: number): number {
    return this.#requests[slot]!.pieces[0]!;
  }
  nextPiece(piece: number): number {
    return this.#piece_next[piece]!;
  }
  pieceAddr(piece: number): number {
    return this.#piece_addr[piece]!;
  }
  pieceLen(piece: number): number {
    return this.#piece_len[piece]!;
  }

  get knows_zeroes(): boolean {
    return this.trims + this.zeroes > 0;
  }
  pieceIsZero(piece: number): boolean {
    return this.#bytesOf(piece).every((byte) => byte === 0);
  }

  release(slot: number): void {
    this.#in(slot, "taken");
    this.#free(slot);
  }

  #bytesOf(piece: number): Uint8Array {
    const addr = this.#piece_addr[piece]!;
    return this.#memory.subarray(addr, addr + this.#piece_len[piece]!);
  }

  #windowOf(slot: number): Uint8Array {
    return this.#memory.subarray(slot * this.#window_bytes, (slot + 1) * this.#window_bytes);
  }

  #free(slot: number): void {
    this.#free_pieces.push(...this.#requests[slot]!.pieces);
    this.#requests[slot] = null;
    this.requests_in_use -= 1;
    // Bytes sent or received after this are noticed.
    this.#windowOf(slot).fill(UNUSED);
  }

  #in(slot: number, state: SlotState): FakeRequest {
    const request = this.#requests[slot];
    assert(request !== null && request !== undefined, `slot ${slot} is not in use`);
    assert(request.state === state, `slot ${slot} is ${request.state}, not ${state}`);
    return request;
  }

  pump(): void {
    if (this.requests_in_use === 0) return;
    for (let slot = 0; slot < this.max_requests; slot++) {
      const request = this.#requests[slot]!;
      if (request === null || !this.#random.chance(this.pace_percent)) continue;
      if (request.state === "waiting" && this.is_broken) this.#fail(slot, request);
      if (request.state === "waiting" && !this.is_full) this.#place(slot);
      if (request.state === "working" && !this.is_asleep) this.#answer(slot, request);
    }
  }

  #fail(slot: number, request: FakeRequest): void {
    request.errno = EIO;
    request.state = "answered";
    this.#answered.push(slot);
  }

  #answer(slot: number, request: FakeRequest): void {
    if (request.kind === "zero") {
      this.content.fill(0, request.off_bytes, request.off_bytes + request.len_bytes);
    }
    if (request.kind === "read") {
      const end = request.off_bytes + request.len_bytes;
      if (end > this.size_bytes - 512) request.errno = EIO;
      let off_bytes = request.off_bytes;
      for (const piece of request.pieces) {
        const bytes = this.#bytesOf(piece);
        bytes.set(this.content.subarray(off_bytes, off_bytes + bytes.length));
        off_bytes += bytes.length;
      }
    }
    request.state = "answered";
    this.#answered.push(slot);
  }
}

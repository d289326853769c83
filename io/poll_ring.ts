/**
 * The ring without io_uring: poll(2) and plain calls, for kernels and containers that have it switched off.
 *
 * Sends and what concerns files are done when the ring is entered; file requests are done while everyone waits, so at
 * most `FILE_BATCH` of them a turn. What receives waits for poll(2) to say that there is something.
 *
 * @module
 */

import { assert } from "../core/assert.ts";
import { EINVAL } from "../core/errors.ts";
import type { Arena } from "./arena.ts";
import {
  EAGAIN,
  EINTR,
  ERRNO,
  errorText,
  F_GETFL,
  F_SETFL,
  libc,
  MSG_DONTWAIT,
  MSG_NOSIGNAL,
  O_NONBLOCK,
  POLLHUP,
  POLLIN,
  POLLOUT,
  result,
  SOCK_CLOEXEC,
  Word,
} from "./libc.ts";
import type { Ring } from "./ring.ts";

/** A receive and a send for each of a thousand clients, and what devices and commands have under way. */
const CAPACITY_FACTOR = 16;
const FILE_BATCH = 16;

const OP_ACCEPT = 1;
const OP_RECV = 2;
const OP_RECVMSG = 3;
const OP_SENDMSG = 4;
const OP_POLL = 5;
const OP_READ = 6;
const OP_WRITEV = 7;
const OP_FDATASYNC = 8;
const OP_FALLOCATE = 9;

/** struct pollfd. */
const POLLFD_BYTES = 8;
const MAX_TIMEOUT_MS = 2 ** 31 - 1;

/** A ring over poll(2). Requests lie in a table; the lists below hold their places in it. */
export class PollRing implements Ring {
  readonly name = "poll";
  readonly capacity: number;
  user = 0;
  result = 0;

  readonly #arena: Arena;
  readonly #op: Uint8Array;
  readonly #user: Uint32Array;
  readonly #fd: Int32Array;
  /** Length in bytes, or the number of iovecs, or the mode of a fallocate, or the events of a poll. */
  readonly #len: Uint32Array;
  /** Address, or the length of a fallocate. */
  readonly #addr: Float64Array;
  readonly #off_bytes: Float64Array;
  readonly #result: Int32Array;
  /** Free places: a stack. */
  readonly #free: Uint16Array;
  #free_count: number;
  /** Requests that wait for their descriptor, in no order. */
  readonly #waiting: Uint16Array;
  #waiting_count = 0;
  /** Requests on files, oldest first, and finished requests, oldest first: rings. */
  readonly #files: Queue;
  readonly #finished: Queue;
  readonly #pollfds_addr: number;
  readonly #pollfds: Uint32Array;
  readonly #len_word = new Word();
  readonly #off_word = new Word();

  constructor(arena: Arena, entries: number) {
    const capacity = entries * CAPACITY_FACTOR;
    assert(capacity <= 65536, "poll ring: places are 16 bits");
    this.#arena = arena;
    this.capacity = capacity;
    this.#op = new Uint8Array(capacity);
    this.#user = new Uint32Array(capacity);
    this.#fd = new Int32Array(capacity);
    this.#len = new Uint32Array(capacity);
    this.#addr = new Float64Array(capacity);
    this.#off_bytes = new Float64Array(capacity);
    this.#result = new Int32Array(capacity);
    this.#free = Uint16Array.from({ length: capacity }, (_, i) => i);
    this.#free_count = capacity;
    this.#waiting = new Uint16Array(capacity);
    this.#files = new Queue(capacity);
    this.#finished = new Queue(capacity);
    this.#pollfds_addr = arena.alloc(capacity * POLLFD_BYTES);
    this.#pollfds = arena.words(this.#pollfds_addr, capacity * POLLFD_BYTES);
  }

  accept(user: number, fd: number): void {
    // Between poll(2) and accept(2) the peer may go away; accept must not wait for the next one then.
    libc.fcntl(fd, F_SETFL, libc.fcntl(fd, F_GETFL, 0) | O_NONBLOCK);
    this.#request(OP_ACCEPT, user, fd, 0, 0, 0);
  }

  recv(user: number, fd: number, addr: number, len_bytes: number): void {
    this.#request(OP_RECV, user, fd, addr, len_bytes, 0);
  }

  recvmsg(user: number, fd: number, msghdr_addr: number): void {
    this.#request(OP_RECVMSG, user, fd, msghdr_addr, 0, 0);
  }

  sendmsg(user: number, fd: number, msghdr_addr: number): void {
    this.#request(OP_SENDMSG, user, fd, msghdr_addr, 0, 0);
  }

  poll(user: number, fd: number, events: number): void {
    this.#request(OP_POLL, user, fd, 0, events, 0);
  }

  read(user: number, fd: number, addr: number, len_bytes: number, off_bytes: number): void {
    this.#request(OP_READ, user, fd, addr, len_bytes, off_bytes);
  }

  writev(
    user: number,
    fd: number,
    iovec_addr: number,
    iovec_count: number,
    off_bytes: number,
  ): void {
    this.#request(OP_WRITEV, user, fd, iovec_addr, iovec_count, off_bytes);
  }

  fallocate(user: number, fd: number, mode: number, off_bytes: number, len_bytes: number): void {
    this.#request(OP_FALLOCATE, user, fd, len_bytes, mode, off_bytes);
  }

  fdatasync(user: number, fd: number): void {
    this.#request(OP_FDATASYNC, user, fd, 0, 0, 0);
  }

  wait(timeout_ms: number): void {
    for (let i = 0; i < FILE_BATCH && this.#files.count > 0; i++) {
      const place = this.#files.take();
      this.#finish(place, this.#doFile(place));
    }
    this.#trySends();
    const sleep = this.#finished.count === 0 && this.#files.count === 0 && timeout_ms > 0;
    assert(
      !sleep || this.#waiting_count > 0 || timeout_ms < MAX_TIMEOUT_MS,
      "ring: would sleep for ever, nothing is under way",
    );
    this.#pollSockets(sleep ? timeout_ms : 0);
  }

  next(): boolean {
    if (this.#finished.count === 0) return false;
    const place = this.#finished.take();
    this.user = this.#user[place]!;
    this.result = this.#result[place]!;
    this.#free[this.#free_count++] = place;
    return true;
  }

  close(): void {
    this.#waiting_count = 0;
  }

  #request(op: number, user: number, fd: number, addr: number, len: number, off: number): void {
    assert(fd >= 0, "ring: a descriptor is wanted");
    assert(this.#free_count > 0, "ring: over its capacity of requests under way");
    const place = this.#free[--this.#free_count]!;
    this.#op[place] = op;
    this.#user[place] = user;
    this.#fd[place] = fd;
    this.#addr[place] = addr;
    this.#len[place] = len;
    this.#off_bytes[place] = off;
    if (op >= OP_READ) this.#files.put(place);
    else this.#waiting[this.#waiting_count++] = place;
  }

  #finish(place: number, outcome: number): void {
    this.#result[place] = outcome;
    this.#finished.put(place);
  }

  /** Sends at once what there is room for: most sends end here, without poll(2). */
  #trySends(): void {
    for (let i = this.#waiting_count - 1; i >= 0; i--) {
      const place = this.#waiting[i]!;
      if (this.#op[place] === OP_SENDMSG) this.#trySocket(i, POLLOUT);
    }
  }

  /** Asks poll(2) about all that wait and carries on with those that can go on. */
  #pollSockets(timeout_ms: number): void {
    const count = this.#waiting_count;
    for (let i = 0; i < count; i++) {
      const place = this.#waiting[i]!;
      this.#pollfds[2 * i] = this.#fd[place]!;
      this.#pollfds[2 * i + 1] = this.#eventsOf(place);
    }
    const ready = result(
      libc.poll(
        this.#arena.absolute(this.#pollfds_addr),
        this.#len_word.set(count),
        timeout_ms >= MAX_TIMEOUT_MS ? -1 : Math.ceil(timeout_ms),
      ),
      ERRNO[0],
    );
    if (ready < 0 && ready !== -EINTR) throw new Error(`poll: ${errorText(-ready)}`);
    if (ready <= 0) return;
    // Backwards: a finished request's place in the list is taken by the last one, which has had its turn.
    for (let i = count - 1; i >= 0; i--) {
      const events = this.#pollfds[2 * i + 1]! >>> 16;
      if (events !== 0) this.#trySocket(i, events);
    }
  }

  #eventsOf(place: number): number {
    const op = this.#op[place]!;
    return op === OP_POLL ? this.#len[place]! : op === OP_SENDMSG ? POLLOUT : POLLIN;
  }

  /** Tries request `i` of the waiting ones; `events` is what poll(2) said. */
  #trySocket(i: number, events: number): void {
    const place = this.#waiting[i]!;
    let outcome = this.#op[place] === OP_POLL ? events : this.#doSocket(place);
    // A unix socket that was shut down answers a non-blocking accept with EAGAIN for ever, a blocking one with EINVAL.
    if (outcome === -EAGAIN && (events & POLLHUP) !== 0) outcome = -EINVAL;
    if (outcome === -EAGAIN || outcome === -EINTR) return;
    this.#waiting[i] = this.#waiting[--this.#waiting_count]!;
    this.#finish(place, outcome);
  }

  /** One try, which does not wait. */
  #doSocket(place: number): number {
    const fd = this.#fd[place]!, addr = this.#addr[place]!;
    switch (this.#op[place]!) {
      case OP_ACCEPT:
        return result(libc.accept4(fd, 0n, 0n, SOCK_CLOEXEC), ERRNO[0]);
      case OP_RECV: {
        const len = this.#len_word.set(this.#len[place]!);
        return result(libc.recv(fd, this.#arena.absolute(addr), len, MSG_DONTWAIT), ERRNO[0]);
      }
      case OP_RECVMSG:
        return result(libc.recvmsg(fd, this.#arena.absolute(addr), MSG_DONTWAIT), ERRNO[0]);
      default:
        return result(
          libc.sendmsg(fd, this.#arena.absolute(addr), MSG_DONTWAIT | MSG_NOSIGNAL),
          ERRNO[0],
        );
    }
  }

  /** The whole request, waited for. */
  #doFile(place: number): number {
    const fd = this.#fd[place]!;
    const off = this.#off_word.set(this.#off_bytes[place]!);
    for (;;) {
      const outcome = this.#op[place] === OP_FDATASYNC
        ? libc.fdatasync(fd)
        : this.#op[place] === OP_FALLOCATE
        ? libc.fallocate(fd, this.#len[place]!, off, this.#len_word.set(this.#addr[place]!))
        : this.#op[place] === OP_READ
        ? libc.pread(
          fd,
          this.#arena.absolute(this.#addr[place]!),
          this.#len_word.set(this.#len[place]!),
          off,
        )
        : libc.pwritev(fd, this.#arena.absolute(this.#addr[place]!), this.#len[place]!, off);
      const error = ERRNO[0];
      if (outcome >= 0 || error !== EINTR) return result(outcome, error);
    }
  }
}

/** A first-in first-out list of places, of fixed size. */
class Queue {
  count = 0;
  #first = 0;
  readonly #places: Uint16Array;

  constructor(capacity: number) {
    this.#places = new Uint16Array(capacity);
  }

  put(place: number): void {
    this.#places[(this.#first + this.count++) % this.#places.length] = place;
  }

  take(): number {
    const place = this.#places[this.#first]!;
    this.#first = (this.#first + 1) % this.#places.length;
    this.count--;
    return place;
  }
}

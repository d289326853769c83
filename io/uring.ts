/**
 * The ring over io_uring, driven through `syscall(2)`: rings and requests are 32-bit words in mapped memory.
 *
 * Layouts and numbers: `include/uapi/linux/io_uring.h`. What is needed of the kernel: 5.11 (a time limit in
 * `io_uring_enter`); what is used when there: requests run only when this thread asks (6.1), which saves interrupts, and receives
 * of what has not come yet are not tried in vain (5.19, used from 6.1 on).
 *
 * The completion ring is `CQ_FACTOR` times the submission ring and no more requests than it has places are ever under
 * way, so it cannot overflow.
 *
 * @module
 */

import { assert } from "../core/assert.ts";
import { EINVAL } from "../core/errors.ts";
import type { Arena } from "./arena.ts";
import {
  EAGAIN,
  EINTR,
  EOPNOTSUPP,
  ERRNO,
  errorText,
  ETIME,
  libc,
  MSG_NOSIGNAL,
  MSG_WAITALL,
  result,
  SOCK_CLOEXEC,
} from "./libc.ts";
import type { Ring } from "./ring.ts";

export const SYS_IO_URING_SETUP = 425;
export const SYS_IO_URING_ENTER = 426;

const SETUP_CQSIZE = 1 << 3;
const SETUP_SUBMIT_ALL = 1 << 7;
const SETUP_COOP_TASKRUN = 1 << 8;
const SETUP_SINGLE_ISSUER = 1 << 12;
const SETUP_DEFER_TASKRUN = 1 << 13;
/** Kernel 6.1, 5.19, 5.5: the first that is accepted is taken. */
const SETUPS = [
  SETUP_CQSIZE | SETUP_SUBMIT_ALL | SETUP_COOP_TASKRUN | SETUP_SINGLE_ISSUER | SETUP_DEFER_TASKRUN,
  SETUP_CQSIZE | SETUP_SUBMIT_ALL | SETUP_COOP_TASKRUN,
  SETUP_CQSIZE,
];

const FEAT_SINGLE_MMAP = 1 << 0;
const FEAT_NODROP = 1 << 1;
const FEAT_FAST_POLL = 1 << 5;
const FEAT_EXT_ARG = 1 << 8;
const FEATURES = FEAT_SINGLE_MMAP | FEAT_NODROP | FEAT_FAST_POLL | FEAT_EXT_ARG;

export const ENTER_GETEVENTS = 1 << 0;
const ENTER_EXT_ARG = 1 << 3;

const OP_READV = 1;
const OP_WRITEV = 2;
const OP_FSYNC = 3;
const OP_POLL_ADD = 6;
const OP_SENDMSG = 9;
const OP_RECVMSG = 10;
const OP_ACCEPT = 13;
const OP_FALLOCATE = 17;
const OP_OPENAT = 18;
const OP_CLOSE = 19;
const OP_READ = 22;
const OP_RECV = 27;
export const OP_URING_CMD = 46;

const FSYNC_DATASYNC = 1;

export const OFF_SQES = 0x10000000n;
const SQE_WORDS = 16;
const CQE_WORDS = 4;
/** A receive and a send for each of a thousand clients, and what devices and commands have under way. */
const CQ_FACTOR = 16;

/** struct io_uring_sqe, as words. */
export const SQE_FD = 1;
export const SQE_OFF = 2;
const SQE_ADDR = 4;
const SQE_LEN = 6;
const SQE_OP_FLAGS = 7;
const SQE_USER = 8;
/** A command's own 16 bytes. */
const SQE_CMD = 12;
/** In the second byte: the request runs in a thread of the kernel from its begin. */
const SQE_ASYNC = 1 << (4 + 8);

/** In the upper half, the request's priority: the socket is not tried before it says that something has come (5.19). */
const SQE_POLL_FIRST = 1 << 16;

/** struct io_uring_params, as words. */
export const PARAMS_BYTES = 120;
export const P_SQ_ENTRIES = 0;
const P_CQ_ENTRIES = 1;
const P_FLAGS = 2;
const P_FEATURES = 5;
export const P_SQ_OFF_TAIL = 11;
export const P_SQ_OFF_ARRAY = 16;
export const P_CQ_OFF_HEAD = 20;
export const P_CQ_OFF_TAIL = 21;
export const P_CQ_OFF_CQES = 25;

const PROT_READ_WRITE = 3;
const MAP_SHARED_POPULATE = 0x01 | 0x8000;

/** struct io_uring_getevents_arg (24 bytes), then struct __kernel_timespec (16 bytes). */
const ARG_BYTES = 24;
const ARG_SIZE = BigInt(ARG_BYTES);
const TIMESPEC_BYTES = 16;
/** A longer wait is as good as none. */
const MAX_TIMEOUT_MS = 2 ** 31;
/** A kernel short of memory refuses requests for a moment (EAGAIN); after this many tries in a row it is broken. */
const MAX_TRIES = 1000;

/** A shorter sleep is not worth it; so often to ask takes about as long. */
const WORTH_POLLING_MS = 0.1;
const MAX_POLLS = 100;

/** Maps a part of a ring. */
export function mapRing(fd: number, len_bytes: number, off: bigint): ArrayBuffer {
  const flags = MAP_SHARED_POPULATE;
  const pointer = libc.mmap(0n, BigInt(len_bytes), PROT_READ_WRITE, flags, fd, off);
  const error = ERRNO[0];
  const address = BigInt.asIntN(64, BigInt(Deno.UnsafePointer.value(pointer)));
  if (address === -1n) throw new Error(`io_uring: mapping its rings: ${errorText(error)}`);
  return Deno.UnsafePointerView.getArrayBuffer(pointer!, len_bytes);
}

/** Takes a part of a ring out again. */
export function unmapRing(buffer: ArrayBuffer): void {
  const address = Deno.UnsafePointer.value(Deno.UnsafePointer.of(new Uint8Array(buffer)));
  libc.munmap(BigInt(address), BigInt(buffer.byteLength));
}

/** A ring over io_uring. */
export class UringRing implements Ring {
  readonly name = "io_uring";
  readonly capacity: number;
  user = 0;
  result = 0;

  readonly #arena: Arena;
  readonly #fd: number;
  readonly #ring: Uint32Array<ArrayBuffer>;
  readonly #sqes: Uint32Array<ArrayBuffer>;
  /** Where in `#ring` the shared words lie. */
  readonly #sq_tail_at: number;
  readonly #cq_head_at: number;
  readonly #cq_tail_at: number;
  readonly #cqes_at: number;
  readonly #sq_entries: number;
  readonly #cq_mask: number;
  /** The kernel knows requests that wait for their socket first. */
  readonly #polls_first: boolean;
  /** Our copies: the next place to fill, the next completion to take, the end of the known completions. */
  #sq_tail = 0;
  #cq_head = 0;
  #cq_tail = 0;
  /** The completion ring's head as the kernel was told it. */
  #cq_given_back = 0;
  /** Requests written but not handed over, and all whose place in the completion ring is spoken for. */
  #queued = 0;
  #under_way = 0;
  /** Waits in a row that have failed, with errors that do not pass. */
  #failures = 0;
  /** How often to ask before sleeping; 0 where that was in vain and sleeps are long. */
  #polls = 0;
  readonly #arg_addr: number;
  readonly #timespec: Uint32Array<ArrayBuffer>;

  /**
   * Opens a ring, or says with an error number why the kernel does not give one that can be used: ENOSYS and EPERM
   * where it is switched off, EOPNOTSUPP where it is too old.
   */
  static open(arena: Arena, entries: number): UringRing | number {
    const params_addr = arena.alloc(PARAMS_BYTES);
    const params = arena.words(params_addr, PARAMS_BYTES);
    let fd = -EINVAL;
    for (const flags of SETUPS) {
      params.fill(0);
      params[P_CQ_ENTRIES] = entries * CQ_FACTOR;
      params[P_FLAGS] = flags;
      fd = result(
        libc.io_uring_setup(SYS_IO_URING_SETUP, entries, arena.absolute(params_addr)),
        ERRNO[0],
      );
      if (fd !== -EINVAL) break;
    }
    if (fd < 0) return -fd;
    if ((params[P_FEATURES]! & FEATURES) === FEATURES) return new UringRing(arena, fd, params);
    libc.close(fd);
    return EOPNOTSUPP;
  }

  private constructor(arena: Arena, fd: number, params: Uint32Array) {
    this.#arena = arena;
    this.#fd = fd;
    const sq_entries = params[P_SQ_ENTRIES]!, cq_entries = params[P_CQ_ENTRIES]!;
    const ring_bytes = Math.max(
      params[P_SQ_OFF_ARRAY]! + sq_entries * 4,
      params[P_CQ_OFF_CQES]! + cq_entries * CQE_WORDS * 4,
    );
    this.#ring = new Uint32Array(mapRing(fd, ring_bytes, 0n));
    this.#sqes = new Uint32Array(mapRing(fd, sq_entries * SQE_WORDS * 4, OFF_SQES));
    this.#sq_entries = sq_entries;
    this.#cq_mask = cq_entries - 1;
    this.#polls_first = (params[P_FLAGS]! & SETUP_DEFER_TASKRUN) !== 0;
    this.capacity = cq_entries;
    this.#sq_tail_at = params[P_SQ_OFF_TAIL]! / 4;
    this.#cq_head_at = params[P_CQ_OFF_HEAD]! / 4;
    this.#cq_tail_at = params[P_CQ_OFF_TAIL]! / 4;
    this.#cqes_at = params[P_CQ_OFF_CQES]! / 4;
    // Requests are handed over in the order of their places, always.
    for (let i = 0; i < sq_entries; i++) this.#ring[params[P_SQ_OFF_ARRAY]! / 4 + i] = i;

    this.#arg_addr = arena.alloc(ARG_BYTES + TIMESPEC_BYTES);
    arena.putAddress(arena.words(this.#arg_addr, ARG_BYTES), 4, this.#arg_addr + ARG_BYTES);
    this.#timespec = arena.words(this.#arg_addr + ARG_BYTES, TIMESPEC_BYTES);
  }

  accept(user: number, fd: number): void {
    this.#sqes[this.#request(OP_ACCEPT, user, fd, 0) + SQE_OP_FLAGS] = SOCK_CLOEXEC;
  }

  recv(user: number, fd: number, addr: number, len_bytes: number, is_ahead = false): void {
    const at = this.#request(OP_RECV, user, fd, len_bytes);
    if (is_ahead && this.#polls_first) this.#sqes[at]! |= SQE_POLL_FIRST;
    this.#arena.putAddress(this.#sqes, at + SQE_ADDR, addr);
  }

  recvmsg(user: number, fd: number, msghdr_addr: number): void {
    const at = this.#request(OP_RECVMSG, user, fd, 1);
    this.#arena.putAddress(this.#sqes, at + SQE_ADDR, msghdr_addr);
    this.#sqes[at + SQE_OP_FLAGS] = MSG_WAITALL;
  }

  sendmsg(user: number, fd: number, msghdr_addr: number): void {
    const at = this.#request(OP_SENDMSG, user, fd, 1);
    this.#arena.putAddress(this.#sqes, at + SQE_ADDR, msghdr_addr);
    this.#sqes[at + SQE_OP_FLAGS] = MSG_NOSIGNAL | MSG_WAITALL;
  }

  read(user: number, fd: number, addr: number, len_bytes: number, off_bytes: number): void {
    this.#transfer(OP_READ, user, fd, addr, len_bytes, off_bytes);
  }

  writev(
    user: number,
    fd: number,
    iovec_addr: number,
    iovec_count: number,
    off_bytes: number,
    is_aside = false,
  ): void {
    const at = this.#transfer(OP_WRITEV, user, fd, iovec_addr, iovec_count, off_bytes);
    if (is_aside) this.#sqes[at]! |= SQE_ASYNC;
  }

  /** Reads into `iovec_count` ranges. Result: bytes. */
  readv(
    user: number,
    fd: number,
    iovec_addr: number,
    iovec_count: number,
    off_bytes: number,
  ): void {
    this.#transfer(OP_READV, user, fd, iovec_addr, iovec_count, off_bytes);
  }

  /** A driver's command, whose own structure begins with two words. Result: the driver's. */
  command(user: number, fd: number, op: number, first_word: number, second_word: number): void {
    const at = this.#request(OP_URING_CMD, user, fd, 0);
    this.#sqes[at + SQE_OFF] = op;
    this.#sqes[at + SQE_CMD] = first_word;
    this.#sqes[at + SQE_CMD + 1] = second_word;
  }

  /** Opens the path at `path_addr`, which ends in a zero byte, without holding up the loop. Result: a descriptor. */
  open(user: number, path_addr: number, flags: number): void {
    const at = this.#request(OP_OPENAT, user, 0, 0);
    this.#sqes[at]! |= SQE_ASYNC;
    this.#arena.putAddress(this.#sqes, at + SQE_ADDR, path_addr);
    this.#sqes[at + SQE_OP_FLAGS] = flags;
  }

  /** Closes a descriptor without holding up the loop. Result: 0. */
  closeLater(user: number, fd: number): void {
    const at = this.#request(OP_CLOSE, user, fd, 0);
    this.#sqes[at]! |= SQE_ASYNC;
  }

  fallocate(user: number, fd: number, mode: number, off_bytes: number, len_bytes: number): void {
    const at = this.#request(OP_FALLOCATE, user, fd, mode);
    this.#putWord(at + SQE_ADDR, len_bytes);
    this.#putWord(at + SQE_OFF, off_bytes);
  }

  fdatasync(user: number, fd: number): void {
    this.#sqes[this.#request(OP_FSYNC, user, fd, 0) + SQE_OP_FLAGS] = FSYNC_DATASYNC;
  }

  poll(user: number, fd: number, events: number): void {
    this.#sqes[this.#request(OP_POLL_ADD, user, fd, 0) + SQE_OP_FLAGS] = events;
  }

  wait(timeout_ms: number): void {
    this.#giveBack();
    const ready = this.#isReady();
    const sleep = !ready && timeout_ms > 0;
    assert(
      !sleep || this.#under_way > 0 || timeout_ms < MAX_TIMEOUT_MS,
      "ring: would sleep for ever, nothing is under way",
    );
    if (ready && this.#queued === 0) return;
    const error = sleep ? this.#sleep(timeout_ms) : this.#enter(0);
    // EAGAIN: no memory for a request now; it stays queued and the next turn tries again.
    if (error === 0 || error === ETIME || error === EINTR || error === EAGAIN) this.#failures = 0;
    // Once in a thousand test runs a wait ended with ENOENT, which the call does not know: errno was somebody else's. A ring that is
    // broken fails again, and one device's life is worth the tries.
    else if (++this.#failures === MAX_TRIES) throw new Error(`io_uring_enter: ${errorText(error)}`);
  }

  next(): boolean {
    if (this.#cq_head === this.#cq_tail) {
      this.#cq_tail = Atomics.load(this.#ring, this.#cq_tail_at);
      if (this.#cq_head === this.#cq_tail) {
        this.#giveBack();
        return false;
      }
    }
    const at = this.#cqes_at + (this.#cq_head & this.#cq_mask) * CQE_WORDS;
    this.user = this.#ring[at]!;
    this.result = this.#ring[at + 2]! | 0;
    this.#cq_head = (this.#cq_head + 1) >>> 0;
    return true;
  }

  close(): void {
    unmapRing(this.#sqes.buffer);
    unmapRing(this.#ring.buffer);
    libc.close(this.#fd);
  }

  /**
   * Asks for completions a few times before the thread sleeps, if that has led to some lately: to be woken takes longer than many
   * clients need for their next request, and where they come one by one this is 1.16 to 2.4 times as fast (2026-11-22). Asked in
   * vain, the next time it is half as often; after a short sleep it is tried again. Others who want the processor get it.
   */
  #sleep(timeout_ms: number): number {
    for (let polls = this.#polls; polls > 0; polls--) {
      const error = this.#enter(0);
      const is_ready = this.#isReady();
      if (is_ready) this.#polls = MAX_POLLS;
      if (is_ready || error !== 0) return error;
      libc.sched_yield();
    }
    const from_ms = performance.now();
    const error = this.#enter(timeout_ms);
    if (this.#polls > 0) this.#polls >>= 1;
    else if (performance.now() - from_ms < WORTH_POLLING_MS) this.#polls = MAX_POLLS;
    return error;
  }

  /** Whether there is a completion that has not been taken. */
  #isReady(): boolean {
    return Atomics.load(this.#ring, this.#cq_tail_at) !== this.#cq_head;
  }

  /** Takes the next place, fills in what all requests have, and returns where in `#sqes` it lies. */
  #request(op: number, user: number, fd: number, len: number): number {
    assert(fd >= 0, "ring: a descriptor is wanted");
    assert(this.#under_way < this.capacity, "ring: over its capacity of requests under way");
    if (this.#queued === this.#sq_entries) this.#makeRoom();
    const at = (this.#sq_tail & (this.#sq_entries - 1)) * SQE_WORDS;
    const sqes = this.#sqes;
    for (let i = at; i < at + SQE_WORDS; i++) sqes[i] = 0;
    sqes[at] = op;
    sqes[at + SQE_FD] = fd;
    sqes[at + SQE_LEN] = len;
    sqes[at + SQE_USER] = user;
    this.#sq_tail = (this.#sq_tail + 1) >>> 0;
    this.#queued++;
    this.#under_way++;
    return at;
  }

  /** A transfer at a place of a file. `addr`, `len`: of the bytes, or of the ranges and how many there are. */
  #transfer(
    op: number,
    user: number,
    fd: number,
    addr: number,
    len: number,
    off_bytes: number,
  ): number {
    const at = this.#request(op, user, fd, len);
    this.#arena.putAddress(this.#sqes, at + SQE_ADDR, addr);
    this.#putWord(at + SQE_OFF, off_bytes);
    return at;
  }

  #putWord(at: number, value: number): void {
    this.#sqes[at] = value >>> 0;
    this.#sqes[at + 1] = value / 4294967296;
  }

  /** Hands requests over until there is a free place again. */
  #makeRoom(): void {
    for (let tries = 0; this.#queued === this.#sq_entries; tries++) {
      const error = this.#enter(0);
      if (error !== 0 && tries === MAX_TRIES) {
        throw new Error(`io_uring_enter: ${errorText(error)}`);
      }
    }
  }

  /** Hands over all requests and sleeps up to `timeout_ms` for a completion. Returns 0 or the error number. */
  #enter(timeout_ms: number): number {
    Atomics.store(this.#ring, this.#sq_tail_at, this.#sq_tail);
    const sleep = timeout_ms > 0;
    const timed = sleep && timeout_ms < MAX_TIMEOUT_MS;
    if (timed) {
      this.#timespec[0] = timeout_ms / 1000;
      this.#timespec[2] = (timeout_ms % 1000) * 1e6;
    }
    for (;;) {
      const handed_over = libc.io_uring_enter(
        SYS_IO_URING_ENTER,
        this.#fd,
        this.#queued,
        sleep ? 1 : 0,
        timed ? ENTER_GETEVENTS | ENTER_EXT_ARG : ENTER_GETEVENTS,
        timed ? this.#arena.absolute(this.#arg_addr) : 0n,
        timed ? ARG_SIZE : 0n,
      );
      const error = ERRNO[0];
      if (handed_over < 0) return error;
      this.#queued -= handed_over;
      // Fewer than asked: a request was refused and has its completion, and the kernel did not go on to the others.
      if (this.#queued === 0 || handed_over === 0) return 0;
    }
  }

  /** Tells the kernel which completions have been taken. */
  #giveBack(): void {
    const taken = (this.#cq_head - this.#cq_given_back) >>> 0;
    if (taken === 0) return;
    this.#under_way -= taken;
    this.#cq_given_back = this.#cq_head;
    Atomics.store(this.#ring, this.#cq_head_at, this.#cq_head);
  }
}

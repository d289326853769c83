/**
 * A small io_uring for the driver's control commands: they take requests of 128 bytes, and some take their time, so they
 * have a ring of their own. One command at a time.
 *
 * @module
 */

import { assert } from "../../core/assert.ts";
import type { Arena } from "../arena.ts";
import { EINTR, ERRNO, errorText, libc, result } from "../libc.ts";
import {
  ENTER_GETEVENTS,
  mapRing,
  OFF_SQES,
  OP_URING_CMD,
  P_CQ_OFF_CQES,
  P_CQ_OFF_HEAD,
  P_CQ_OFF_TAIL,
  P_SQ_ENTRIES,
  P_SQ_OFF_ARRAY,
  P_SQ_OFF_TAIL,
  PARAMS_BYTES,
  SQE_FD,
  SQE_OFF,
  SYS_IO_URING_ENTER,
  SYS_IO_URING_SETUP,
  unmapRing,
} from "../uring.ts";

const SETUP_SQE128 = 1 << 10;
const P_FLAGS = 2;
/** Two places for completions, one for a request. */
const CQES_BYTES = 2 * 16;
const SQE_BYTES = 128;
/** Where a command's own structure begins in its request, in words. */
const SQE_CMD = 12;

export class CommandRing implements Disposable {
  /** Readable when a command that was begun has ended. */
  readonly fd: number;
  readonly #ring: Uint32Array<ArrayBuffer>;
  readonly #sqe: Uint32Array<ArrayBuffer>;
  readonly #sq_tail_at: number;
  readonly #cq_head_at: number;
  readonly #cq_tail_at: number;
  readonly #cqes_at: number;
  #is_busy = false;

  /** A ring, or an error number where the kernel gives none. */
  static open(arena: Arena): CommandRing | number {
    const addr = arena.alloc(PARAMS_BYTES);
    const params = arena.words(addr, PARAMS_BYTES);
    params.fill(0);
    params[P_FLAGS] = SETUP_SQE128;
    const fd = result(libc.io_uring_setup(SYS_IO_URING_SETUP, 1, arena.absolute(addr)), ERRNO[0]);
    return fd < 0 ? -fd : new CommandRing(fd, params);
  }

  private constructor(fd: number, params: Uint32Array) {
    this.fd = fd;
    const ring_bytes = Math.max(
      params[P_SQ_OFF_ARRAY]! + params[P_SQ_ENTRIES]! * 4,
      params[P_CQ_OFF_CQES]! + CQES_BYTES,
    );
    this.#ring = new Uint32Array(mapRing(fd, ring_bytes, 0n));
    this.#sqe = new Uint32Array(mapRing(fd, SQE_BYTES, OFF_SQES));
    this.#sq_tail_at = params[P_SQ_OFF_TAIL]! / 4;
    this.#cq_head_at = params[P_CQ_OFF_HEAD]! / 4;
    this.#cq_tail_at = params[P_CQ_OFF_TAIL]! / 4;
    this.#cqes_at = params[P_CQ_OFF_CQES]! / 4;
    this.#ring[params[P_SQ_OFF_ARRAY]! / 4] = 0;
  }

  /** Hands a command over; `fill` writes its structure into the words from `at` on. */
  begin(fd: number, op: number, fill: (words: Uint32Array, at: number) => void): void {
    assert(!this.#is_busy, "ublk: one control command at a time");
    this.#is_busy = true;
    this.#sqe.fill(0);
    this.#sqe[0] = OP_URING_CMD;
    this.#sqe[SQE_FD] = fd;
    this.#sqe[SQE_OFF] = op >>> 0;
    fill(this.#sqe, SQE_CMD);
    Atomics.add(this.#ring, this.#sq_tail_at, 1);
    this.#enter(1, 0);
  }

  /** How the command ended; null: it is under way. */
  take(): number | null {
    const head = this.#ring[this.#cq_head_at]!;
    if (Atomics.load(this.#ring, this.#cq_tail_at) === head) return null;
    const result = this.#ring[this.#cqes_at + (head & 1) * 4 + 2]! | 0;
    Atomics.store(this.#ring, this.#cq_head_at, head + 1);
    this.#is_busy = false;
    return result;
  }

  /** Waits for the command's end. Only for commands that end without the device's loop. */
  wait(): number {
    for (;;) {
      const result = this.take();
      if (result !== null) return result;
      this.#enter(0, 1);
    }
  }

  [Symbol.dispose](): void {
    unmapRing(this.#sqe.buffer);
    unmapRing(this.#ring.buffer);
    libc.close(this.fd);
  }

  #enter(to_submit: number, to_wait: number): void {
    for (;;) {
      const flags = to_wait > 0 ? ENTER_GETEVENTS : 0;
      const done = libc.io_uring_enter(
        SYS_IO_URING_ENTER,
        this.fd,
        to_submit,
        to_wait,
        flags,
        0n,
        0n,
      );
      const error = ERRNO[0];
      if (done >= 0) return;
      if (error !== EINTR) throw new Error(`ublk: io_uring_enter: ${errorText(error)}`);
    }
  }
}

/**
 * What the device's loop asks of the kernel: requests go in, completions come out, one place to sleep.
 *
 * Two implementations: io_uring (uring.ts), and poll(2) with plain calls (poll_ring.ts) where io_uring is switched
 * off, as it is in many containers. Both keep the same contract:
 *
 * - Every request ends in exactly one completion, with its `user` and a `result`: not negative, or an error number
 *   negated. Nothing is lost and nothing comes twice. At most `capacity` requests may be under way at once.
 * - Addresses are arena addresses (arena.ts). Buffers, iovecs and message headers stay as they are until the
 *   completion has come.
 * - A file descriptor with a request under way must not be closed: `shutdown(2)` it, which ends what waits on it (a
 *   listening socket too), and close it after the completions.
 * - A transfer may be shorter than asked. `recvmsg` and `sendmsg` are asked to be whole (MSG_WAITALL) but need not be.
 *
 * @module
 */

import { CacheError } from "../core/errors.ts";
import type { Arena } from "./arena.ts";
import { errorText } from "./libc.ts";
import { PollRing } from "./poll_ring.ts";
import { UringRing } from "./uring.ts";

/** See the module's description for the contract. `user` is a token of 32 bits, free for the caller to choose. */
export interface Ring {
  readonly name: "io_uring" | "poll";
  /** Most requests under way at once, those with a completion not yet taken included. One more is a bug. */
  readonly capacity: number;

  /** Waits for a connection on a listening socket. Result: its descriptor, close-on-exec. */
  accept(user: number, fd: number): void;
  /** Receives what is there, at least a byte. `is_ahead`: nothing has come yet, as far as can be told. Result: bytes, 0 when the peer has closed. */
  recv(user: number, fd: number, addr: number, len_bytes: number, is_ahead?: boolean): void;
  /** Receives into the iovecs of the `struct msghdr` at `msghdr_addr`. Result: bytes. */
  recvmsg(user: number, fd: number, msghdr_addr: number): void;
  /** Sends the iovecs of the `struct msghdr` at `msghdr_addr`, without SIGPIPE. Result: bytes. */
  sendmsg(user: number, fd: number, msghdr_addr: number): void;
  /** Reads from a file or block device. Result: bytes, 0 at its end. */
  read(user: number, fd: number, addr: number, len_bytes: number, off_bytes: number): void;
  /**
   * Writes `iovec_count` ranges, one after another, to a file or block device. `is_aside`: by a thread of the kernel's, where there
   * is one, so that handing it over holds nobody up. Result: bytes.
   */
  writev(
    user: number,
    fd: number,
    iovec_addr: number,
    iovec_count: number,
    off_bytes: number,
    is_aside?: boolean,
  ): void;
  /** Zeroes, punches or allocates a range of a file or block device, as the mode of fallocate(2) says. Result: 0. */
  fallocate(user: number, fd: number, mode: number, off_bytes: number, len_bytes: number): void;
  /** Makes what was written to a file or block device durable. Result: 0. */
  fdatasync(user: number, fd: number): void;
  /** Waits until one of the `events` of poll(2) holds, once. Result: those that do, and what went wrong. */
  poll(user: number, fd: number, events: number): void;

  /**
   * Hands over all requests, and returns when there is at least one completion or the time is over; it may
   * return early. 0 does not sleep, `Infinity` waits for a completion only.
   */
  wait(timeout_ms: number): void;
  /** Steps to the next completion, which `user` and `result` then tell. False: there is none. */
  next(): boolean;
  readonly user: number;
  readonly result: number;

  /** Gives the ring back to the kernel, with whatever is under way. */
  close(): void;
}

/**
 * Opens the best ring there is. `$PCACHE_LOOP` asks for one: `io_uring` (no fallback) or `poll`.
 *
 * @param entries requests handed over at once; a power of two
 * @throws CacheError when `$PCACHE_LOOP` names something else, or a ring that cannot be had
 */
export function openRing(arena: Arena, entries: number): Ring {
  const asked = Deno.env.get("PCACHE_LOOP") ?? "";
  if (asked === "poll") return new PollRing(arena, entries);
  if (asked !== "" && asked !== "io_uring") {
    throw new CacheError(`PCACHE_LOOP ${JSON.stringify(asked)}: "io_uring" or "poll" is wanted`);
  }
  const ring = UringRing.open(arena, entries);
  if (ring instanceof UringRing) return ring;
  if (asked === "") return new PollRing(arena, entries);
  throw new CacheError(
    `PCACHE_LOOP "io_uring": the kernel has no usable io_uring (${errorText(ring)})`,
  );
}

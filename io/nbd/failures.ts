/**
 * How a request can fail: the error number of its reply, and the text that goes with it where the client takes one. The
 * texts lie in the arena ready to be sent, so that a flood of bad requests costs no more than one of good ones.
 *
 * @module
 */

import { assert } from "../../core/assert.ts";
import { EINVAL, EIO, ENOSPC, OK } from "../../core/errors.ts";
import type { NbdArena } from "./ports.ts";
import * as nbd from "./protocol.ts";

interface Failure {
  readonly errno: number;
  /** What failed and why. */
  readonly text: string;
}

const failures: Failure[] = [];

function failure(errno: number, text: string): number {
  return failures.push({ errno, text }) - 1;
}

/** Not a failure. */
export const NO_FAILURE = failure(OK, "");

// What `validateRequest` says.
export const DEVICE_FAILS = failure(EIO, "the device has a table that fails every request");
export const UNKNOWN_COMMAND = failure(EINVAL, "the command is not known");
export const UNKNOWN_FLAG = failure(EINVAL, "a flag is not known, or not one of this command");
export const UNWANTED_PAYLOAD = failure(EINVAL, "the command takes no payload");
export const FLUSH_RANGE = failure(EINVAL, "flush: offset and length have to be 0");
export const NO_LENGTH = failure(EINVAL, "the length is 0");
export const TOO_LONG = failure(EINVAL, "longer than the largest block size of the export");
export const TOO_LONG_FOR_ONE = failure(nbd.EOVERFLOW, "read: too long for one chunk");
export const PAST_END = failure(EINVAL, "past the end of the device");
export const WRITE_PAST_END = failure(ENOSPC, "write: past the end of the device");
export const ZERO_TOO_LONG = failure(EINVAL, "write zeroes or trim: longer than 4294967295 bytes");
export const READ_ONLY = failure(nbd.EPERM, "write: the device is read-only");
export const NO_CONTEXT = failure(EINVAL, "block status: no metadata context was selected");

// What the engine says.
const READ_FAILED = failure(
  EIO,
  "read: the backing device failed, or the only copy does not have its checksum",
);
const WRITE_FAILED = failure(
  EIO,
  "write: the cache device failed, or the backing device under the ends of an unaligned write",
);
const ZERO_FAILED = failure(
  EIO,
  "write zeroes or trim: the cache device failed, or the backing device under unaligned ends",
);
const FLUSH_FAILED = failure(EIO, "flush: the cache device failed");
const CACHE_FAILED = failure(EIO, "cache: the backing device failed, or the only copy is damaged");

/** Why a request failed that the engine has ended with `errno`. */
export function engineFailure(type: number, errno: number): number {
  assert(errno === EIO, "the engine's requests fail with EIO");
  if (type === nbd.CMD_READ) return READ_FAILED;
  if (type === nbd.CMD_WRITE) return WRITE_FAILED;
  if (type === nbd.CMD_TRIM || type === nbd.CMD_WRITE_ZEROES) return ZERO_FAILED;
  return type === nbd.CMD_FLUSH ? FLUSH_FAILED : CACHE_FAILED;
}

/** The error number of a failure. */
export function errnoOf(failed: number): number {
  return failures[failed]!.errno;
}

/** Error number and length of the text, before it. */
const HEAD_BYTES = 6;

/** The payloads of error chunks ("NBD_REPLY_TYPE_ERROR"), in the arena. */
export class FailurePayloads {
  readonly #addrs: readonly number[];
  readonly #lens: readonly number[];

  constructor(arena: NbdArena) {
    const payloads = failures.map(payloadOf);
    const lens = payloads.map((payload) => payload.length);
    let addr = arena.alloc(FailurePayloads.SIZE_BYTES, 4);
    this.#lens = lens;
    this.#addrs = payloads.map((payload) => {
      arena.bytes.set(payload, addr);
      addr += payload.length;
      return addr - payload.length;
    });
  }

  /** Where the payload lies. */
  addr(failed: number): number {
    return this.#addrs[failed]!;
  }

  /** Its length, in bytes. */
  len(failed: number): number {
    return this.#lens[failed]!;
  }

  /** Bytes of arena memory that the payloads need. */
  static readonly SIZE_BYTES = failures.reduce((sum, f) => sum + payloadOf(f).length, 0);
}

function payloadOf({ errno, text }: Failure): Uint8Array {
  const bytes = new TextEncoder().encode(text);
  const payload = new Uint8Array(HEAD_BYTES + bytes.length);
  const view = new DataView(payload.buffer);
  view.setUint32(0, errno);
  view.setUint16(4, bytes.length);
  payload.set(bytes, HEAD_BYTES);
  return payload;
}

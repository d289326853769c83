/**
 * Which requests of the block device are served: the one place that decides it. The block layer keeps to what the device
 * says of itself; an invalid request never reaches the engine all the same.
 *
 * @module
 */

import { EINVAL, EIO } from "../../core/errors.ts";
import { EOPNOTSUPP } from "../libc.ts";
import { OP_DISCARD, OP_FLUSH, OP_READ, OP_WRITE, OP_WRITE_ZEROES } from "./protocol.ts";

/** What is served; `read_only` and `is_failing` may change. */
export interface Served {
  readonly size_bytes: number;
  readonly max_request_bytes: number;
  readonly read_only: boolean;
  /** All requests fail. */
  readonly is_failing: boolean;
}

const EPERM = 1;
/** Longest zeroing that the engine takes at once. */
const MAX_ZERO_BYTES = 4 * 1024 * 1024 * 1024 - 1;

/** Judges a request: 0, or the error number it fails with. `off_bytes` may be inexact above 2^53: it is outside any device then. */
export function validateRequest(
  op: number,
  off_bytes: number,
  len_bytes: number,
  served: Served,
): number {
  if (served.is_failing) return EIO;
  if (op === OP_FLUSH) return 0;
  if (op !== OP_READ && op !== OP_WRITE && op !== OP_DISCARD && op !== OP_WRITE_ZEROES) {
    return EOPNOTSUPP;
  }
  if (op !== OP_READ && served.read_only) return EPERM;
  const is_transfer = op === OP_READ || op === OP_WRITE;
  const most_bytes = is_transfer ? served.max_request_bytes : MAX_ZERO_BYTES;
  if (len_bytes === 0 || len_bytes > most_bytes) return EINVAL;
  return off_bytes + len_bytes > served.size_bytes ? EINVAL : 0;
}

/**
 * Which requests are served: the one place that decides it. An invalid request never reaches the engine.
 *
 * @module
 */

import { EINVAL, EIO, ENOSPC, OK } from "../../core/errors.ts";
import type { Export } from "./handshake.ts";
import { CMD_FLAG_FUA, CMD_FLUSH, CMD_READ, CMD_WRITE, EPERM } from "./protocol.ts";

/**
 * Judges a READ, WRITE, FLUSH or unknown request (NBD protocol, "Request types", "Error values") and returns the
 * error number for its reply, or `OK`. `off_bytes` may be inexact above 2^53: it is then outside any device.
 */
export function validateRequest(
  type: number,
  flags: number,
  off_bytes: number,
  len_bytes: number,
  served: Export,
): number {
  if (served.is_failing) return EIO;
  // FUA is valid on every command; where nothing is written it says nothing.
  if ((flags & ~CMD_FLAG_FUA) !== 0) return EINVAL;
  if (type === CMD_FLUSH) return off_bytes === 0 && len_bytes === 0 ? OK : EINVAL;
  if (type !== CMD_READ && type !== CMD_WRITE) return EINVAL;
  if (type === CMD_WRITE && served.read_only) return EPERM;
  if (len_bytes === 0 || len_bytes > served.max_request_bytes) return EINVAL;
  if (off_bytes + len_bytes > served.size_bytes) return type === CMD_WRITE ? ENOSPC : EINVAL;
  return OK;
}

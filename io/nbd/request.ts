/**
 * Which requests are served: the one place that decides it. An invalid request never reaches the engine.
 *
 * @module
 */

import * as failed from "./failures.ts";
import type { Export } from "./handshake.ts";
import * as nbd from "./protocol.ts";
import { EXTENDED, type Session, SIMPLE } from "./session.ts";

// Own names for what every request needs: V8 folds a module's constants into its code, and loads and checks imported ones.
const READ = nbd.CMD_READ;
const WRITE = nbd.CMD_WRITE;
const FLAG_FUA = nbd.CMD_FLAG_FUA;
const FLAG_DF = nbd.CMD_FLAG_DF;
const FLAG_PAYLOAD = nbd.CMD_FLAG_PAYLOAD_LEN;
const SIMPLE_STYLE = SIMPLE;
const EXTENDED_STYLE = EXTENDED;
const NO_FAILURE = failed.NO_FAILURE;
const PAST_END = failed.PAST_END;
const WRITE_PAST_END = failed.WRITE_PAST_END;

/**
 * Judges any request but DISC (NBD protocol, "Request types", "Error values") and returns how it fails (failures.ts), or
 * `NO_FAILURE`. `off_bytes` and `len_bytes` may be inexact above 2^53: they are then outside any device.
 */
export function validateRequest(
  type: number,
  flags: number,
  off_bytes: number,
  len_bytes: number,
  served: Export,
  session: Session,
): number {
  if (served.is_failing) return failed.DEVICE_FAILS;
  switch (type) {
    case READ:
      return validateRead(flags, off_bytes, len_bytes, served, session);
    case WRITE:
      return validateWrite(flags, off_bytes, len_bytes, served, session);
    case nbd.CMD_FLUSH:
      return validateFlush(flags, off_bytes, len_bytes);
    case nbd.CMD_TRIM:
      return validateTrim(flags, off_bytes, len_bytes, served);
    case nbd.CMD_WRITE_ZEROES:
      return validateWriteZeroes(flags, off_bytes, len_bytes, served);
    case nbd.CMD_CACHE:
      return validateCache(flags, off_bytes, len_bytes, served);
    case nbd.CMD_BLOCK_STATUS:
      return validateStatus(flags, off_bytes, len_bytes, served, session);
    default:
      return failed.UNKNOWN_COMMAND;
  }
}

function validateRead(
  flags: number,
  off_bytes: number,
  len_bytes: number,
  served: Export,
  session: Session,
): number {
  const valid_flags = session.style === SIMPLE_STYLE ? FLAG_FUA : FLAG_FUA | FLAG_DF;
  if ((flags & ~valid_flags) !== 0) return wrongFlags(flags, valid_flags);
  if (len_bytes > served.max_request_bytes) {
    return (flags & nbd.CMD_FLAG_DF) !== 0 ? failed.TOO_LONG_FOR_ONE : failed.TOO_LONG;
  }
  return validateRange(off_bytes, len_bytes, served, PAST_END);
}

function validateWrite(
  flags: number,
  off_bytes: number,
  len_bytes: number,
  served: Export,
  session: Session,
): number {
  // With extended headers a write without this flag is not even a message: the connection has ended with it.
  const valid_flags = session.style === EXTENDED_STYLE ? FLAG_FUA | FLAG_PAYLOAD : FLAG_FUA;
  if ((flags & ~valid_flags) !== 0) return wrongFlags(flags, valid_flags);
  if (served.read_only) return failed.READ_ONLY;
  if (len_bytes > served.max_request_bytes) return failed.TOO_LONG;
  return validateRange(off_bytes, len_bytes, served, WRITE_PAST_END);
}

function validateFlush(flags: number, off_bytes: number, len_bytes: number): number {
  if ((flags & ~FLAG_FUA) !== 0) return wrongFlags(flags, FLAG_FUA);
  return off_bytes === 0 && len_bytes === 0 ? NO_FAILURE : failed.FLUSH_RANGE;
}

function validateTrim(
  flags: number,
  off_bytes: number,
  len_bytes: number,
  served: Export,
): number {
  if ((flags & ~FLAG_FUA) !== 0) return wrongFlags(flags, FLAG_FUA);
  return validateZeroed(off_bytes, len_bytes, served, PAST_END);
}

/** FAST_ZERO can always be kept: zeroing costs no more than a few keys. */
function validateWriteZeroes(
  flags: number,
  off_bytes: number,
  len_bytes: number,
  served: Export,
): number {
  const valid_flags = FLAG_FUA | nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FAST_ZERO;
  if ((flags & ~valid_flags) !== 0) return wrongFlags(flags, valid_flags);
  return validateZeroed(off_bytes, len_bytes, served, WRITE_PAST_END);
}

/** What TRIM and WRITE_ZEROES may be laid on; `past_end` is the failure behind the end. */
function validateZeroed(
  off_bytes: number,
  len_bytes: number,
  served: Export,
  past_end: number,
): number {
  if (served.read_only) return failed.READ_ONLY;
  if (len_bytes > nbd.MAX_ZERO_BYTES) return failed.ZERO_TOO_LONG;
  return validateRange(off_bytes, len_bytes, served, past_end);
}

function validateCache(
  flags: number,
  off_bytes: number,
  len_bytes: number,
  served: Export,
): number {
  if ((flags & ~FLAG_FUA) !== 0) return wrongFlags(flags, FLAG_FUA);
  if (len_bytes > served.max_request_bytes) return failed.TOO_LONG;
  return validateRange(off_bytes, len_bytes, served, PAST_END);
}

function validateStatus(
  flags: number,
  off_bytes: number,
  len_bytes: number,
  served: Export,
  session: Session,
): number {
  const valid_flags = FLAG_FUA | nbd.CMD_FLAG_REQ_ONE;
  if ((flags & ~valid_flags) !== 0) return wrongFlags(flags, valid_flags);
  if (session.contexts === 0) return failed.NO_CONTEXT;
  return validateRange(off_bytes, len_bytes, served, PAST_END);
}

/** What is said of a request with other flags than these. FUA is valid on every command; where nothing is written it says nothing. */
function wrongFlags(flags: number, valid_flags: number): number {
  const is_payload = (flags & ~valid_flags) === FLAG_PAYLOAD;
  return is_payload ? failed.UNWANTED_PAYLOAD : failed.UNKNOWN_FLAG;
}

function validateRange(
  off_bytes: number,
  len_bytes: number,
  served: Export,
  past_end: number,
): number {
  if (len_bytes === 0) return failed.NO_LENGTH;
  return off_bytes + len_bytes > served.size_bytes ? past_end : NO_FAILURE;
}

/** Bytes of payload that follow a request's header. */
export function payloadBytes(
  type: number,
  flags: number,
  len_bytes: number,
  session: Session,
): number {
  const has_payload = session.style === EXTENDED
    ? (flags & nbd.CMD_FLAG_PAYLOAD_LEN) !== 0
    : type === nbd.CMD_WRITE;
  return has_payload ? len_bytes : 0;
}

/**
 * Whether a write does not say that its payload follows ("NBD_CMD_FLAG_PAYLOAD_LEN" must be set). It may follow or not, so
 * the next request cannot be found.
 */
export function lacksPayload(type: number, flags: number, session: Session): boolean {
  return session.style === EXTENDED_STYLE && type === WRITE &&
    (flags & nbd.CMD_FLAG_PAYLOAD_LEN) === 0;
}

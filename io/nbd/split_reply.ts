/**
 * The reply to a read of which parts are known to be zeroes, in chunks (NBD protocol, "NBD_REPLY_TYPE_OFFSET_DATA",
 * "NBD_REPLY_TYPE_OFFSET_HOLE"): the zeroes are told of and not sent.
 *
 * The headers of the chunks lie one behind the other, each with the offset that follows it, and with its length in a hole. They say
 * what was known when they were written, so what is sent later follows them and asks nobody again.
 *
 * @module
 */

import { assert } from "../../core/assert.ts";
import type { Iovecs } from "./iovecs.ts";
import type { NbdEngine } from "./ports.ts";
import * as nbd from "./protocol.ts";

const OFFSET_BYTES = 8;
const HOLE_PAYLOAD_BYTES = 12;
/** Most chunks of a reply: a read that is in more parts is sent as a whole. */
const MAX_CHUNKS = 64;
/** Most pieces of such a read. With as many headers they fit in one message. */
const MAX_PIECES = 768;
const NONE = -1;

/** Longest list of headers. */
export const SPLIT_BYTES = MAX_CHUNKS * (nbd.EXTENDED_REPLY_BYTES + HOLE_PAYLOAD_BYTES);
/** Most ranges of memory in such a reply. */
export const SPLIT_RANGES = MAX_CHUNKS + MAX_PIECES;

/**
 * Writes the headers at `at`, and returns how many bytes they take; 0: the reply is not to be split, for it has no zeroes or too
 * many parts. `words`: of each slot four, the request's cookie and offset as they came.
 */
export function writeSplit(
  view: DataView,
  at: number,
  engine: NbdEngine,
  slot: number,
  words: Uint32Array,
  is_extended: boolean,
): number {
  if (!isSplit(engine, slot)) return 0;
  let to = at;
  let last = at;
  let off_bytes = 0;
  for (let piece = engine.firstPiece(slot); piece !== NONE;) {
    const is_zero = engine.pieceIsZero(piece);
    let len_bytes = 0;
    do {
      len_bytes += engine.pieceLen(piece);
      piece = engine.nextPiece(piece);
    } while (piece !== NONE && engine.pieceIsZero(piece) === is_zero);
    last = to;
    to = writeChunk(view, to, words, 4 * slot, is_extended, is_zero, off_bytes, len_bytes);
    off_bytes += len_bytes;
  }
  view.setUint16(last + 4, nbd.REPLY_FLAG_DONE);
  return to - at;
}

/** Whether there are zeroes in the read, and its parts and pieces are few enough. */
function isSplit(engine: NbdEngine, slot: number): boolean {
  let chunks = 0;
  let pieces = 0;
  let has_zeroes = false;
  let was_zero = false;
  for (let p = engine.firstPiece(slot); p !== NONE; p = engine.nextPiece(p)) {
    const is_zero = engine.pieceIsZero(p);
    if (pieces === 0 || is_zero !== was_zero) chunks += 1;
    if (is_zero) has_zeroes = true;
    was_zero = is_zero;
    pieces += 1;
    if (chunks > MAX_CHUNKS || pieces > MAX_PIECES) return false;
  }
  return has_zeroes;
}

/** One chunk's header and what stands behind it. Returns where the next one goes. */
function writeChunk(
  view: DataView,
  at: number,
  words: Uint32Array,
  words_at: number,
  is_extended: boolean,
  is_zero: boolean,
  off_bytes: number,
  len_bytes: number,
): number {
  const behind_bytes = is_zero ? HOLE_PAYLOAD_BYTES : OFFSET_BYTES;
  const payload_bytes = is_zero ? HOLE_PAYLOAD_BYTES : OFFSET_BYTES + len_bytes;
  view.setUint32(at, is_extended ? nbd.EXTENDED_REPLY_MAGIC : nbd.STRUCTURED_REPLY_MAGIC);
  view.setUint16(at + 4, 0);
  view.setUint16(at + 6, is_zero ? nbd.REPLY_TYPE_OFFSET_HOLE : nbd.REPLY_TYPE_OFFSET_DATA);
  view.setUint32(at + 8, words[words_at]!, true);
  view.setUint32(at + 12, words[words_at + 1]!, true);
  if (is_extended) {
    view.setUint32(at + 16, words[words_at + 2]!, true);
    view.setUint32(at + 20, words[words_at + 3]!, true);
    view.setUint32(at + 24, 0);
  }
  const head_bytes = headBytes(is_extended);
  view.setUint32(at + head_bytes - 4, payload_bytes);
  // The request's offset, and how far into it this is.
  view.setUint32(at + head_bytes, words[words_at + 2]!, true);
  view.setUint32(at + head_bytes + 4, words[words_at + 3]!, true);
  const low = view.getUint32(at + head_bytes + 4) + off_bytes;
  view.setUint32(at + head_bytes + 4, low % 2 ** 32);
  if (low >= 2 ** 32) view.setUint32(at + head_bytes, view.getUint32(at + head_bytes) + 1);
  if (is_zero) view.setUint32(at + head_bytes + OFFSET_BYTES, len_bytes);
  return at + head_bytes + behind_bytes;
}

/** Adds the reply to a message that has room for it: the headers that `writeSplit` wrote, and the data between them. */
export function addSplit(
  iovecs: Iovecs,
  view: DataView,
  at: number,
  addr: number,
  split_bytes: number,
  engine: NbdEngine,
  slot: number,
  is_extended: boolean,
): void {
  const head_bytes = headBytes(is_extended);
  let piece = engine.firstPiece(slot);
  for (let from = 0; from < split_bytes;) {
    const is_zero = view.getUint16(at + from + 6) === nbd.REPLY_TYPE_OFFSET_HOLE;
    const own_bytes = head_bytes + (is_zero ? HOLE_PAYLOAD_BYTES : OFFSET_BYTES);
    let has_room = iovecs.add(addr + from, own_bytes);
    let left_bytes = is_zero
      ? view.getUint32(at + from + head_bytes + OFFSET_BYTES)
      : view.getUint32(at + from + head_bytes - 4) - OFFSET_BYTES;
    for (; left_bytes > 0; piece = engine.nextPiece(piece)) {
      const len_bytes = engine.pieceLen(piece);
      if (!is_zero) has_room &&= iovecs.add(engine.pieceAddr(piece), len_bytes);
      left_bytes -= len_bytes;
    }
    assert(has_room && left_bytes === 0, "a split reply is what its headers say");
    from += own_bytes;
  }
}

function headBytes(is_extended: boolean): number {
  return is_extended ? nbd.EXTENDED_REPLY_BYTES : nbd.STRUCTURED_REPLY_BYTES;
}

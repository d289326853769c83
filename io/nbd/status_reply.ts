/**
 * The reply to a BLOCK_STATUS request (NBD protocol, "NBD_REPLY_TYPE_BLOCK_STATUS"): a chunk for each metadata context that
 * the client has selected.
 *
 * `base:allocation`: one extent, allocated. What the cache has is, and of the rest the cache knows nothing.
 * `pcache:dirty`: bit 0 is set where the cache has the bytes, bit 1 where the backing device does not have them yet.
 *
 * @module
 */

import { CLEAN, MAX_RANGES, NOT_CACHED, type RangeStates } from "../../core/range_states.ts";
import * as nbd from "./protocol.ts";
import { CONTEXT_ALLOCATION, CONTEXT_DIRTY, EXTENDED, type Session } from "./session.ts";

/** Flags of `pcache:dirty`. Of a range that is not in the cache: 0. */
export const STATUS_CACHED = 1 << 0;
export const STATUS_DIRTY = 1 << 1;
/** The only ones of `base:allocation` that are said: not a hole, not known to be zero. */
const STATUS_ALLOCATED = 0;

const CHUNK_HEAD_BYTES = nbd.EXTENDED_REPLY_BYTES + 8;
const DESCRIPTOR_BYTES = 16;

/** Longest reply. */
export const STATUS_BYTES = 2 * CHUNK_HEAD_BYTES + (MAX_RANGES + 1) * DESCRIPTOR_BYTES;

/**
 * Writes the reply at `at` and returns its length. `words`: the request's cookie and offset, as they came; `states`: of the
 * range that was asked for, or of its beginning.
 */
export function writeStatus(
  view: DataView,
  at: number,
  words: Uint32Array,
  session: Session,
  off_bytes: number,
  len_bytes: number,
  states: RangeStates,
): number {
  const { contexts } = session;
  let to = at;
  if ((contexts & CONTEXT_ALLOCATION) !== 0) {
    const is_last = contexts === CONTEXT_ALLOCATION;
    to = writeChunk(view, to, words, session, CONTEXT_ALLOCATION, is_last, 1);
    to = writeDescriptor(view, to, session, len_bytes, STATUS_ALLOCATED);
  }
  if ((contexts & CONTEXT_DIRTY) !== 0) {
    to = writeChunk(view, to, words, session, CONTEXT_DIRTY, true, states.count);
    for (let i = 0; i < states.count; i++) {
      const start_bytes = i === 0 ? off_bytes : states.end_bytes[i - 1]!;
      const range_bytes = states.end_bytes[i]! - start_bytes;
      to = writeDescriptor(view, to, session, range_bytes, flagsOf(states.state[i]!));
    }
  }
  return to - at;
}

function flagsOf(state: number): number {
  if (state === NOT_CACHED) return 0;
  return state === CLEAN ? STATUS_CACHED : STATUS_CACHED | STATUS_DIRTY;
}

/** A chunk's header and what stands before its descriptors. Returns where these begin. */
function writeChunk(
  view: DataView,
  at: number,
  words: Uint32Array,
  session: Session,
  context: number,
  is_last: boolean,
  count: number,
): number {
  const is_extended = session.style === EXTENDED;
  view.setUint32(at, is_extended ? nbd.EXTENDED_REPLY_MAGIC : nbd.STRUCTURED_REPLY_MAGIC);
  view.setUint16(at + 4, is_last ? nbd.REPLY_FLAG_DONE : 0);
  const type = is_extended ? nbd.REPLY_TYPE_BLOCK_STATUS_EXT : nbd.REPLY_TYPE_BLOCK_STATUS;
  view.setUint16(at + 6, type);
  view.setUint32(at + 8, words[0]!, true);
  view.setUint32(at + 12, words[1]!, true);
  if (!is_extended) {
    view.setUint32(at + 16, 4 + 8 * count);
    view.setUint32(at + 20, context);
    return at + 24;
  }
  view.setUint32(at + 16, words[2]!, true);
  view.setUint32(at + 20, words[3]!, true);
  view.setUint32(at + 24, 0);
  view.setUint32(at + 28, 8 + 16 * count);
  view.setUint32(at + 32, context);
  view.setUint32(at + 36, count);
  return at + 40;
}

/** One extent. Returns where the next one goes. */
function writeDescriptor(
  view: DataView,
  at: number,
  session: Session,
  len_bytes: number,
  flags: number,
): number {
  if (session.style !== EXTENDED) {
    view.setUint32(at, len_bytes);
    view.setUint32(at + 4, flags);
    return at + 8;
  }
  view.setUint32(at, Math.floor(len_bytes / 2 ** 32));
  view.setUint32(at + 4, len_bytes % 2 ** 32);
  view.setUint32(at + 8, 0);
  view.setUint32(at + 12, flags);
  return at + 16;
}

/**
 * The reply to a BLOCK_STATUS request (NBD protocol, "NBD_REPLY_TYPE_BLOCK_STATUS"): a chunk for each metadata context that
 * the client has selected.
 *
 * `base:allocation`: what was zeroed or trimmed while the cache knows it is zero, and a hole where it may be one. All else is said
 * to be allocated data, as the cache knows no better.
 * `pcache:dirty`: bit 0 is set where the cache has the bytes, bit 1 where the backing device does not have them yet.
 *
 * @module
 */

import {
  CLEAN,
  HOLE,
  MAX_RANGES,
  NOT_CACHED,
  type RangeStates,
  WHETHER_CACHED,
  WHETHER_ZERO,
  ZERO,
} from "../../core/range_states.ts";
import * as nbd from "./protocol.ts";
import { CONTEXT_ALLOCATION, CONTEXT_DIRTY, EXTENDED, type Session } from "./session.ts";

/** Flags of `pcache:dirty`. Of a range that is not in the cache: 0. */
export const STATUS_CACHED = 1 << 0;
export const STATUS_DIRTY = 1 << 1;
/** Flags of `base:allocation` (NBD protocol, "Metadata contexts"). */
export const STATUS_HOLE = 1 << 0;
export const STATUS_ZERO = 1 << 1;

const CHUNK_HEAD_BYTES = nbd.EXTENDED_REPLY_BYTES + 8;
const DESCRIPTOR_BYTES = 16;

/** Longest reply. */
export const STATUS_BYTES = 2 * (CHUNK_HEAD_BYTES + MAX_RANGES * DESCRIPTOR_BYTES);

/** What has to be known of ranges for the contexts of a session (core/range_states.ts). */
export function wantedStates({ contexts }: Session): number {
  return ((contexts & CONTEXT_DIRTY) !== 0 ? WHETHER_CACHED : 0) |
    ((contexts & CONTEXT_ALLOCATION) !== 0 ? WHETHER_ZERO : 0);
}

/**
 * Writes the reply at `at` and returns its length. `words`: the request's cookie and offset, as they came; `states`: of the
 * range that was asked for, or of its beginning; `most`: extents of each context.
 */
export function writeStatus(
  view: DataView,
  at: number,
  words: Uint32Array,
  session: Session,
  off_bytes: number,
  states: RangeStates,
  most: number,
): number {
  const { contexts } = session;
  let to = at;
  if ((contexts & CONTEXT_ALLOCATION) !== 0) {
    const is_last = contexts === CONTEXT_ALLOCATION;
    to = writeContext(
      view,
      to,
      words,
      session,
      CONTEXT_ALLOCATION,
      is_last,
      off_bytes,
      states,
      most,
    );
  }
  if ((contexts & CONTEXT_DIRTY) !== 0) {
    to = writeContext(view, to, words, session, CONTEXT_DIRTY, true, off_bytes, states, most);
  }
  return to - at;
}

/** The chunk of one context: its header is written when it is known how many extents there are. */
function writeContext(
  view: DataView,
  at: number,
  words: Uint32Array,
  session: Session,
  context: number,
  is_last: boolean,
  off_bytes: number,
  states: RangeStates,
  most: number,
): number {
  let to = at + chunkHeadBytes(session);
  let count = 0;
  let start_bytes = off_bytes;
  for (let i = 0; i < states.count && count < most; i++) {
    const flags = flagsIn(context, states.state[i]!);
    // Neighbours that differ in what another context tells are one here.
    const goes_on = i + 1 < states.count && flagsIn(context, states.state[i + 1]!) === flags;
    if (goes_on) continue;
    to = writeDescriptor(view, to, session, states.end_bytes[i]! - start_bytes, flags);
    start_bytes = states.end_bytes[i]!;
    count += 1;
  }
  writeChunkHead(view, at, words, session, context, is_last, count);
  return to;
}

/** What a context tells of a state (core/range_states.ts). */
function flagsIn(context: number, state: number): number {
  if (context === CONTEXT_DIRTY) {
    if (state === NOT_CACHED) return 0;
    return (state & CLEAN) !== 0 ? STATUS_CACHED : STATUS_CACHED | STATUS_DIRTY;
  }
  if ((state & HOLE) !== 0) return STATUS_HOLE | STATUS_ZERO;
  return (state & ZERO) !== 0 ? STATUS_ZERO : 0;
}

function chunkHeadBytes(session: Session): number {
  return session.style === EXTENDED ? CHUNK_HEAD_BYTES : nbd.STRUCTURED_REPLY_BYTES + 4;
}

/** A chunk's header and what stands before its descriptors. */
function writeChunkHead(
  view: DataView,
  at: number,
  words: Uint32Array,
  session: Session,
  context: number,
  is_last: boolean,
  count: number,
): void {
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
    return;
  }
  view.setUint32(at + 16, words[2]!, true);
  view.setUint32(at + 20, words[3]!, true);
  view.setUint32(at + 24, 0);
  view.setUint32(at + 28, 8 + 16 * count);
  view.setUint32(at + 32, context);
  view.setUint32(at + 36, count);
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

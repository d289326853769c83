/**
 * What the cache holds of a range of the cached device, and which of it the backing device does not have yet.
 *
 * Invariants of a filled list:
 * - the ranges follow each other without a gap from where was asked, and neighbours differ in state;
 * - there is at least one, and the last ends where was asked or before: whoever wants the rest asks again.
 *
 * @module
 */

import { assert } from "./assert.ts";
import { type ExtentIndex, SUBTREE_SECTORS } from "./extent_index.ts";
import { SECTOR_BYTES } from "./format.ts";
import { DATA, type ZeroAreas, ZEROES_TO_PUNCH } from "./zeroes.ts";

/** The range is not in the cache. */
export const NOT_CACHED = 0;
/** The cache and the backing device have the same. */
export const CLEAN = 1;
/** The cache alone has the newest bytes. */
export const DIRTY = 2;
/** Added to CLEAN or DIRTY: the range is known to read as zeroes. */
export const ZERO = 4;
/** Added to those: and its space may be given up, on the backing device as well. */
export const HOLE = 8;
/** What a list can tell. */
export const WHETHER_CACHED = CLEAN | DIRTY;
export const WHETHER_ZERO = ZERO | HOLE;

/** Most ranges in a list. */
export const MAX_RANGES = 256;
/** Most look-ups for one list: it ends there, so that nobody who asks for a whole device holds up the others. */
const MAX_LOOKUPS = 4096;

type KnownZeroes = Pick<ZeroAreas, "kindOf" | "is_any_known">;

/** A list of ranges, to be filled again and again. */
export class RangeStates {
  count = 0;
  /** Where each range ends, in bytes; it begins where the one before ends. */
  readonly end_bytes = new Float64Array(MAX_RANGES);
  /** NOT_CACHED, CLEAN or DIRTY, and what else is known. */
  readonly state = new Uint8Array(MAX_RANGES);

  /** Adds a range, or makes the last one longer; false: there is no room for it. */
  add(end_bytes: number, state: number): boolean {
    if (this.count === 0 || this.state[this.count - 1] !== state) {
      if (this.count === MAX_RANGES) return false;
      this.state[this.count] = state;
      this.count += 1;
    }
    this.end_bytes[this.count - 1] = end_bytes;
    return true;
  }
}

/**
 * Fills `into` for a range of the cached device, which has a length. `areas`: what is known to be zeroes. `wanted`: the bits of the
 * states that matter, WHETHER_CACHED, WHETHER_ZERO or both; ranges that do not differ in them are one.
 */
export function listRangeStates(
  index: ExtentIndex,
  areas: KnownZeroes,
  wanted: number,
  off_bytes: number,
  len_bytes: number,
  into: RangeStates,
): void {
  assert(len_bytes > 0, "a range has a length");
  const end_bytes = off_bytes + len_bytes;
  if (wanted === WHETHER_ZERO && !areas.is_any_known) {
    into.count = 0;
    into.add(end_bytes, NOT_CACHED);
    return;
  }
  const end = Math.ceil(end_bytes / SECTOR_BYTES);
  into.count = 0;
  let sector = Math.floor(off_bytes / SECTOR_BYTES);
  for (let lookups = 0; sector < end && lookups < MAX_LOOKUPS; lookups++) {
    const subtree = sector - (sector % SUBTREE_SECTORS);
    const extent = index.find(sector);
    const start = extent < 0 ? subtree + SUBTREE_SECTORS : subtree + index.start(extent);
    const is_hole = start > sector;
    const stop = Math.min(end, is_hole ? start : start + index.sectors(extent));
    const state = is_hole ? NOT_CACHED : stateOf(index, areas, extent) & wanted;
    if (!into.add(Math.min(end_bytes, stop * SECTOR_BYTES), state)) return;
    sector = stop;
  }
}

function stateOf(index: ExtentIndex, areas: KnownZeroes, extent: number): number {
  if (index.isPlaceholder(extent) || !index.isLive(extent)) return NOT_CACHED;
  const state = index.isClean(extent) ? CLEAN : DIRTY;
  const kind = areas.kindOf(index.segment(extent), index.place(extent), index.sectors(extent));
  if (kind === DATA) return state;
  return kind === ZEROES_TO_PUNCH ? state | ZERO | HOLE : state | ZERO;
}

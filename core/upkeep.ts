/**
 * What is done to a cache as a whole while it serves requests, a part in each turn: verifying its data, and forgetting clean data.
 *
 * Invariants:
 * - A call looks at a bounded number of extents and bytes, and says where the next one goes on.
 * - Dirty data is never forgotten, and no placeholder: it stands for a request that will bring data, or has gone around the cache.
 * - What is forgotten is out of the index; its keys stay in the log until GC has taken them off.
 *
 * @module
 */

import { SUBTREE_SECTORS } from "./extent_index.ts";
import { SECTOR_BYTES } from "./format.ts";
import type { EngineState } from "./state.ts";

/** Most extents, bytes and empty subtrees that one call looks at. */
const MAX_EXTENTS = 4096;
const MAX_VERIFIED_BYTES = 1024 * 1024;
const MAX_SUBTREES = 4096;

/** What a scrub has come to so far. */
export interface ScrubReport {
  verified_bytes: number;
  /** Damaged clean ranges, which will be read from the backing device. */
  healed_bytes: number;
  /** Damaged dirty ranges: nobody else has these bytes. */
  lost_bytes: number;
}

/** Visits extents of `[from, to)` until `visit` has had enough (false) or a limit is met; returns the sector to go on from. */
function walk(
  { index }: EngineState,
  from: number,
  to: number,
  visit: (extent: number, start: number, stop: number) => boolean,
): number {
  let sector = from;
  let extents = 0;
  let subtrees = 0;
  while (sector < to && extents < MAX_EXTENTS && subtrees < MAX_SUBTREES) {
    const subtree = sector - (sector % SUBTREE_SECTORS);
    const extent = index.find(sector);
    if (extent < 0) {
      subtrees++;
      sector = subtree + SUBTREE_SECTORS;
      continue;
    }
    extents++;
    const start = Math.max(sector, subtree + index.start(extent));
    const stop = Math.min(to, subtree + index.start(extent) + index.sectors(extent));
    if (start >= to) return to;
    sector = stop;
    if (!visit(extent, start, stop)) break;
  }
  return Math.min(sector, to);
}

/** Verifies data from `from_sector` on, and heals what is clean. Returns where to go on; the size of the device: all was looked at. */
export function scrubPart(state: EngineState, from_sector: number, report: ScrubReport): number {
  const { index, counters } = state;
  let bytes = 0;
  const damaged: { start: number; stop: number }[] = [];
  const next = walk(state, from_sector, state.size_sectors, (extent, start, stop) => {
    if (!index.isLive(extent) || index.isPlaceholder(extent)) return true;
    const len_bytes = (stop - start) * SECTOR_BYTES;
    bytes += len_bytes;
    report.verified_bytes += len_bytes;
    const is_right = state.verify(
      index.segment(extent),
      index.place(extent),
      index.sectors(extent),
    );
    if (!is_right) {
      counters.checksum_failures++;
      if (index.isClean(extent)) damaged.push({ start, stop });
      else report.lost_bytes += len_bytes;
    }
    return bytes < MAX_VERIFIED_BYTES;
  });
  for (const { start, stop } of damaged) {
    report.healed_bytes += (stop - start) * SECTOR_BYTES;
    counters.healed++;
    state.forget(start, stop - start);
  }
  return next;
}

/**
 * Forgets clean data of `[from_sector, to_sector)`. Returns where to go on: `to_sector` when there is none left, or a placeholder, whose request
 * has to end first.
 */
export function forgetPart(state: EngineState, from_sector: number, to_sector: number): number {
  const { index } = state;
  const ranges: { start: number; stop: number }[] = [];
  let most = to_sector;
  const next = walk(state, from_sector, to_sector, (extent, start, stop) => {
    const is_live = index.isLive(extent);
    if (is_live && index.isPlaceholder(extent)) {
      most = start;
      return false;
    }
    if (!is_live || index.isClean(extent)) ranges.push({ start, stop });
    return true;
  });
  for (const { start, stop } of ranges) state.forget(start, stop - start);
  return Math.min(next, most);
}

/** How many sectors of `[from_sector, to_sector)` are dirty, up to the first extent that the limit leaves out; `next` is where it begins. */
export function countDirty(
  state: EngineState,
  from_sector: number,
  to_sector: number,
): { dirty: number; next: number } {
  const { index } = state;
  let dirty = 0;
  const next = walk(state, from_sector, to_sector, (extent, start, stop) => {
    const is_dirty = index.isLive(extent) && !index.isPlaceholder(extent) && !index.isClean(extent);
    if (is_dirty) dirty += stop - start;
    return true;
  });
  return { dirty, next };
}

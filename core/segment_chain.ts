/**
 * The chain of cache segments where links of it are lost (FORMAT, "A segment").
 *
 * @module
 */

import { CacheError } from "./errors.ts";
import {
  type Geometry,
  SEGMENT_HAS_NEXT,
  SEGMENT_KNOWN_FLAGS,
  SEGMENT_TYPE_CACHE_DATA,
  SEGMENT_TYPE_MASK,
  SEGMENT_TYPE_SHIFT,
} from "./format.ts";
import type { Memory } from "./platform.ts";
import { type CacheInfo, SegmentInfo } from "./slots.ts";

const LOST = -2;
const LAST = -1;

/**
 * The device segments of all cache segments, in order. `info`, if it is there, says where the chain starts and how long it is. Throws
 * `CacheError` unless what is left of the chain allows just one.
 */
export function completeChain(
  memory: Memory,
  geometry: Geometry,
  seg_num: number,
  info: CacheInfo | null,
): number[] {
  const links = readLinks(memory, geometry, seg_num);
  if (links.every((next) => next === LOST)) {
    throw new CacheError(
      "it cannot be repaired: no segment info is valid: there is no cache on this device",
    );
  }
  return inOrder(links, info) ?? followed(links, info);
}

/** What follows each device segment: another one, LAST, or LOST. */
function readLinks(memory: Memory, geometry: Geometry, seg_num: number): number[] {
  const segment = new SegmentInfo(memory, geometry);
  return Array.from({ length: seg_num }, (_, device_seg) => {
    try {
      if (!segment.load(device_seg)) return LOST;
    } catch (error) {
      if (!(error instanceof CacheError)) throw error;
      return LOST;
    }
    const { flags, next_seg } = segment;
    const type = (flags >>> SEGMENT_TYPE_SHIFT) & SEGMENT_TYPE_MASK;
    const is_right = type === SEGMENT_TYPE_CACHE_DATA && (flags & ~SEGMENT_KNOWN_FLAGS) === 0;
    if (!is_right) return LOST;
    if ((flags & SEGMENT_HAS_NEXT) === 0) return LAST;
    return next_seg < seg_num ? next_seg : LOST;
  });
}

/** The order in which every format makes the chain, if nothing speaks against it. */
function inOrder(links: number[], info: CacheInfo | null): number[] | null {
  if (info !== null && info.seg_id !== 0) return null;
  const last = links.indexOf(LAST);
  const n_segs = info?.n_segs ?? (last < 0 ? links.length : last + 1);
  const fits = links.slice(0, n_segs).every((next, seg) =>
    next === LOST || next === (seg === n_segs - 1 ? LAST : seg + 1)
  );
  return fits ? Array.from({ length: n_segs }, (_, seg) => seg) : null;
}

/** Follows the links; over a lost one to the only segment that nothing leads to. */
function followed(links: number[], info: CacheInfo | null): number[] {
  const led_to = new Set(links.filter((next) => next >= 0));
  const heads = links.keys().filter((seg) => !led_to.has(seg)).toArray();
  if (info === null && heads.length !== 1) throw notUnique();
  const chain = [info?.seg_id ?? heads[0]!];
  const seen = new Set(chain);
  const n_segs = info?.n_segs ?? links.length;
  while (chain.length < n_segs) {
    let next = links[chain.at(-1)!]!;
    if (next === LAST && info === null) break;
    if (next < 0 || seen.has(next)) {
      const open = heads.filter((seg) => !seen.has(seg));
      if (open.length !== 1) throw notUnique();
      next = open[0]!;
    }
    chain.push(next);
    seen.add(next);
  }
  return chain;
}

function notUnique(): CacheError {
  return new CacheError(
    "it cannot be repaired: more than one link of the chain of segments is lost, and their order cannot be told",
  );
}

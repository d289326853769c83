/**
 * Gives a cache the segments that its device has gained.
 *
 * They are put behind the last one of the chain; what the cache holds stays as it is.
 *
 * Invariant: the device is not written to before `OverlayMemory.apply`. If that is cut short, the cache is as it was, or is refused and
 * `planRepair` makes it what it was.
 *
 * @module
 */

import { assert } from "./assert.ts";
import { checkCache, type CheckOptions } from "./check.ts";
import { CacheError } from "./errors.ts";
import {
  KERNEL_GEOMETRY,
  KSET_HEADER_BYTES,
  SEGMENT_HAS_NEXT,
  SEGMENT_TYPE_CACHE_DATA,
  SEGMENT_TYPE_SHIFT,
  segmentsOn,
} from "./format.ts";
import { OpenedCache, writeSuperblock } from "./media.ts";
import { OverlayMemory } from "./overlay_memory.ts";
import type { Memory } from "./platform.ts";
import { CacheInfo, SegmentInfo } from "./slots.ts";

/** What would be done. */
export interface GrowthPlan {
  /** How many segments the cache has, and will have. */
  readonly segs_before: number;
  readonly segs_after: number;
  readonly overlay: OverlayMemory;
}

/**
 * Works out how the cache on `memory` takes all segments that its device holds. Throws `CacheError` when the cache is damaged, or there are no
 * more.
 */
export function planGrowth(memory: Memory, options: CheckOptions = {}): GrowthPlan {
  const { geometry = KERNEL_GEOMETRY } = options;
  const { findings, cache } = checkCache(memory, options);
  const [error] = findings.list.filter(({ severity }) => severity === "error");
  if (error !== undefined || cache === null) {
    throw new CacheError(`the cache is damaged, repair it first: ${error!.text}`);
  }
  const most = segmentsOn(geometry, memory.cache_bytes);
  const old = new Set(cache.chain);
  const added = Array.from({ length: most }, (_, seg) => seg).filter((seg) => !old.has(seg));
  if (added.length === 0) {
    throw new CacheError(
      `the device holds ${most} segments, and the cache has all of them: make the device larger first`,
    );
  }
  const overlay = new OverlayMemory(memory);
  const info = new CacheInfo(overlay);
  const has_info = info.load();
  assert(has_info, "the check has found it");
  info.n_segs = cache.n_segs + added.length;

  const segment = new SegmentInfo(overlay, geometry);
  const grown = new OpenedCache(overlay, geometry, most, info, false);
  for (const [seg, device_seg] of [...cache.chain, ...added].entries()) {
    const is_new = grown.link(seg, device_seg);
    assert(is_new, "segments are linked once");
    if (seg < cache.n_segs - 1) continue;
    const next = added[seg + 1 - cache.n_segs];
    segment.flags = SEGMENT_TYPE_CACHE_DATA << SEGMENT_TYPE_SHIFT |
      (next === undefined ? 0 : SEGMENT_HAS_NEXT);
    segment.next_seg = next ?? 0;
    segment.format(device_seg);
    if (seg < cache.n_segs) continue;
    grown.generations.format(seg);
    overlay.write(grown.dataAddr(seg, 0), new Uint8Array(KSET_HEADER_BYTES), KSET_HEADER_BYTES);
  }
  info.store();
  writeSuperblock(overlay, most);
  const after = checkCache(overlay, options).findings;
  assert(after.errors === 0, "a grown cache is whole");
  return { segs_before: cache.n_segs, segs_after: info.n_segs, overlay };
}

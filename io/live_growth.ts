/**
 * A device that grows while it lives: the backing device has become larger and a table says so, or the cache device has.
 *
 * It is done in one go while no request is in use and the engine is at rest: clients wait, and go on as if nothing had been. Neither device
 * becomes smaller that way.
 *
 * @module
 */

import type { CacheMode } from "../core/cache_mode.ts";
import type { Engine } from "../core/engine.ts";
import { CacheError, EIO } from "../core/errors.ts";
import { KERNEL_GEOMETRY, SECTOR_BYTES, segmentsOn } from "../core/format.ts";
import { planGrowth } from "../core/grow.ts";
import { inspectCache, prepareCache } from "../core/media.ts";
import { deviceSectors, type Table } from "../core/table.ts";
import type { LoopBacking } from "./backing.ts";
import { INVALID } from "./control_protocol.ts";
import { currentBytes, type DeviceFile } from "./files.ts";
import type { Medium } from "./medium.ts";

/** What grows. */
export interface GrowingParts {
  readonly engine: Pick<Engine, "size_bytes" | "status" | "reload" | "barrierDone">;
  readonly memory: Medium;
  readonly cache_file: DeviceFile;
  readonly backing: LoopBacking;
  /** The device is served in a way that lets its size change. */
  readonly can_resize: boolean;
}

/** What has grown, and how far. */
export interface Growth {
  /** Sizes from now on: of the cached device, and of what is mapped of the cache device. */
  readonly size_bytes: number;
  readonly cache_bytes: number;
  readonly grows_cache: boolean;
}

/**
 * How large the device would be with this table; `is_any`: larger than it is.
 *
 * @throws {CacheError} It would be smaller, or more than a device that lives can become.
 */
export function findGrowth(parts: GrowingParts, table: Table): Growth & { is_any: boolean } {
  const { engine, memory, cache_file, backing, can_resize } = parts;
  const size_bytes = deviceSectors(table, backing.currentBytes()) * SECTOR_BYTES;
  const [is, wanted] = [engine.size_bytes / SECTOR_BYTES, size_bytes / SECTOR_BYTES];
  if (wanted < is) {
    throw refused(`length ${wanted}, but it is ${is} and cannot shrink while the device lives`);
  }
  if (wanted > is && !can_resize) {
    throw refused(`length ${wanted}, but it is ${is}, and this block device's cannot change`);
  }
  const cache_bytes = currentBytes(cache_file);
  const segments = segmentsOn(KERNEL_GEOMETRY, cache_bytes);
  const before = engine.status().cache_segs;
  if (segments < before) {
    throw refused(
      `cache device ${cache_file.path} holds ${segments} segments, but its cache has ${before}`,
    );
  }
  if (cache_bytes > memory.room_bytes) {
    throw refused(
      `cache device ${cache_file.path} has ${cache_bytes} bytes, but ${memory.room_bytes} are the most ` +
        "that can be reached while the device lives",
    );
  }
  const grows_cache = segments > before;
  return { size_bytes, cache_bytes, grows_cache, is_any: grows_cache || wanted > is };
}

function refused(why: string): CacheError {
  return new CacheError(
    `${INVALID}: ${why}; remove the device and create it with this table`,
  );
}

/**
 * Takes the growth into use. The engine is closed, and no request in use.
 *
 * @throws {CacheError} It could not be: all is as it was, or the cache device has failed, which shows.
 */
export function applyGrowth(
  { engine, memory, backing }: GrowingParts,
  { size_bytes, cache_bytes, grows_cache }: Growth,
  { data_crc, cache_mode }: { readonly data_crc: boolean; readonly cache_mode: CacheMode },
): void {
  const before_bytes = backing.size_bytes;
  const overlay = grows_cache ? planned(memory, cache_bytes) : null;
  try {
    overlay?.apply();
    backing.resize(size_bytes);
    const cache = prepareCache(memory, inspectCache(memory, { data_crc }));
    engine.reload({ memory, backing, cache, cache_mode, now_ms: performance.now() });
  } catch (error) {
    if (!(error instanceof CacheError)) throw error;
    backing.resize(before_bytes);
    engine.barrierDone(EIO); // what is on the media is not what the engine knows
    throw error;
  }
}

/** Maps what the cache device has gained, and works out what is to be stored for it. */
function planned(memory: Medium, cache_bytes: number) {
  memory.grow(cache_bytes);
  return planGrowth(memory).overlay;
}

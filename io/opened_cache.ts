/**
 * What every open cache stands on: the arena, the ring, and the cache device mapped into memory.
 *
 * @module
 */

import { CacheError } from "../core/errors.ts";
import { Arena } from "./arena.ts";
import { closeDevice, type DeviceFile, openDevice } from "./files.ts";
import { Medium } from "./medium.ts";
import { openRing, type Ring } from "./ring.ts";
import { KIND_BARRIER, tokenOf } from "./tokens.ts";

/** Transfer buffers: twice the longest request, so that requests of every length can be served. */
const BUFFER_BYTES = 64 * 1024 * 1024;
/** What the ring and the backing device take of the arena, generously: it costs nothing until it is touched. */
const RING_BYTES = 16 * 1024 * 1024;
/** Requests handed to the kernel at once. */
const RING_ENTRIES = 256;

/** An open cache device, of which nothing has been read yet. */
export interface OpenedCacheDevice {
  readonly arena: Arena;
  readonly ring: Ring;
  readonly memory: Medium;
  readonly cache_file: DeviceFile;
  /** Lets go of the cache device; how the backing device is let go is put here, too. */
  readonly devices: DisposableStack;
  /** What has to be undone after the ring is closed, and before the arena is. */
  readonly late_cleanup: DisposableStack;
}

/**
 * Opens and maps a cache device; nothing is written. What has to be undone in the end is put on `cleanup`.
 *
 * @param front_bytes what the caller's own servers take of the arena
 * @param may_grow addresses are kept for a cache device that becomes twice as large
 * @throws CacheError `Error opening cache device: PATH: ...`
 */
export function openCacheDevice(
  path: string,
  front_bytes: number,
  cleanup: DisposableStack,
  may_grow = false,
): OpenedCacheDevice {
  const cache_hold = cleanup.use(new DisposableStack());
  const cache_file = openDevice("cache", path);
  cache_hold.defer(() => closeDevice(cache_file));
  const arena = new Arena({
    cache_bytes: cache_file.size_bytes,
    room_bytes: (may_grow ? 2 : 1) * cache_file.size_bytes,
    buffer_bytes: BUFFER_BYTES,
    io_bytes: front_bytes + RING_BYTES,
  });
  cleanup.defer(() => arena.close());
  const late_cleanup = cleanup.use(new DisposableStack());
  const ring = openRing(arena, RING_ENTRIES);
  cleanup.defer(() => ring.close());
  const devices = cleanup.use(new DisposableStack());
  devices.use(cache_hold);
  const memory = new Medium(arena, cache_file, ring, tokenOf(KIND_BARRIER));
  return { arena, ring, memory, cache_file, devices, late_cleanup };
}

/** Puts the target's words before the reason why a cache is refused (DMSETUP, "a bad table"). */
export function naming<T>(what: "cache dev" | "pcache", cache_path: string, act: () => T): T {
  try {
    return act();
  } catch (error) {
    if (!(error instanceof CacheError)) throw error;
    throw new CacheError(`Failed to start ${what}: ${cache_path}: ${error.message}`);
  }
}

/**
 * pcache as a library: `Cache` opens a cache in this program, `serve` serves one over NBD. docs/library.md has examples.
 *
 * ```ts ignore
 * await using cache = Cache.open({ cache_path: "cache.img", backing_path: "backing.img", data_crc: true });
 * await cache.write(4096, new Uint8Array(8192));
 * await cache.flush();
 * const bytes = await cache.read(4096, 8192);
 * ```
 *
 * `Engine` is the core alone: it decides what a cache does, without a machine under it. It has no FFI, no `Deno.*`, no clock and no
 * randomness: give it memory, a backing device and the time, and feed it what ended. `core/platform.ts` says what these have to do.
 *
 * @module
 */

export type { CacheMode } from "./core/cache_mode.ts";
export { Counters } from "./core/counters.ts";
export { Engine, type EngineOptions, type Position, type Status } from "./core/engine.ts";
export { CacheError } from "./core/errors.ts";
export type { Eviction } from "./core/eviction.ts";
export { type Geometry, KERNEL_GEOMETRY } from "./core/format.ts";
export type { LatencyReport } from "./core/latencies.ts";
export {
  inspectCache,
  type Inspection,
  OpenedCache,
  type OpenOptions,
  prepareCache,
} from "./core/media.ts";
export type { Backing, Gather, Memory } from "./core/platform.ts";
export {
  deviceSectors,
  formatTable,
  parseTable,
  type Table,
  type TableSource,
} from "./core/table.ts";
export { Cache, type CacheOptions, type CacheStats } from "./io/library.ts";
export { serve, type ServedDevice, type ServeOptions } from "./io/serve.ts";

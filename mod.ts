/**
 * pcache as a library: the engine that decides what a cache does, without a machine under it. It has no FFI, no
 * `Deno.*`, no clock and no randomness: give it memory, a backing device and the time, and feed it what ended.
 *
 * ```ts ignore
 * const inspection = inspectCache(memory, { data_crc: true }); // writes nothing, refuses what is no cache
 * const cache = prepareCache(memory, inspection); // formats a fresh device
 * const engine = Engine.open({ memory, backing, cache, now_ms: 0 }); // replays the log
 *
 * const slot = engine.beginWrite(4096, 8192, false);
 * engine.pump(now_ms);
 * for (let piece = engine.firstPiece(slot); piece >= 0; piece = engine.nextPiece(piece)) {
 *   receive(engine.pieceAddr(piece), engine.pieceLen(piece)); // the bytes go straight to their place
 * }
 * engine.payloadArrived(slot);
 * engine.pump(now_ms); // then the slot comes out of takeAnswered()
 * ```
 *
 * `core/platform.ts` says what memory and backing device have to do; `io/` does it on Linux.
 *
 * @module
 */

export { Counters } from "./core/counters.ts";
export { Engine, type EngineOptions, type Position, type Status } from "./core/engine.ts";
export { CacheError } from "./core/errors.ts";
export { type Geometry, KERNEL_GEOMETRY } from "./core/format.ts";
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

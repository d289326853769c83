/**
 * A cache in a loop of its own, that is served to nobody: for tools, and for programs that use pcache as a library.
 *
 * A turn hands what has ended to the engine, lets it do all that it can, and sleeps no longer than it is told to.
 *
 * @module
 */

import type { CacheMode } from "../core/cache_mode.ts";
import { Engine } from "../core/engine.ts";
import { CacheError } from "../core/errors.ts";
import { SECTOR_BYTES } from "../core/format.ts";
import { measureLog } from "../core/log_length.ts";
import { inspectCache, type Inspection, prepareCache } from "../core/media.ts";
import type { Memory } from "../core/platform.ts";
import { CacheInfo } from "../core/slots.ts";
import type { Arena } from "./arena.ts";
import { checkNotAwaited } from "./awaited_cache.ts";
import type { LoopBacking } from "./backing.ts";
import { openBacking } from "./open_backing.ts";
import { naming, openCacheDevice } from "./opened_cache.ts";
import type { Ring } from "./ring.ts";
import { findRunRoot } from "./run_dir.ts";
import { INDEX_MASK, KIND_BACKING, KIND_SHIFT } from "./tokens.ts";

/** What is opened. */
export interface LocalConfig {
  readonly cache_path: string;
  /** A path or an NBD URI. */
  readonly backing_path: string;
  /** What a new cache gets; null: only a cache that is there is opened, with the setting that it has. */
  readonly data_crc: boolean | null;
  /** The one that the cache has, writeback for a new one, if left out. */
  readonly cache_mode?: CacheMode;
  /** Told how far the reading of the log is. */
  readonly onRead?: (done_bytes: number, left_bytes: number) => void;
}

/** An open cache. */
export class LocalCache implements Disposable {
  readonly engine: Engine;
  readonly backing: LoopBacking;
  readonly arena: Arena;
  readonly #ring: Ring;
  readonly #cleanup: DisposableStack;

  /** Opens both devices. Throws `CacheError` when that cannot be: neither was changed then. */
  constructor(config: LocalConfig) {
    using cleanup = new DisposableStack();
    const opened = openCacheDevice(config.cache_path, 0, cleanup);
    checkNotAwaited(findRunRoot(), config.cache_path, null);
    const { arena, ring, memory, cache_file, devices } = opened;
    this.arena = arena;
    this.#ring = ring;
    const { device } = openBacking(
      config.backing_path,
      (bytes) => wholeSectors(config.backing_path, bytes),
      { arena, ring, user_kind: KIND_BACKING, cache_file, cleanup: devices },
    );
    this.backing = device;
    const inspection = inspect(memory, config);
    memory.prepare();
    const cache = prepareCache(memory, inspection);
    const log_bytes = measureLog(cache, memory);
    const { cache_mode } = config;
    this.engine = Engine.open({
      ...(cache_mode === undefined ? {} : { cache_mode }),
      memory,
      backing: device,
      cache,
      now_ms: performance.now(),
      onRead: (done_bytes) => config.onRead?.(done_bytes, Math.max(0, log_bytes - done_bytes)),
    });
    this.#cleanup = cleanup.move();
  }

  /** One turn, which sleeps for `most_ms` at most; 0: not at all. */
  turn(most_ms: number): void {
    const before_ms = performance.now();
    const sleep_ms = Math.min(
      most_ms,
      this.engine.nextTimerMs(before_ms),
      this.backing.nextTimerMs(before_ms),
    );
    this.#ring.wait(sleep_ms);
    const now_ms = performance.now();
    this.engine.tick(now_ms);
    while (this.#ring.next()) this.#handle(this.#ring.user, this.#ring.result);
    do this.engine.pump(now_ms); while (this.backing.turn(now_ms, this.engine));
  }

  /** How long `turn` may sleep if nothing ends. */
  nextTimerMs(): number {
    const now_ms = performance.now();
    return Math.min(this.engine.nextTimerMs(now_ms), this.backing.nextTimerMs(now_ms));
  }

  /** Whether something has been handed to the kernel, or will be as soon as it can. */
  get has_work_under_way(): boolean {
    return this.engine.is_under_way;
  }

  #handle(user: number, result: number): void {
    if (user >>> KIND_SHIFT === KIND_BACKING) {
      this.backing.handle(user & INDEX_MASK, result, this.engine);
    } else this.engine.barrierDone(result < 0 ? -result : 0);
  }

  /** Commits the log and brings everything to rest; nothing dirty is written back for it. */
  close(): void {
    this.engine.close();
    this.backing.stopWaiting(performance.now());
    this.engine.pump(performance.now());
    while (!this.engine.isClosed()) this.turn(CLOSE_LOOK_MS);
  }

  /** Lets go of both devices, as a kill would: what was flushed is safe. */
  [Symbol.dispose](): void {
    this.#cleanup.dispose();
  }
}

/** How often a close is looked at while nothing else happens. */
const CLOSE_LOOK_MS = 50;

function wholeSectors(path: string, bytes: number): number {
  const sectors = Math.floor(bytes / SECTOR_BYTES);
  if (sectors > 0) return sectors;
  throw new CacheError(
    `Error opening backing device: ${path} holds ${bytes} bytes, at least ${SECTOR_BYTES} are wanted`,
  );
}

function inspect(
  memory: Memory,
  { cache_path, data_crc, cache_mode = "writeback" }: LocalConfig,
): Inspection {
  return naming("cache dev", cache_path, () => {
    if (data_crc === null) return inspectStored(memory);
    return inspectCache(memory, { data_crc, cache_mode });
  });
}

/** As `inspectCache`, for a cache that must be there, whatever its data_crc setting. Throws `CacheError`. */
export function inspectStored(memory: Memory): Inspection {
  const info = new CacheInfo(memory);
  const inspection = inspectCache(memory, { data_crc: info.load() && info.data_crc });
  if (!inspection.fresh) return inspection;
  throw new CacheError("no cache is on this device, create or format make one");
}

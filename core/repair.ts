/**
 * Repairs a damaged cache device: puts right what the rest of the device proves, gives up what nothing proves, and says which is which.
 *
 * All of it happens in an overlay, which `checkCache` must find without an error before it is offered; `apply` makes it real.
 *
 * - A structure that stands twice gets its copy again. One of which both copies are lost follows from others: the superblock from the
 *   device's size; the cache info from the chain; a link of the chain from the order in which every format makes them, or because only
 *   one segment is left; a generation from the newest key; a tail from the other tail. An older tail means only that clean data is written
 *   back again, a younger one only that clean data is not cached.
 * - The log is repaired by `log_repair.ts`.
 *
 * Invariants:
 * - The device is not written to before `apply`.
 * - No key, and so no data, is ever made up: what cannot be proven is left out.
 *
 * @module
 */

import { checkCache, type CheckOptions, type CheckReport } from "./check.ts";
import { CACHE_MODES } from "./cache_mode.ts";
import { crc32c } from "./crc32c.ts";
import { CacheError } from "./errors.ts";
import {
  checkKset,
  DIRTY_TAIL_ADDR,
  GC_PERCENT_DEFAULT,
  GENERATION_BYTES,
  GENERATION_OFF_BYTES,
  GENERATION_STRIDE_BYTES,
  type Geometry,
  INFO_ADDR,
  INFO_BYTES,
  INFO_DATA_CRC,
  INFO_GC_SHIFT,
  INFO_INIT_DONE,
  INFO_STRIDE_BYTES,
  KERNEL_GEOMETRY,
  KEY_TAIL_ADDR,
  KSET_HEADER_BYTES,
  KSET_IS_KEYS,
  KSET_IS_LAST,
  KSET_MAX_BYTES,
  MODE_WRITEBACK,
  POSITION_BYTES,
  POSITION_STRIDE_BYTES,
  SEGMENT_HAS_NEXT,
  SEGMENT_INFO_BYTES,
  SEGMENT_INFO_STRIDE_BYTES,
  SEGMENT_TYPE_CACHE_DATA,
  SEGMENT_TYPE_SHIFT,
  segmentAddr,
  segmentsOn,
  SUPERBLOCK_ADDR,
  SUPERBLOCK_BYTES,
  SUPERBLOCK_MAGIC_HI,
  SUPERBLOCK_MAGIC_LO,
  u32At,
} from "./format.ts";
import { LOG_END, LOG_LAST, LogReader } from "./log_reader.ts";
import { LogRepair } from "./log_repair.ts";
import {
  checkInfo,
  checkSize,
  loadChain,
  loadTail,
  OpenedCache,
  readSuperblock,
  writeSuperblock,
} from "./media.ts";
import { OverlayMemory } from "./overlay_memory.ts";
import type { Memory } from "./platform.ts";
import { completeChain } from "./segment_chain.ts";
import { readSlotStates } from "./slot_states.ts";
import { CacheInfo, SegmentInfo } from "./slots.ts";

/** What would be done to a device. */
export interface RepairPlan {
  /** What is put right, a line each. */
  readonly repairs: readonly string[];
  /** What is lost by that, or was before, a line each. */
  readonly losses: readonly string[];
  /** What a check finds afterwards. */
  readonly after: CheckReport;
  /** The repaired device. */
  readonly overlay: OverlayMemory;
}

/**
 * Works out how the cache on `memory` can be repaired; nothing is written to it. Throws `CacheError` when it cannot: what is missing, or that
 * there is no cache.
 */
export function planRepair(memory: Memory, options: CheckOptions = {}): RepairPlan {
  const repair = new Repair(memory, options);
  return repair.run();
}

/** One repair. */
class Repair {
  readonly #overlay: OverlayMemory;
  readonly #options: CheckOptions;
  readonly #geometry: Geometry;
  readonly #repairs: string[] = [];
  readonly #losses: string[] = [];
  #is_mode_lost = false;

  constructor(memory: Memory, options: CheckOptions) {
    this.#overlay = new OverlayMemory(memory);
    this.#options = options;
    this.#geometry = options.geometry ?? KERNEL_GEOMETRY;
  }

  run(): RepairPlan {
    checkSize(this.#overlay, this.#geometry);
    const info = this.#repairInfo();
    this.#repairSuperblock(info);
    const cache = this.#repairChain(info);
    this.#repairTails(cache);
    this.#repairGenerations(cache);
    const log = new LogRepair(cache, this.#overlay, this.#options);
    log.run();
    this.#repairs.push(...log.repairs);
    this.#losses.push(...log.losses);
    const after = checkCache(this.#overlay, this.#options);
    const [left] = after.findings.list.filter(({ severity }) => severity === "error");
    if (left !== undefined) {
      throw new CacheError(`it cannot be repaired: after all that could be done, ${left.text}`);
    }
    const { repairs, losses } = { repairs: this.#repairs, losses: this.#losses };
    return { repairs, losses, after, overlay: this.#overlay };
  }

  /** The cache info as it is or should be. */
  #repairInfo(): CacheInfo {
    const most = segmentsOn(this.#geometry, this.#overlay.cache_bytes);
    const info = new CacheInfo(this.#overlay);
    const slots = { addr: INFO_ADDR, len_bytes: INFO_BYTES, stride_bytes: INFO_STRIDE_BYTES };
    this.#copyDamaged("cache info", slots);
    if (loadsRight(() => info.load() && info.init_done && info.n_segs > most)) {
      throw new CacheError(
        `it cannot be repaired: the cache has ${info.n_segs} segments, but the device holds ${most}: ` +
          "give it its size back first",
      );
    }
    if (loadsRight(() => info.load() && !info.init_done)) {
      throw new CacheError(
        "it cannot be repaired: its format was never completed, so nothing was ever in it: create formats it",
      );
    }
    const is_right = loadsRight(() => {
      if (!info.load()) return false;
      checkInfo(info, most, info.data_crc);
      return true;
    });
    if (is_right) return info;
    const chain = completeChain(this.#overlay, this.#geometry, most, null);
    this.#is_mode_lost = true;
    info.seg_id = chain[0]!;
    info.n_segs = chain.length;
    info.flags = INFO_INIT_DONE | MODE_WRITEBACK | GC_PERCENT_DEFAULT << INFO_GC_SHIFT;
    if (LogRepair.hasSums(this.#overlay, this.#geometry, chain)) info.flags |= INFO_DATA_CRC;
    info.store();
    info.store();
    this.#repairs.push(
      `cache info: made anew from the chain of ${chain.length} segments, data_crc ${info.data_crc}`,
    );
    this.#losses.push(
      `cache info: its settings; gc_percent is ${GC_PERCENT_DEFAULT} and the mode writeback now`,
    );
    return info;
  }

  #repairSuperblock(info: CacheInfo): void {
    const { n_segs, seg_id } = info;
    const least = Math.max(n_segs, seg_id + 1);
    const fault = reasonOf(() => {
      const superblock = readSuperblock(this.#overlay, this.#geometry);
      if (superblock === undefined) throw new CacheError("superblock: magic 0");
      if (superblock.seg_num >= least) return;
      throw new CacheError(
        `superblock: seg_num ${superblock.seg_num}, but the cache has ${n_segs} segments`,
      );
    });
    if (fault === "") return;
    if (hasForeignFlags(this.#overlay)) throw new CacheError(`it cannot be repaired: ${fault}`);
    const seg_num = segmentsOn(this.#geometry, this.#overlay.cache_bytes);
    writeSuperblock(this.#overlay, seg_num);
    this.#repairs.push(`${fault}: written anew, for ${seg_num} segments`);
  }

  #repairChain(info: CacheInfo): OpenedCache {
    const { seg_num } = readSuperblock(this.#overlay, this.#geometry)!;
    const cache = () => new OpenedCache(this.#overlay, this.#geometry, seg_num, info, false);
    const opened = cache();
    const fault = reasonOf(() => loadChain(this.#overlay, opened));
    if (fault === "") {
      for (const device_seg of opened.chain) this.#copyDamagedInfo(device_seg);
      return opened;
    }
    const chain = completeChain(this.#overlay, this.#geometry, seg_num, info);
    const segment = new SegmentInfo(this.#overlay, this.#geometry);
    for (const [seg, device_seg] of chain.entries()) {
      const next_seg = chain[seg + 1] ?? 0;
      const is_last = seg === chain.length - 1;
      const flags = SEGMENT_TYPE_CACHE_DATA << SEGMENT_TYPE_SHIFT |
        (is_last ? 0 : SEGMENT_HAS_NEXT);
      const is_right = loadsRight(() =>
        segment.load(device_seg) && segment.flags === flags &&
        (is_last || segment.next_seg === next_seg)
      );
      if (is_right) {
        this.#copyDamagedInfo(device_seg);
        continue;
      }
      segment.flags = flags;
      segment.next_seg = next_seg;
      segment.format(device_seg);
      this.#repairs.push(
        `segment info of device segment ${device_seg}: made anew, ` +
          (is_last ? "it is the last one" : `segment ${next_seg} follows`),
      );
    }
    const whole = cache();
    loadChain(this.#overlay, whole);
    return whole;
  }

  #copyDamagedInfo(device_seg: number): void {
    this.#copyDamaged(`segment info of device segment ${device_seg}`, {
      addr: segmentAddr(this.#geometry, device_seg),
      len_bytes: SEGMENT_INFO_BYTES,
      stride_bytes: SEGMENT_INFO_STRIDE_BYTES,
    });
  }

  /** Those that are lost are 0 for now: the log proves the others. */
  #repairGenerations(cache: OpenedCache): void {
    for (let seg = 0; seg < cache.n_segs; seg++) {
      const name = `generation of cache segment ${seg}`;
      const slots = {
        addr: segmentAddr(this.#geometry, cache.chain[seg]!) + GENERATION_OFF_BYTES,
        len_bytes: GENERATION_BYTES,
        stride_bytes: GENERATION_STRIDE_BYTES,
      };
      const { states, latest } = readSlotStates(
        this.#overlay,
        slots.addr,
        slots.len_bytes,
        slots.stride_bytes,
      );
      const is_readable = reasonOf(() => cache.generations.load(seg)) === "";
      if (is_readable && (latest !== null || !states.includes("damaged"))) {
        this.#copyDamaged(name, slots);
        continue;
      }
      const gen = newestGeneration(cache, this.#overlay, seg);
      cache.generations.format(seg, gen);
      this.#repairs.push(`${name}: ${gen}, the newest that a key of the log names`);
    }
  }

  #repairTails(cache: OpenedCache): void {
    for (
      const [tail, addr] of [[cache.key_tail, KEY_TAIL_ADDR], [
        cache.dirty_tail,
        DIRTY_TAIL_ADDR,
      ]] as const
    ) {
      this.#copyDamaged(tail.name, {
        addr,
        len_bytes: POSITION_BYTES,
        stride_bytes: POSITION_STRIDE_BYTES,
      });
    }
    const { key_tail, dirty_tail } = cache;
    const has_key_tail = reasonOf(() => loadTail(cache, key_tail)) === "";
    const has_dirty_tail = reasonOf(() => loadTail(cache, dirty_tail)) === "";
    if (!has_key_tail && !has_dirty_tail) {
      if (this.#is_mode_lost || CACHE_MODES[cache.info.mode] === "writearound") {
        throw new CacheError(
          "it cannot be repaired: both tails are lost, and writes may have gone around the cache: " +
            "what the log holds from before them would come back",
        );
      }
      const seg = logStart(cache, this.#overlay);
      for (const tail of [key_tail, dirty_tail]) this.#setTail(tail, seg, 0);
      this.#losses.push(
        "what was changed on the backing device itself since the cache forgot a range: the log may still have it",
      );
      this.#repairs.push(
        `key tail, dirty tail: ${seg}:0, where the only log on the device begins; ` +
          "all of it counts as dirty and will be written back again",
      );
    } else if (!has_dirty_tail) {
      this.#setTail(dirty_tail, key_tail.seg, key_tail.off);
      this.#repairs.push(
        `dirty tail: ${key_tail.seg}:${key_tail.off}, as the key tail; ` +
          "what was clean behind it will be written back again",
      );
    } else if (!has_key_tail) {
      this.#setTail(key_tail, dirty_tail.seg, dirty_tail.off);
      this.#repairs.push(
        `key tail: ${dirty_tail.seg}:${dirty_tail.off}, as the dirty tail; ` +
          "what was clean before it is not cached any more",
      );
    }
  }

  #setTail(tail: OpenedCache["key_tail"], seg: number, off: number): void {
    tail.clear();
    tail.store(seg, off);
  }

  /** Where one slot is damaged and the other one counts: both say the same then. */
  #copyDamaged(
    name: string,
    { addr, len_bytes, stride_bytes }: { addr: number; len_bytes: number; stride_bytes: number },
  ): void {
    const { states, latest } = readSlotStates(this.#overlay, addr, len_bytes, stride_bytes);
    const damaged = states.indexOf("damaged");
    if (damaged < 0 || latest === null) return;
    this.#overlay.write(addr + damaged * stride_bytes, latest, len_bytes);
    this.#repairs.push(`${name}: slot ${damaged} is a copy of the other one`);
  }
}

/** Whether the superblock is whole and says what this program does not know, so that it is not damaged. */
function hasForeignFlags(memory: Memory): boolean {
  const bytes = new Uint8Array(SUPERBLOCK_BYTES);
  memory.read(SUPERBLOCK_ADDR, bytes, SUPERBLOCK_BYTES);
  const is_whole = crc32c(bytes, 4, SUPERBLOCK_BYTES) === u32At(bytes, 0) &&
    u32At(bytes, 8) === SUPERBLOCK_MAGIC_LO && u32At(bytes, 12) === SUPERBLOCK_MAGIC_HI;
  return is_whole && u32At(bytes, 4) !== 0;
}

/** Whether `act` says so, and does not throw a `CacheError`. */
function loadsRight(act: () => boolean): boolean {
  let is_right = false;
  reasonOf(() => is_right = act());
  return is_right;
}

/** Why `act` could not be done; "": it was. */
function reasonOf(act: () => unknown): string {
  try {
    act();
    return "";
  } catch (error) {
    if (!(error instanceof CacheError)) throw error;
    return error.message;
  }
}

/** The newest generation of a segment in any kset that can be reached from a tail. */
function newestGeneration(cache: OpenedCache, memory: Memory, seg: number): number {
  const from = [cache.key_tail, cache.dirty_tail].map((tail) =>
    LogRepair.newestGeneration(cache, memory, seg, tail.seg, tail.off)
  );
  return Math.max(...from);
}

/** The segment where the log on the device begins: none other leads to it. Throws `CacheError` unless there is just one. */
function logStart(cache: OpenedCache, memory: Memory): number {
  const starts: number[] = [];
  const followers = new Set<number>();
  const bytes = new Uint8Array(Math.min(KSET_MAX_BYTES, cache.data_bytes));
  for (let seg = 0; seg < cache.n_segs; seg++) {
    memory.read(cache.dataAddr(seg, 0), bytes, bytes.length);
    const kind = checkKset(bytes, 0, bytes.length);
    if (kind !== KSET_IS_KEYS && kind !== KSET_IS_LAST) continue;
    starts.push(seg);
    const next = followerOf(cache, memory, seg);
    if (next >= 0) followers.add(next);
  }
  const first = starts.filter((seg) => !followers.has(seg));
  if (first.length === 1) return first[0]!;
  throw new CacheError(
    `it cannot be repaired: both tails are lost, and the log may begin in ${
      first.length === 0 ? "no segment" : `any of the segments ${first.slice(0, 8).join(", ")}`
    }`,
  );
}

/** The segment that the ksets of a segment lead to; -1: they end. */
function followerOf(cache: OpenedCache, memory: Memory, seg: number): number {
  const reader = new LogReader(cache, memory, seg, 0);
  for (;;) {
    const kind = reader.reread();
    if (kind === LOG_END) return -1;
    if (kind === LOG_LAST) return reader.next_seg;
    if (reader.off + KSET_HEADER_BYTES > cache.data_bytes) return -1;
    reader.advance(kind);
  }
}

/**
 * Opens a cache device: looks at it, refuses what must be refused, formats it if it is new (FORMAT.md).
 *
 * Invariants:
 * - `inspectCache` writes nothing. `prepareCache` writes only to a device that it formats (or whose format it completes).
 * - Every number from the media is checked against the device before it is used as an index or an address. What the log
 *   says (ksets and keys) is checked in replay, not here.
 * - A cache is never formatted over by mistake: only when asked to, or when nothing on the device shows that one was here.
 * - A format may be cut at any store: what it leaves is recognised, and the next format starts afresh. So a cache info
 *   without init done is durable first, and is gone only when everything else is durable.
 *
 * @module
 */

import { assert } from "./assert.ts";
import { type CacheMode, modeNumber } from "./cache_mode.ts";
import { crc32c } from "./crc32c.ts";
import { CacheError } from "./errors.ts";
import {
  checkKset,
  DATA_OFF_BYTES,
  dataBytes,
  DIRTY_TAIL_ADDR,
  GC_PERCENT_DEFAULT,
  GC_PERCENT_MAX,
  type Geometry,
  INFO_ADDR,
  INFO_DATA_CRC,
  INFO_GC_SHIFT,
  INFO_INIT_DONE,
  INFO_KNOWN_FLAGS,
  INFO_MODE_SHIFT,
  INFO_STRIDE_BYTES,
  KERNEL_GEOMETRY,
  KEY_TAIL_ADDR,
  KSET_HEADER_BYTES,
  KSET_IS_NONE,
  KSET_MAX_BYTES,
  MODE_MAX,
  putU32,
  SB_BIG_ENDIAN,
  SEGMENT_HAS_NEXT,
  SEGMENT_KNOWN_FLAGS,
  SEGMENT_TYPE_CACHE_DATA,
  SEGMENT_TYPE_MASK,
  SEGMENT_TYPE_SHIFT,
  segmentAddr,
  SEGMENTS_ADDR,
  segmentsOn,
  SUPERBLOCK_ADDR,
  SUPERBLOCK_BYTES,
  SUPERBLOCK_MAGIC_HI,
  SUPERBLOCK_MAGIC_LO,
  u32At,
} from "./format.ts";
import type { Memory } from "./platform.ts";
import { CacheInfo, Generations, PositionSlots, SegmentInfo } from "./slots.ts";

/** How a cache device is to be opened. */
export interface OpenOptions {
  /** `KERNEL_GEOMETRY` if left out; tests use smaller ones. */
  readonly geometry?: Geometry;
  /** What a new cache gets, and what an existing one must have. */
  readonly data_crc: boolean;
  /** What a new cache gets: writeback if left out. An existing one keeps its mode: see `EngineOptions`. */
  readonly cache_mode?: CacheMode;
  /** True: make a new cache, whatever the device holds. All its content is lost. */
  readonly format?: boolean;
}

/** What `inspectCache` found: hand it to `prepareCache`. */
export interface Inspection {
  /** True when `prepareCache` will format the device. */
  readonly fresh: boolean;
  readonly geometry: Geometry;
  readonly data_crc: boolean;
  /** What a new cache gets. */
  readonly cache_mode: CacheMode;
  /** The existing cache; undefined when `fresh`. */
  readonly cache: OpenedCache | undefined;
}

/** A cache device that has been checked and read, except for its log. */
export class OpenedCache {
  readonly geometry: Geometry;
  /** Number of segments on the device, from the superblock. */
  readonly seg_num: number;
  /** Flags of the superblock: 0, since a device with any flag is refused. */
  readonly sb_flags = 0;
  /** True when this opening formatted the device. */
  readonly fresh: boolean;
  readonly info: CacheInfo;
  /** Device segment of each cache segment. */
  readonly chain: Uint32Array;
  readonly generations: Generations;
  readonly key_tail: PositionSlots;
  readonly dirty_tail: PositionSlots;
  /** Size of a segment's data area. */
  readonly data_bytes: number;
  /** Cache segment of each device segment, or `NO_SEGMENT`: the inverse of `chain`. */
  readonly #cache_seg_of: Uint32Array;
  /** Address of each cache segment's data area. */
  readonly #data_addrs: Float64Array;

  constructor(
    memory: Memory,
    geometry: Geometry,
    seg_num: number,
    info: CacheInfo,
    fresh: boolean,
  ) {
    this.geometry = geometry;
    this.seg_num = seg_num;
    this.fresh = fresh;
    this.info = info;
    this.chain = new Uint32Array(info.n_segs);
    this.#cache_seg_of = new Uint32Array(seg_num).fill(NO_SEGMENT);
    this.generations = new Generations(memory, geometry, this.chain);
    this.key_tail = new PositionSlots(memory, KEY_TAIL_ADDR, "key tail");
    this.dirty_tail = new PositionSlots(memory, DIRTY_TAIL_ADDR, "dirty tail");
    this.data_bytes = dataBytes(geometry);
    this.#data_addrs = new Float64Array(info.n_segs);
  }

  /** Number of cache segments. */
  get n_segs(): number {
    return this.chain.length;
  }
  get data_crc(): boolean {
    return this.info.data_crc;
  }

  /** Address of byte `off` of the data area of cache segment `seg`. */
  dataAddr(seg: number, off: number): number {
    return this.#data_addrs[seg]! + off;
  }

  /** The cache segment that the address lies in. */
  segmentOf(addr: number): number {
    const device_seg = Math.floor((addr - SEGMENTS_ADDR) / this.geometry.segment_bytes);
    return this.#cache_seg_of[device_seg]!;
  }

  /** Persists everything outside the data areas that an earlier process may have stored; durable after the next barrier. */
  persist(memory: Memory): void {
    memory.persist(SUPERBLOCK_ADDR, SEGMENTS_ADDR - SUPERBLOCK_ADDR);
    for (let seg = 0; seg < this.n_segs; seg++) {
      memory.persist(segmentAddr(this.geometry, this.chain[seg]!), DATA_OFF_BYTES);
    }
  }

  /** Makes `device_seg` the cache segment `seg`; false if it is one already. Only while opening. */
  link(seg: number, device_seg: number): boolean {
    if (this.#cache_seg_of[device_seg] !== NO_SEGMENT) return false;
    this.#cache_seg_of[device_seg] = seg;
    this.chain[seg] = device_seg;
    this.#data_addrs[seg] = segmentAddr(this.geometry, device_seg) + DATA_OFF_BYTES;
    return true;
  }
}

const NO_SEGMENT = 0xffff_ffff;

/**
 * Looks at a cache device and says whether it is new. Writes nothing. Throws `CacheError` for a device that is too small, for
 * everything that FORMAT says a reader must refuse, except in the log, and for a cache with another data_crc setting.
 */
export function inspectCache(memory: Memory, options: OpenOptions): Inspection {
  const geometry = options.geometry ?? KERNEL_GEOMETRY;
  const { data_crc, cache_mode = "writeback" } = options;
  checkSize(memory, geometry);
  const fresh: Inspection = { fresh: true, geometry, data_crc, cache_mode, cache: undefined };
  if (options.format) return fresh;

  const info = new CacheInfo(memory);
  const has_info = info.load();
  if (has_info && !info.init_done) return fresh;

  const superblock = readSuperblock(memory, geometry);
  if (superblock === undefined || !has_info) {
    refuseTraces(memory, geometry, superblock === undefined, has_info);
    return fresh;
  }
  checkInfo(info, superblock.seg_num, data_crc);
  const cache = new OpenedCache(memory, geometry, superblock.seg_num, info, false);
  loadChain(memory, cache);
  for (let seg = 0; seg < cache.n_segs; seg++) cache.generations.load(seg);
  loadTail(cache, cache.key_tail);
  loadTail(cache, cache.dirty_tail);
  return { fresh: false, geometry, data_crc, cache_mode, cache };
}

/** Makes the inspected cache ready for the engine: formats it if it is new. Throws when the medium failed. */
export function prepareCache(memory: Memory, inspection: Inspection): OpenedCache {
  const { cache } = inspection;
  if (cache === undefined) return formatCache(memory, inspection);
  if (cache.info.isHalfDone()) {
    settleInfo(memory);
    cache.info.store();
    memory.barrierSync();
  }
  return cache;
}

/** Refuses a device that is too small. Throws `CacheError`. */
export function checkSize(memory: Memory, geometry: Geometry): void {
  const { cache_bytes } = memory;
  if (cache_bytes < geometry.min_cache_bytes || segmentsOn(geometry, cache_bytes) === 0) {
    throw new CacheError(
      `cache device: ${cache_bytes} bytes, but at least ${geometry.min_cache_bytes} bytes are needed`,
    );
  }
}

// ---- Superblock and cache info

/** The checked superblock, or undefined if its magic is 0: a device without one. Throws `CacheError`. */
export function readSuperblock(
  memory: Memory,
  geometry: Geometry,
): { seg_num: number } | undefined {
  const bytes = new Uint8Array(SUPERBLOCK_BYTES);
  memory.read(SUPERBLOCK_ADDR, bytes, SUPERBLOCK_BYTES);
  const magic_lo = u32At(bytes, 8);
  const magic_hi = u32At(bytes, 12);
  if (magic_lo === 0 && magic_hi === 0) return undefined;
  if (magic_lo !== SUPERBLOCK_MAGIC_LO || magic_hi !== SUPERBLOCK_MAGIC_HI) {
    throw new CacheError(
      `superblock: magic ${hex64(magic_lo, magic_hi)}, but a cache device has ${
        hex64(SUPERBLOCK_MAGIC_LO, SUPERBLOCK_MAGIC_HI)
      } and a new one has 0`,
    );
  }
  const crc = u32At(bytes, 0);
  const crc_wanted = crc32c(bytes, 4, SUPERBLOCK_BYTES);
  if (crc !== crc_wanted) {
    throw new CacheError(`superblock: crc ${hex(crc)}, but its content gives ${hex(crc_wanted)}`);
  }
  const flags = u32At(bytes, 4);
  if (flags & SB_BIG_ENDIAN) {
    throw new CacheError(
      `superblock: flags ${
        hex(flags)
      }, written by a big-endian machine, but this one is little-endian`,
    );
  }
  if (flags !== 0) throw new CacheError(`superblock: flags ${hex(flags)}, but no flag is known`);
  const seg_num = u32At(bytes, 16);
  const most = segmentsOn(geometry, memory.cache_bytes);
  if (seg_num === 0) throw new CacheError(`superblock: seg_num 0, but at least 1 is needed`);
  if (seg_num > most) {
    throw new CacheError(
      `superblock: seg_num ${seg_num}, but the device holds at most ${most} segments`,
    );
  }
  return { seg_num };
}

/** Checks every field of an initialised cache's info. Throws `CacheError`. */
export function checkInfo(info: CacheInfo, seg_num: number, data_crc: boolean): void {
  const { seg_id, n_segs, flags, gc_percent } = info;
  if (n_segs === 0 || n_segs > seg_num) {
    throw new CacheError(`cache info: n_segs ${n_segs}, but it must be 1..${seg_num}`);
  }
  if (seg_id >= seg_num) {
    throw new CacheError(`cache info: seg_id ${seg_id}, but the device has ${seg_num} segments`);
  }
  if ((flags & ~INFO_KNOWN_FLAGS) !== 0) {
    throw new CacheError(
      `cache info: flags ${hex(flags)}, but only ${hex(INFO_KNOWN_FLAGS)} are known`,
    );
  }
  if (info.mode > MODE_MAX) {
    throw new CacheError(`cache info: cache mode ${info.mode}, but it must be 0..${MODE_MAX}`);
  }
  if (gc_percent > GC_PERCENT_MAX) {
    throw new CacheError(
      `cache info: gc_percent ${gc_percent}, but it must be 0..${GC_PERCENT_MAX}`,
    );
  }
  if (info.data_crc !== data_crc) {
    throw new CacheError(
      `cache info: the cache was made with data_crc ${info.data_crc}, but data_crc ${data_crc} was asked for`,
    );
  }
}

// ---- Chain and tails

/** Follows the chain of cache segments, checking every link. Throws `CacheError`. */
export function loadChain(memory: Memory, cache: OpenedCache): void {
  const { n_segs, seg_num } = cache;
  const segment = new SegmentInfo(memory, cache.geometry);
  let device_seg = cache.info.seg_id;
  for (let seg = 0; seg < n_segs; seg++) {
    if (!cache.link(seg, device_seg)) {
      throw new CacheError(
        `segment chain: device segment ${device_seg} again as cache segment ${seg}, but a chain must not loop`,
      );
    }
    const name = `segment info of device segment ${device_seg}`;
    if (!segment.load(device_seg)) {
      throw new CacheError(`${name}: no valid copy, but one is needed`);
    }
    checkSegmentFlags(name, segment.flags);
    const has_next = (segment.flags & SEGMENT_HAS_NEXT) !== 0;
    if (has_next !== (seg < n_segs - 1)) {
      throw new CacheError(
        `${name}: the chain ${has_next ? "goes on after" : "ends at"} cache segment ${seg}, ` +
          `but it must have ${n_segs} segments`,
      );
    }
    if (!has_next) break;
    if (segment.next_seg >= seg_num) {
      throw new CacheError(
        `${name}: next_seg ${segment.next_seg}, but the device has ${seg_num} segments`,
      );
    }
    device_seg = segment.next_seg;
  }
}

function checkSegmentFlags(name: string, flags: number): void {
  const type = (flags >>> SEGMENT_TYPE_SHIFT) & SEGMENT_TYPE_MASK;
  if (type !== SEGMENT_TYPE_CACHE_DATA) {
    throw new CacheError(
      `${name}: type ${type}, but a cache segment has ${SEGMENT_TYPE_CACHE_DATA}`,
    );
  }
  if ((flags & ~SEGMENT_KNOWN_FLAGS) !== 0) {
    throw new CacheError(
      `${name}: flags ${hex(flags)}, but only ${hex(SEGMENT_KNOWN_FLAGS)} are known`,
    );
  }
}

/** Loads a tail and checks that a last kset fits where it points. Throws `CacheError`. */
export function loadTail(cache: OpenedCache, tail: PositionSlots): void {
  if (!tail.load()) {
    throw new CacheError(`${tail.name}: input/output error, no valid copy on an initialised cache`);
  }
  if (tail.seg >= cache.n_segs) {
    throw new CacheError(
      `${tail.name}: cache segment ${tail.seg}, but the cache has ${cache.n_segs} segments`,
    );
  }
  const most = cache.data_bytes - KSET_HEADER_BYTES;
  if (tail.off > most) {
    throw new CacheError(`${tail.name}: offset ${tail.off}, but a kset starts at ${most} at most`);
  }
  // Ksets lie one after another from offset 0, and each is a multiple of eight bytes long.
  if (tail.off % 8 !== 0) {
    throw new CacheError(`${tail.name}: offset ${tail.off}, but it must be a multiple of 8`);
  }
}

// ---- A new device

/** Refuses a device without a usable cache on which something shows that there was one. */
function refuseTraces(
  memory: Memory,
  geometry: Geometry,
  no_superblock: boolean,
  has_info: boolean,
): void {
  const trace = has_info ? "its cache info is valid" : findTrace(memory, geometry);
  if (trace === undefined) return;
  const lost = no_superblock ? "superblock: magic 0" : "cache info: no valid copy";
  throw new CacheError(
    `${lost}, but ${trace}: a cache was here; it is formatted only when that is asked for (create --format), and its content is lost then`,
  );
}

/** The first thing on the device that only a cache leaves there, or undefined. */
function findTrace(memory: Memory, geometry: Geometry): string | undefined {
  for (
    const tail of [
      new PositionSlots(memory, KEY_TAIL_ADDR, "key tail"),
      new PositionSlots(memory, DIRTY_TAIL_ADDR, "dirty tail"),
    ]
  ) {
    if (tail.load()) return `its ${tail.name} is valid`;
  }
  const segment = new SegmentInfo(memory, geometry);
  const seg_num = segmentsOn(geometry, memory.cache_bytes);
  const kset = new Uint8Array(Math.min(KSET_MAX_BYTES, dataBytes(geometry)));
  for (let device_seg = 0; device_seg < seg_num; device_seg++) {
    if (segment.load(device_seg)) {
      return `the segment info of device segment ${device_seg} is valid`;
    }
    memory.read(segmentAddr(geometry, device_seg) + DATA_OFF_BYTES, kset, kset.length);
    const kind = checkKset(kset, 0, kset.length);
    if (kind !== KSET_IS_NONE) {
      return `device segment ${device_seg} starts with a kset`;
    }
  }
  return undefined;
}

/** Formats the device: all segments become one chain, in order. */
function formatCache(memory: Memory, inspection: Inspection): OpenedCache {
  const { geometry, data_crc, cache_mode } = inspection;
  const seg_num = segmentsOn(geometry, memory.cache_bytes);
  settleInfo(memory);
  const info = new CacheInfo(memory);
  info.loadSequence();
  info.seg_id = 0;
  info.n_segs = seg_num;
  info.flags = (data_crc ? INFO_DATA_CRC : 0) | modeNumber(cache_mode) << INFO_MODE_SHIFT |
    GC_PERCENT_DEFAULT << INFO_GC_SHIFT;
  storeTwice(memory, info);

  writeSuperblock(memory, seg_num);
  const cache = new OpenedCache(memory, geometry, seg_num, info, true);
  for (const tail of [cache.key_tail, cache.dirty_tail]) {
    tail.clear();
    tail.store(0, 0);
  }
  formatSegments(memory, cache);
  memory.barrierSync();

  info.flags |= INFO_INIT_DONE;
  storeTwice(memory, info);
  return cache;
}

/** The copy that a killed process stored last is durable before the other one is overwritten. */
function settleInfo(memory: Memory): void {
  memory.persist(INFO_ADDR, 2 * INFO_STRIDE_BYTES);
  memory.barrierSync();
}

/** Makes both slots say the same: if they differed in init done, the loss of one could turn a cache into a new device. */
function storeTwice(memory: Memory, info: CacheInfo): void {
  for (let slots = 0; slots < 2; slots++) {
    info.store();
    memory.barrierSync();
  }
}

/** Writes and persists the superblock of a cache on `seg_num` segments; durable after the next barrier. */
export function writeSuperblock(memory: Memory, seg_num: number): void {
  const bytes = new Uint8Array(SUPERBLOCK_BYTES);
  putU32(bytes, 8, SUPERBLOCK_MAGIC_LO);
  putU32(bytes, 12, SUPERBLOCK_MAGIC_HI);
  putU32(bytes, 16, seg_num);
  putU32(bytes, 0, crc32c(bytes, 4, SUPERBLOCK_BYTES));
  memory.write(SUPERBLOCK_ADDR, bytes, SUPERBLOCK_BYTES);
  memory.persist(SUPERBLOCK_ADDR, SUPERBLOCK_BYTES);
}

function formatSegments(memory: Memory, cache: OpenedCache): void {
  const { geometry, n_segs } = cache;
  const segment = new SegmentInfo(memory, geometry);
  const end_mark = new Uint8Array(KSET_HEADER_BYTES);
  for (let seg = 0; seg < n_segs; seg++) {
    const is_new = cache.link(seg, seg);
    assert(is_new, "segments are linked once");
    const is_last = seg === n_segs - 1;
    segment.flags = SEGMENT_TYPE_CACHE_DATA << SEGMENT_TYPE_SHIFT |
      (is_last ? 0 : SEGMENT_HAS_NEXT);
    segment.next_seg = is_last ? 0 : seg + 1;
    segment.format(seg);
    cache.generations.format(seg);
    memory.write(cache.dataAddr(seg, 0), end_mark, end_mark.length);
    memory.persist(cache.dataAddr(seg, 0), end_mark.length);
  }
}

function hex(value: number): string {
  return `0x${(value >>> 0).toString(16)}`;
}

function hex64(lo: number, hi: number): string {
  return `0x${hi.toString(16).padStart(8, "0")}${lo.toString(16).padStart(8, "0")}`;
}

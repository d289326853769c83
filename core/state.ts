/**
 * What the parts of the engine share: the tables, and how a request is answered.
 *
 * @module
 */

import type { Arounds } from "./arounds.ts";
import type { BackingFlushes } from "./backing_flushes.ts";
import type { Barriers } from "./barriers.ts";
import type { Buffers } from "./buffers.ts";
import type { Counters } from "./counters.ts";
import type { ExtentIndex } from "./extent_index.ts";
import { KEY_CLEAN, SECTOR_BYTES } from "./format.ts";
import type { Heat } from "./heat.ts";
import type { KeySums } from "./key_sums.ts";
import type { Log } from "./log.ts";
import type { OpenedCache } from "./media.ts";
import type { Backing, Memory } from "./platform.ts";
import { ANSWERED, type Pieces, type RequestQueue, type Requests } from "./requests.ts";
import type { Segments } from "./segments.ts";
import type { Space } from "./space.ts";
import { Streams } from "./streams.ts";
import type { Through } from "./through.ts";
import type { ZeroAreas } from "./zeroes.ts";

/** Longest key where it carries a checksum: a small read then verifies this much at most. 64 KiB. */
const MAX_SUMMED_KEY_SECTORS = 128;
/** Longest key otherwise (FORMAT, "Key"). 4 MiB. */
const MAX_KEY_SECTORS = 8192;

// Own names for what is imported: V8 folds a module's constants into its code, and loads and checks imported ones at each use.
const SECTOR = SECTOR_BYTES;
const IS_ANSWERED = ANSWERED;
const IS_CLEAN = KEY_CLEAN;

/** Most sectors of one key. */
export function maxKeySectors(data_crc: boolean): number {
  return data_crc ? MAX_SUMMED_KEY_SECTORS : MAX_KEY_SECTORS;
}

/** The tables of one engine. */
export class EngineState {
  now_ms: number;
  /** When the last request came, or the last reply left. */
  last_request_ms = -Infinity;
  /** Set when a fill found no space: GC makes some. */
  wants_space = false;
  /** Everything is to be written back as fast as possible. */
  is_draining = false;
  /** How many bytes a second write-back may write where nobody waits for it; 0: none, Infinity: as many as it can. */
  writeback_bytes_per_s = Infinity;
  /** What of the reads is sequential: a miss of a long stream is not kept. */
  readonly streams = new Streams();
  /** GC takes every kset off the log that has been written back. */
  is_reclaiming = false;
  is_closing = false;
  /** What eviction `reinsert` goes by; null with `fifo`. */
  heat: Heat | null = null;
  /** Most sectors of one key. */
  readonly max_key_sectors: number;

  constructor(
    readonly cache: OpenedCache,
    readonly memory: Memory,
    readonly backing: Backing,
    readonly size_sectors: number,
    readonly index: ExtentIndex,
    readonly segments: Segments,
    /** Null without data_crc. */
    readonly sums: KeySums | null,
    readonly barriers: Barriers,
    readonly log: Log,
    readonly space: Space,
    readonly zero_areas: ZeroAreas,
    readonly buffers: Buffers,
    readonly requests: Requests,
    readonly pieces: Pieces,
    readonly placed: RequestQueue,
    readonly answered: RequestQueue,
    readonly counters: Counters,
    readonly through: Through,
    readonly backing_flushes: BackingFlushes,
    readonly arounds: Arounds,
    now_ms: number,
  ) {
    this.now_ms = now_ms;
    this.max_key_sectors = maxKeySectors(sums !== null);
  }

  /** Since when no request has been under way. A flush that takes long is no reason to do more beside it. */
  get quiet_since_ms(): number {
    return this.requests.pool.in_use > 0 ? this.now_ms : this.last_request_ms;
  }

  /** The request's answer is known. */
  answer(slot: number, errno: number): void {
    this.requests.error[slot] = errno;
    this.requests.state[slot] = IS_ANSWERED;
    this.answered.push(slot);
  }

  /** A kset that was durable is not there any more: the medium is damaged. Returns whether that is news: who waits has to be told. */
  failLog(): boolean {
    if (this.barriers.has_failed) return false;
    this.counters.log_damaged++;
    this.barriers.fail();
    return true;
  }

  /**
   * Whether the bytes at `place` of `seg` are what was written there: the checksum of the key they belong to is computed
   * anew. True without data_crc. Units: sectors of the data area.
   */
  verify(seg: number, place: number, sectors: number): boolean {
    const { sums } = this;
    if (sums === null) return true;
    if (!sums.find(seg, place, sectors)) return false;
    const addr = this.cache.dataAddr(seg, sums.found_start * SECTOR);
    return (this.memory.crc32c(addr, sums.found_sectors * SECTOR) | 0) === sums.found_crc;
  }

  /**
   * The checksum of bytes that lie in place, as a signed number: of the key they are, or, if they are a part of one, computed when the whole
   * was verified. null: they are damaged. Only with data_crc.
   */
  sumOf(seg: number, place: number, sectors: number): number | null {
    const sums = this.sums!;
    const is_found = sums.find(seg, place, sectors);
    if (is_found && sums.found_start === place && sums.found_sectors === sectors) {
      return sums.found_crc;
    }
    if (!is_found || !this.verify(seg, place, sectors)) return null;
    return this.memory.crc32c(this.cache.dataAddr(seg, place * SECTOR), sectors * SECTOR) | 0;
  }

  /** Takes a range that is not dirty out of the index. The keys that it came from may still be in the log, so nothing may go around it now. */
  forget(sector: number, sectors: number): void {
    this.index.remove(sector, sectors);
    this.arounds.bar();
  }

  /** A clean extent, which begins at `sector`, is damaged: it is read anew from the backing device. */
  heal(sector: number, extent: number): void {
    this.counters.healed++;
    this.forget(sector, this.index.sectors(extent));
  }

  /**
   * Enters bytes that lie in place into the cache: persists them, and makes them the newest of their range in index and log.
   * Room in the log was reserved. `clean`: the backing device holds the same. `hits`: what their extent begins with.
   */
  enter(
    sector: number,
    sectors: number,
    seg: number,
    place: number,
    clean: boolean,
    hits: number,
  ): void {
    const crc = this.#persist(sectors, seg, place);
    this.index.insertCached(sector, sectors, seg, place, clean, hits);
    this.logKey(sector, sectors, seg, place, clean, crc);
  }

  /** Persists bytes that lie in place. Returns their checksum, as a signed number; 0 without data_crc. */
  #persist(sectors: number, seg: number, place: number): number {
    const len_bytes = sectors * SECTOR;
    const addr = this.cache.dataAddr(seg, place * SECTOR);
    if (this.sums !== null) return this.memory.persistSummed(addr, len_bytes) | 0;
    this.memory.persist(addr, len_bytes);
    return 0;
  }

  /** Logs a key for bytes that lie in place. Room in the log was reserved. `crc`: any number with the checksum's 32 bits. */
  logKey(
    sector: number,
    sectors: number,
    seg: number,
    place: number,
    clean: boolean,
    crc: number,
  ): void {
    this.sums?.add(seg, place, sectors, crc);
    if (!clean) this.counters.dirty_bytes += sectors * SECTOR;
    this.log.append(sector, sectors, clean ? IS_CLEAN : 0, seg, place, crc);
  }
}

/**
 * The engine: one cache, as a synchronous state machine.
 *
 * Requests go in (`beginRead`, `beginWrite`, `beginFlush`), and what ended on the machine is fed back (`backingDone`,
 * `barrierDone`); `pump` does all work that is possible; answers are taken out (`takePlaced`, `takeAnswered`). Nothing here waits, reads
 * a clock, or allocates for a request.
 *
 * The data path, in reading order: `reads.ts`, `writes.ts`, `fills.ts` (misses), `extent_index.ts` (what lies where), `space.ts` and
 * `segments.ts` (where bytes go), `log.ts` (what makes them durable), `flushes.ts`, `writeback.ts`, `gc.ts`, and `replay.ts` after a start.
 *
 * @module
 */

import { assert } from "./assert.ts";
import { Arounds } from "./arounds.ts";
import { BACKING_FLUSH_ID, BackingFlushes } from "./backing_flushes.ts";
import { Barriers } from "./barriers.ts";
import { Buffers } from "./buffers.ts";
import { CACHE_MODES, type CacheMode, modeNumber } from "./cache_mode.ts";
import { Counters } from "./counters.ts";
import { CacheError, OK } from "./errors.ts";
import type { Eviction } from "./eviction.ts";
import { ExtentIndex } from "./extent_index.ts";
import { Fills } from "./fills.ts";
import { Flushes } from "./flushes.ts";
import { GC_PERCENT_MAX, SECTOR_BYTES } from "./format.ts";
import { Gc } from "./gc.ts";
import { Heat } from "./heat.ts";
import { KeySums } from "./key_sums.ts";
import { Latencies, type LatencyReport } from "./latencies.ts";
import { Log, STAGED_KEYS } from "./log.ts";
import type { OpenedCache } from "./media.ts";
import type { Backing, Memory } from "./platform.ts";
import { listRangeStates, type RangeStates } from "./range_states.ts";
import { Reads } from "./reads.ts";
import { replay, type Replayed, type ReplayListener } from "./replay.ts";
import {
  ABANDONED,
  MAX_PIECES,
  MAX_REQUEST_BYTES,
  MAX_REQUESTS,
  MAX_ZERO_BYTES,
  Pieces,
  READ,
  RECEIVING,
  RequestQueue,
  Requests,
  WAITING,
  WRITE,
} from "./requests.ts";
import { Segments } from "./segments.ts";
import { Space } from "./space.ts";
import { Staging } from "./staging.ts";
import { EngineState, maxKeySectors } from "./state.ts";
import { SEQUENTIAL_CUTOFF_MIN_BYTES } from "./streams.ts";
import { Through } from "./through.ts";
import { countDirty, forgetPart, scrubPart, type ScrubReport } from "./upkeep.ts";
import { BATCH_KSETS, WriteBack } from "./writeback.ts";
import { Writes } from "./writes.ts";
import { DATA, ZeroAreas } from "./zeroes.ts";

const AROUND_NUMBER = modeNumber("writearound");

/** Lowest rate of write-back, in bytes a second: a page. */
export const WRITEBACK_RATE_MIN = 4096;

/** What an engine runs on. */
export interface EngineOptions {
  readonly memory: Memory;
  /** Its `size_bytes`, rounded down to sectors, is the size of the cached device. */
  readonly backing: Backing;
  readonly cache: OpenedCache;
  /** The mode from now on, stored with the cache; the one that is stored if left out. */
  readonly cache_mode?: CacheMode;
  /** What becomes of clean data when GC comes to it: `fifo` if left out. It is not stored with the cache. */
  readonly eviction?: Eviction;
  /** The time, in ms of any monotonic clock; the same one that `pump` is given. */
  readonly now_ms: number;
  /** Told how far the opening is. */
  readonly onRead?: ReplayListener;
  /** Memory for staged keys that outlives the process, and what a killed one has left in it; memory of its own if left out. */
  readonly staging?: Staging;
  /** `LIMITS` if left out. */
  readonly limits?: Limits;
}

/** Sizes of the engine's tables that tests make smaller, so that an engine opens fast and its limits are met. */
export interface Limits {
  /** Most requests under way. */
  readonly requests: number;
  /** Most pieces of requests under way. */
  readonly pieces: number;
  /** Most keys that wait for the log. */
  readonly staged_keys: number;
  /** Most ksets that write-back takes in one batch. */
  readonly batch_ksets: number;
}

/** What ships. */
export const LIMITS: Limits = {
  requests: MAX_REQUESTS,
  pieces: MAX_PIECES,
  staged_keys: STAGED_KEYS,
  batch_ksets: BATCH_KSETS,
};

/** A place in the log. */
export interface Position {
  readonly seg: number;
  readonly off: number;
}

/** The fields of the status line, in its order (DESIGN §5). */
export interface Status {
  readonly sb_flags: number;
  readonly seg_total: number;
  readonly cache_segs: number;
  readonly segs_used: number;
  readonly gc_percent: number;
  readonly cache_flags: number;
  readonly key_head: Position;
  readonly dirty_tail: Position;
  readonly key_tail: Position;
}

/** A running cache. */
export class Engine {
  /** Size of the cached device. Only `reload` changes it. */
  size_bytes!: number;
  /** Longest read, and longest write. */
  readonly max_request_bytes: number;
  /** Slots are 0 .. max_requests-1. */
  readonly max_requests: number;
  /** What replay found. */
  replayed!: Replayed;
  #state!: EngineState;
  #fills!: Fills;
  #reads!: Reads;
  #writes!: Writes;
  #flushes!: Flushes;
  #writeback!: WriteBack;
  #gc!: Gc;
  readonly #limits: Limits;
  readonly #staging: Staging;
  readonly #latencies: Latencies;
  #gc_percent_wanted = -1;
  #mode_wanted = -1;
  #info_barrier = 0;

  private constructor(options: EngineOptions) {
    const { limits = LIMITS } = options;
    this.#limits = limits;
    this.max_requests = limits.requests;
    this.#latencies = new Latencies(limits.requests);
    this.#staging = options.staging ?? Staging.inMemory(limits.staged_keys);
    this.#load({ ...options, staging: this.#staging }, new Counters());
    this.max_request_bytes = maxRequestBytes(this.#state);
  }

  /** Replays the log, and makes everything that stands on what it says. */
  #load(options: EngineOptions & { staging: Staging }, counters: Counters): void {
    const { state, replayed } = makeState(options, this.#limits, counters);
    const limits = this.#limits;
    this.#state = state;
    this.replayed = replayed;
    this.size_bytes = state.size_sectors * SECTOR_BYTES;
    this.#gc_percent_wanted = -1;
    this.#info_barrier = 0;
    this.setEviction(options.eviction ?? "fifo");
    const mode = modeNumber(state.through.mode);
    this.#mode_wanted = mode === options.cache.info.mode ? -1 : mode; // the first turn stores it
    this.#flushes = new Flushes(state);
    this.#fills = new Fills(state);
    this.#reads = new Reads(state, this.#fills);
    this.#writes = new Writes(state, this.#fills, this.#flushes);
    this.#writeback = new WriteBack(state, limits.batch_ksets);
    this.#gc = new Gc(state, replayed.keys);
    state.counters.dirty_bytes = replayed.dirty_bytes;
  }

  /** Replays the log and starts. Writes nothing. Throws `CacheError` for a log that must be refused. */
  static open(options: EngineOptions): Engine {
    return new Engine(options);
  }

  /**
   * Goes on with devices that have changed, after `isClosed`: replays the log anew, and counts on. No request may be in use. The size
   * may have grown, and the number of segments; what was set stays so. Throws `CacheError` for what must be refused: the engine is as it
   * was then.
   */
  reload(options: Omit<EngineOptions, "limits" | "staging" | "eviction">): void {
    assert(this.isClosed() && this.requests_in_use === 0, "nothing is under way");
    const { counters, streams, writeback_bytes_per_s, is_draining, is_reclaiming } = this.#state;
    const { eviction } = this;
    const before = { ...counters };
    try {
      this.#load({ ...options, staging: this.#staging }, counters);
    } catch (error) {
      Object.assign(counters, before);
      throw error;
    }
    this.#state.streams.setCutoff(streams.cutoff_bytes);
    this.#writeback.setRate(writeback_bytes_per_s);
    this.setEviction(eviction);
    this.setDraining(is_draining);
    this.setReclaiming(is_reclaiming);
  }

  /** What the engine has counted. */
  get counters(): Readonly<Counters> {
    return this.#state.counters;
  }

  /** The index, for tools and tests. */
  get index(): ExtentIndex {
    return this.#state.index;
  }

  /** The segments, for tools and tests. */
  get segments(): Segments {
    return this.#state.segments;
  }

  /** Whether the cache device has failed: writes and flushes end with EIO, reads go on. */
  get has_failed(): boolean {
    return this.#state.barriers.has_failed;
  }

  /** How many request slots are in use. */
  get requests_in_use(): number {
    return this.#state.requests.pool.in_use;
  }

  /**
   * A read: bytes of any alignment, inside the device, at most `max_request_bytes`. Returns a slot, which `takeAnswered` will
   * return; -1: all slots are in use.
   */
  beginRead(off_bytes: number, len_bytes: number): number {
    this.#checkRange(off_bytes, len_bytes, this.max_request_bytes);
    this.#state.last_request_ms = this.#state.now_ms;
    return this.#began(this.#reads.begin(off_bytes, len_bytes));
  }

  /**
   * A write: bytes of any alignment, inside the device, at most `max_request_bytes`. Returns a slot; `takePlaced` will return it
   * when its payload can be received, or `takeAnswered` with an error; -1: all slots are in use.
   * `fua`: it is answered only when it is durable.
   */
  beginWrite(off_bytes: number, len_bytes: number, fua: boolean): number {
    this.#checkRange(off_bytes, len_bytes, this.max_request_bytes);
    this.#state.last_request_ms = this.#state.now_ms;
    return this.#began(this.#writes.begin(off_bytes, len_bytes, fua));
  }

  /**
   * Zeroing: bytes of any alignment, inside the device, at most `MAX_ZERO_BYTES`. No payload is awaited. Returns a slot, which
   * `takeAnswered` will return; -1: all slots are in use. `may_punch`: the backing device may give up the range's space.
   * `fua`: it is answered only when it is durable.
   */
  beginZero(off_bytes: number, len_bytes: number, may_punch: boolean, fua: boolean): number {
    this.#checkRange(off_bytes, len_bytes, MAX_ZERO_BYTES);
    this.#state.last_request_ms = this.#state.now_ms;
    return this.#began(this.#writes.beginZero(off_bytes, len_bytes, may_punch, fua));
  }

  /** A flush: answered when every write answered before it is durable. Returns a slot; -1: all are in use. */
  beginFlush(): number {
    this.#state.last_request_ms = this.#state.now_ms;
    this.#state.counters.flushes++;
    return this.#began(this.#flushes.begin());
  }

  /** The next write whose space has been taken: its pieces say where the payload goes. -1: none. */
  takePlaced(): number {
    const slot = this.#takeFrom(this.#state.placed);
    if (slot >= 0) this.#state.requests.state[slot] = RECEIVING;
    return slot;
  }

  /** The next request that is done: reply, then `release` it. -1: none. */
  takeAnswered(): number {
    this.#goOn();
    const slot = this.#takeFrom(this.#state.answered);
    if (slot >= 0) this.#count(slot);
    return slot;
  }

  /** All bytes of a placed write are in place. The next `pump` or `takeAnswered` enters it. */
  payloadArrived(slot: number): void {
    assert(this.#state.requests.state[slot] === RECEIVING, "payload arrives for a placed write");
    this.#writes.arrived(slot);
  }

  /**
   * The client of a write vanished before its payload was whole: the write never happened. The slot is the engine's again; it
   * will not be answered.
   */
  payloadLost(slot: number): void {
    this.#writes.lost(slot);
  }

  /** What the cache holds of a range of the cached device, as far as `wanted` (range_states.ts): fills `into`, with the start of the range at least. */
  listRangeStates(off_bytes: number, len_bytes: number, wanted: number, into: RangeStates): void {
    const { index, zero_areas } = this.#state;
    listRangeStates(index, zero_areas, wanted, off_bytes, len_bytes, into);
  }

  /** How an answered request ended: 0 or an error number. */
  error(slot: number): number {
    return this.#state.requests.error[slot]!;
  }

  /** The request's first piece; -1: it has none. */
  firstPiece(slot: number): number {
    return this.#state.requests.first_piece[slot]!;
  }

  /** The piece after this one, in the order of the request's bytes; -1: it is the last. */
  nextPiece(piece: number): number {
    return this.#state.pieces.next[piece]!;
  }

  /** Address of the piece's first byte. */
  pieceAddr(piece: number): number {
    return this.#state.pieces.addr[piece]!;
  }

  /** Length of the piece, in bytes. */
  pieceLen(piece: number): number {
    return this.#state.pieces.len_bytes[piece]!;
  }

  /** Whether there are ranges that are known to read as zeroes: if not, no piece is. */
  get knows_zeroes(): boolean {
    return this.#state.zero_areas.is_any_known;
  }

  /** Whether the piece of an answered read is known to be all zeroes, now: what is known may be forgotten. */
  pieceIsZero(piece: number): boolean {
    const { pieces, cache, zero_areas } = this.#state;
    const seg = pieces.seg[piece]!;
    if (seg < 0) return false;
    const at_bytes = pieces.addr[piece]! - cache.dataAddr(seg, 0);
    const place = Math.floor(at_bytes / SECTOR_BYTES);
    const end = Math.ceil((at_bytes + pieces.len_bytes[piece]!) / SECTOR_BYTES);
    return zero_areas.kindOf(seg, place, end - place) !== DATA;
  }

  /** An answered request's reply has left, or never will: what it held is given back. */
  release(slot: number): void {
    this.#state.last_request_ms = this.#state.now_ms;
    this.#fills.releasePieces(slot);
    this.#state.requests.pool.put(slot);
  }

  /** Backing request `id` has ended: 0 or an error number. */
  backingDone(id: number, errno: number): void {
    if (this.#writeback.owns(id)) this.#writeback.done(id, errno);
    else if (id === BACKING_FLUSH_ID) this.#backingFlushed(errno);
    else this.#fills.done(id, errno, this.#writes, this.#reads);
  }

  #backingFlushed(errno: number): void {
    const { backing_flushes, counters } = this.#state;
    backing_flushes.end(errno);
    if (errno !== 0) counters.backing_flush_errors++;
  }

  /** The barrier that `Memory.barrier` started has ended: 0 or an error number. */
  barrierDone(errno: number): void {
    this.#state.barriers.end(errno !== 0);
  }

  /** It is `now_ms` for the requests that come next. */
  tick(now_ms: number): void {
    this.#state.now_ms = now_ms;
  }

  /** How long requests took. */
  latencies(): LatencyReport {
    return this.#latencies.report();
  }

  /** Requests that wait for space, buffers or room in the log. */
  waitingCount(): number {
    const { requests } = this.#state;
    let count = 0;
    for (let slot = 0; slot < this.max_requests; slot++) {
      if (requests.state[slot] === WAITING) count++;
    }
    return count;
  }

  /** Does all work that is possible now. */
  pump(now_ms: number): void {
    this.#state.now_ms = now_ms;
    this.#state.log.now_ms = now_ms;
    this.#writes.allowKeys();
    this.#gc.allowKeeping();
    this.#goOn();
    while (this.#step(now_ms));
  }

  /** How long after `now_ms` `pump` must be called again even if nothing happens; Infinity: not at all. */
  nextTimerMs(now_ms: number): number {
    if (this.#writes.is_cut_short || this.#gc.is_cut_short) return 0;
    const due_ms = Math.min(this.#state.log.dueMs(), this.#writeback.dueMs());
    return Math.max(0, due_ms - now_ms);
  }

  /** The fields of the status line. */
  status(): Status {
    const { cache, segments, log } = this.#state;
    return {
      sb_flags: cache.sb_flags,
      seg_total: cache.seg_num,
      cache_segs: cache.n_segs,
      segs_used: segments.used,
      gc_percent: cache.info.gc_percent,
      cache_flags: cache.info.flags,
      key_head: { seg: log.head_seg, off: log.head_off },
      dirty_tail: { seg: cache.dirty_tail.seg, off: cache.dirty_tail.off },
      key_tail: { seg: cache.key_tail.seg, off: cache.key_tail.off },
    };
  }

  /** Sets the share of used segments at which GC starts; stored with the cache. Throws `CacheError` outside 0..90. */
  setGcPercent(percent: number): void {
    if (!Number.isInteger(percent) || percent < 0 || percent > GC_PERCENT_MAX) {
      throw new CacheError(`gc_percent ${percent}, but it must be 0..${GC_PERCENT_MAX}`);
    }
    this.#gc_percent_wanted = percent;
    this.#storeInfo();
  }

  /** What becomes of clean data when GC comes to it. */
  get eviction(): Eviction {
    return this.#state.heat === null ? "fifo" : "reinsert";
  }

  /** Sets what becomes of clean data when GC comes to it, until the cache is closed. */
  setEviction(eviction: Eviction): void {
    if (eviction === this.eviction) return;
    const { index, segments, cache } = this.#state;
    const most_segments = Math.floor(segments.total * cache.info.gc_percent / 100);
    const sectors = most_segments * Math.floor(cache.data_bytes / SECTOR_BYTES);
    this.#state.heat = eviction === "reinsert" ? new Heat(index, segments, sectors) : null;
  }

  /** What is done with writes and misses. */
  get cache_mode(): CacheMode {
    return this.#state.through.mode;
  }

  /**
   * Whether the mode's promise holds: in writethrough and writearound the backing device has everything that was dirty when the mode
   * began, so that the cache device is not needed for what has been flushed since. Always true in the other modes.
   */
  get is_mode_settled(): boolean {
    const { through, log } = this.#state;
    return !through.is_on || through.isSettled(log.appended);
  }

  /** Sets the cache mode, which holds for the requests that come next; stored with the cache. */
  setCacheMode(mode: CacheMode): void {
    const { through, log } = this.#state;
    this.#goOn();
    through.setMode(mode, log.appended);
    this.#mode_wanted = modeNumber(mode);
    this.#storeInfo();
  }

  /** How many bytes a second write-back may write where nobody waits for it; 0: none, Infinity: as many as it can. */
  get writeback_rate(): number {
    return this.#state.writeback_bytes_per_s;
  }

  /**
   * Sets that rate: 0, Infinity, or from `WRITEBACK_RATE_MIN` on. It is not stored. Requests that wait for space, draining and closing are not
   * held up by it. Throws `CacheError` for anything else.
   */
  setWritebackRate(bytes_per_s: number): void {
    const is_right = bytes_per_s === 0 || bytes_per_s === Infinity ||
      (Number.isSafeInteger(bytes_per_s) && bytes_per_s >= WRITEBACK_RATE_MIN);
    if (!is_right) {
      throw new CacheError(
        `writeback_rate ${bytes_per_s}, but it must be ${WRITEBACK_RATE_MIN} bytes a second at least`,
      );
    }
    this.#writeback.setRate(bytes_per_s);
  }

  /** How long a sequential stream of reads may be before its misses are not kept any more; 0: as long as it likes. */
  get sequential_cutoff_bytes(): number {
    return this.#state.streams.cutoff_bytes;
  }

  /** Sets that length: 0, or from a page on. It is not stored. Throws `CacheError` for anything else. */
  setSequentialCutoff(bytes: number): void {
    const is_right = bytes === 0 ||
      (Number.isSafeInteger(bytes) && bytes >= SEQUENTIAL_CUTOFF_MIN_BYTES);
    if (!is_right) {
      throw new CacheError(
        `sequential_cutoff ${bytes}, but it must be ${SEQUENTIAL_CUTOFF_MIN_BYTES} bytes at least, or 0`,
      );
    }
    this.#state.streams.setCutoff(bytes);
  }

  /** Writes everything back as fast as possible, until switched off. */
  setDraining(on: boolean): void {
    this.#state.is_draining = on;
  }

  /** Takes everything off the log that has been written back, until switched off; `isReclaimed` tells when nothing is left. */
  setReclaiming(on: boolean): void {
    this.#state.is_reclaiming = on;
  }

  /** Whether the log begins at the dirty tail: no key of it is only there for clean data. */
  isReclaimed(): boolean {
    const { key_tail } = this.#state.cache;
    const { durable_seg, durable_off } = this.#writeback;
    return key_tail.seg === durable_seg && key_tail.off === durable_off && !this.#gc.is_busy;
  }

  /** Whether keys carry checksums of data, so that `scrub` has something to verify. */
  get has_checksums(): boolean {
    return this.#state.sums !== null;
  }

  /** Verifies a part of the data, and heals what is clean. Returns the byte to go on from; `size_bytes`: all was verified. */
  scrub(from_bytes: number, report: ScrubReport): number {
    return scrubPart(this.#state, from_bytes / SECTOR_BYTES, report) * SECTOR_BYTES;
  }

  /**
   * Forgets a part of the clean data of a range of sectors. Returns the byte to go on from; `to_bytes`: there is none left. It may be where it
   * began, as long as a request there is under way.
   */
  forget(from_bytes: number, to_bytes: number): number {
    const [from, to] = [from_bytes / SECTOR_BYTES, to_bytes / SECTOR_BYTES];
    return forgetPart(this.#state, from, to) * SECTOR_BYTES;
  }

  /** How many bytes of a part of a range of sectors are dirty; `next_bytes` is where to go on. */
  countDirty(from_bytes: number, to_bytes: number): { dirty_bytes: number; next_bytes: number } {
    this.#goOn();
    const [from, to] = [from_bytes / SECTOR_BYTES, to_bytes / SECTOR_BYTES];
    const { dirty, next } = countDirty(this.#state, from, to);
    return { dirty_bytes: dirty * SECTOR_BYTES, next_bytes: next * SECTOR_BYTES };
  }

  /** Whether everything answered is durable, and the backing device has it all. */
  isClean(): boolean {
    const { log } = this.#state;
    return log.durable === log.appended && this.#writeback.is_done;
  }

  /** Whether the machine has something to end: a barrier, or a request to the backing device. */
  get is_under_way(): boolean {
    return this.#state.barriers.is_under_way || this.#writeback.is_under_way ||
      this.#fills.in_use > 0;
  }

  /** Begins a clean stop: commits the log, flushes what went around it, starts no new write-back or GC. Pump until `isClosed`. */
  close(): void {
    this.#goOn();
    this.#state.is_closing = true;
    this.#state.log.want();
  }

  /** Goes on after `close`, as if nothing had been asked. */
  reopen(): void {
    this.#state.is_closing = false;
  }

  /** Whether requests wait because the cache has no room for them. */
  get is_full(): boolean {
    return this.#writes.is_starved;
  }

  /** Whether the stop is complete: nothing of the cache device is under way, or it has failed and no request uses it. */
  isClosed(): boolean {
    const { log, barriers, is_closing } = this.#state;
    if (!is_closing || barriers.is_under_way || this.#writeback.is_under_way) return false;
    if (this.#state.backing_flushes.is_under_way) return false;
    if (barriers.has_failed) return true;
    if (!this.#state.backing_flushes.hasEnded(this.#state.arounds.flush)) return false;
    return log.durable === log.appended && this.#writeback.is_idle && !this.#gc.is_busy &&
      barriers.isDone(this.#info_barrier);
  }

  /** Goes on with the requests that have come since the last time: together they wait for memory less often than one by one. */
  #goOn(): void {
    this.#writes.enterArrived();
    this.#reads.lookUp();
  }

  #step(now_ms: number): boolean {
    const state = this.#state;
    const is_starved = this.#writes.is_starved || state.wants_space;
    if (is_starved || state.is_draining) state.log.want();
    let any = state.log.step(now_ms);
    any = this.#storeInfo() || any;
    any = state.barriers.step() || any;
    state.arounds.is_announced = state.cache.info.mode === AROUND_NUMBER &&
      state.barriers.isDone(this.#info_barrier);
    any = this.#flushes.step() || any;
    any = this.#writeback.step(is_starved, this.#gc.is_held_up) || any;
    if (state.is_closing) state.backing_flushes.want(state.arounds.flush);
    any = state.backing_flushes.step() || any;
    const { durable_seg, durable_off } = this.#writeback;
    const is_waited_for = this.#writes.is_starved;
    any = this.#gc.step(is_starved, is_waited_for, durable_seg, durable_off) || any;
    any = this.#writes.step() || any;
    any = this.#reads.step() || any;
    return this.#fills.step() || any;
  }

  /** Stores what was changed of the cache info. One barrier lies between two stores, so that one slot is always whole. */
  #storeInfo(): boolean {
    if (this.#gc_percent_wanted < 0 && this.#mode_wanted < 0) return false;
    if (!this.#state.barriers.isDone(this.#info_barrier)) return false;
    const { arounds, backing_flushes } = this.#state;
    if (this.#mode_wanted >= 0 && !arounds.is_idle) return false;
    if (this.#mode_wanted >= 0 && !backing_flushes.hasEnded(arounds.flush)) {
      backing_flushes.want(arounds.flush);
      return false;
    }
    const { info } = this.#state.cache;
    if (this.#gc_percent_wanted >= 0) info.setGcPercent(this.#gc_percent_wanted);
    if (this.#mode_wanted >= 0) info.setMode(this.#mode_wanted);
    info.store();
    this.#gc_percent_wanted = -1;
    this.#mode_wanted = -1;
    this.#info_barrier = this.#state.barriers.cover();
    return true;
  }

  #began(slot: number): number {
    if (slot >= 0) this.#latencies.begin(slot, this.#state.now_ms);
    return slot;
  }

  /** A request is answered: counts it. The pieces of a read say where its bytes came from. */
  #count(slot: number): void {
    const { requests, pieces, counters, now_ms } = this.#state;
    const kind = requests.kind[slot]!;
    this.#latencies.end(slot, kind, now_ms);
    if (kind === WRITE) counters.written_bytes += requests.len_bytes[slot]!;
    if (kind !== READ || requests.error[slot] !== OK) return;
    counters.read_bytes += requests.len_bytes[slot]!;
    let has_hit = false;
    let has_miss = false;
    for (let piece = requests.first_piece[slot]!; piece >= 0; piece = pieces.next[piece]!) {
      if (pieces.fill[piece]! < 0) has_hit = true;
      else has_miss = true;
    }
    if (!has_miss) counters.read_hits++;
    else if (has_hit) counters.read_partial_hits++;
    else counters.read_misses++;
  }

  /** The first of the queue that was not abandoned meanwhile. */
  #takeFrom(queue: RequestQueue): number {
    const { requests } = this.#state;
    for (;;) {
      const slot = queue.shift();
      if (slot < 0 || requests.state[slot] !== ABANDONED) return slot;
      this.release(slot);
    }
  }

  #checkRange(off_bytes: number, len_bytes: number, most_bytes: number): void {
    assert(
      len_bytes > 0 && len_bytes <= most_bytes,
      "a request has a length, within the limit",
    );
    assert(
      off_bytes >= 0 && off_bytes + len_bytes <= this.size_bytes,
      "a request is on the device",
    );
  }
}

/** The tables of an engine, as the log says. Writes nothing. Throws `CacheError` for a log that must be refused. */
function makeState(
  options: EngineOptions & { staging: Staging },
  limits: Limits,
  counters: Counters,
): { state: EngineState; replayed: Replayed } {
  const { memory, backing, cache, now_ms, onRead, staging } = options;
  const size_sectors = Math.floor(backing.size_bytes / SECTOR_BYTES);
  if (size_sectors === 0) {
    throw new CacheError(
      `backing device: ${backing.size_bytes} bytes, but at least ${SECTOR_BYTES} are needed`,
    );
  }
  const index = new ExtentIndex(size_sectors, cache.n_segs);
  const sums = cache.data_crc ? new KeySums(cache.n_segs) : null;
  // Every full turn of the cache sweeps the index twice, so dead extents stay few.
  const swept = Math.ceil((2 * index.subtrees) / cache.n_segs);
  const segments: Segments = new Segments(cache.n_segs, cache.generations, (seg) => {
    counters.segments_freed++;
    zero_areas.retired(seg);
    sums?.clear(seg);
    index.freeSegment(seg);
    index.sweep(swept);
  });
  const space = new Space(cache, memory, segments);
  const max_key_sectors = maxKeySectors(cache.data_crc);
  const zero_areas = new ZeroAreas(cache, memory, segments, space, max_key_sectors);
  const tables = { index, segments, sums };
  const replayed = replay(cache, memory, size_sectors * SECTOR_BYTES, tables, onRead, staging);
  const barriers = new Barriers(memory);
  const backing_flushes = new BackingFlushes(backing);
  const { cache_mode = CACHE_MODES[cache.info.mode]! } = options;
  const requests = new Requests(limits.requests);
  const state = new EngineState(
    cache,
    memory,
    backing,
    size_sectors,
    index,
    segments,
    sums,
    barriers,
    new Log(
      cache,
      memory,
      segments,
      barriers,
      replayed.head_seg,
      replayed.head_off,
      now_ms,
      staging,
    ),
    space,
    zero_areas,
    new Buffers(memory.buffer_addr, memory.buffer_bytes),
    requests,
    new Pieces(limits.pieces),
    new RequestQueue(requests),
    new RequestQueue(requests),
    counters,
    new Through(cache_mode, replayed.keys_to_write_back),
    backing_flushes,
    new Arounds(
      backing_flushes,
      index.subtrees,
      cache.info.mode === AROUND_NUMBER,
      cache.info.mode === AROUND_NUMBER && !cache.fresh,
    ),
    now_ms,
  );
  return { state, replayed };
}

/** A request must fit into the cache and the transfer buffers several times over, or it might wait for ever. */
function maxRequestBytes(state: EngineState): number {
  const data_bytes = state.segments.total * state.cache.data_bytes;
  const most = Math.min(
    MAX_REQUEST_BYTES,
    data_bytes / 8,
    state.memory.buffer_bytes / 2,
  );
  return Math.floor(most / SECTOR_BYTES) * SECTOR_BYTES;
}

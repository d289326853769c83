/**
 * Write-back: brings what is dirty to the backing device, in batches of ksets from the dirty tail on.
 *
 * A batch keeps the newest version of each byte within it, sorted by address, neighbours merged, many writes under way.
 * When all have ended the backing device is flushed, and only then the new dirty tail stored. So at any moment the backing
 * device holds a prefix of the log, give or take the batch under way.
 *
 * Where writes are answered only when the backing device has them (`through.ts`), a batch begins without delay, and grows when its
 * writes have ended: what was logged meanwhile is collected and written, as long as nobody waits for a flush, for a second at most.
 *
 * Zeroes of an area that is known (`zeroes.ts`) are not written but made by the backing device, many neighbours at once, as long as
 * it can; what it cannot make is written.
 *
 * What cannot be written now (the backing device refuses it, or its checksum is wrong) is logged again at the key head:
 * same place, same generation. So the tails move on, the rest of the cache lives, and the range is tried again later. A part of a
 * damaged key gets a checksum that does not fit, so that it stays damaged for whoever reads it.
 *
 * Invariants:
 * - the writes of a batch do not overlap, and a batch starts only when the one before it has ended;
 * - segments of a batch's keys need no pin: GC does not pass the durable dirty tail;
 * - no write of a batch overtakes one that went around the cache before its keys were read.
 *
 * @module
 */

import { ExtentIndex, MAX_EXPECTED, SUBTREE_SECTORS } from "./extent_index.ts";
import { MAX_FILL_READS } from "./fills.ts";
import {
  KEY_CLEAN,
  KEY_WORDS,
  keyCrc,
  keyFlags,
  keyGen,
  keyOff,
  keyPlace,
  keySectors,
  keySeg,
  keyStretch,
  keyStretchSector,
  KSET_MAX_KEYS,
  SECTOR_BYTES,
} from "./format.ts";
import { LOG_END, LOG_KEYS, LogReader } from "./log_reader.ts";
import { type Gather, MAX_GATHER } from "./platform.ts";
import { RowOrder } from "./row_order.ts";
import { SlotPool } from "./slot_pool.ts";
import type { EngineState } from "./state.ts";
import type { Refused } from "./through.ts";
import { DATA, ZEROES_TO_PUNCH } from "./zeroes.ts";

/**
 * Most ksets in a batch, and most keys: whichever comes first. Where each write is flushed a kset holds one key, and every batch costs a
 * flush of the backing device: few ksets would make many of these.
 */
export const BATCH_KSETS = 1024;
const BATCH_KEYS = 64 * KSET_MAX_KEYS;
/** More than a data area has sectors. */
const MAX_PLACES = 1 << 15;
/** Longest merged write, in sectors: 1 MiB. */
const MAX_WRITE_SECTORS = 2048;
/** Longest merged zeroing, in sectors: 32 MiB. A disk may have to write it, and some loops wait for that. */
const MAX_ZERO_SECTORS = 65536;
/**
 * Most writes under way; most while requests keep coming, when somebody waits for all of it or much of the cache is dirty, and when not.
 * With 128 random blocks came to the disk 1.2 times as fast as with 64, with 240 hardly faster. Requests wait while writes are begun: with
 * 64 at a time the p99 of hits was ten times the quiet one, with 4 two to three times, at four fifths of the rate (2026-11-21).
 */
const MAX_WRITES = 128;
const MAX_WRITES_BUSY = 4;
const MAX_WRITES_BEHIND = 2;
/** Ids of backing writes: FIRST_WRITE_ID .. FIRST_WRITE_ID+MAX_WRITES-1. */
const FIRST_WRITE_ID = MAX_FILL_READS;
/** Longest that a batch which is written waits for more before it is flushed. */
const MAX_HOLD_MS = 1000;
/** Without requests for this long, write-back need not hold back. */
const QUIET_MS = 20;
/**
 * While requests keep coming a batch waits this long at most, for overwrites to fall into it and for what it takes not to be
 * taken from them. A page cache waits as long.
 */
const MAX_WAIT_MS = 5000;
/** When so much of the cache is dirty a batch does not wait, and takes more from the requests: a burst shorter than that is left alone. */
const PRESSING_DIRTY_PART = 1 / 2;
/** After a batch of which nothing could be written: the first and the longest pause. */
const RETRY_MS = 500;
const MAX_RETRY_MS = 8000;

const IDLE = 0;
const WRITING = 1;
const HOLDING = 2;
const FLUSHING = 3;
const RELOGGING = 4;
const STORING = 5;

/** The ranges of one backing write. */
class Ranges implements Gather {
  count = 0;
  /** What they are, as `ZeroAreas` tells; zeroes need no transfer. */
  kind = DATA;
  readonly sector: Float64Array = new Float64Array(MAX_GATHER);
  readonly sectors: Uint32Array = new Uint32Array(MAX_GATHER);
  readonly #addr = new Float64Array(MAX_GATHER);

  addr(i: number): number {
    return this.#addr[i]!;
  }

  len(i: number): number {
    return this.sectors[i]! * SECTOR_BYTES;
  }

  add(sector: number, sectors: number, addr: number): void {
    this.sector[this.count] = sector;
    this.sectors[this.count] = sectors;
    this.#addr[this.count] = addr;
    this.count++;
  }

  get total_sectors(): number {
    let sum = 0;
    for (let i = 0; i < this.count; i++) sum += this.sectors[i]!;
    return sum;
  }
}

/** The write-back of one cache. */
export class WriteBack {
  readonly #state: EngineState;
  /** Where the next batch starts; while a batch is under way, where it ends. */
  readonly #reader: LogReader;
  #batch_seg: number;
  #batch_off: number;
  #durable_seg: number;
  #durable_off: number;
  #stage = IDLE;
  #barrier = 0;
  /** The flush that covers the batch's writes. */
  #flush = 0;
  #hold_until_ms = Infinity;
  #log_target = 0;
  /** How many keys the reader has passed, and had when the batch began; counted as in `through.ts`. */
  #passed: number;
  #batch_passed: number;
  #last_end_ms: number;
  #retry_at_ms = -Infinity;
  /** When the rate allows the next write, and whether the batch waits for that. */
  #allowed_at_ms = -Infinity;
  #is_held_back = false;
  #retry_ms = RETRY_MS;

  /**
   * The batch: its dirty keys as they stand in the log. A row for each of those that are not written yet, from `#first_key` on: by
   * subtree, then by age. And the numbers of all, by place, if some of it could not be written.
   */
  readonly #batch_ksets: number;
  readonly #batch_keys: number;
  readonly #keys: Uint32Array;
  readonly #rows: RowOrder;
  #by_place = new Float64Array(0);
  #key_count = 0;
  #kset_count = 0;
  #first_key = 0;
  #was_full = false;
  /** The next row's place in their order. */
  #next_row = 0;
  /** One subtree of the batch, the newest version of each sector. */
  readonly #merged: ExtentIndex;
  #merged_base = 0;
  #merged_next = SUBTREE_SECTORS;

  readonly #ids = new SlotPool(MAX_WRITES);
  readonly #writes: Ranges[] = [];
  /** Ranges of a failed write that are tried again one by one. */
  #retries: { sector: number; sectors: number; addr: number }[] = [];
  #failed: Refused[] = [];
  /** The first of them that is not logged again yet. */
  #next_failed = 0;
  #written_bytes = 0;

  /** `batch_ksets`: most ksets in a batch. */
  constructor(state: EngineState, batch_ksets: number) {
    this.#batch_ksets = batch_ksets;
    this.#batch_keys = Math.min(batch_ksets * KSET_MAX_KEYS, BATCH_KEYS);
    this.#keys = new Uint32Array(this.#batch_keys * KEY_WORDS);
    this.#rows = new RowOrder(this.#batch_keys);
    this.#state = state;
    this.#last_end_ms = state.now_ms;
    const { cache, memory } = state;
    const { seg, off } = cache.dirty_tail;
    this.#reader = new LogReader(cache, memory, seg, off);
    this.#batch_seg = this.#durable_seg = seg;
    this.#batch_off = this.#durable_off = off;
    this.#passed = this.#batch_passed = state.through.written;
    this.#merged = new ExtentIndex(SUBTREE_SECTORS, cache.n_segs);
  }

  /** The durable dirty tail: segment. GC may go up to here. */
  get durable_seg(): number {
    return this.#durable_seg;
  }

  /** The durable dirty tail: offset in the segment's data area. */
  get durable_off(): number {
    return this.#durable_off;
  }

  get is_idle(): boolean {
    return this.#stage === IDLE;
  }

  /** Whether a request to the backing device is under way. */
  get is_under_way(): boolean {
    return this.#ids.in_use > 0 || this.#stage === FLUSHING;
  }

  /** Whether the log holds nothing behind the dirty tail. */
  get is_done(): boolean {
    return this.#stage === IDLE && !this.#hasMore();
  }

  /** When `step` has something to do, in ms of the engine's clock; Infinity: nothing. */
  dueMs(): number {
    if (this.#stage === HOLDING) {
      return Math.min(this.#hold_until_ms, this.#state.quiet_since_ms + QUIET_MS);
    }
    if (this.#stage === WRITING && this.#is_held_back) return this.#allowed_at_ms;
    if (this.#stage !== IDLE || !this.#hasMore()) return Infinity;
    if (this.#state.is_closing || this.#state.barriers.has_failed) return Infinity;
    if (this.#state.is_draining || this.#state.through.is_prompt) return this.#retry_at_ms;
    const quiet_ms = this.#state.quiet_since_ms + QUIET_MS;
    const waited_ms = this.#last_end_ms + MAX_WAIT_MS;
    return Math.max(this.#retry_at_ms, this.#allowed_at_ms, Math.min(quiet_ms, waited_ms));
  }

  /** At most so many bytes a second from now on, where nobody waits for them; 0: none. */
  setRate(bytes_per_s: number): void {
    this.#state.writeback_bytes_per_s = bytes_per_s;
    this.#allowed_at_ms = bytes_per_s === 0 ? Infinity : this.#state.now_ms;
  }

  /** Whether the rate allows a write now. A request, a flush or a removal that waits for write-back is not kept waiting. */
  #mayWrite(is_starved: boolean): boolean {
    const { now_ms, is_draining, is_closing, through } = this.#state;
    if (is_starved || is_draining || is_closing || through.is_prompt) return true;
    return now_ms >= this.#allowed_at_ms;
  }

  /** A write of so many bytes begins: the next one may when these would have gone at the rate. */
  #pay(len_bytes: number): void {
    const { now_ms, writeback_bytes_per_s } = this.#state;
    if (writeback_bytes_per_s === 0) return;
    const from_ms = Math.max(this.#allowed_at_ms, now_ms);
    this.#allowed_at_ms = from_ms + (1000 * len_bytes) / writeback_bytes_per_s;
  }

  /**
   * Takes the batch as far as it goes. `is_starved`: requests wait for space; `is_awaited`: GC waits for the dirty tail. Returns whether
   * anything changed.
   */
  step(is_starved: boolean, is_awaited: boolean): boolean {
    switch (this.#stage) {
      case IDLE:
        return this.#begin(is_starved, is_awaited);
      case WRITING:
        return this.#write(is_starved);
      case HOLDING:
        return this.#hold(is_starved);
      case FLUSHING:
        return this.#flushed();
      case RELOGGING:
        return this.#relog();
      case STORING:
        return this.#end();
      default:
        return false;
    }
  }

  /** Whether backing request `id` is one of these. */
  owns(id: number): boolean {
    return id >= FIRST_WRITE_ID && id < FIRST_WRITE_ID + MAX_WRITES;
  }

  /** The backing request `id` has ended. */
  done(id: number, errno: number): void {
    this.#wrote(id - FIRST_WRITE_ID, errno);
  }

  #hasMore(): boolean {
    const { log } = this.#state;
    return this.#reader.seg !== log.head_seg || this.#reader.off !== log.head_off;
  }

  #begin(is_starved: boolean, is_awaited: boolean): boolean {
    const { now_ms, is_closing, is_draining, barriers, segments, through } = this.#state;
    if (is_closing || barriers.has_failed || !this.#hasMore()) return false;
    if (now_ms < this.#retry_at_ms || !this.#mayWrite(is_starved)) return false;
    const is_urgent = is_starved || is_awaited || is_draining || this.#was_full ||
      through.is_prompt ||
      segments.free_for_data === 0 || this.#isPressing;
    // `dueMs` says the same; a number that it returned would be an object to V8.
    const { last_request_ms, requests } = this.#state;
    const is_quiet = requests.pool.in_use === 0 && now_ms >= last_request_ms + QUIET_MS;
    if (!is_urgent && !is_quiet && now_ms < this.#last_end_ms + MAX_WAIT_MS) return false;
    this.#batch_seg = this.#reader.seg;
    this.#batch_off = this.#reader.off;
    this.#batch_passed = this.#passed;
    this.#key_count = 0;
    this.#kset_count = 0;
    this.#failed = [];
    through.refused = [];
    this.#written_bytes = 0;
    this.#hold_until_ms = now_ms + MAX_HOLD_MS;
    return this.#collect();
  }

  /** Whether so much is dirty that requests have to give way. */
  get #isPressing(): boolean {
    const { cache, counters } = this.#state;
    return counters.dirty_bytes > PRESSING_DIRTY_PART * cache.n_segs * cache.data_bytes;
  }

  /** Reads keys of a batch: the first ones, or more. */
  #collect(): boolean {
    const reader = this.#reader;
    this.#first_key = this.#key_count;
    for (; this.#hasRoom() && this.#hasMore(); this.#kset_count++) {
      const kind = reader.reread();
      if (kind === LOG_END) return this.#state.failLog();
      if (kind === LOG_KEYS) this.#collectKeys();
      reader.advance(kind);
    }
    this.#was_full = this.#hasMore();
    this.#sort();
    this.#state.arounds.mark();
    this.#stage = WRITING;
    return true;
  }

  /** Whether the batch takes one more kset. */
  #hasRoom(): boolean {
    return this.#kset_count < this.#batch_ksets &&
      this.#key_count + KSET_MAX_KEYS <= this.#batch_keys;
  }

  #collectKeys(): void {
    const { words } = this.#reader;
    this.#passed += this.#reader.key_num;
    const { generations } = this.#state.cache;
    for (let i = 0; i < this.#reader.key_num; i++) {
      const at = this.#reader.keyAt(i);
      if ((keyFlags(words, at) & KEY_CLEAN) !== 0) continue;
      if (keyGen(words, at) !== generations.get(keySeg(words, at))) continue;
      const to = this.#key_count * KEY_WORDS;
      for (let word = 0; word < KEY_WORDS; word++) this.#keys[to + word] = words[at + word]!;
      this.#key_count++;
    }
  }

  #sort(): void {
    this.#rows.clear();
    for (let key = this.#first_key; key < this.#key_count; key++) {
      this.#rows.add(keyStretch(this.#keys, key * KEY_WORDS));
    }
    this.#rows.sort();
    this.#next_row = 0;
    this.#merged_next = SUBTREE_SECTORS;
  }

  #keySector(key: number): number {
    return keyOff(this.#keys, key * KEY_WORDS) / SECTOR_BYTES;
  }

  #keySectors(key: number): number {
    return keySectors(this.#keys, key * KEY_WORDS);
  }

  #keyPlace(key: number): number {
    return keyPlace(this.#keys, key * KEY_WORDS);
  }

  /** How many writes may be under way now. */
  #mostWrites(is_starved: boolean): number {
    const { now_ms, quiet_since_ms, is_draining, through } = this.#state;
    if (is_starved || through.is_prompt || now_ms - quiet_since_ms >= QUIET_MS) return MAX_WRITES;
    return is_draining || this.#isPressing ? MAX_WRITES_BUSY : MAX_WRITES_BEHIND;
  }

  /** Starts as many writes as may be under way; goes on to the flush when all have ended. */
  #write(is_starved: boolean): boolean {
    if (!this.#state.arounds.has_passed) return false;
    const most = this.#mostWrites(is_starved);
    let any = false;
    let is_left = true;
    this.#is_held_back = false;
    while (is_left && this.#ids.in_use < most && !this.#is_held_back) {
      this.#is_held_back = !this.#mayWrite(is_starved);
      if (!this.#is_held_back) is_left = this.#writeNext(most < MAX_WRITES);
      any = any || (is_left && !this.#is_held_back);
    }
    if (this.#ids.in_use > 0 || this.#is_held_back) return any;
    this.#state.through.written = this.#passed;
    this.#state.through.refused = this.#failed;
    if (this.#mayHold(is_starved)) this.#stage = HOLDING;
    else this.#startFlush();
    return true;
  }

  /** Whether the batch, which is written, may wait for more. */
  #mayHold(is_starved: boolean): boolean {
    const { through, is_closing, is_draining, wants_space, segments } = this.#state;
    if (!through.is_on || is_closing || is_draining || is_starved || wants_space) return false;
    if (this.#failed.length > 0 || !this.#hasRoom()) return false;
    return through.flush_wanted > through.written && segments.free_for_data > 0;
  }

  /** Goes on with what was logged since the batch's writes have ended, or to the flush. */
  #hold(is_starved: boolean): boolean {
    const { now_ms, last_request_ms, requests } = this.#state;
    const is_quiet = requests.pool.in_use === 0 && now_ms >= last_request_ms + QUIET_MS;
    if (!this.#mayHold(is_starved) || is_quiet || now_ms >= this.#hold_until_ms) this.#startFlush();
    else if (this.#hasMore()) return this.#collect();
    else return false;
    return true;
  }

  #startFlush(): void {
    if (this.#written_bytes > 0) {
      this.#stage = FLUSHING;
      this.#flush = this.#state.backing_flushes.cover();
    } else {
      this.#afterFlush();
    }
  }

  /** Starts the next write. False: there is none left. */
  #writeNext(is_aside: boolean): boolean {
    const id = this.#ids.take();
    const ranges = this.#writes[id] ??= new Ranges(); // most devices never have so many under way
    ranges.count = 0;
    ranges.kind = DATA;
    const retry = this.#retries.pop();
    if (retry !== undefined) ranges.add(retry.sector, retry.sectors, retry.addr);
    else this.#gather(ranges);
    if (ranges.count === 0) {
      this.#ids.put(id);
      return false;
    }
    const len_bytes = ranges.total_sectors * SECTOR_BYTES;
    const off_bytes = ranges.sector[0]! * SECTOR_BYTES;
    const { backing } = this.#state;
    this.#pay(len_bytes);
    if (ranges.kind === DATA) {
      backing.write(FIRST_WRITE_ID + id, off_bytes, len_bytes, ranges, is_aside);
    } else {
      backing.zero(FIRST_WRITE_ID + id, off_bytes, len_bytes, ranges.kind === ZEROES_TO_PUNCH);
    }
    return true;
  }

  /** Collects the next run of neighbours. */
  #gather(ranges: Ranges): void {
    const merged = this.#merged;
    let sectors = 0;
    while (ranges.count < MAX_GATHER) {
      const extent = this.#nextMerged();
      if (extent < 0) return;
      const sector = this.#merged_base + merged.start(extent);
      const size = merged.sectors(extent);
      const kind = this.#kindOf(sector, size, merged.segment(extent), merged.place(extent));
      if (ranges.count === 0) ranges.kind = kind;
      const is_neighbour = ranges.count === 0 ||
        (sector === ranges.sector[0]! + sectors && kind === ranges.kind);
      const most = kind === DATA ? MAX_WRITE_SECTORS : MAX_ZERO_SECTORS;
      const is_long = sectors > 0 && sectors + size > most;
      if (!is_neighbour || is_long) return;
      this.#merged_next = merged.start(extent) + size;
      if (
        kind === DATA && !this.#state.verify(merged.segment(extent), merged.place(extent), size)
      ) {
        this.#state.counters.checksum_failures++;
        this.#failed.push({ sector, sectors: size });
        if (ranges.count > 0) return;
        continue;
      }
      const off = merged.place(extent) * SECTOR_BYTES;
      ranges.add(sector, size, this.#state.cache.dataAddr(merged.segment(extent), off));
      sectors += size;
    }
  }

  /** How the bytes at a place are written back: as data, or as one of the kinds of zeroing. */
  #kindOf(sector: number, sectors: number, seg: number, place: number): number {
    const { zero_areas, backing } = this.#state;
    const kind = zero_areas.kindOf(seg, place, sectors);
    if (kind === DATA) return DATA;
    const off_bytes = sector * SECTOR_BYTES;
    const can_zero = backing.canZero(
      off_bytes,
      sectors * SECTOR_BYTES,
      kind === ZEROES_TO_PUNCH,
    );
    return can_zero ? kind : DATA;
  }

  /** The next extent of the batch, in the next subtree that has any; -1: none is left. */
  #nextMerged(): number {
    for (;;) {
      const extent = this.#merged_next < SUBTREE_SECTORS
        ? this.#merged.find(this.#merged_next)
        : -1;
      if (extent >= 0) return extent;
      if (this.#next_row === this.#rows.count) return -1;
      this.#mergeSubtree();
    }
  }

  /** Enters the keys of the next subtree, oldest first. */
  #mergeSubtree(): void {
    this.#merged.remove(0, SUBTREE_SECTORS);
    const rows = this.#rows;
    const subtree = rows.number(rows.row(this.#next_row));
    this.#merged_base = subtree * SUBTREE_SECTORS;
    this.#merged_next = 0;
    for (; this.#next_row < rows.count; this.#next_row++) {
      const row = rows.row(this.#next_row);
      if (rows.number(row) !== subtree) return;
      const key = this.#first_key + row;
      const start = keyStretchSector(this.#keys, key * KEY_WORDS);
      const seg = keySeg(this.#keys, key * KEY_WORDS);
      this.#merged.insertCached(start, this.#keySectors(key), seg, this.#keyPlace(key), false);
    }
  }

  #wrote(write: number, errno: number): void {
    const ranges = this.#writes[write]!;
    this.#ids.put(write);
    if (errno === 0) {
      const len_bytes = ranges.total_sectors * SECTOR_BYTES;
      this.#written_bytes += len_bytes;
      if (ranges.kind !== DATA) this.#state.counters.writeback_zeroed_bytes += len_bytes;
      return;
    }
    if (ranges.kind === DATA) this.#state.counters.backing_write_errors++;
    if (ranges.kind === DATA && ranges.count === 1) {
      this.#failed.push({ sector: ranges.sector[0]!, sectors: ranges.sectors[0]! });
      return;
    }
    // One bad sector must not keep its neighbours from being written; and zeroes that could not be made are written.
    for (let i = 0; i < ranges.count; i++) {
      const sector = ranges.sector[i]!;
      this.#retries.push({ sector, sectors: ranges.sectors[i]!, addr: ranges.addr(i) });
    }
  }

  #flushed(): boolean {
    const { backing_flushes, through } = this.#state;
    if (!backing_flushes.hasEnded(this.#flush)) return false;
    if (backing_flushes.isDurable(this.#flush)) {
      this.#afterFlush();
      return true;
    }
    // What was written may be lost: the whole batch is done again.
    this.#reader.seg = this.#batch_seg;
    this.#reader.off = this.#batch_off;
    this.#passed = through.written = this.#batch_passed;
    this.#pause();
    this.#stage = IDLE;
    return true;
  }

  #pause(): void {
    this.#retry_at_ms = this.#state.now_ms + this.#retry_ms;
    this.#retry_ms = Math.min(this.#retry_ms * 2, MAX_RETRY_MS);
  }

  /** Everything that could be written is safe on the backing device. */
  #afterFlush(): void {
    const { through, log } = this.#state;
    through.setFlushed(log.appended);
    this.#sortFailed();
    for (let key = 0; key < this.#key_count; key += MAX_EXPECTED) {
      this.#markAllClean(key, Math.min(key + MAX_EXPECTED, this.#key_count));
    }
    const is_fruitless = this.#failed.length > 0 && this.#written_bytes === 0;
    if (is_fruitless) this.#pause();
    else this.#retry_ms = RETRY_MS;
    this.#stage = RELOGGING;
  }

  /** Marks keys clean whose places in the index are fetched at once. */
  #markAllClean(from: number, to: number): void {
    const { index } = this.#state;
    for (let key = from; key < to; key++) index.expect(this.#keySector(key));
    index.fetch();
    for (let key = from; key < to; key++) this.#markClean(key);
  }

  /** Marks clean what the index still holds of the key, but for what could not be written. */
  #markClean(key: number): void {
    const start = this.#keySector(key);
    const end = start + this.#keySectors(key);
    const seg = keySeg(this.#keys, key * KEY_WORDS);
    const place = this.#keyPlace(key);
    let sector = start;
    while (sector < end) {
      const failed = this.#firstFailed(sector, end);
      const stop = failed === undefined ? end : Math.max(sector, failed.sector);
      if (stop > sector) {
        this.#state.index.markClean(sector, stop - sector, seg, place + sector - start);
      }
      sector = failed === undefined ? end : failed.sector + failed.sectors;
    }
  }

  /** Sorts what failed by address, and the batch's keys by place, so that both can be looked up in either. */
  #sortFailed(): void {
    this.#next_failed = 0;
    if (this.#failed.length === 0) return;
    this.#failed.sort((a, b) => a.sector - b.sector);
    this.#by_place = Float64Array.from({ length: this.#key_count }, (_, key) => {
      const seg = keySeg(this.#keys, key * KEY_WORDS);
      return (seg * MAX_PLACES + this.#keyPlace(key)) * this.#batch_keys + key;
    }).sort();
  }

  /** The first range that failed and overlaps `[sector, end)`. */
  #firstFailed(sector: number, end: number): Refused | undefined {
    let low = 0;
    let high = this.#failed.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      const failed = this.#failed[middle]!;
      if (failed.sector + failed.sectors > sector) high = middle;
      else low = middle + 1;
    }
    const first = this.#failed[low];
    return first !== undefined && first.sector < end ? first : undefined;
  }

  /** Logs again what could not be written, waits until that is durable, and stores the new dirty tail. */
  #relog(): boolean {
    const { log, cache, barriers } = this.#state;
    let any = false;
    for (; this.#next_failed < this.#failed.length; this.#next_failed++) {
      const left = this.#relogRange(this.#failed[this.#next_failed]!);
      this.#log_target = log.appended;
      log.want();
      if (left !== undefined) {
        this.#failed[this.#next_failed] = left;
        return any;
      }
      any = true;
    }
    if (log.durable < this.#log_target) return any;
    cache.dirty_tail.store(this.#reader.seg, this.#reader.off);
    this.#barrier = barriers.cover();
    this.#stage = STORING;
    return true;
  }

  /** Logs the batch's bytes that are still the newest of the range. Returns what did not fit into the log. */
  #relogRange(failed: Refused): Refused | undefined {
    const { index, log } = this.#state;
    const end = failed.sector + failed.sectors;
    let sector = failed.sector;
    while (sector < end) {
      if (log.available === 0) return { sector, sectors: end - sector };
      const extent = index.find(sector);
      if (extent < 0) return undefined;
      const start = sector - (sector % SUBTREE_SECTORS) + index.start(extent);
      const stop = Math.min(end, start + index.sectors(extent));
      if (start >= end) return undefined;
      const from = Math.max(start, sector);
      const is_dirty = index.isLive(extent) && !index.isPlaceholder(extent) &&
        !index.isClean(extent);
      if (is_dirty) {
        const place = index.place(extent) + from - start;
        this.#relogPart(from, stop - from, index.segment(extent), place);
      }
      sector = stop;
    }
    return undefined;
  }

  /** Logs a part again, if it is the batch's and not a newer write. */
  #relogPart(sector: number, sectors: number, seg: number, place: number): void {
    const key = this.#keyOf(seg, place, sectors);
    if (key < 0) return;
    const { log, memory, cache, counters, sums } = this.#state;
    let crc = 0;
    if (sums !== null) {
      const is_whole = this.#keyPlace(key) === place && this.#keySectors(key) === sectors;
      const addr = cache.dataAddr(seg, place * SECTOR_BYTES);
      const actual = memory.crc32c(addr, sectors * SECTOR_BYTES);
      if (is_whole) crc = keyCrc(this.#keys, key * KEY_WORDS);
      else crc = this.#state.verify(seg, place, sectors) ? actual : ~actual >>> 0;
    }
    log.reserve(1);
    this.#state.logKey(sector, sectors, seg, place, false, crc);
    counters.writeback_relogged++;
  }

  /** The batch's newest key that holds the place; -1: none. */
  #keyOf(seg: number, place: number, sectors: number): number {
    const wanted = (seg * MAX_PLACES + place + 1) * this.#batch_keys;
    let low = 0;
    let high = this.#key_count;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#by_place[middle]! < wanted) low = middle + 1;
      else high = middle;
    }
    // The keys of a segment overlap only where one is a part of the other, which is logged later.
    for (let at = low - 1; at >= 0; at--) {
      const key = this.#by_place[at]! % this.#batch_keys;
      if (keySeg(this.#keys, key * KEY_WORDS) !== seg) return -1;
      if (place + sectors <= this.#keyPlace(key) + this.#keySectors(key)) return key;
    }
    return -1;
  }

  /** The new dirty tail is durable: the batch is over. */
  #end(): boolean {
    if (!this.#state.barriers.isDone(this.#barrier)) return false;
    const { counters, now_ms } = this.#state;
    for (let key = 0; key < this.#key_count; key++) {
      const len_bytes = this.#keySectors(key) * SECTOR_BYTES;
      counters.writeback_key_bytes += len_bytes;
      counters.dirty_bytes -= len_bytes;
    }
    counters.writeback_bytes += this.#written_bytes;
    counters.writeback_batches++;
    this.#durable_seg = this.#reader.seg;
    this.#durable_off = this.#reader.off;
    this.#last_end_ms = now_ms;
    this.#stage = IDLE;
    return true;
  }
}

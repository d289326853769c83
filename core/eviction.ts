/**
 * Eviction: what becomes of clean extents when GC comes to their keys.
 *
 * - `fifo`: they are dropped, oldest first.
 * - `reinsert`: in the manner of S3-FIFO. What comes in is young, and goes unless it was accessed twice by the time it is old enough
 *   (`youth.ts`), or once while the main part is not full yet; else its bytes are copied to that part, which has a data head of its own. There
 *   they stay for as long as they are read again before their segment's turn comes. So what a scan brought goes early, and what is read again
 *   and again stays.
 *
 * The log is in the order of writing and GC must take it from its old end, but bytes may stay where they are: a key whose segment
 * stays is logged again at the head, same place, same generation. So GC goes round the log, over all keys, and picks the segments to be
 * emptied by age and kind.
 *
 * What GC drops has left a ghost; new bytes of a range that has one count as accessed twice. What is overwritten hands its hits on, and what
 * moves to the main part keeps those beyond the two: so what is written over and over is as hot there as what is read. Hits are counted in two
 * bits of the index that nothing else uses. Nothing of this is stored with the cache: the policy writes keys like any other, and after a start
 * everything is old and young at once.
 *
 * Invariants:
 * - a whole turn of the log that has given no segment back is the last in which anything is kept, until one is given back;
 * - nothing is kept while a request waits for space, nothing copied into the last free segments; the work in a turn of the loop is bounded;
 * - what is kept is clean, the newest of its range, and, if it is copied, has been verified.
 *
 * @module
 */

import { SUBTREE_SECTORS } from "./extent_index.ts";
import { SECTOR_BYTES } from "./format.ts";
import { STAYS_FROM } from "./heat_scale.ts";
import type { EngineState } from "./state.ts";
import { EMPTIED, GATHERED, MAIN } from "./segments.ts";
import { Space } from "./space.ts";
import { DATA } from "./zeroes.ts";

export const EVICTIONS = ["fifo", "reinsert"] as const;
/** How a policy is called in table lines and messages. */
export type Eviction = typeof EVICTIONS[number];

/** Whether a word names a policy. */
export function isEviction(word: string): word is Eviction {
  return (EVICTIONS as readonly string[]).includes(word);
}

/** Young bytes stay for this part of the cache at least, ... */
const YOUNG_PART = 0.05;
/** ... and what is not for the main part is theirs and the log's. */
const MAIN_PART = 0.88;
/** A main segment of which less is left than this part is emptied first. */
const SPARSE_PART = 0.88;
/** Hits that let young bytes stay while the main part is not full; else `STAYS_FROM`, which they have used up then. */
const STAYS_WITH_ROOM_FROM = 1;
/** Most sectors copied in a turn of the loop: 1 MiB, some hundred microseconds. */
const TURN_SECTORS = 2048;
/** Most keys logged again in a turn of the loop: some hundred microseconds, too. */
const TURN_KEYS = 1024;
/** A main segment is begun as long as so many segments are free for data. */
const FREE_SEGMENTS = 2;

/** Says of each key that GC comes to whether its bytes stay. */
export class Keeper {
  readonly #state: EngineState;
  /** The data head of the main part. */
  readonly #main: Space;
  readonly #data_sectors: number;
  /** By segment: sectors that stayed there in this turn of the log, and in the last one. */
  #stayed: Float64Array;
  #stayed_before: Float64Array;
  #turn_sectors = TURN_SECTORS;
  #turn_keys = TURN_KEYS;
  #is_long = false;
  /** Young segments that began so many sectors ago, or more, are to be emptied. */
  #old_from = 0;
  /** Hits that let them stay. */
  #stays_from = STAYS_FROM;

  constructor(state: EngineState) {
    const { cache, memory, segments } = state;
    this.#state = state;
    this.#main = new Space(cache, memory, segments);
    this.#stayed = new Float64Array(cache.n_segs);
    this.#stayed_before = new Float64Array(cache.n_segs);
    this.#data_sectors = Math.floor(cache.data_bytes / SECTOR_BYTES);
  }

  /** A turn of the loop begins. */
  allow(): void {
    this.#turn_sectors = TURN_SECTORS;
    this.#turn_keys = TURN_KEYS;
  }

  /** Whether this turn has done as much as it may. */
  get is_spent(): boolean {
    return this.#turn_sectors <= 0 || this.#turn_keys <= 0;
  }

  /** Requests wait for space: the main part's segment that is not full yet goes, too, when its keys do. */
  yield(): void {
    this.#main.leave();
  }

  /** GC begins a round; the cache may hold `most_segments`. */
  begin(most_segments: number): void {
    const { heat, segments } = this.#state;
    this.#is_long = heat!.is_long(most_segments * this.#data_sectors);
    const least = Math.floor(most_segments * YOUNG_PART) * this.#data_sectors;
    this.#old_from = this.#is_long ? 0 : Math.max(this.#data_sectors, least);
    const part = this.#is_long ? 0 : Math.floor(most_segments * MAIN_PART) - segments.log_count;
    const most = Math.max(1, part); // its data head's
    // A segment to spare: where the main part is kept full it has one less at times.
    this.#stays_from = segments.main_count < most - 1 ? STAYS_WITH_ROOM_FROM : STAYS_FROM;
    while (segments.main_count > most && this.#emptyOne());
  }

  /** A turn of the log is over. */
  turn(): void {
    [this.#stayed, this.#stayed_before] = [this.#stayed_before, this.#stayed];
    this.#stayed.fill(0);
  }

  /**
   * Chooses a segment of the main part: the one with the least left of it, if much was overwritten, else the oldest. False: there is none.
   */
  #emptyOne(): boolean {
    const { segments } = this.#state;
    let oldest = -1;
    let emptiest = -1;
    for (let seg = 0; seg < segments.total; seg++) {
      if (segments.part(seg) !== MAIN || segments.pins(seg) > 0) continue;
      if (oldest < 0 || segments.born[seg]! < segments.born[oldest]!) oldest = seg;
      const left = this.#stayed_before[seg]!;
      if (emptiest < 0 || left < this.#stayed_before[emptiest]!) emptiest = seg;
    }
    if (oldest < 0) return false;
    const is_sparse = this.#stayed_before[emptiest]! < SPARSE_PART * this.#data_sectors;
    if (is_sparse) segments.setPart(emptiest, GATHERED);
    else segments.setPart(oldest, EMPTIED);
    return true;
  }

  /** GC is about to drop a key that counts: keeps what the index still holds of it, and is to stay. */
  visit(sector: number, sectors: number, seg: number, place: number): void {
    const { index } = this.#state;
    const origin = place - sector;
    const end = sector + sectors;
    while (sector < end) {
      const extent = index.find(sector);
      if (extent < 0) return;
      const base = sector - (sector % SUBTREE_SECTORS);
      const start = Math.max(sector, base + index.start(extent));
      const stop = Math.min(end, base + index.start(extent) + index.sectors(extent));
      if (start >= end) return;
      const is_part = !index.isPlaceholder(extent) && index.isLive(extent) &&
        index.isClean(extent) && index.segment(extent) === seg &&
        index.place(extent) - (base + index.start(extent)) === origin;
      if (is_part) this.#judge(start, stop - start, seg, origin + start, index.hits(extent));
      sector = stop;
    }
  }

  /** Keeps the bytes where they are, copies them, or lets them go. */
  #judge(sector: number, sectors: number, seg: number, place: number, hits: number): void {
    const { zero_areas, heat, space, segments } = this.#state;
    if (zero_areas.kindOf(seg, place, sectors) !== DATA) return; // quickly had again
    const part = segments.part(seg);
    if (part === MAIN) {
      this.#stayed[seg] = this.#stayed[seg]! + sectors;
      this.#relog(sector, sectors, seg, place);
    } else if (part === GATHERED) this.#copy(sector, sectors, seg, place, hits);
    else if (part === EMPTIED) {
      if (hits > 0) this.#copy(sector, sectors, seg, place, hits - 1);
    } else if (space.taken_total - segments.born[seg]! < this.#old_from) {
      this.#relog(sector, sectors, seg, place);
    } else if (hits >= this.#stays_from) {
      this.#copy(sector, sectors, seg, place, Math.max(0, hits - STAYS_FROM));
    } else heat!.leaves(sector, sectors);
  }

  /** Logs a key for bytes that stay where they are. */
  #relog(sector: number, sectors: number, seg: number, place: number): void {
    const { log, sums, counters } = this.#state;
    if (log.available === 0) return;
    const crc = sums === null ? 0 : this.#state.sumOf(seg, place, sectors);
    if (crc === null) return; // damaged: its next reader finds that, and has it read anew
    this.#turn_keys--;
    counters.kept_keys++;
    log.reserve(1);
    this.#state.logKey(sector, sectors, seg, place, true, crc);
  }

  /** Copies the bytes to the main part and logs them. */
  #copy(sector: number, sectors: number, seg: number, place: number, hits: number): void {
    const { segments, log, cache, memory, counters } = this.#state;
    const main = this.#main;
    if (segments.free_for_data < FREE_SEGMENTS && main.room_sectors < sectors) return;
    if (log.available < sectors || !this.#state.verify(seg, place, sectors)) return;
    this.#turn_sectors -= sectors;
    counters.carried_bytes += sectors * SECTOR_BYTES;
    for (let done = 0; done < sectors;) {
      main.take(Math.min(sectors - done, this.#state.max_key_sectors));
      const { taken_seg, taken_place, taken_sectors } = main;
      if (segments.part(taken_seg) !== MAIN) {
        segments.setPart(taken_seg, MAIN);
        this.#stayed[taken_seg] = this.#stayed_before[taken_seg] = Infinity; // not known yet
      }
      const to_addr = cache.dataAddr(taken_seg, taken_place * SECTOR_BYTES);
      const from_addr = cache.dataAddr(seg, (place + done) * SECTOR_BYTES);
      memory.copy(to_addr, from_addr, taken_sectors * SECTOR_BYTES);
      log.reserve(1);
      this.#state.enter(sector + done, taken_sectors, taken_seg, taken_place, true, hits);
      segments.unpin(taken_seg);
      done += taken_sectors;
    }
  }
}

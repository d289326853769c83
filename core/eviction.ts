/**
 * Eviction: what becomes of clean extents when GC comes to their keys.
 *
 * - `fifo`: they are dropped, oldest first.
 * - `reinsert`: those that were read since they came in are carried to the head, in the manner of CLOCK and S3-FIFO: their bytes are copied
 *   to the data head and get a new key, with one hit less. So what a scan brought once goes on the first round, and what is read again
 *   and again stays.
 *
 * Hits are counted in two bits of the index that nothing else uses; the policy is not stored with the cache, and what it writes are keys
 * like any other.
 *
 * Invariants:
 * - of what GC walks over, `MOST_CARRIED` at most is carried, so each round gives space back, however much is hot;
 * - nothing is carried while a request waits for space, nor into the last free segments, nor more than `TURN_SECTORS` in a turn of the loop;
 * - what is carried is clean, the newest of its range, and has been verified.
 *
 * @module
 */

import { SUBTREE_SECTORS } from "./extent_index.ts";
import { SECTOR_BYTES } from "./format.ts";
import type { EngineState } from "./state.ts";

export const EVICTIONS = ["fifo", "reinsert"] as const;
/** How a policy is called in table lines and messages. */
export type Eviction = typeof EVICTIONS[number];

/** Whether a word names a policy. */
export function isEviction(word: string): word is Eviction {
  return (EVICTIONS as readonly string[]).includes(word);
}

/** Of what GC walks over, this part may be carried. */
const MOST_CARRIED = 7 / 8;
/** Most sectors in a turn of the loop: 1 MiB, some hundred microseconds. */
const TURN_SECTORS = 2048;
/** As long as so many segments are free for data. */
const FREE_SEGMENTS = 2;

/** Carries what is hot. */
export class Carrier {
  readonly #state: EngineState;
  /** How many sectors may be carried for those that were walked over; a segment's at most. */
  readonly #most_credit_sectors: number;
  #credit_sectors: number;
  #turn_sectors = TURN_SECTORS;

  constructor(state: EngineState) {
    this.#state = state;
    this.#most_credit_sectors = Math.floor(state.cache.data_bytes / SECTOR_BYTES);
    this.#credit_sectors = this.#most_credit_sectors;
  }

  /** A turn of the loop begins. */
  allow(): void {
    this.#turn_sectors = TURN_SECTORS;
  }

  /** Whether this turn has carried as much as it may. */
  get is_spent(): boolean {
    return this.#turn_sectors <= 0;
  }

  /** GC is about to drop a key that counts: carries what the index still holds of it, and was read. */
  visit(sector: number, sectors: number, seg: number, place: number): void {
    const { index } = this.#state;
    const credit = this.#credit_sectors + sectors * MOST_CARRIED;
    this.#credit_sectors = Math.min(this.#most_credit_sectors, credit);
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
      const hits = is_part ? index.hits(extent) : 0;
      if (hits > 0 && !this.#carry(start, stop - start, seg, origin + start, hits - 1)) return;
      sector = stop;
    }
  }

  /** Copies the bytes to the data head and logs them. False: it may not, now. */
  #carry(sector: number, sectors: number, seg: number, place: number, hits: number): boolean {
    const { segments, log, space, cache, memory, index, counters } = this.#state;
    if (this.#credit_sectors < sectors || segments.free_for_data < FREE_SEGMENTS) return false;
    if (log.available < sectors) return false;
    if (!this.#state.verify(seg, place, sectors)) return true; // its next reader finds it gone, and has it read anew
    this.#credit_sectors -= sectors;
    this.#turn_sectors -= sectors;
    counters.carried_bytes += sectors * SECTOR_BYTES;
    for (let done = 0; done < sectors;) {
      space.take(Math.min(sectors - done, this.#state.max_key_sectors));
      const { taken_seg, taken_place, taken_sectors } = space;
      const to_addr = cache.dataAddr(taken_seg, taken_place * SECTOR_BYTES);
      const from_addr = cache.dataAddr(seg, (place + done) * SECTOR_BYTES);
      memory.copy(to_addr, from_addr, taken_sectors * SECTOR_BYTES);
      log.reserve(1);
      this.#state.enter(sector + done, taken_sectors, taken_seg, taken_place, true);
      index.setHits(index.find(sector + done), hits);
      segments.unpin(taken_seg);
      done += taken_sectors;
    }
    return true;
  }
}

/**
 * Space for data: the data head, which moves through one segment after another.
 *
 * Invariants: the data head's segment is pinned; what was taken is never taken again before its segment was retired;
 * a range taken lies in one segment.
 *
 * @module
 */

import { assert } from "./assert.ts";
import { SECTOR_BYTES } from "./format.ts";
import type { OpenedCache } from "./media.ts";
import type { Memory } from "./platform.ts";
import type { Segments } from "./segments.ts";

/** The data head. Units: sectors of a data area. */
export class Space {
  readonly #cache: OpenedCache;
  readonly #memory: Memory;
  readonly #segments: Segments;
  readonly #data_sectors: number;
  #seg = -1;
  #next = 0;
  /** What the last `take` returned. */
  taken_seg = 0;
  taken_place = 0;
  taken_sectors = 0;
  /** Sectors taken since the start. */
  taken_total = 0;

  constructor(cache: OpenedCache, memory: Memory, segments: Segments) {
    this.#cache = cache;
    this.#memory = memory;
    this.#segments = segments;
    this.#data_sectors = Math.floor(cache.data_bytes / SECTOR_BYTES);
  }

  /** How many sectors can be taken now, in all. */
  get available_sectors(): number {
    return this.#room() + this.#segments.free_for_data * this.#data_sectors;
  }

  /**
   * Takes at most `sectors`, at least one, and pins their segment once; `taken_*` say what. The caller has checked
   * `available_sectors`.
   */
  take(sectors: number): void {
    if (this.#room() === 0) this.#moveOn();
    this.taken_seg = this.#seg;
    this.taken_place = this.#next;
    this.taken_sectors = Math.min(sectors, this.#room());
    this.#next += this.taken_sectors;
    this.taken_total += this.taken_sectors;
    const start_addr = this.#cache.dataAddr(this.#seg, 0);
    this.#memory.aim(
      start_addr + this.taken_place * SECTOR_BYTES,
      start_addr + this.#next * SECTOR_BYTES,
      start_addr + this.#cache.data_bytes,
    );
    this.#segments.pin(this.#seg);
  }

  /** How many sectors are left of the segment. */
  get room_sectors(): number {
    return this.#room();
  }

  /** Leaves the segment as it is; the next `take` begins another. */
  leave(): void {
    if (this.#seg >= 0) this.#segments.unpin(this.#seg);
    this.#seg = -1;
  }

  #room(): number {
    return this.#seg < 0 ? 0 : this.#data_sectors - this.#next;
  }

  #moveOn(): void {
    const left = this.#seg;
    this.#seg = this.#segments.takeForData();
    assert(this.#seg >= 0, "space was checked before it is taken");
    this.#next = 0;
    this.#segments.born[this.#seg] = this.taken_total;
    if (left >= 0) this.#segments.unpin(left);
  }
}

/**
 * Transfer buffers: where the bytes of a miss wait between the backing device and the cache.
 *
 * Space is counted in sectors and found next-fit, so that any request that fits by its sum can be given room, in
 * several parts where need be: a request that asks for all it may need before it starts can never deadlock.
 *
 * Invariant: `free_sectors` is the number of sectors marked free.
 *
 * @module
 */

import { assert } from "./assert.ts";
import { SECTOR_BYTES } from "./format.ts";

/** The allocator over the memory's buffer area. */
export class Buffers {
  readonly #addr: number;
  readonly #taken: Uint8Array;
  #cursor = 0;
  #free_sectors: number;
  /** Sectors of the range that the last `take` returned. */
  taken_sectors = 0;

  constructor(buffer_addr: number, buffer_bytes: number) {
    this.#addr = buffer_addr;
    this.#free_sectors = Math.floor(buffer_bytes / SECTOR_BYTES);
    this.#taken = new Uint8Array(this.#free_sectors);
  }

  get free_sectors(): number {
    return this.#free_sectors;
  }

  get total_sectors(): number {
    return this.#taken.length;
  }

  /** Takes at most `sectors`, at least one; `taken_sectors` says how many. Returns the address. */
  take(sectors: number): number {
    assert(this.#free_sectors > 0, "buffer space was checked before it is taken");
    const from = this.#nextFree();
    const most = Math.min(sectors, this.#taken.length - from);
    let to = from + 1;
    while (to - from < most && this.#taken[to] === 0) to++;
    this.#taken.fill(1, from, to);
    this.#cursor = to;
    this.taken_sectors = to - from;
    this.#free_sectors -= this.taken_sectors;
    return this.#addr + from * SECTOR_BYTES;
  }

  /** Gives a range back. */
  put(addr: number, sectors: number): void {
    const from = (addr - this.#addr) / SECTOR_BYTES;
    this.#taken.fill(0, from, from + sectors);
    this.#free_sectors += sectors;
  }

  #nextFree(): number {
    const after = this.#taken.indexOf(0, this.#cursor);
    return after >= 0 ? after : this.#taken.indexOf(0);
  }
}

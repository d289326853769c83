/**
 * Reads: a walk over the index that turns a range into pieces.
 *
 * Reads that have begun are looked up together at the next `pump` or `takeAnswered`: what they need of the index is fetched from memory at
 * once. A hit is a piece of the segment it lies in, verified first where keys carry checksums. A placeholder is waited for. A hole
 * becomes one or more fills. When nothing is left to wait for, the request is answered with its pieces.
 *
 * Invariants:
 * - a read starts its first fill only when there is buffer space for everything that it may still need, so reads never
 *   wait for each other in a circle, and only when no read waits before it, so none waits for ever;
 * - a piece pins its segment, or references its fill, until the request is released: nothing it names is reused before the
 *   reply has left.
 *
 * @module
 */

import { EIO, OK } from "./errors.ts";
import { MAX_EXPECTED, SUBTREE_SECTORS } from "./extent_index.ts";
import type { Fills, FillWaiter } from "./fills.ts";
import { SECTOR_BYTES } from "./format.ts";
import type { KeySums } from "./key_sums.ts";
import { PENDING, READ, RequestQueue } from "./requests.ts";
import type { EngineState } from "./state.ts";

// Own names for what is imported: V8 folds a module's constants into its code, and loads and checks imported ones at each use.
const SECTOR = SECTOR_BYTES;
const SUBTREE = SUBTREE_SECTORS;
const NO_ERROR = OK;
const GROUP = MAX_EXPECTED;

/** How far a walk came. */
const COMPLETE = 0;
const NO_ROOM = 1;
const DAMAGED = 2;

/** The reading half of the engine. */
export class Reads implements FillWaiter {
  readonly #state: EngineState;
  readonly #fills: Fills;
  /** Reads that have just come. */
  readonly #begun: RequestQueue;
  /** Reads that wait for buffers or pieces, in order. */
  readonly #waiting: RequestQueue;
  /** Where reads that are looked up together begin: extents, -1 for none. */
  readonly #extents = new Int32Array(GROUP);
  /** The key that this walk verified last: its neighbours in the range need not do it again. */
  #verified_seg = -1;
  #verified_from = 0;
  #verified_to = 0;

  constructor(state: EngineState, fills: Fills) {
    this.#state = state;
    this.#fills = fills;
    this.#begun = new RequestQueue(state.requests);
    this.#waiting = new RequestQueue(state.requests);
  }

  /** A read of bytes inside the cached device, which `lookUp` goes on with. Returns its slot; -1: all are in use. */
  begin(off_bytes: number, len_bytes: number): number {
    const { requests, streams, counters } = this.#state;
    const slot = requests.take(READ, off_bytes, len_bytes, false);
    if (slot < 0) return -1;
    counters.reads++;
    requests.passes[slot] = streams.cutoff_bytes > 0 && streams.note(off_bytes, len_bytes) ? 1 : 0;
    this.#begun.push(slot);
    return slot;
  }

  /** Looks up the reads that have come since, many at a time. */
  lookUp(): void {
    const { index, requests, sums } = this.#state;
    while (!this.#begun.is_empty) {
      let slot = this.#begun.peek();
      let count = 0;
      for (; slot >= 0 && count < GROUP; slot = requests.next[slot]!, count++) {
        index.expect(this.#sector(slot));
      }
      index.fetch();
      this.#findFirst(count);
      if (sums !== null && count > 1) this.#fetchSums(sums, count);
      this.#answerFirst(count);
    }
  }

  /** Finds where the first `count` reads that have come begin. */
  #findFirst(count: number): void {
    const { index, requests } = this.#state;
    let slot = this.#begun.peek();
    for (let i = 0; i < count; slot = requests.next[slot]!, i++) {
      this.#extents[i] = index.find(this.#sector(slot));
    }
  }

  /** Reads what the checksums of these will be found by. */
  #fetchSums(sums: KeySums, count: number): void {
    const { index } = this.#state;
    for (let i = 0; i < count; i++) {
      const extent = this.#extents[i]!;
      if (extent < 0 || index.isPlaceholder(extent)) continue;
      sums.fetch(index.segment(extent), index.place(extent));
    }
  }

  /** Answers them, or goes on with them otherwise: a hit ahead of reads that wait, a miss, which would take the buffers that they wait for, behind. */
  #answerFirst(count: number): void {
    let are_found = true;
    for (let i = 0; i < count; i++) {
      const slot = this.#begun.shift();
      const extent = are_found ? this.#extents[i]! : this.#state.index.find(this.#sector(slot));
      if (this.#answerFromOne(slot, extent)) continue;
      are_found = false; // what comes now may change the index, and give an extent's number to another
      if (this.#attempt(slot, this.#waiting.is_empty)) continue;
      this.#state.counters.waited++;
      this.#waiting.push(slot);
    }
  }

  /** The first sector that a request asks for. */
  #sector(slot: number): number {
    return Math.floor(this.#state.requests.off_bytes[slot]! / SECTOR);
  }

  /** Answers a read of bytes that lie in one extent, as most do: the one found where they begin. False: they do not, or need what only a walk does. */
  #answerFromOne(slot: number, extent: number): boolean {
    const { index, pieces, requests, segments, cache, heat } = this.#state;
    const off_bytes = requests.off_bytes[slot]!;
    const len_bytes = requests.len_bytes[slot]!;
    const sector = this.#sector(slot);
    if (extent < 0 || index.isPlaceholder(extent) || !index.isLive(extent)) return false;
    const skip_sectors = (sector & (SUBTREE - 1)) - index.start(extent);
    const skip_bytes = skip_sectors * SECTOR + (off_bytes & (SECTOR - 1));
    if (skip_sectors < 0 || skip_bytes + len_bytes > index.sectors(extent) * SECTOR) return false;
    if (pieces.pool.available === 0) return false;
    const seg = index.segment(extent);
    const place = index.place(extent);
    if (!this.#state.verify(seg, place, index.sectors(extent))) return false;
    const addr = cache.dataAddr(seg, place * SECTOR + skip_bytes);
    const piece = pieces.append(requests, slot, len_bytes);
    pieces.addr[piece] = addr;
    pieces.seg[piece] = seg;
    segments.pin(seg);
    if (heat !== null) {
      index.touch(extent);
      heat.wasRead(sector, Math.ceil(len_bytes / SECTOR));
    }
    this.#state.answer(slot, NO_ERROR);
    return true;
  }

  /** Starts waiting reads whose turn has come. Returns whether any was. */
  step(): boolean {
    let any = false;
    for (let slot = this.#waiting.peek(); slot >= 0; slot = this.#waiting.peek()) {
      // An attempt may link the slot into another queue: it is out of this one first, or stays its first.
      const after = this.#waiting.afterFirst();
      if (!this.#attempt(slot, true)) break;
      this.#waiting.dropFirst(after);
      any = true;
    }
    return any;
  }

  /** A fill that a read's piece waited for has ended. */
  filled(piece: number, errno: number): void {
    const { pieces, requests } = this.#state;
    const slot = pieces.request[piece]!;
    if (errno !== 0) requests.error[slot] = errno;
    this.#wake(slot);
  }

  /** One thing less to wait for; the last one answers. */
  #wake(slot: number): void {
    const { requests } = this.#state;
    requests.waits[slot] = requests.waits[slot]! - 1;
    if (requests.waits[slot] === 0) this.#state.answer(slot, requests.error[slot]!);
  }

  /** Walks the range. `may_fill`: it may take buffers. False: there was no room, nothing was changed, try later. */
  #attempt(slot: number, may_fill: boolean): boolean {
    const { requests, pieces } = this.#state;
    const off_bytes = requests.off_bytes[slot]!;
    const from = Math.floor(off_bytes / SECTOR);
    const to = Math.ceil((off_bytes + requests.len_bytes[slot]!) / SECTOR);
    if (pieces.pool.available < to - from) return false;

    requests.state[slot] = PENDING;
    requests.waits[slot] = 1; // for this walk
    const result = this.#walk(slot, from, to, may_fill);
    if (result === COMPLETE) {
      this.#state.heat?.wasRead(from, to - from);
      this.#wake(slot);
      return true;
    }
    this.#unwait(slot);
    this.#fills.releasePieces(slot);
    if (result === DAMAGED) this.#state.answer(slot, EIO);
    return result !== NO_ROOM;
  }

  /** The request no longer waits for the fills its pieces name. */
  #unwait(slot: number): void {
    const { requests, pieces } = this.#state;
    let piece = requests.first_piece[slot]!;
    for (; piece >= 0; piece = pieces.next[piece]!) {
      if (pieces.fill[piece]! < 0) continue;
      this.#fills.cancel(piece);
      pieces.fill[piece] = -1;
    }
  }

  #walk(slot: number, from: number, to: number, may_fill: boolean): number {
    const { index, buffers } = this.#state;
    this.#verified_seg = -1;
    let has_room = false;
    let sector = from;
    while (sector < to) {
      const subtree = sector - (sector % SUBTREE);
      const limit = Math.min(to, subtree + SUBTREE);
      const extent = index.find(sector);
      const start = extent < 0 ? limit : subtree + index.start(extent);
      if (start > sector || !index.isLive(extent)) {
        has_room ||= may_fill && buffers.free_sectors >= to - sector;
        if (!has_room) return NO_ROOM;
        sector = this.#readHole(slot, sector, index.holeEnd(sector, limit));
        continue;
      }
      const stop = Math.min(limit, start + index.sectors(extent));
      if (index.isPlaceholder(extent)) {
        this.#state.counters.placeholders_waited++;
        this.#waitFor(slot, index.fill(extent), sector, stop);
      } else if (this.#verify(extent)) {
        if (this.#state.heat !== null) index.touch(extent);
        this.#hit(slot, index.segment(extent), index.place(extent) + sector - start, sector, stop);
      } else {
        this.#state.counters.checksum_failures++;
        if (!index.isClean(extent)) return DAMAGED;
        this.#state.heal(start, extent);
        continue;
      }
      sector = stop;
    }
    return COMPLETE;
  }

  /** Starts fills for a hole. Returns its end. */
  #readHole(slot: number, from: number, to: number): number {
    const is_kept = this.#state.requests.passes[slot] === 0;
    let sector = from;
    while (sector < to) {
      const fill = this.#fills.start(sector, to - sector, is_kept);
      const stop = sector + this.#fills.sectorsOf(fill);
      this.#waitFor(slot, fill, sector, stop);
      sector = stop;
    }
    return to;
  }

  #waitFor(slot: number, fill: number, sector: number, stop: number): void {
    const { requests } = this.#state;
    const piece = this.#append(slot, this.#fills.addrOf(fill, sector), sector, stop);
    this.#fills.await(fill, piece);
    requests.waits[slot] = requests.waits[slot]! + 1;
  }

  #hit(slot: number, seg: number, place: number, sector: number, stop: number): void {
    const { requests, pieces, segments, cache } = this.#state;
    const addr = cache.dataAddr(seg, place * SECTOR);
    const last = requests.last_piece[slot]!;
    if (
      last >= 0 && pieces.seg[last] === seg && pieces.addr[last]! + pieces.len_bytes[last]! === addr
    ) {
      pieces.len_bytes[last] = pieces.len_bytes[last]! + this.#bytesOf(slot, sector, stop);
      return;
    }
    const piece = this.#append(slot, addr, sector, stop);
    pieces.seg[piece] = seg;
    segments.pin(seg);
  }

  /** Appends a piece for sectors that lie at `addr`, cut to the request's bytes. */
  #append(slot: number, addr: number, sector: number, stop: number): number {
    const off_bytes = this.#state.requests.off_bytes[slot]!;
    const skip_bytes = Math.max(0, off_bytes - sector * SECTOR);
    const { requests, pieces } = this.#state;
    const piece = pieces.append(requests, slot, this.#bytesOf(slot, sector, stop));
    pieces.addr[piece] = addr + skip_bytes;
    return piece;
  }

  /** How many of the request's bytes lie in the sectors. */
  #bytesOf(slot: number, sector: number, stop: number): number {
    const off_bytes = this.#state.requests.off_bytes[slot]!;
    const end_bytes = off_bytes + this.#state.requests.len_bytes[slot]!;
    return Math.min(stop * SECTOR, end_bytes) - Math.max(sector * SECTOR, off_bytes);
  }

  #verify(extent: number): boolean {
    const { index, sums } = this.#state;
    if (sums === null) return true;
    const seg = index.segment(extent);
    const place = index.place(extent);
    const sectors = index.sectors(extent);
    const is_known = seg === this.#verified_seg && place >= this.#verified_from &&
      place + sectors <= this.#verified_to;
    if (is_known) return true;
    if (!this.#state.verify(seg, place, sectors)) return false;
    this.#verified_seg = seg;
    this.#verified_from = sums.found_start;
    this.#verified_to = sums.found_start + sums.found_sectors;
    return true;
  }
}

/**
 * Writes: space is taken first, the payload received into it, and only then the index and the log are changed.
 *
 * A write is cut into pieces, one key each: at 4 MiB boundaries, at the end of the data head's segment, and, for a
 * write that is not aligned to sectors, around its first and last sector. Such an edge keeps the rest of its sector: the old bytes
 * are copied in at the moment the key is entered, so no other write can come between.
 *
 * Writes whose payload has come are entered together, in order, at the next `pump` or `takeAnswered`: what they need of the index is
 * fetched from memory at once.
 *
 * Zeroing (`zeroes.ts`) has no payload. It takes its turn among the writes that wait, and then goes over its range from the start to the
 * end, a key at a time, as far as there is room for keys; its edges are those of a write. So a long one is not atomic, as a long
 * write is not while its reader is about.
 *
 * Where the cache mode has writes go around the cache (`arounds.ts`), one whose range the cache does not hold is received into transfer
 * buffers. If it is still not there when the payload has come, it is written to the backing device; else it is moved into the
 * cache and logged.
 *
 * Invariants:
 * - only the first in the queue zeroes; it takes a bounded number of keys between two calls of `allowKeys`;
 * - what a write needs (space, pieces, room in the log) is taken whole or not at all, in the order writes came;
 * - a piece pins its segment from then until its key is staged.
 *
 * @module
 */

import { EIO, OK } from "./errors.ts";
import { MAX_EXPECTED, SUBTREE_SECTORS } from "./extent_index.ts";
import type { Fills, FillWaiter } from "./fills.ts";
import type { Flushes } from "./flushes.ts";
import { SECTOR_BYTES } from "./format.ts";
import {
  ABANDONED,
  PENDING,
  PLACED,
  RECEIVING,
  RequestQueue,
  TRIM,
  WRITE,
  ZERO,
} from "./requests.ts";
import type { EngineState } from "./state.ts";

// Own names for what is imported: V8 folds a module's constants into its code, and loads and checks imported ones at each use.
const SECTOR = SECTOR_BYTES;
const SUBTREE = SUBTREE_SECTORS;
const IS_PENDING = PENDING;
const IS_PLACED = PLACED;
const NO_ERROR = OK;
const GROUP = MAX_EXPECTED;
/** Most keys of zeroing in a turn of the loop: with checksums, 64 MiB. */
const MAX_ZERO_KEYS = 1024;
const ZEROES = new Uint8Array(SECTOR_BYTES);

/** The writing half of the engine. */
export class Writes implements FillWaiter {
  readonly #state: EngineState;
  readonly #fills: Fills;
  readonly #flushes: Flushes;
  readonly #waiting: RequestQueue;
  /** Writes whose payload has just come. */
  readonly #arrived: RequestQueue;
  /** Writes that were to go around the cache, and have to be logged now: they wait for room. */
  readonly #displaced: RequestQueue;
  /** Edges that wait for buffer space, linked through `Pieces.next_waiter`. */
  #first_edge = -1;
  /** Of the first in the queue, if it zeroes: the sector that it goes on with; -1: it has not begun. */
  #zero_next = -1;
  /** How many keys may be zeroed in this turn of the loop. */
  #zero_keys_left = MAX_ZERO_KEYS;

  constructor(state: EngineState, fills: Fills, flushes: Flushes) {
    this.#state = state;
    this.#fills = fills;
    this.#flushes = flushes;
    this.#waiting = new RequestQueue(state.requests);
    this.#arrived = new RequestQueue(state.requests);
    this.#displaced = new RequestQueue(state.requests);
  }

  /** Whether a write waits for space. */
  get is_starved(): boolean {
    return !this.#displaced.is_empty || (!this.#waiting.is_empty && !this.is_cut_short);
  }

  /** Whether a zeroing waits for nothing but the next turn. */
  get is_cut_short(): boolean {
    return !this.#waiting.is_empty && this.#zero_keys_left === 0;
  }

  /** A turn of the loop begins. */
  allowKeys(): void {
    this.#zero_keys_left = MAX_ZERO_KEYS;
  }

  /** A write of bytes inside the cached device. Returns its slot; -1: all are in use. */
  begin(off_bytes: number, len_bytes: number, fua: boolean): number {
    const { requests, counters, barriers } = this.#state;
    const slot = requests.take(WRITE, off_bytes, len_bytes, fua);
    if (slot < 0) return -1;
    counters.writes++;
    // A failed medium can promise nothing. The payload still needs a place to be received into, or the request is
    // answered before it: the caller drains it then.
    if (barriers.has_failed) this.#state.answer(slot, EIO);
    else if (this.#state.through.is_around && this.#mayGoAround(slot)) this.#placeAround(slot);
    else if (!this.#waiting.is_empty || !this.#place(slot)) {
      counters.waited++;
      this.#waiting.push(slot);
    }
    return slot;
  }

  /** Zeroing of bytes inside the cached device. Returns its slot; -1: all are in use. */
  beginZero(off_bytes: number, len_bytes: number, may_punch: boolean, fua: boolean): number {
    const { requests, counters, barriers } = this.#state;
    const slot = requests.take(may_punch ? TRIM : ZERO, off_bytes, len_bytes, fua);
    if (slot < 0) return -1;
    if (may_punch) counters.trims++;
    else counters.zeroes++;
    if (barriers.has_failed) {
      this.#state.answer(slot, EIO);
      return slot;
    }
    const is_first = this.#waiting.is_empty;
    this.#waiting.push(slot);
    if (is_first) this.#zeroFirst(slot);
    return slot;
  }

  /** All bytes of a placed write are in place: `enterArrived` goes on with it. */
  arrived(slot: number): void {
    this.#state.requests.state[slot] = IS_PENDING;
    this.#arrived.push(slot);
  }

  /** Enters the writes that have arrived since into index and log, in order, many at a time. */
  enterArrived(): void {
    const { index, requests } = this.#state;
    while (!this.#arrived.is_empty) {
      let slot = this.#arrived.peek();
      let count = 0;
      for (; slot >= 0 && count < GROUP; slot = requests.next[slot]!, count++) {
        index.expect(Math.floor(requests.off_bytes[slot]! / SECTOR));
      }
      index.fetch();
      for (; count > 0; count--) this.#enterPieces(this.#arrived.shift());
    }
  }

  #enterPieces(slot: number): void {
    const { requests, pieces } = this.#state;
    if (this.#isAround(slot)) return this.#enterAround(slot);
    requests.waits[slot] = 1; // for this loop
    let piece = requests.first_piece[slot]!;
    for (; piece >= 0; piece = pieces.next[piece]!) {
      if (this.#isEdge(piece)) this.#enterEdge(piece);
      else this.#enter(piece);
    }
    this.#wake(slot);
  }

  /** The client of a write that has not been answered has vanished before its payload was there. */
  lost(slot: number): void {
    const { requests, pieces, log } = this.#state;
    const state = requests.state[slot]!;
    if (state === PLACED || state === RECEIVING) {
      for (let piece = requests.first_piece[slot]!; piece >= 0; piece = pieces.next[piece]!) {
        if (pieces.seg[piece]! >= 0) log.unreserve(1);
      }
      this.#fills.releasePieces(slot);
    }
    if (state === RECEIVING) requests.pool.put(slot);
    else requests.state[slot] = ABANDONED; // it is in a queue still
  }

  /** Places waiting writes whose turn has come, and retries edges. Returns whether any was. */
  step(): boolean {
    let any = this.#retryEdges();
    any = this.#displace() || any;
    for (let slot = this.#waiting.peek(); slot >= 0; slot = this.#waiting.peek()) {
      if (this.#state.requests.state[slot] === ABANDONED) {
        this.#waiting.shift();
        this.#state.requests.pool.put(slot);
      } else if (this.#isZeroing(slot)) {
        if (!this.#zeroFirst(slot)) return any;
      } else if (this.#state.barriers.has_failed) {
        this.#waiting.shift();
        this.#state.answer(slot, EIO);
      } else {
        // Its turn ends the wait: shift first, since placing links the slot into another queue.
        if (!this.#hasRoom(slot)) break;
        this.#waiting.shift();
        this.#place(slot);
      }
      any = true;
    }
    return any;
  }

  /** The fill that an edge waited for has ended. */
  filled(piece: number, errno: number): void {
    const { pieces, requests, index, log } = this.#state;
    const slot = pieces.request[piece]!;
    const fill = pieces.fill[piece]!;
    const sector = pieces.sector[piece]!;
    if (pieces.seg[piece]! < 0) { // it went around, from the fill's own buffer
      if (errno !== 0) requests.error[slot] = errno;
      return this.#wake(slot);
    }
    pieces.fill[piece] = -1;
    if (errno !== 0) {
      requests.error[slot] = errno;
      log.unreserve(1);
    } else {
      const extent = index.find(sector);
      if (extent >= 0 && index.isPlaceholder(extent) && index.fill(extent) === fill) {
        this.#mend(piece, this.#fills.addrOf(fill, sector));
      } else {
        this.#enterEdge(piece); // overwritten meanwhile: what is there now counts
      }
    }
    this.#fills.unref(fill);
    this.#wake(slot);
  }

  #isZeroing(slot: number): boolean {
    const kind = this.#state.requests.kind[slot]!;
    return kind === ZERO || kind === TRIM;
  }

  /**
   * Zeroes as much of the first request in the queue as can be zeroed now; the last of it takes it off the queue. Returns whether
   * anything changed.
   */
  #zeroFirst(slot: number): boolean {
    const { requests, barriers, counters } = this.#state;
    const may_punch = requests.kind[slot] === TRIM;
    const off_bytes = requests.off_bytes[slot]!;
    const end_bytes = off_bytes + requests.len_bytes[slot]!;
    const from = this.#zero_next;
    if (barriers.has_failed) {
      requests.error[slot] = EIO;
      if (from < 0) requests.waits[slot] = 1;
    } else {
      if (from < 0 && !this.#zeroEdges(slot)) return false;
      const end = Math.floor(end_bytes / SECTOR);
      while (this.#zero_next < end && this.#zeroKey(this.#zero_next, end, may_punch));
      if (this.#zero_next < end) return this.#zero_next !== from;
      if (may_punch) counters.trimmed_bytes += end_bytes - off_bytes;
      else counters.zeroed_bytes += end_bytes - off_bytes;
    }
    this.#zero_next = -1;
    this.#waiting.shift();
    requests.state[slot] = IS_PENDING; // unless this was the last to wait for
    this.#wake(slot);
    return true;
  }

  /** Begins a zeroing: enters the parts of sectors at its ends. False: there was no room for these, nothing was changed. */
  #zeroEdges(slot: number): boolean {
    const { requests, pieces, space, log, memory, zero_areas } = this.#state;
    const off_bytes = requests.off_bytes[slot]!;
    const end_bytes = off_bytes + requests.len_bytes[slot]!;
    const from = Math.floor(off_bytes / SECTOR);
    const last = Math.floor((end_bytes - 1) / SECTOR);
    const has_head_edge = off_bytes % SECTOR !== 0;
    const has_tail_edge = end_bytes % SECTOR !== 0 && !(has_head_edge && from === last);
    const edges = (has_head_edge ? 1 : 0) + (has_tail_edge ? 1 : 0);
    const available = Math.min(pieces.pool.available, space.available_sectors, log.available);
    if (available < edges) return false;
    if (has_head_edge) this.#placePiece(slot, from, 1);
    if (has_tail_edge) this.#placePiece(slot, last, 1);
    requests.waits[slot] = 1; // for the sectors between
    for (let piece = requests.first_piece[slot]!; piece >= 0; piece = pieces.next[piece]!) {
      memory.write(pieces.addr[piece]!, ZEROES, pieces.len_bytes[piece]!);
      this.#enterEdge(piece);
    }
    zero_areas.begin(requests.kind[slot] === TRIM);
    this.#zero_next = has_head_edge ? from + 1 : from;
    return true;
  }

  /** Zeroes the next key's sectors, from `sector` to `end` at most. False: there is no room now. */
  #zeroKey(sector: number, end: number, may_punch: boolean): boolean {
    const { log, index, space, segments, sums, max_key_sectors, zero_areas } = this.#state;
    if (this.#zero_keys_left === 0 || log.available === 0) return false;
    const needed = zero_areas.needsArea(may_punch) ? zero_areas.most_taken_sectors : 0;
    if (space.available_sectors < needed) return false;
    this.#zero_keys_left--;
    const in_subtree = SUBTREE - sector % SUBTREE;
    const most = Math.min(end - sector, in_subtree, max_key_sectors);
    zero_areas.locate(sector, most, may_punch);
    const { located_seg: seg, located_place: place, located_sectors: sectors } = zero_areas;
    log.reserve(1);
    index.insertCached(sector, sectors, seg, place, false);
    const crc = sums === null ? 0 : zero_areas.crcOf(sectors);
    this.#state.logKey(sector, sectors, seg, place, false, crc);
    segments.unpin(seg);
    this.#zero_next = sector + sectors;
    return true;
  }

  /** Most pieces that the request can be cut into. */
  #mostPieces(sectors: number): number {
    const { max_key_sectors, cache } = this.#state;
    const data_sectors = Math.floor(cache.data_bytes / SECTOR);
    const cuts = Math.ceil(sectors / max_key_sectors) + Math.ceil(sectors / SUBTREE);
    return cuts + Math.ceil(sectors / data_sectors) + 4;
  }

  #hasRoom(slot: number): boolean {
    const { requests, pieces, space, log } = this.#state;
    const off_bytes = requests.off_bytes[slot]!;
    const end_bytes = off_bytes + requests.len_bytes[slot]!;
    const sectors = Math.ceil(end_bytes / SECTOR) - Math.floor(off_bytes / SECTOR);
    if (space.available_sectors < sectors) return false;
    const available = Math.min(pieces.pool.available, log.available);
    // A piece has a sector at least: that is bound enough, unless there is little left.
    return available >= sectors || available >= this.#mostPieces(sectors);
  }

  /** Takes what the write needs; false: not all of it is there, nothing was taken. */
  #place(slot: number): boolean {
    if (!this.#hasRoom(slot)) return false;
    const { requests, placed } = this.#state;
    const off_bytes = requests.off_bytes[slot]!;
    const end_bytes = off_bytes + requests.len_bytes[slot]!;
    const from = Math.floor(off_bytes / SECTOR);
    const to = Math.ceil(end_bytes / SECTOR);
    const has_head_edge = (off_bytes & (SECTOR - 1)) !== 0;
    const has_tail_edge = (end_bytes & (SECTOR - 1)) !== 0;
    let sector = from;
    while (sector < to) {
      let stop = to;
      if (sector === from && has_head_edge) stop = from + 1;
      else if (has_tail_edge && sector < to - 1) stop = to - 1;
      sector += this.#placePiece(slot, sector, stop - sector);
    }
    requests.state[slot] = IS_PLACED;
    placed.push(slot);
    return true;
  }

  /** Takes space for a piece of at most `sectors`. Returns how many it has. */
  #placePiece(slot: number, sector: number, sectors: number): number {
    const { requests, pieces, space, log, cache, max_key_sectors } = this.#state;
    const in_subtree = SUBTREE - (sector & (SUBTREE - 1));
    space.take(Math.min(sectors, max_key_sectors, in_subtree));
    log.reserve(1);
    const { taken_seg, taken_place, taken_sectors } = space;
    const off_bytes = requests.off_bytes[slot]!;
    const end_bytes = off_bytes + requests.len_bytes[slot]!;
    const skip_bytes = Math.max(0, off_bytes - sector * SECTOR);
    const most_bytes = Math.min(end_bytes - sector * SECTOR, taken_sectors * SECTOR);
    const addr = cache.dataAddr(taken_seg, taken_place * SECTOR) + skip_bytes;
    const piece = pieces.append(requests, slot, most_bytes - skip_bytes);
    pieces.addr[piece] = addr;
    pieces.seg[piece] = taken_seg;
    pieces.place[piece] = taken_place;
    pieces.sector[piece] = sector;
    pieces.sectors[piece] = taken_sectors;
    return taken_sectors;
  }

  /** Whether the request may go around the cache, as far as can be told before its payload is here. */
  #mayGoAround(slot: number): boolean {
    const { requests, pieces, buffers, arounds } = this.#state;
    const off_bytes = requests.off_bytes[slot]!;
    const len_bytes = requests.len_bytes[slot]!;
    if (arounds.is_barred || !arounds.is_announced) return false;
    if (off_bytes % SECTOR !== 0 || len_bytes % SECTOR !== 0) return false;
    const sectors = len_bytes / SECTOR;
    // Half of the buffers is left to reads: a client that does not send its payload must not hold them up.
    if (buffers.free_sectors - sectors < buffers.total_sectors / 2) return false;
    return pieces.pool.available >= sectors && this.#isHole(slot);
  }

  /** Whether the cache holds nothing of the request's sectors, and nothing is about to come there. */
  #isHole(slot: number): boolean {
    const { requests, index } = this.#state;
    const end = (requests.off_bytes[slot]! + requests.len_bytes[slot]!) / SECTOR;
    let sector = requests.off_bytes[slot]! / SECTOR;
    while (sector < end) {
      const limit = Math.min(end, sector - (sector % SUBTREE) + SUBTREE);
      if (index.holeEnd(sector, limit) < limit) return false;
      sector = limit;
    }
    return true;
  }

  /** Takes buffers for a write that may go around the cache. */
  #placeAround(slot: number): void {
    const { requests, pieces, placed } = this.#state;
    const end = (requests.off_bytes[slot]! + requests.len_bytes[slot]!) / SECTOR;
    let sector = requests.off_bytes[slot]! / SECTOR;
    while (sector < end) {
      const in_subtree = SUBTREE - sector % SUBTREE;
      const fill = this.#fills.takeForWrite(sector, Math.min(end - sector, in_subtree));
      const sectors = this.#fills.sectorsOf(fill);
      const piece = pieces.append(requests, slot, sectors * SECTOR);
      pieces.addr[piece] = this.#fills.addrOf(fill, sector);
      pieces.fill[piece] = fill;
      pieces.sector[piece] = sector;
      pieces.sectors[piece] = sectors;
      sector += sectors;
    }
    requests.state[slot] = IS_PLACED;
    placed.push(slot);
  }

  /** Whether the write's payload lies in transfer buffers: it goes around the cache. */
  #isAround(slot: number): boolean {
    const piece = this.#state.requests.first_piece[slot]!;
    return piece >= 0 && this.#state.pieces.fill[piece]! >= 0;
  }

  /** Writes a payload that has come around the cache, or has it logged if the cache holds some of its range by now. */
  #enterAround(slot: number): void {
    const { requests, pieces, arounds, through } = this.#state;
    requests.waits[slot] = 1; // for this loop, or for room
    const may_go = through.is_around && arounds.is_announced && !arounds.is_barred;
    if (!may_go || !this.#isHole(slot)) return this.#displaced.push(slot);
    for (let piece = requests.first_piece[slot]!; piece >= 0; piece = pieces.next[piece]!) {
      requests.waits[slot] = requests.waits[slot]! + 1;
      this.#fills.startWrite(piece);
    }
    this.#wake(slot);
  }

  /** Logs those that were to go around, as far as there is room. Returns whether any was. */
  #displace(): boolean {
    const { barriers } = this.#state;
    let any = false;
    for (let slot = this.#displaced.peek(); slot >= 0; slot = this.#displaced.peek()) {
      if (!barriers.has_failed && !this.#hasRoom(slot)) break;
      this.#displaced.shift();
      if (barriers.has_failed) this.#state.answer(slot, EIO);
      else this.#moveIntoCache(slot);
      any = true;
    }
    return any;
  }

  /** Takes space and room in the log for a write whose payload lies in buffers, moves it there and enters it. */
  #moveIntoCache(slot: number): void {
    const { requests, pieces, memory } = this.#state;
    let from = requests.first_piece[slot]!;
    requests.first_piece[slot] = -1;
    requests.last_piece[slot] = -1;
    while (from >= 0) {
      const sectors = pieces.sectors[from]!;
      for (let done = 0; done < sectors;) {
        const taken = this.#placePiece(slot, pieces.sector[from]! + done, sectors - done);
        const to = requests.last_piece[slot]!;
        memory.copy(pieces.addr[to]!, pieces.addr[from]! + done * SECTOR, taken * SECTOR);
        this.#enter(to);
        done += taken;
      }
      const next = pieces.next[from]!;
      this.#fills.unref(pieces.fill[from]!);
      pieces.pool.put(from);
      from = next;
    }
    this.#wake(slot);
  }

  #isEdge(piece: number): boolean {
    const { pieces } = this.#state;
    return pieces.len_bytes[piece]! < pieces.sectors[piece]! * SECTOR;
  }

  /** One thing less to wait for; the last one answers, or waits for the log. */
  #wake(slot: number): void {
    const { requests } = this.#state;
    requests.waits[slot] = requests.waits[slot]! - 1;
    if (requests.waits[slot]! > 0) return;
    if (requests.error[slot] !== NO_ERROR) this.#state.answer(slot, requests.error[slot]!);
    else if (requests.fua[slot] === 1) {
      if (this.#isAround(slot)) this.#flushes.awaitAround(slot);
      else this.#flushes.await(slot);
    } else if (this.#state.through.is_on && !this.#isAround(slot)) {
      this.#flushes.awaitWritten(slot);
    } else this.#state.answer(slot, NO_ERROR);
  }

  /** The piece's sectors are whole: makes them the newest of their range. */
  #enter(piece: number): void {
    const { pieces, segments, heat } = this.#state;
    const seg = pieces.seg[piece]!;
    const sector = pieces.sector[piece]!;
    const sectors = pieces.sectors[piece]!;
    const hits = heat === null ? 0 : heat.wasWritten(sector, sectors);
    this.#state.enter(sector, sectors, seg, pieces.place[piece]!, false, hits);
    pieces.seg[piece] = -1;
    segments.unpin(seg);
  }

  /** Completes an edge's sector from what it holds now: a hit, a fill to wait for, or a new fill. */
  #enterEdge(piece: number): void {
    const { pieces, requests, index, cache, counters, buffers } = this.#state;
    const slot = pieces.request[piece]!;
    const sector = pieces.sector[piece]!;
    const extent = index.find(sector);
    const start = extent < 0 ? Infinity : sector - (sector % SUBTREE) + index.start(extent);
    const is_hole = start > sector || !index.isLive(extent);
    if (!is_hole && !index.isPlaceholder(extent)) {
      const seg = index.segment(extent);
      if (this.#state.verify(seg, index.place(extent), index.sectors(extent))) {
        const place = index.place(extent) + sector - start;
        return this.#mend(piece, cache.dataAddr(seg, place * SECTOR));
      }
      counters.checksum_failures++;
      if (!index.isClean(extent)) {
        requests.error[slot] = EIO;
        return this.#state.log.unreserve(1);
      }
      this.#state.heal(start, extent);
      return this.#enterEdge(piece);
    }
    requests.waits[slot] = requests.waits[slot]! + 1;
    if (!is_hole) return this.#fills.await(index.fill(extent), piece);
    if (buffers.free_sectors > 0) {
      return this.#fills.await(this.#fills.start(sector, 1, true), piece);
    }
    pieces.next_waiter[piece] = this.#first_edge;
    this.#first_edge = piece;
  }

  /** Copies what the write leaves of its sector from `from_addr`, and enters it. */
  #mend(piece: number, from_addr: number): void {
    const { pieces, memory, cache } = this.#state;
    const to_addr = cache.dataAddr(pieces.seg[piece]!, pieces.place[piece]! * SECTOR);
    const head_bytes = pieces.addr[piece]! - to_addr;
    const tail_from = head_bytes + pieces.len_bytes[piece]!;
    memory.copy(to_addr, from_addr, head_bytes);
    memory.copy(to_addr + tail_from, from_addr + tail_from, SECTOR - tail_from);
    this.#enter(piece);
  }

  #retryEdges(): boolean {
    let piece = this.#first_edge;
    if (piece < 0 || this.#state.buffers.free_sectors === 0) return false;
    const { pieces } = this.#state;
    this.#first_edge = -1;
    while (piece >= 0) {
      const next = pieces.next_waiter[piece]!;
      this.#enterEdge(piece);
      this.#wake(pieces.request[piece]!);
      piece = next;
    }
    return true;
  }
}

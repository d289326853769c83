/**
 * Fills: misses on their way from the backing device.
 *
 * A fill reads one range into a transfer buffer and stands in the index as a placeholder, so that whoever wants the
 * same range waits for it. When its bytes come, what is left of the placeholder is stored as clean keys; a write
 * that came meanwhile has cut its part out.
 *
 * A write that goes around the cache (`arounds.ts`) is a fill the other way: its payload is received into the buffer, and written to
 * the backing device from there, while its placeholder keeps others from the range. Nothing of it is stored in the cache. Nor is
 * what a read of a long stream brings (`streams.ts`).
 *
 * Invariants:
 * - a fill lies in one subtree; its buffer is held until its last reference is gone: its own while it is under way,
 *   and one for each piece that waits for it or is answered from it;
 * - every placeholder in the index names a fill that is under way, and lies in its range.
 *
 * @module
 */

import { EIO } from "./errors.ts";
import { SUBTREE_SECTORS } from "./extent_index.ts";
import { SECTOR_BYTES } from "./format.ts";
import type { Gather } from "./platform.ts";
import { SlotPool } from "./slot_pool.ts";
import type { EngineState } from "./state.ts";

/** Longest fill, in sectors: 1 MiB. */
const MAX_FILL_SECTORS = 2048;
/** Ids of backing reads, and of writes that go around: 0 .. MAX_FILL_READS-1. */
export const MAX_FILL_READS = 256;

/** Told when what a piece waited for has come. */
export interface FillWaiter {
  /** The fill ended; the piece's bytes are in its buffer unless `errno` says otherwise. */
  filled(piece: number, errno: number): void;
}

/** A fill that reads; one that writes has the epoch it began in (`arounds.ts`). */
const READS = 2;
/** A fill that reads, and of which nothing is kept. */
const PASSES = 3;

/** The one range of a write. */
class OneRange implements Gather {
  readonly count = 1;
  addr_bytes = 0;
  len_bytes = 0;

  addr(): number {
    return this.addr_bytes;
  }

  len(): number {
    return this.len_bytes;
  }
}

/** The fills under way. */
export class Fills {
  readonly #state: EngineState;
  readonly #pool: SlotPool;
  readonly #sector: Float64Array;
  readonly #sectors: Uint32Array;
  readonly #addr: Float64Array;
  readonly #refs: Uint32Array;
  readonly #first_waiter: Int32Array;
  /** Fills that wait for a free id, in order. */
  readonly #next: Int32Array;
  /** READS, PASSES, or the epoch of a write. */
  readonly #kind: Uint8Array;
  readonly #range = new OneRange();
  #queue_first = -1;
  #queue_last = -1;
  readonly #ids = new SlotPool(MAX_FILL_READS);
  readonly #fill_of_id = new Int32Array(MAX_FILL_READS);

  constructor(state: EngineState) {
    this.#state = state;
    // A fill holds a sector of the transfer buffers at least: these run out first.
    const most = state.buffers.total_sectors;
    this.#pool = new SlotPool(most);
    this.#sector = new Float64Array(most);
    this.#sectors = new Uint32Array(most);
    this.#addr = new Float64Array(most);
    this.#refs = new Uint32Array(most);
    this.#first_waiter = new Int32Array(most);
    this.#next = new Int32Array(most);
    this.#kind = new Uint8Array(most);
  }

  /** How many fills hold a buffer. */
  get in_use(): number {
    return this.#pool.in_use;
  }

  sector(fill: number): number {
    return this.#sector[fill]!;
  }

  /** Address in the fill's buffer of a sector of the cached device. */
  addrOf(fill: number, sector: number): number {
    return this.#addr[fill]! + (sector - this.#sector[fill]!) * SECTOR_BYTES;
  }

  /**
   * Starts to read a hole of the index: at most `sectors`, which lie in one subtree. Buffer space was checked. Returns the
   * fill; `sectorsOf` says how much it covers. `is_kept`: what comes becomes clean keys, if the cache mode has it so.
   */
  start(sector: number, sectors: number, is_kept: boolean): number {
    const { index, counters } = this.#state;
    const fill = this.#take(sector, sectors);
    if (!is_kept) this.#kind[fill] = PASSES;
    index.insertPlaceholder(sector, this.#sectors[fill]!, fill);
    counters.fills++;
    this.#enqueue(fill);
    return fill;
  }

  /**
   * Takes a buffer for a write that is to go around the cache: at most `sectors`, which lie in one subtree. Buffer space was checked.
   * Returns the fill, with the reference of the piece that will name it.
   */
  takeForWrite(sector: number, sectors: number): number {
    return this.#take(sector, sectors);
  }

  /** Starts the write of a piece whose payload lies in its fill's buffer. Its range is a hole of the index. */
  startWrite(piece: number): void {
    const { index, pieces, arounds } = this.#state;
    const fill = pieces.fill[piece]!;
    this.#kind[fill] = arounds.begin();
    this.#refs[fill] = this.#refs[fill]! + 1;
    pieces.next_waiter[piece] = -1;
    this.#first_waiter[fill] = piece;
    index.insertPlaceholder(this.#sector[fill]!, this.#sectors[fill]!, fill);
    this.#enqueue(fill);
  }

  #take(sector: number, sectors: number): number {
    const { buffers } = this.#state;
    const fill = this.#pool.take();
    this.#addr[fill] = buffers.take(Math.min(sectors, MAX_FILL_SECTORS));
    this.#sector[fill] = sector;
    this.#sectors[fill] = buffers.taken_sectors;
    this.#refs[fill] = 1;
    this.#first_waiter[fill] = -1;
    this.#kind[fill] = READS;
    return fill;
  }

  sectorsOf(fill: number): number {
    return this.#sectors[fill]!;
  }

  /** Lets a piece wait for the fill; the piece holds a reference from now on, until `unref`. */
  await(fill: number, piece: number): void {
    const { pieces } = this.#state;
    pieces.fill[piece] = fill;
    pieces.next_waiter[piece] = this.#first_waiter[fill]!;
    this.#first_waiter[fill] = piece;
    this.#refs[fill] = this.#refs[fill]! + 1;
  }

  /** Forgets that the piece waits, and its reference. The fill is still under way. */
  cancel(piece: number): void {
    const { pieces } = this.#state;
    const fill = pieces.fill[piece]!;
    let at = this.#first_waiter[fill]!;
    if (at === piece) this.#first_waiter[fill] = pieces.next_waiter[piece]!;
    else {
      while (pieces.next_waiter[at] !== piece) at = pieces.next_waiter[at]!;
      pieces.next_waiter[at] = pieces.next_waiter[piece]!;
    }
    this.unref(fill);
  }

  /** Gives a reference back; the last one frees the buffer. */
  unref(fill: number): void {
    this.#refs[fill] = this.#refs[fill]! - 1;
    if (this.#refs[fill]! > 0) return;
    this.#state.buffers.put(this.#addr[fill]!, this.#sectors[fill]!);
    this.#pool.put(fill);
  }

  /** Gives back what a request's pieces hold, and the pieces. */
  releasePieces(slot: number): void {
    const { pieces, requests, segments } = this.#state;
    let piece = requests.first_piece[slot]!;
    while (piece >= 0) {
      const next = pieces.next[piece]!;
      if (pieces.seg[piece]! >= 0) segments.unpin(pieces.seg[piece]!);
      if (pieces.fill[piece]! >= 0) this.unref(pieces.fill[piece]!);
      pieces.pool.put(piece);
      piece = next;
    }
    requests.first_piece[slot] = -1;
    requests.last_piece[slot] = -1;
  }

  /** Hands waiting fills to the backing device. Returns whether any was. */
  step(): boolean {
    let any = false;
    while (this.#queue_first >= 0 && this.#ids.available > 0) {
      const fill = this.#queue_first;
      this.#queue_first = this.#next[fill]!;
      const id = this.#ids.take();
      this.#fill_of_id[id] = fill;
      const off_bytes = this.#sector[fill]! * SECTOR_BYTES;
      const len_bytes = this.#sectors[fill]! * SECTOR_BYTES;
      const addr = this.#addr[fill]!;
      if (this.#kind[fill]! >= READS) this.#state.backing.read(id, off_bytes, len_bytes, addr);
      else {
        this.#range.addr_bytes = addr;
        this.#range.len_bytes = len_bytes;
        this.#state.backing.write(id, off_bytes, len_bytes, this.#range);
      }
      any = true;
    }
    return any;
  }

  /** The backing read `id` has ended. `edges` are the waiting writes, `reads` the waiting reads. */
  done(id: number, errno: number, edges: FillWaiter, reads: FillWaiter): void {
    const fill = this.#fill_of_id[id]!;
    this.#ids.put(id);
    const result = errno === 0 ? 0 : EIO;
    const kind = this.#kind[fill]!;
    if (kind < READS) this.#endWrite(fill, kind, errno);
    else if (errno !== 0) this.#state.counters.backing_read_errors++;
    else if (kind === PASSES) {
      this.#state.counters.passed_bytes += this.#sectors[fill]! * SECTOR_BYTES;
    }
    // Edges first: they need the placeholder to see whether the buffer is still the newest, and cut it.
    this.#tell(fill, result, edges, true);
    this.#settle(fill, kind === READS && errno === 0 && this.#state.through.keeps_misses);
    this.#tell(fill, result, reads, false);
    this.unref(fill);
  }

  /** A write has ended that went around the cache. */
  #endWrite(fill: number, epoch: number, errno: number): void {
    const { arounds, counters } = this.#state;
    arounds.end(epoch as 0 | 1, this.#sector[fill]!);
    if (errno !== 0) counters.backing_write_errors++;
    else counters.around_bytes += this.#sectors[fill]! * SECTOR_BYTES;
  }

  /** Tells the waiters of one kind: those that write, or those that read. */
  #tell(fill: number, errno: number, waiter: FillWaiter, writes: boolean): void {
    const { pieces } = this.#state;
    let piece = this.#first_waiter[fill]!;
    this.#first_waiter[fill] = -1;
    while (piece >= 0) {
      const next = pieces.next_waiter[piece]!; // a waiter may wait again, elsewhere
      const is_write = pieces.sectors[piece]! > 0;
      if (is_write === writes) {
        waiter.filled(piece, errno);
      } else {
        pieces.next_waiter[piece] = this.#first_waiter[fill]!;
        this.#first_waiter[fill] = piece;
      }
      piece = next;
    }
  }

  #enqueue(fill: number): void {
    this.#next[fill] = -1;
    if (this.#queue_first < 0) this.#queue_first = fill;
    else this.#next[this.#queue_last] = fill;
    this.#queue_last = fill;
  }

  /** Ends what is left of the placeholder: keeps its bytes as clean keys, or leaves holes. */
  #settle(fill: number, keep: boolean): void {
    const { index } = this.#state;
    const end = this.#sector[fill]! + this.#sectors[fill]!;
    let sector = this.#sector[fill]!;
    while (sector < end) {
      const extent = index.find(sector);
      if (extent < 0) return;
      const start = sector - (sector % SUBTREE_SECTORS) + index.start(extent);
      if (start >= end) return;
      const stop = start + index.sectors(extent);
      if (index.isPlaceholder(extent) && index.fill(extent) === fill) {
        if (keep) this.#storeRange(fill, start, stop - start);
        else index.remove(start, stop - start);
      }
      sector = stop;
    }
  }

  #storeRange(fill: number, sector: number, sectors: number): void {
    const { space, log, index, memory, segments, counters, arounds, heat } = this.#state;
    const end = sector + sectors;
    const is_clean = !arounds.isVolatile(sector);
    while (sector < end) {
      if (space.available_sectors === 0 || log.available === 0) {
        this.#state.wants_space = true;
        counters.fills_not_kept++;
        index.remove(sector, end - sector);
        return;
      }
      space.take(Math.min(end - sector, this.#state.max_key_sectors));
      const { taken_seg, taken_place, taken_sectors } = space;
      const addr = this.#state.cache.dataAddr(taken_seg, taken_place * SECTOR_BYTES);
      memory.copy(addr, this.addrOf(fill, sector), taken_sectors * SECTOR_BYTES);
      log.reserve(1);
      const hits = heat === null ? 0 : heat.hitsOfNew(sector, taken_sectors);
      this.#state.enter(sector, taken_sectors, taken_seg, taken_place, is_clean, hits);
      segments.unpin(taken_seg);
      sector += taken_sectors;
    }
  }
}

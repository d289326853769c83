/**
 * What is left of an engine when there is no cache: a request is answered at once, from one mapping, where the bytes of the
 * device lie in order. With it the NBD server is as fast as a server in this design can be.
 *
 * @module
 */

import { CLEAN, type RangeStates } from "../core/range_states.ts";
import type { NbdEngine } from "../io/nbd/ports.ts";

const NONE = -1;

/** Slot numbers in the order in which they came; never more than there are slots. */
class SlotQueue {
  readonly #slots: Int32Array;
  #first = 0;
  #count = 0;

  constructor(most: number) {
    this.#slots = new Int32Array(most);
  }

  push(slot: number): void {
    this.#slots[(this.#first + this.#count++) % this.#slots.length] = slot;
  }

  shift(): number {
    if (this.#count === 0) return NONE;
    const slot = this.#slots[this.#first]!;
    this.#first = (this.#first + 1) % this.#slots.length;
    this.#count--;
    return slot;
  }
}

/** A device whose byte `n` lies at `base_addr + n`. The one piece of a request has its slot's number. */
export class BareEngine implements NbdEngine {
  readonly max_requests: number;
  readonly #base_addr: number;
  readonly #addr: Float64Array;
  readonly #len_bytes: Uint32Array;
  readonly #free: SlotQueue;
  readonly #placed: SlotQueue;
  readonly #answered: SlotQueue;

  constructor(base_addr: number, max_requests = 4096) {
    this.#base_addr = base_addr;
    this.max_requests = max_requests;
    this.#addr = new Float64Array(max_requests);
    this.#len_bytes = new Uint32Array(max_requests);
    this.#free = new SlotQueue(max_requests);
    this.#placed = new SlotQueue(max_requests);
    this.#answered = new SlotQueue(max_requests);
    for (let slot = 0; slot < max_requests; slot++) this.#free.push(slot);
  }

  beginRead(off_bytes: number, len_bytes: number): number {
    return this.#begin(off_bytes, len_bytes, this.#answered);
  }

  beginWrite(off_bytes: number, len_bytes: number): number {
    return this.#begin(off_bytes, len_bytes, this.#placed);
  }

  /** Everything is in what would be the cache. */
  listRangeStates(off_bytes: number, len_bytes: number, wanted: number, into: RangeStates): void {
    into.count = 0;
    into.add(off_bytes + len_bytes, CLEAN & wanted);
  }

  get knows_zeroes(): boolean {
    return false;
  }

  pieceIsZero(): boolean {
    return false;
  }

  beginZero(): number {
    return this.#begin(0, 0, this.#answered);
  }

  beginFlush(): number {
    return this.#begin(0, 0, this.#answered);
  }

  #begin(off_bytes: number, len_bytes: number, queue: SlotQueue): number {
    const slot = this.#free.shift();
    if (slot === NONE) return NONE;
    this.#addr[slot] = this.#base_addr + off_bytes;
    this.#len_bytes[slot] = len_bytes;
    queue.push(slot);
    return slot;
  }

  takePlaced(): number {
    return this.#placed.shift();
  }

  takeAnswered(): number {
    return this.#answered.shift();
  }

  payloadArrived(slot: number): void {
    this.#answered.push(slot);
  }

  payloadLost(slot: number): void {
    this.#free.push(slot);
  }

  error(): number {
    return 0;
  }

  firstPiece(slot: number): number {
    return this.#len_bytes[slot] === 0 ? NONE : slot;
  }

  nextPiece(): number {
    return NONE;
  }

  pieceAddr(piece: number): number {
    return this.#addr[piece]!;
  }

  pieceLen(piece: number): number {
    return this.#len_bytes[piece]!;
  }

  release(slot: number): void {
    this.#free.push(slot);
  }
}

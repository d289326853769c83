/**
 * An engine on a machine that costs nothing, driven as the NBD server drives it: a batch of requests, one `pump`, the answers.
 *
 * @module
 */

import { assert } from "../core/assert.ts";
import { Engine } from "../core/engine.ts";
import { inspectCache, prepareCache } from "../core/media.ts";
import { Permutation } from "./permutation.ts";
import { InstantBacking, ScratchMemory } from "./scratch_memory.ts";

export const BLOCK_BYTES = 4096;
/** What a write adds to the log, and to spare. */
export const LOGGED_BYTES = 64;
/** Requests between two pumps: what a client at depth 32 brings. */
const BATCH = 32;
const GIB = 1024 ** 3;

/** An engine whose time stands still, so that write-back and timers start only when they are told to. */
export class EngineRig {
  readonly blocks: Permutation;
  readonly memory: ScratchMemory;
  readonly backing: InstantBacking;
  engine: Engine;
  /** A fraction, as a clock gives it: V8 keeps it differently from a whole number. */
  now_ms = 0.5;
  /** Summed up from what a server would put into its replies, so that no look-up is optimised away. */
  sum = 0;
  #batched = 0;

  /** The cached device has room for `blocks`, and up to as many again; the cache for them and `spare_bytes`. */
  constructor(blocks: number, readonly data_crc: boolean, spare_bytes = 16 * GIB) {
    this.blocks = new Permutation(blocks);
    this.memory = new ScratchMemory(blocks * BLOCK_BYTES + spare_bytes);
    this.backing = new InstantBacking(this.blocks.size * BLOCK_BYTES);
    this.engine = this.#open();
  }

  #open(): Engine {
    const { memory, backing, now_ms, data_crc } = this;
    const cache = prepareCache(memory, inspectCache(memory, { data_crc }));
    return Engine.open({ memory, backing, cache, now_ms });
  }

  /** Forgets the engine and replays its log. */
  reopen(): void {
    this.engine = this.#open();
  }

  /** A write from header to reply; the reply leaves with its batch. */
  write(off_bytes: number, len_bytes: number): void {
    const { engine } = this;
    const slot = engine.beginWrite(off_bytes, len_bytes, false);
    assert(engine.takePlaced() === slot, "a bench never fills the cache");
    engine.payloadArrived(slot);
    this.#count();
  }

  read(off_bytes: number, len_bytes: number): void {
    this.engine.beginRead(off_bytes, len_bytes);
    this.#count();
  }

  #count(): void {
    if (++this.#batched < BATCH) return;
    this.turn();
  }

  /** One turn of the loop. */
  turn(): void {
    const { engine, backing } = this;
    this.#batched = 0;
    engine.pump(this.now_ms);
    for (let id = backing.take(); id >= 0; id = backing.take()) {
      engine.backingDone(id, 0);
      engine.pump(this.now_ms);
    }
    for (let slot = engine.takeAnswered(); slot >= 0; slot = engine.takeAnswered()) {
      for (let piece = engine.firstPiece(slot); piece >= 0; piece = engine.nextPiece(piece)) {
        this.sum = (this.sum + engine.pieceAddr(piece) + engine.pieceLen(piece)) | 0;
      }
      engine.release(slot);
    }
  }

  /** Writes the first `count` blocks of the permutation, one extent each. */
  populate(count: number): void {
    for (let n = 0; n < count; n++) this.write(this.blocks.at(n) * BLOCK_BYTES, BLOCK_BYTES);
    this.turn();
  }

  /** Makes what was written durable. */
  flush(): void {
    this.engine.beginFlush();
    this.turn();
  }

  /** Writes everything back. */
  drain(): void {
    this.engine.setDraining(true);
    while (!this.engine.isClean()) this.turn();
    this.engine.setDraining(false);
  }
}

/**
 * An engine over simulated memory and backing device, one request at a time: for tests that look at one answer.
 *
 * @module
 */

import { Engine, LIMITS, type Limits } from "../core/engine.ts";
import { inspectCache, type OpenOptions, prepareCache } from "../core/media.ts";
import { Staging } from "../core/staging.ts";
import type { SimBacking } from "./sim_backing.ts";
import type { SimMemory } from "./sim_memory.ts";

const MOST_IDLE_TURNS = 10_000;

/** What a request ended with. */
export interface Answer {
  readonly errno: number;
  readonly bytes: Uint8Array;
}

/** A cached device that is driven by hand. */
export class SimDevice {
  engine: Engine;
  now_ms = 0;

  constructor(
    readonly memory: SimMemory,
    readonly backing: SimBacking,
    readonly options: OpenOptions,
    readonly limits: Limits = LIMITS,
    /** Where staged keys outlive the process; null: nowhere. */
    readonly staged: ArrayBuffer | null = null,
  ) {
    this.engine = this.#open(staged);
  }

  #open(staged: ArrayBuffer | null): Engine {
    const { memory, backing, now_ms, limits } = this;
    const cache = prepareCache(memory, inspectCache(memory, this.options));
    const kept = staged === null ? {} : { staging: new Staging(staged, limits.staged_keys) };
    return Engine.open({ memory, backing, cache, now_ms, limits, ...kept });
  }

  /** The process is killed and the device created again; without what was staged if `staged` is null. */
  reopen(staged = this.staged): void {
    this.backing.abandon();
    this.engine = this.#open(staged);
  }

  /** Feeds the engine until `done`; throws when nothing moves any more. */
  runUntil(what: string, done: () => boolean): void {
    this.engine.pump(this.now_ms);
    for (let idle = 0; !done(); idle++) {
      const moved = this.backing.endOne((id, errno) => this.engine.backingDone(id, errno)) ||
        this.#endBarrier();
      if (!moved) {
        const wait_ms = this.engine.nextTimerMs(this.now_ms);
        if (wait_ms === Infinity || idle > MOST_IDLE_TURNS) {
          throw new Error(`stuck while waiting until ${what}: next timer in ${wait_ms} ms`);
        }
        this.now_ms += Math.max(1, wait_ms);
      }
      this.engine.pump(this.now_ms);
    }
  }

  #endBarrier(): boolean {
    if (!this.memory.barrier_is_under_way) return false;
    this.engine.barrierDone(this.memory.completeBarrier());
    return true;
  }

  #end(slot: number): number {
    if (slot < 0) throw new Error("no slot for a single request");
    let answered = -1;
    this.runUntil(`request ${slot} is answered`, () => {
      answered = this.engine.takeAnswered();
      return answered >= 0;
    });
    if (answered !== slot) throw new Error(`slot ${answered} was answered, wanted ${slot}`);
    return this.engine.error(slot);
  }

  /** Writes; returns the error number. */
  write(off_bytes: number, bytes: Uint8Array, fua = false): number {
    const { engine, memory } = this;
    const slot = engine.beginWrite(off_bytes, bytes.length, fua);
    let is_placed = false;
    this.runUntil(`write ${slot} is placed or answered`, () => {
      is_placed = engine.takePlaced() === slot;
      return is_placed || engine.takeAnswered() === slot;
    });
    if (!is_placed) {
      const refused = engine.error(slot);
      engine.release(slot);
      return refused;
    }
    let at = 0;
    for (let piece = engine.firstPiece(slot); piece >= 0; piece = engine.nextPiece(piece)) {
      const len = engine.pieceLen(piece);
      memory.receive(engine.pieceAddr(piece), bytes.subarray(at, at + len));
      at += len;
    }
    engine.payloadArrived(slot);
    const errno = this.#end(slot);
    engine.release(slot);
    return errno;
  }

  /** Zeroes; returns the error number. */
  zero(off_bytes: number, len_bytes: number, may_punch = false, fua = false): number {
    const slot = this.engine.beginZero(off_bytes, len_bytes, may_punch, fua);
    const errno = this.#end(slot);
    this.engine.release(slot);
    return errno;
  }

  read(off_bytes: number, len_bytes: number): Answer {
    const { engine, memory } = this;
    const slot = engine.beginRead(off_bytes, len_bytes);
    const errno = this.#end(slot);
    const bytes = new Uint8Array(errno === 0 ? len_bytes : 0);
    if (errno === 0) {
      let at = 0;
      for (let piece = engine.firstPiece(slot); piece >= 0; piece = engine.nextPiece(piece)) {
        const addr = engine.pieceAddr(piece);
        bytes.set(memory.bytes.subarray(addr, addr + engine.pieceLen(piece)), at);
        at += engine.pieceLen(piece);
      }
    }
    engine.release(slot);
    return { errno, bytes };
  }

  flush(): number {
    const slot = this.engine.beginFlush();
    const errno = this.#end(slot);
    this.engine.release(slot);
    return errno;
  }

  /** Writes everything back. */
  drain(): void {
    this.engine.setDraining(true);
    this.runUntil("the cache is clean", () => this.engine.isClean());
    this.engine.setDraining(false);
  }
}

/**
 * A small simulated device, one request at a time: for tests that break something and look at one answer.
 *
 * @module
 */

import { Engine } from "../core/engine.ts";
import { inspectCache, prepareCache } from "../core/media.ts";
import { fillFor, Random } from "./random.ts";
import { SimBacking } from "./sim_backing.ts";
import { SimMemory } from "./sim_memory.ts";

const KIB = 1024;
const MIB = 1024 * KIB;
const MOST_IDLE_TURNS = 10_000;

/** What a request ended with. */
export interface Answer {
  readonly errno: number;
  readonly bytes: Uint8Array;
}

/** An engine over byte arrays: segments of 256 KiB, a backing device of 16 MiB filled with `fillFor(0)`. */
export class SmallDevice {
  readonly memory: SimMemory;
  readonly backing: SimBacking;
  engine: Engine;
  now_ms = 0;
  readonly #data_crc: boolean;

  constructor({ segments = 32, data_crc = true, cheap = false } = {}) {
    this.#data_crc = data_crc;
    this.memory = new SimMemory({
      cache_bytes: 0x5000 + segments * 256 * KIB,
      buffer_bytes: 8 * MIB,
      barrier_is_cheap: cheap,
    });
    const content = new Uint8Array(16 * MIB);
    fillFor(0, content);
    this.backing = new SimBacking(content, this.memory.bytes, new Random(1));
    this.engine = this.#open();
  }

  #open(): Engine {
    const geometry = { segment_bytes: 256 * KIB, min_cache_bytes: 0 };
    const inspection = inspectCache(this.memory, { geometry, data_crc: this.#data_crc });
    const cache = prepareCache(this.memory, inspection);
    const { memory, backing, now_ms } = this;
    return Engine.open({ memory, backing, cache, now_ms });
  }

  /** The process is killed and the device created again. */
  reopen(): void {
    this.backing.abandon();
    this.engine = this.#open();
  }

  /** Feeds the engine until `done`; throws when nothing moves any more. */
  runUntil(what: string, done: () => boolean): void {
    this.engine.pump(this.now_ms);
    for (let idle = 0; !done(); idle++) {
      const moved = this.backing.endOne((id, errno) => this.engine.backingDone(id, errno));
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
    this.runUntil(`write ${slot} is placed`, () => engine.takePlaced() === slot);
    let at = 0;
    for (let piece = engine.firstPiece(slot); piece >= 0; piece = engine.nextPiece(piece)) {
      const len = engine.pieceLen(piece);
      memory.bytes.set(bytes.subarray(at, at + len), engine.pieceAddr(piece));
      at += len;
    }
    engine.payloadArrived(slot);
    const errno = this.#end(slot);
    engine.release(slot);
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

  /** Flips one bit of each place on the cache device that holds the 64 bytes of `content` from `at` on. */
  damage(content: Uint8Array, at: number): void {
    const wanted = content.subarray(at, at + 64);
    const { cache } = this.memory;
    let found = 0;
    for (let i = cache.indexOf(wanted[0]!); i >= 0; i = cache.indexOf(wanted[0]!, i + 1)) {
      if (!wanted.every((byte, k) => cache[i + k] === byte)) continue;
      cache[i] = cache[i]! ^ 1;
      found++;
    }
    if (found === 0) throw new Error("the content to damage is not on the cache device");
  }
}

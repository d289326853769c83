/**
 * The engine in a simulator: random requests from a seed, a backing device that ends its requests in any order,
 * payloads that come late or never, barriers that take time; every answer compared with the model.
 *
 * One step of `Simulation.step` does one thing: a request begins, a payload arrives, a backing request ends, a barrier
 * ends, time passes, or a reply leaves. `settle` goes on until nothing is under way, and throws when that cannot be.
 *
 * @module
 */

import { CACHE_MODES, type CacheMode } from "../core/cache_mode.ts";
import type { Eviction } from "../core/eviction.ts";
import { Engine, LIMITS, type Limits, type Status } from "../core/engine.ts";
import { EIO } from "../core/errors.ts";
import type { Geometry } from "../core/format.ts";
import { inspectCache, prepareCache } from "../core/media.ts";
import { Staging } from "../core/staging.ts";
import { Model, type ModelRead, type ModelWrite } from "./model.ts";
import { fillFor, Random } from "./random.ts";
import { SimBacking } from "./sim_backing.ts";
import { SimMemory } from "./sim_memory.ts";

const KIB = 1024;
const MIB = 1024 * KIB;
/** The engine's transfer buffers: room for the longest request. */
const BUFFER_BYTES = 8 * MIB;
/** Longest request, where the cache is large enough for it: 4 MiB. */
const MOST_SECTORS = 8192;
/** Steps without an end, or time passed without one, after which a simulation is stuck. */
const MOST_IDLE_TURNS = 1000;

/** What is simulated. */
export interface SimulationOptions {
  readonly seed: number;
  readonly segment_bytes: number;
  readonly segments: number;
  readonly device_bytes: number;
  readonly data_crc: boolean;
  readonly barriers_are_asynchronous: boolean;
  readonly barrier_is_cheap: boolean;
  /** `fifo` if left out. */
  readonly eviction?: Eviction;
  /** What a new cache gets: writeback if left out. */
  readonly cache_mode?: CacheMode;
  /** Backing writes and flushes fail now and then. No request may notice. */
  readonly backing_fails?: boolean;
  /** Staged keys outlive the process: everything that was answered before a kill is there after it. */
  readonly keeps_staged?: boolean;
}

/** What a simulation runs on, when it does not make it itself. */
export interface SimulationParts {
  readonly memory: SimMemory;
  readonly backing: SimBacking;
  /** What the device holds. */
  readonly model: Model;
  readonly limits: Limits;
}

interface WriteRequest {
  readonly kind: "write";
  readonly slot: number;
  readonly write: ModelWrite;
  readonly fua: boolean;
  is_placed: boolean;
}

interface ReadRequest {
  readonly kind: "read";
  readonly slot: number;
  readonly read: ModelRead;
}

interface FlushRequest {
  readonly kind: "flush";
  readonly slot: number;
  readonly begin: number;
}

type Request = WriteRequest | ReadRequest | FlushRequest;

/** How often each kind of step is taken, and what the requests are like: changed now and then. */
interface Mood {
  readonly begin: number;
  readonly payload: number;
  readonly backing: number;
  readonly barrier: number;
  readonly time: number;
  readonly reply: number;
  readonly most_under_way: number;
  /** Of the requests: how many write; how many flush; of the writes, how many FUA. */
  readonly writes: number;
  readonly flushes: number;
  readonly fua: number;
  readonly unaligned: number;
  /** Of the writes, how many zero or trim. */
  readonly zeroes: number;
  /** Where most requests go. */
  readonly hot_off: number;
  readonly hot_bytes: number;
  readonly hot: number;
  /** How many backing writes and flushes fail, where some may. */
  readonly faults: number;
  /** How long they are. */
  readonly sizes: "small" | "medium" | "any";
}

/** Takes one item out of a list, at random. */
function takeOne<T>(random: Random, items: T[]): T | undefined {
  if (items.length === 0) return undefined;
  const index = random.below(items.length);
  const item = items[index]!;
  items[index] = items.at(-1)!;
  items.pop();
  return item;
}

/** One device, simulated. */
export class Simulation {
  readonly random: Random;
  readonly memory: SimMemory;
  readonly backing: SimBacking;
  /** Replaced by whoever looks at what a crash left. */
  model: Model;
  readonly geometry: Geometry;
  readonly #data_crc: boolean;
  readonly #cache_mode: CacheMode;
  readonly #eviction: Eviction;
  readonly #backing_fails: boolean;
  readonly #limits: Limits;
  /** Null: staged keys go with the process. */
  readonly #staged: ArrayBuffer | null;
  engine: Engine;
  now_ms = 1000;
  /** What is done beside the requests: a step at the end of each turn, and how long that may wait. */
  beside = { step: () => {}, nextTimerMs: () => Infinity };
  /** Requests begun so far. */
  operations = 0;
  /** Counts of what happened, for the test to see that it did. */
  readonly seen = {
    clean_reopens: 0,
    drops: 0,
    lost_payloads: 0,
    /** Payloads that had to wait because there was no place for them. */
    full: 0,
    gc_percents: 0,
    mode_changes: 0,
    cutoffs: 0,
    /** Bytes of misses that were not kept, being of a long stream. */
    passed: 0,
    /** Bytes written around the cache. */
    around: 0,
    /** Bytes carried to the head. */
    carried: 0,
    /** Keys that GC logged again. */
    kept_keys: 0,
    fills: 0,
    fills_not_kept: 0,
    segments_freed: 0,
    zeroes: 0,
    writeback_zeroed: 0,
    /** Keys logged again, since a backing write failed. */
    writeback_relogged: 0,
  };
  #mood: Mood;
  readonly #by_slot = new Map<number, Request>();
  /** Writes that wait for their payload; placed ones, and some that have no place yet. */
  readonly #unpaid: WriteRequest[] = [];
  /** Answered reads whose replies have not left: their bytes must stay as they are. */
  readonly #replies: ReadRequest[] = [];
  #data = new Uint8Array(64 * KIB);

  constructor(options: SimulationOptions, parts?: SimulationParts) {
    this.random = new Random(options.seed);
    this.geometry = { segment_bytes: options.segment_bytes, min_cache_bytes: 0 };
    this.#data_crc = options.data_crc;
    this.#cache_mode = options.cache_mode ?? "writeback";
    this.#eviction = options.eviction ?? "fifo";
    this.#backing_fails = options.backing_fails ?? false;
    const { memory, backing, model, limits } = parts ?? this.#newParts(options);
    this.memory = memory;
    this.backing = backing;
    this.model = model;
    this.#limits = limits;
    const staged_bytes = Staging.bytesFor(limits.staged_keys);
    this.#staged = options.keeps_staged ? new ArrayBuffer(staged_bytes) : null;
    this.engine = this.#open(this.memory, this.backing, this.#staged);
    this.#mood = this.#newMood();
    if (this.#backing_fails) {
      this.backing.fault = (kind) =>
        kind !== "read" && this.random.chance(this.#mood.faults) ? EIO : 0;
    }
  }

  #newParts(options: SimulationOptions): SimulationParts {
    const memory = new SimMemory({
      cache_bytes: 0x5000 + options.segments * options.segment_bytes + this.random.below(4096),
      buffer_bytes: BUFFER_BYTES,
      barrier_is_cheap: options.barrier_is_cheap,
      barriers_are_asynchronous: options.barriers_are_asynchronous,
    });
    const initial = new Uint8Array(options.device_bytes);
    fillFor(0x7fff_ffff, initial);
    const backing = new SimBacking(initial.slice(), memory.bytes, this.random);
    return { memory, backing, model: new Model(initial), limits: LIMITS };
  }

  get under_way(): number {
    return this.#by_slot.size;
  }

  #open(memory: SimMemory, backing: SimBacking, staged: ArrayBuffer | null): Engine {
    const options = {
      geometry: this.geometry,
      data_crc: this.#data_crc,
      cache_mode: this.#cache_mode,
    };
    const cache = prepareCache(memory, inspectCache(memory, options));
    const limits = this.#limits;
    const eviction = this.#eviction;
    const kept = staged === null ? {} : { staging: new Staging(staged, limits.staged_keys) };
    return Engine.open({ memory, backing, cache, now_ms: this.now_ms, limits, eviction, ...kept });
  }

  #newMood(): Mood {
    const { random } = this;
    const device_bytes = this.model.bytes.length;
    const hot_bytes = random.pick([16 * KIB, 128 * KIB, 1 * MIB, 8 * MIB]);
    // Half of the hot places lie over the end of a 4 MiB stretch.
    const middle = random.chance(0.5)
      ? 4 * MIB * random.between(1, Math.max(1, Math.floor(device_bytes / (4 * MIB)) - 1))
      : random.below(device_bytes);
    const hot_off = Math.max(0, Math.min(device_bytes - hot_bytes, middle - hot_bytes / 2));
    return {
      begin: 10,
      payload: random.pick([3, 10, 20]),
      backing: random.pick([1, 10, 20]),
      barrier: random.pick([1, 10]),
      time: random.pick([0, 1, 3]),
      reply: random.pick([2, 10, 20]),
      most_under_way: random.pick([1, 4, 16, 64]),
      writes: random.pick([0.1, 0.5, 0.5, 0.9]),
      flushes: random.pick([0, 0.02, 0.1]),
      fua: random.pick([0, 0.05, 0.3]),
      unaligned: random.pick([0, 0.1, 0.5]),
      zeroes: random.pick([0, 0.1, 0.1, 0.6]),
      hot_off: Math.floor(hot_off / 512) * 512,
      hot_bytes: Math.min(hot_bytes, device_bytes),
      hot: random.pick([0, 0.5, 0.95]),
      faults: this.#backing_fails ? random.pick([0, 0.02, 0.4]) : 0,
      sizes: random.pick(["small", "small", "small", "small", "medium", "any"]),
    };
  }

  /** Changes what is likely. */
  changeMood(): void {
    this.#mood = this.#newMood();
  }

  /** Does one thing. */
  step(): void {
    const { random } = this;
    const mood = this.#mood;
    const kinds = mood.begin + mood.payload + mood.backing + mood.barrier + mood.time + mood.reply;
    let choice = random.below(kinds);
    if ((choice -= mood.begin) < 0) {
      if (this.#by_slot.size < mood.most_under_way) this.begin();
    } else if ((choice -= mood.payload) < 0) this.pay();
    else if ((choice -= mood.backing) < 0) this.endBacking();
    else if ((choice -= mood.barrier) < 0) this.endBarrier();
    else if ((choice -= mood.time) < 0) this.now_ms += random.between(1, 300);
    else this.sendReply();
    this.turn();
  }

  /** Does one thing that is not the clients'. */
  machineStep(): void {
    const { random } = this;
    const kind = random.below(5);
    if (kind === 0) this.pay();
    else if (kind === 1) this.endBacking();
    else if (kind === 2) this.endBarrier();
    else if (kind === 3) this.sendReply();
    else this.now_ms += random.between(1, 30);
    this.turn();
  }

  /** One turn of the loop, after events. */
  turn(): void {
    const { engine } = this;
    engine.pump(this.now_ms);
    for (let slot = engine.takePlaced(); slot >= 0; slot = engine.takePlaced()) {
      const request = this.#by_slot.get(slot);
      if (request?.kind !== "write" || request.is_placed) {
        throw new Error(`slot ${slot} was placed, but is no write that waits for a place`);
      }
      request.is_placed = true;
    }
    for (let slot = engine.takeAnswered(); slot >= 0; slot = engine.takeAnswered()) {
      const request = this.#by_slot.get(slot);
      if (request === undefined) throw new Error(`slot ${slot} was answered, but is not under way`);
      this.#answered(request, engine.error(slot));
    }
    this.beside.step();
  }

  /** Length of a request, in bytes. */
  #length(): number {
    const { random } = this;
    if (random.chance(0.002)) return 512 * random.between(1, MOST_SECTORS);
    const most = { small: 16, medium: 128, any: 1 << random.between(0, 10) };
    return 512 * random.between(1, most[this.#mood.sizes]);
  }

  /** Begins a request; nothing happens when the engine takes none now. */
  begin(): void {
    const { random } = this;
    const mood = this.#mood;
    if (random.chance(mood.flushes)) return this.beginFlush();
    const is_hot = random.chance(mood.hot);
    const area_off = is_hot ? mood.hot_off : 0;
    const area_bytes = is_hot ? mood.hot_bytes : this.model.bytes.length;
    let len = Math.min(this.#length(), area_bytes, this.engine.max_request_bytes);
    let off = area_off + 512 * random.below((area_bytes - len) / 512 + 1);
    if (random.chance(mood.unaligned)) {
      const shift = random.below(Math.min(len, 1024));
      off += shift;
      len -= shift;
      len -= random.below(Math.min(len, 1024));
    }
    const is_write = random.chance(mood.writes);
    if (is_write && random.chance(mood.zeroes)) {
      this.beginZero(off, len, random.chance(0.5), random.chance(mood.fua));
    } else if (is_write) this.beginWrite(off, len, random.chance(mood.fua));
    else this.beginRead(off, len);
  }

  beginZero(off: number, len: number, may_punch: boolean, fua: boolean): void {
    const slot = this.engine.beginZero(off, len, may_punch, fua);
    if (slot < 0) return;
    const write = this.model.beginWrite(off, len, () => {}); // zeroes
    this.#enter({ kind: "write", slot, write, fua, is_placed: false });
    this.seen.zeroes++;
  }

  beginWrite(off: number, len: number, fua: boolean): void {
    const slot = this.engine.beginWrite(off, len, fua);
    if (slot < 0) return;
    const write = this.model.beginWrite(off, len, fillFor);
    const request: WriteRequest = { kind: "write", slot, write, fua, is_placed: false };
    this.#enter(request);
    this.#unpaid.push(request);
  }

  beginRead(off: number, len: number): void {
    const slot = this.engine.beginRead(off, len);
    if (slot >= 0) this.#enter({ kind: "read", slot, read: this.model.beginRead(off, len) });
  }

  beginFlush(): void {
    const slot = this.engine.beginFlush();
    if (slot >= 0) this.#enter({ kind: "flush", slot, begin: this.model.beginFlush() });
  }

  #enter(request: Request): void {
    if (this.#by_slot.has(request.slot)) {
      throw new Error(`slot ${request.slot} was given out while it was in use`);
    }
    this.#by_slot.set(request.slot, request);
    this.operations++;
  }

  /** A payload arrives, in whole, or in part and then the client vanishes. */
  pay(): boolean {
    let request = takeOne(this.random, this.#unpaid);
    if (request === undefined) return false;
    const vanishes = this.random.chance(0.01);
    if (!request.is_placed && !vanishes) {
      this.seen.full++;
      this.#unpaid.push(request);
      const placed = this.#unpaid.findIndex((other) => other.is_placed);
      if (placed < 0) return false;
      request = this.#unpaid.splice(placed, 1)[0]!;
    }
    const { slot, write } = request;
    if (request.is_placed) {
      this.#receive(slot, write, vanishes ? this.random.below(write.len) : write.len);
    }
    if (!vanishes) {
      this.engine.payloadArrived(slot);
      return true;
    }
    this.seen.lost_payloads++;
    this.model.loseWrite(write);
    this.#by_slot.delete(slot);
    this.engine.payloadLost(slot);
    return true;
  }

  /** The first `len` bytes of the payload come to where the engine wants them. */
  #receive(slot: number, write: ModelWrite, len: number): void {
    const { engine } = this;
    let at = 0;
    for (let piece = engine.firstPiece(slot); piece >= 0; piece = engine.nextPiece(piece)) {
      const part = write.bytes.subarray(at, Math.min(len, at + engine.pieceLen(piece)));
      this.memory.receive(engine.pieceAddr(piece), part);
      at += engine.pieceLen(piece);
    }
    if (at !== write.len) throw new Error(`pieces of a write hold ${at} bytes, not ${write.len}`);
  }

  endBacking(): boolean {
    return this.backing.endOne((id, errno) => this.engine.backingDone(id, errno));
  }

  endBarrier(): boolean {
    if (!this.memory.barrier_is_under_way) return false;
    this.memory.completeBarrier();
    this.engine.barrierDone(0);
    return true;
  }

  #answered(request: Request, errno: number): void {
    if (errno !== 0) {
      throw new Error(`${request.kind} in slot ${request.slot} ended with error ${errno}`);
    }
    if (request.kind === "read") {
      this.model.endRead(request.read);
      this.#replies.push(request);
      return;
    }
    if (request.kind === "write") this.model.endWrite(request.write, request.fua);
    else this.model.endFlush(request.begin);
    this.#release(request);
  }

  #release(request: Request): void {
    this.#by_slot.delete(request.slot);
    this.engine.release(request.slot);
  }

  /** The bytes of an answered read leave, and are looked at. */
  sendReply(): boolean {
    const request = takeOne(this.random, this.#replies);
    if (request === undefined) return false;
    this.model.checkRead(request.read, this.#gather(request.slot, request.read.len));
    this.#release(request);
    return true;
  }

  #gather(slot: number, len: number): Uint8Array {
    const { engine } = this;
    if (this.#data.length < len) this.#data = new Uint8Array(2 * len);
    let at = 0;
    for (let piece = engine.firstPiece(slot); piece >= 0; piece = engine.nextPiece(piece)) {
      const addr = engine.pieceAddr(piece);
      const bytes = engine.pieceLen(piece);
      this.#data.set(this.memory.bytes.subarray(addr, addr + bytes), at);
      at += bytes;
    }
    if (at !== len) throw new Error(`pieces of a read hold ${at} bytes, not ${len}`);
    return this.#data.subarray(0, len);
  }

  /** Goes on until `done`, with no new request; throws when nothing moves any more. */
  runUntil(what: string, done: () => boolean): void {
    let idle = 0;
    this.turn();
    while (!done()) {
      const moved = [this.pay(), this.endBacking(), this.endBarrier(), this.sendReply()];
      if (moved.includes(true)) idle = 0;
      else {
        const wait_ms = Math.min(
          this.engine.nextTimerMs(this.now_ms),
          this.beside.nextTimerMs(),
        );
        if (wait_ms === Infinity || ++idle > MOST_IDLE_TURNS) {
          throw new Error(
            `stuck while waiting until ${what}: ${this.#by_slot.size} requests under way, next timer in ` +
              `${wait_ms} ms, status ${JSON.stringify(this.engine.status())}`,
          );
        }
        this.now_ms += Math.max(wait_ms, 1);
      }
      this.turn();
    }
  }

  /** Waits until every request has ended. */
  settle(): void {
    this.runUntil("every request has ended", () => this.#by_slot.size === 0);
    if (this.engine.requests_in_use !== 0) {
      throw new Error(
        `no request is under way, but ${this.engine.requests_in_use} slots are in use`,
      );
    }
  }

  /** Reads the sectors whose value only a read can tell, in runs. Nothing is under way before and after. */
  #readContested(): void {
    const most = Math.min(1024, this.engine.max_request_bytes / 512);
    for (;;) {
      const sectors = this.model.contestedSectors().sort((a, b) => a - b);
      if (sectors.length === 0) return;
      for (let i = 0; i < sectors.length;) {
        const first = sectors[i]!;
        let count = 1;
        while (sectors[i + count] === first + count && count < most) count++;
        this.beginRead(first * 512, count * 512);
        i += count;
      }
      this.settle();
    }
  }

  /** Lets everything end, flushes, and reads what only a read can tell. */
  quiet(): void {
    this.settle();
    this.#readContested();
    this.beginFlush();
    this.settle();
    this.model.quiet();
  }

  /** Stops the engine as `remove` does, and opens the cache again. */
  reopenClean(): void {
    this.quiet();
    for (let i = this.random.below(20); i > 0; i--) this.begin();
    this.settle();
    this.#readContested();
    this.engine.close();
    this.runUntil("the engine is closed", () => this.engine.isClosed());
    this.model.quiet();
    this.backing.abandon();
    const before = this.engine.status();
    this.#reopen();
    this.#checkPositions(before);
    this.seen.clean_reopens++;
  }

  /** A log that was closed is found as it was left: no older kset behind its head, no other tails. */
  #checkPositions(before: Status): void {
    const after = this.engine.status();
    for (const place of ["key_head", "dirty_tail", "key_tail"] as const) {
      const [was, is] = [before[place], after[place]];
      if (was.seg !== is.seg || was.off !== is.off) {
        throw new Error(`re-opened: ${place} is ${is.seg}:${is.off}, wanted ${was.seg}:${was.off}`);
      }
    }
  }

  /** The process is killed: what it had stored stays. A copy is opened and read first, then the cache itself. */
  drop(): void {
    this.#by_slot.clear();
    this.#unpaid.length = 0;
    this.#replies.length = 0;
    this.backing.abandon();
    this.memory.dropBarrier();
    if (this.#staged !== null) this.model.endFlush(this.model.beginFlush());
    this.model.adoptAfterCrash(this.#readCopy());
    this.#reopen();
    this.seen.drops++;
  }

  #reopen(): void {
    this.countEngine();
    this.engine = this.#open(this.memory, this.backing, this.#staged);
  }

  /** Adds up what the engine has counted, and throws when it counted what cannot have been. */
  countEngine(): void {
    const { counters } = this.engine;
    this.seen.fills += counters.fills;
    this.seen.around += counters.around_bytes;
    this.seen.carried += counters.carried_bytes;
    this.seen.kept_keys += counters.kept_keys;
    this.seen.passed += counters.passed_bytes;
    this.seen.fills_not_kept += counters.fills_not_kept;
    this.seen.segments_freed += counters.segments_freed;
    this.seen.writeback_zeroed += counters.writeback_zeroed_bytes;
    this.seen.writeback_relogged += counters.writeback_relogged;
    const never = ["checksum_failures", "backing_write_errors", "writeback_relogged"] as const;
    for (const what of never) {
      if (counters[what] !== 0 && (!this.#backing_fails || what === "checksum_failures")) {
        throw new Error(`${counters[what]} ${what}, but nothing was broken`);
      }
    }
    if (counters.dirty_bytes < 0) throw new Error(`${counters.dirty_bytes} dirty bytes`);
  }

  /** What a reader finds who opens the devices as they are now; neither is changed. */
  #readCopy(): Uint8Array {
    const memory = new SimMemory({
      cache_bytes: this.memory.cache_bytes,
      buffer_bytes: BUFFER_BYTES,
      barrier_is_cheap: true,
    });
    memory.cache.set(this.memory.cache);
    const backing = new SimBacking(this.backing.bytes.slice(), memory.bytes, new Random(1));
    const engine = this.#open(memory, backing, this.#staged?.slice() ?? null);
    const content = new Uint8Array(backing.size_bytes);
    const step = Math.min(2 * MIB, engine.max_request_bytes);
    for (let off = 0; off < content.length; off += step) {
      const len = Math.min(step, content.length - off);
      const slot = engine.beginRead(off, len);
      engine.pump(this.now_ms);
      while (engine.takeAnswered() !== slot) {
        if (!backing.endOne((id, errno) => engine.backingDone(id, errno))) {
          throw new Error(`after a crash: a read of ${len} bytes at ${off} does not end`);
        }
        engine.pump(this.now_ms);
      }
      if (engine.error(slot) !== 0) {
        throw new Error(`after a crash: read at ${off} ended with error ${engine.error(slot)}`);
      }
      let at = off;
      for (let piece = engine.firstPiece(slot); piece >= 0; piece = engine.nextPiece(piece)) {
        const addr = engine.pieceAddr(piece);
        content.set(memory.bytes.subarray(addr, addr + engine.pieceLen(piece)), at);
        at += engine.pieceLen(piece);
      }
      engine.release(slot);
    }
    return content;
  }

  /** Changes gc_percent. */
  changeGcPercent(): void {
    this.engine.setGcPercent(this.random.between(0, 90));
    this.seen.gc_percents++;
  }

  /** Changes the cache mode, with whatever is under way. */
  changeMode(): void {
    this.engine.setCacheMode(this.random.pick(CACHE_MODES));
    this.seen.mode_changes++;
  }

  /** Changes the length from which on sequential reads are not kept. */
  changeCutoff(): void {
    this.engine.setSequentialCutoff(this.random.pick([0, 4096, 8192, 64 * KIB]));
    this.seen.cutoffs++;
  }

  /** Writes everything back, and compares the backing device with the model. */
  drain(): void {
    this.quiet();
    this.engine.setDraining(true);
    this.runUntil("the cache is clean", () => this.engine.isClean());
    this.engine.setDraining(false);
    for (let at = 0; at < this.model.bytes.length; at++) {
      if (this.backing.bytes[at] !== this.model.bytes[at]) {
        throw new Error(
          `drained, but byte ${at} (sector ${Math.floor(at / 512)}) of the backing ` +
            `device is ${this.backing.bytes[at]}, wanted ${this.model.bytes[at]}`,
        );
      }
    }
  }
}

/**
 * Runs a script, and at every barrier of the cache device and every flush of the backing device makes the states that a power cut
 * may leave, and checks each: see `Explorer.#check`. A check runs the engine on, and crashes it again, up to three times.
 *
 * @module
 */

import { AssertionFailure } from "../../core/assert.ts";
import { CacheError } from "../../core/errors.ts";
import { MAX_FILL_READS } from "../../core/fills.ts";
import { DATA_OFF_BYTES, DIRTY_TAIL_ADDR, SEGMENTS_ADDR } from "../../core/format.ts";
import { type CrashRule, Model, ModelViolation } from "../model.ts";
import { fillFor, Random } from "../random.ts";
import { Simulation, type SimulationOptions } from "../simulation.ts";
import { audit, AuditFailure, Media } from "./audit.ts";
import { CrashBacking } from "./crash_backing.ts";
import { CrashMemory } from "./crash_memory.ts";
import { CrashStates, type Lab } from "./crash_states.ts";
import { LogHistory, PrefixFailure } from "./log_history.ts";
import { Messages } from "./messages.ts";
import { perform, type Script, SEGMENT_BYTES, type Shape } from "./script.ts";

const SECTOR = 512;
const BUFFER_BYTES = 32 * 1024;
const LIMITS = { requests: 32, pieces: 256, staged_keys: 256, batch_ksets: 3 };
/** More than there are, so that no two lives write the same. */
const WRITES_IN_A_LIFE = 1_000_000;
/** Crashes one after another. */
const MOST_CRASHES = 3;

/** After so many rounds GC must have found rest. */
const MOST_DRAINS = 20;

/** What the checks are called, in messages and in the list of canaries. */
export type CheckName =
  | "open"
  | "recovery"
  | "content"
  | "stable"
  | "accounting"
  | "prefix"
  | "monotone"
  | "thrown away"
  | "write-back"
  | "answers"
  | "assertion"
  | "outside";

/** A check that failed. */
export class Violation extends Error {
  constructor(readonly check: CheckName, message: string, options?: ErrorOptions) {
    super(`${check}: ${message}`, options);
  }
}

/** What an exploration has seen. */
export interface Tally {
  /** Hashes of the states looked at. */
  readonly seen: Set<number>;
  /** Hashes of what came out of their recovery. */
  readonly lived: Set<number>;
  /** States made that had been seen before. */
  repeated: number;
  /** Moments at which states were made, and at how many of them that was all there are. */
  points: number;
  exhausted: number;
  operations: number;
  /** Processes killed, their stores left as they were. */
  kills: number;
}

export function newTally(): Tally {
  return {
    seen: new Set(),
    lived: new Set(),
    repeated: 0,
    points: 0,
    exhausted: 0,
    operations: 0,
    kills: 0,
  };
}

/** One run of the engine on a lab, from its opening to a crash. */
interface Life {
  readonly lab: Lab;
  readonly media: Media;
  /** Undefined until it has been opened. */
  simulation: Simulation | undefined;
  history: LogHistory | undefined;
  /** What a crash may leave now. */
  rule: () => CrashRule;
}

/** A crash to be looked at when the life it ends has been watched to its end. */
interface NextCrash {
  readonly rule: CrashRule;
  readonly history: LogHistory | undefined;
  /** The life had not begun: the cache was being formatted. */
  readonly was_new: boolean;
  readonly was_killed: boolean;
  /** What was flushed must be there without the cache, too. */
  readonly is_through: boolean;
}

export class Explorer {
  readonly #shape: Shape;
  readonly #seed: number;
  readonly #random: Random;
  readonly #tally: Tally;
  /** Most states made at one moment. */
  readonly #most: number;
  /** For the script, and for what is left after one, two and three crashes. */
  readonly #labs: Lab[] = [];
  readonly #until: () => boolean;

  /** `until`: asked now and then; when true, the exploration ends early. */
  constructor(
    shape: Shape,
    seed: number,
    tally: Tally,
    most: number,
    until: () => boolean = () => false,
  ) {
    this.#shape = shape;
    this.#seed = seed;
    this.#tally = tally;
    this.#most = most;
    this.#until = until;
    this.#random = new Random(seed ^ 0x5bd1e995);
    for (let i = 0; i <= MOST_CRASHES; i++) this.#labs.push(this.#newLab());
  }

  #newLab(): Lab {
    const { medium, segments, device_sectors, slow_barriers } = this.#shape;
    const memory = new CrashMemory({
      medium,
      cache_bytes: SEGMENTS_ADDR + segments * SEGMENT_BYTES,
      buffer_bytes: BUFFER_BYTES,
      barrier_is_cheap: medium === "pmem",
      barriers_are_asynchronous: slow_barriers,
    });
    const content = new Uint8Array(device_sectors * SECTOR);
    fillFor(0x7fff_ffff, content);
    return { memory, backing: new CrashBacking(content, memory.bytes, this.#random) };
  }

  #newLife(lab: Lab, rule: () => CrashRule): Life {
    const media = new Media(lab.memory.bytes, SEGMENT_BYTES, this.#shape.segments);
    return { lab, media, simulation: undefined, history: undefined, rule };
  }

  /** Opens the lab's devices: what is there is the life's past. */
  #open(life: Life, model: Model, seed: number): Simulation {
    const { lab, media } = life;
    const { segments, data_crc, slow_barriers, medium, device_sectors } = this.#shape;
    const options: SimulationOptions = {
      seed,
      segment_bytes: SEGMENT_BYTES,
      segments,
      device_bytes: device_sectors * SECTOR,
      data_crc,
      cache_mode: this.#shape.cache_mode ?? "writeback",
      eviction: this.#shape.eviction ?? "fifo",
      barriers_are_asynchronous: slow_barriers,
      barrier_is_cheap: medium === "pmem",
    };
    const parts = { memory: lab.memory, backing: lab.backing, model, limits: LIMITS };
    const simulation = new Simulation(options, parts);
    life.simulation = simulation;
    life.history = new LogHistory(media, lab.backing);
    lab.memory.onStore = (addr, len) => life.history!.stored(addr, len);
    lab.backing.onWrite = (id, off, bytes) => {
      if (id < MAX_FILL_READS) life.history!.around(off, bytes);
    };
    return simulation;
  }

  /** Runs the script; throws `Violation`, whose message says at which operation. */
  run(script: Script): void {
    const lab = this.#labs[0]!;
    const model = new Model(lab.backing.bytes);
    const life = this.#newLife(lab, () => model.crashRule());
    let is_exploring = script.operations.find((operation) => operation.do === "explore")?.on ??
      true;
    const first = script.operations[0];
    if (first?.do !== "explore" && script.operations.some(({ do: what }) => what === "explore")) {
      is_exploring = false;
    }
    const onEpoch = () => {
      if (is_exploring && !this.#until()) this.#crash(life);
    };
    lab.memory.onEpoch = onEpoch;
    lab.backing.onEpoch = onEpoch;
    let at = -1;
    try {
      const simulation = guard("answers", () => this.#open(life, model, this.#seed));
      const messages = new Messages(simulation);
      for (at = 0; at < script.operations.length && !this.#until(); at++) {
        const operation = script.operations[at]!;
        if (operation.do === "explore") is_exploring = operation.on;
        else guard("answers", () => perform(simulation, messages, operation));
        this.#tally.operations++;
      }
      messages.cancel();
      if (!this.#until()) guard("answers", () => simulation.drain());
    } catch (error) {
      if (!(error instanceof Violation)) throw error;
      throw new Violation(error.check, `operation ${at}: ${error.message}`, { cause: error });
    }
  }

  /** Makes the states that a crash at this moment may leave, and checks each. */
  #crash(life: Life): void {
    const { memory, backing } = life.lab;
    const states = new CrashStates(memory, backing, this.#random);
    const next = this.#next(life, false);
    this.#tally.points++;
    const is_all = states.forEach(this.#labs[1]!, this.#most, () => {
      if (!this.#until()) this.#check(1, next);
    });
    if (is_all) this.#tally.exhausted++;
    if (this.#random.chance(0.3)) {
      this.#kill(life.lab, this.#labs[1]!);
      this.#check(1, { ...next, was_killed: true });
    }
  }

  #next(life: Life, was_killed: boolean): NextCrash {
    const was_new = life.simulation === undefined;
    const engine = life.simulation?.engine;
    const is_through = engine !== undefined && engine.is_mode_settled &&
      (engine.cache_mode === "writethrough" || engine.cache_mode === "writearound");
    return { rule: life.rule(), history: life.history, was_new, was_killed, is_through };
  }

  /** The process is killed, the machine goes on: nothing is lost, and nothing has become durable. */
  #kill(from: Lab, to: Lab): void {
    to.memory.loadKilled(from.memory);
    to.backing.loadKilled(from.backing);
    this.#tally.kills++;
  }

  /**
   * Whether the life is to go on. States that differ only in what no one reads come out of recovery the same: the first
   * of them lives on, and one in eight of the others, since what is behind the key head may matter later.
   */
  #isToLive({ engine }: Simulation, backing: CrashBacking, was_killed: boolean): boolean {
    let hash = backing.hash_a ^ Math.imul(backing.hash_b, 0x85ebca6b);
    const mix = (value: number) => hash = Math.imul(hash ^ value, 0x9e3779b1) ^ (hash >>> 15);
    const { segs_used, gc_percent, key_head, dirty_tail, key_tail } = engine.status();
    mix(segs_used);
    mix(gc_percent);
    for (const { seg, off } of [key_head, dirty_tail, key_tail]) mix(seg * 65536 + off);
    engine.index.forEach((sector, extent) => {
      const { index } = engine;
      mix(sector * 256 + index.sectors(extent));
      mix(index.segment(extent) * 256 + index.place(extent));
      mix(index.isClean(extent) ? 1 : 0);
    });
    const is_new = !this.#tally.lived.has(hash);
    this.#tally.lived.add(hash);
    return is_new || was_killed || this.#random.chance(1 / 8);
  }

  /** Whether the state in the lab was not seen before; it is from now on. */
  #isNew({ memory, backing }: Lab): boolean {
    const a = memory.hash_a ^ Math.imul(backing.hash_a, 0x9e3779b1);
    const b = memory.hash_b ^ Math.imul(backing.hash_b, 0x85ebca6b);
    const hash = (a >>> 0) * 2 ** 21 + (b >>> 11);
    const before = this.#tally.seen.size;
    this.#tally.seen.add(hash);
    if (this.#tally.seen.size > before) return true;
    this.#tally.repeated++;
    return false;
  }

  /**
   * What must hold after crash number `crashes`, whose state is in the lab of that number:
   *
   * - "thrown away": in a mode that promises it, what was flushed is on the backing device;
   * - "prefix": the backing device alone holds a prefix of the log;
   * - "open": the cache opens; "recovery": opening it changes nothing, unless it is new, and then may be cut anywhere;
   * - "accounting": segments, tails and generations are as the media say;
   * - "monotone": where the cache says that the backing device has the same, it has, and goes on to have it;
   * - "content": every sector is the last flushed one or a later one;
   * - "write-back", "stable": with or without new requests, everything comes to the backing device, and reads as before;
   * - and all that again after a crash at a moment of this life.
   *
   * The last two are for lives: see `#isToLive`.
   */
  #check(crashes: number, next_crash: NextCrash): void {
    const { rule, history, was_new, was_killed, is_through } = next_crash;
    const lab = this.#labs[crashes]!;
    if (!was_killed && !this.#isNew(lab)) return;
    const random = this.#random;
    const { memory, backing } = lab;
    let next: NextCrash | undefined;
    let crash_at = crashes < MOST_CRASHES ? random.below(12) : -1;
    const life = this.#newLife(lab, () => rule);
    const onEpoch = () => {
      if (crash_at-- !== 0) return;
      const is_kill = random.chance(0.1);
      if (is_kill) this.#kill(lab, this.#labs[crashes + 1]!);
      else new CrashStates(memory, backing, random).makeOne(this.#labs[crashes + 1]!);
      next = this.#next(life, is_kill);
    };
    memory.onStore = () => {};
    backing.onWrite = () => {};
    memory.onEpoch = onEpoch;
    backing.onEpoch = onEpoch;

    const tail = life.media.tail(DIRTY_TAIL_ADDR);
    if (history !== undefined && tail !== undefined) {
      guard("prefix", () => history.checkPrefix(backing.durable, tail, LIMITS.batch_ksets));
    }
    if (is_through) guard("thrown away", () => rule.check(backing.bytes));
    const stores = memory.stores;
    const simulation = guard("open", () => {
      const content = new Model(new Uint8Array(0));
      return this.#open(life, content, random.u32());
    });
    if (!was_new && memory.stores > stores) {
      throw new Violation("recovery", `opening an existing cache stored ${memory.stores - stores}`);
    }
    guard("accounting", () => audit(simulation.engine, life.media, true));
    guard("monotone", () => checkClean(simulation));
    const content = guard("content", () => {
      const content = readAll(simulation, this.#shape.device_sectors * SECTOR);
      rule.check(content);
      return content;
    });
    if (!this.#isToLive(simulation, backing, was_killed)) return;
    simulation.model = new Model(content, 1 + crashes * WRITES_IN_A_LIFE);
    simulation.changeMood();
    if (was_killed) {
      // What was read is not durable yet; it is when a flush is answered.
      guard("answers", () => {
        simulation.beginFlush();
        simulation.settle();
      });
    }
    life.rule = () => simulation.model.crashRule();
    guard("answers", () => this.#liveOn(simulation));
    guard("write-back", () => drainToRest(simulation));
    guard("accounting", () => audit(simulation.engine, life.media, false));
    guard("stable", () => {
      const again = readAll(simulation, content.length);
      simulation.model.crashRule().check(again);
    });
    if (next !== undefined) this.#check(crashes + 1, next);
  }

  /** Some requests, or none. */
  #liveOn(simulation: Simulation): void {
    const { random } = simulation;
    if (random.chance(0.7)) return;
    for (let steps = random.pick([5, 15, 40]); steps > 0; steps--) simulation.step();
    if (random.chance(0.1)) simulation.reopenClean();
  }
}

/** Throws unless the backing device has what the cache calls clean: a range that is dropped from the cache reads as before. */
function checkClean({ engine, memory, backing }: Simulation): void {
  const { index } = engine;
  index.forEach((sector, extent) => {
    if (index.isPlaceholder(extent) || !index.isClean(extent)) return;
    const addr = SEGMENTS_ADDR + index.segment(extent) * SEGMENT_BYTES + DATA_OFF_BYTES +
      index.place(extent) * SECTOR;
    for (let i = 0; i < index.sectors(extent) * SECTOR; i++) {
      if (memory.bytes[addr + i] === backing.bytes[sector * SECTOR + i]) continue;
      const at = sector + Math.floor(i / SECTOR);
      throw new Error(`sector ${at} is clean in the cache, and other on the backing device`);
    }
  });
}

/** Writes everything back, until nothing is under way or staged: what GC carries meanwhile is logged. */
function drainToRest(simulation: Simulation): void {
  for (let rounds = 0; rounds < MOST_DRAINS; rounds++) {
    simulation.drain();
    while (simulation.endBarrier() || simulation.endBacking()) simulation.turn();
    if (simulation.engine.isClean()) return;
  }
  throw new Error("GC carries without end, though no request comes");
}

/** Reads the whole device. */
function readAll(simulation: Simulation, bytes: number): Uint8Array {
  const { engine, memory, backing } = simulation;
  const content = new Uint8Array(bytes);
  const step = engine.max_request_bytes;
  for (let off = 0; off < bytes; off += step) {
    const len = Math.min(step, bytes - off);
    const slot = engine.beginRead(off, len);
    let turns = 0;
    for (engine.pump(simulation.now_ms); engine.takeAnswered() !== slot;) {
      const moved = backing.endOne((id, errno) => engine.backingDone(id, errno));
      if (!moved && !simulation.endBarrier()) simulation.now_ms += 100;
      if (++turns > 1000) throw new Error(`a read of ${len} bytes at ${off} does not end`);
      engine.pump(simulation.now_ms);
    }
    if (engine.error(slot) !== 0) {
      throw new Error(`a read of ${len} bytes at ${off} ends with error ${engine.error(slot)}`);
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

/** Does it; what it throws is a violation of `check`, or of a more telling one. */
export function guard<T>(check: CheckName, act: () => T): T {
  try {
    return act();
  } catch (error) {
    if (error instanceof Violation) throw error;
    throw new Violation(nameOf(check, error), (error as Error).message, { cause: error });
  }
}

function nameOf(check: CheckName, error: unknown): CheckName {
  if (error instanceof AssertionFailure) return "assertion";
  if (error instanceof RangeError) return "outside";
  if (error instanceof PrefixFailure) return "prefix";
  if (error instanceof AuditFailure) return "accounting";
  if (error instanceof ModelViolation) return check === "answers" ? "content" : check;
  if (error instanceof CacheError) return "open";
  return check;
}

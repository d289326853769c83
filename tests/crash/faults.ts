/**
 * Faults: the n-th request of a kind fails, once or from then on, for n = 1, 2, ... until a run has none to fail. Whatever
 * fails: an answer without an error is right, and what was flushed is there after a power cut when the fault is over.
 *
 * (Damaged bytes on the cache device: `tests/faults_test.ts`.)
 *
 * @module
 */

import { CACHE_MODES, type CacheMode } from "../../core/cache_mode.ts";
import { CacheError, EIO } from "../../core/errors.ts";
import { SEGMENTS_ADDR } from "../../core/format.ts";
import { Model } from "../model.ts";
import { fillFor, Random } from "../random.ts";
import { SimDevice } from "../sim_device.ts";
import { CrashBacking } from "./crash_backing.ts";
import { CrashMemory, type Medium } from "./crash_memory.ts";
import { CrashStates } from "./crash_states.ts";
import { guard, Violation } from "./explorer.ts";
import { SEGMENT_BYTES } from "./script.ts";

const SECTOR = 512;
const SEGMENTS = 7;
const DEVICE_BYTES = 48 * SECTOR;
const GEOMETRY = { segment_bytes: SEGMENT_BYTES, min_cache_bytes: 0 };
const LIMITS = { requests: 16, pieces: 128, staged_keys: 128, batch_ksets: 3 };
const OPERATIONS = 30;
const READ_BYTES = 16 * SECTOR;

/** What fails: of the backing device, or of the cache device. */
const KINDS = ["read", "write", "zero", "flush", "barrier", "cache read"] as const;
type Kind = typeof KINDS[number];

/** Counts up to the request that fails. */
class Fault {
  #left: number;
  fired = 0;
  is_over = false;

  constructor(readonly kind: Kind, nth: number, readonly for_good: boolean) {
    this.#left = nth;
  }

  /** Whether this request of that kind fails. */
  hits(kind: Kind): boolean {
    if (kind !== this.kind || this.is_over) return false;
    this.#left--;
    const hit = this.for_good ? this.#left <= 0 : this.#left === 0;
    if (hit) this.fired++;
    return hit;
  }
}

/** Makes every kind of request fail, each in turn. Returns how many runs there were. Throws `Violation`. */
export function runFaults(random: Random, until: () => boolean): number {
  let runs = 0;
  for (const medium of ["pmem", "pages"] as const) {
    for (const kind of KINDS) {
      for (const for_good of [false, true]) {
        const seed = random.u32();
        for (let nth = 1; !until(); nth++) {
          const fault = new Fault(kind, nth, for_good);
          const what = `${medium}, ${kind} ${nth} fails${for_good ? " and all after it" : ""}, ` +
            `seed ${seed}`;
          try {
            new FaultRun(medium, seed, fault, random).run();
          } catch (error) {
            if (!(error instanceof Violation)) throw error;
            throw new Violation(error.check, `${what}: ${error.message}`, { cause: error });
          }
          runs++;
          if (fault.fired === 0) break;
        }
      }
    }
  }
  return runs;
}

class FaultRun {
  readonly #medium: Medium;
  readonly #fault: Fault;
  readonly #script: Random;
  readonly #random: Random;
  readonly #model: Model;
  readonly #mode: CacheMode;
  #memory: CrashMemory;
  #backing: CrashBacking;
  #device: SimDevice | undefined;

  constructor(medium: Medium, seed: number, fault: Fault, random: Random) {
    this.#medium = medium;
    this.#fault = fault;
    this.#script = new Random(seed);
    // A flush that fails may lose what went around the cache: its error says so, and it reads as before.
    const may_lose = fault.kind === "flush";
    const modes = CACHE_MODES.filter((mode) => !may_lose || mode !== "writearound");
    this.#mode = this.#script.pick(modes);
    this.#random = random;
    const content = new Uint8Array(DEVICE_BYTES);
    fillFor(0x7fff_ffff, content);
    this.#model = new Model(content);
    this.#memory = this.#newMemory();
    this.#backing = new CrashBacking(content, this.#memory.bytes, random);
    this.#arm();
  }

  #newMemory(): CrashMemory {
    return new CrashMemory({
      medium: this.#medium,
      cache_bytes: SEGMENTS_ADDR + SEGMENTS * SEGMENT_BYTES,
      buffer_bytes: 32 * 1024,
      barrier_is_cheap: this.#medium === "pmem",
      barriers_are_asynchronous: true,
    });
  }

  #arm(): void {
    this.#memory.fault = (what) => this.#fault.hits(what === "read" ? "cache read" : what);
    this.#backing.fault = (kind) => this.#fault.hits(kind) ? EIO : 0;
  }

  run(): void {
    for (let i = 0; i < OPERATIONS; i++) this.#operate(i);
    // The fault is over; what can be written back is, now or after a power cut.
    this.#fault.is_over = true;
    if (this.#device !== undefined && !this.#device.engine.has_failed) this.#drain();
    this.#cut();
    this.#open();
    const content = guard("content", () => this.#readAll());
    guard("content", () => this.#model.crashRule().check(content));
    guard("write-back", () => this.#device!.drain());
    for (let i = 0; i < DEVICE_BYTES; i++) {
      if (this.#backing.bytes[i] === content[i]) continue;
      throw new Violation("write-back", `byte ${i} was not written back`);
    }
  }

  /** One operation; when the process ends of it, the power fails, too, and it is started again. */
  #operate(i: number): void {
    try {
      if (this.#device === undefined) this.#open();
      this.#request(this.#device!, i);
    } catch (error) {
      if (error instanceof Violation) throw error;
      if (!(error instanceof CacheError)) guard("answers", () => rethrow(error));
      if (this.#fault.fired === 0) guard("open", () => rethrow(error));
      this.#device = undefined;
      this.#cut();
    }
  }

  #open(): void {
    const options = { geometry: GEOMETRY, data_crc: true, cache_mode: this.#mode };
    this.#device = new SimDevice(this.#memory, this.#backing, options, LIMITS);
  }

  #request(device: SimDevice, i: number): void {
    const random = this.#script;
    const off = SECTOR * random.below(40);
    const len = SECTOR * random.between(1, 8);
    const model = this.#model;
    const kind = random.below(10);
    if (kind < 4) {
      const shift = random.chance(0.2) ? random.below(SECTOR) : 0;
      const is_zero = random.chance(0.3);
      const write = model.beginWrite(off + shift, len - shift, is_zero ? () => {} : fillFor);
      const errno = is_zero
        ? device.zero(write.off, write.len, random.chance(0.5))
        : device.write(write.off, write.bytes);
      if (errno === 0) model.endWrite(write, false);
      else {
        const backing: Kind[] = this.#is_through ? ["write", "flush"] : [];
        if (shift > 0) backing.push("read"); // an edge
        this.#excuse(errno, [...backing, "barrier", "cache read"]);
      }
    } else if (kind < 6) {
      const read = model.beginRead(off, len);
      const answer = device.read(off, len);
      model.endRead(read);
      if (answer.errno === 0) guard("content", () => model.checkRead(read, answer.bytes));
      else this.#excuse(answer.errno, ["read"]);
    } else if (kind < 8) {
      const begin = model.beginFlush();
      const errno = device.flush();
      if (errno === 0) model.endFlush(begin);
      else {
        const backing: Kind[] = this.#is_through ? ["flush"] : [];
        this.#excuse(errno, [...backing, "barrier", "cache read"]);
      }
    } else if (kind < 9) device.now_ms += 2000;
    else {
      // Write-back tries, but need not succeed.
      device.engine.setDraining(i % 2 === 0);
      let turns = 0;
      const { engine } = device;
      const isOver = () => ++turns > 40 || engine.has_failed || engine.isClean();
      device.runUntil("write-back had time", isOver);
      device.engine.setDraining(false);
    }
  }

  /** The backing device has what is answered: its errors are the requests'. */
  get #is_through(): boolean {
    return this.#mode === "writethrough" || this.#mode === "writearound";
  }

  /** An error is right when something it depends on has failed. */
  #excuse(errno: number, kinds: readonly Kind[]): void {
    const is_excused = errno === EIO && this.#fault.fired > 0 && kinds.includes(this.#fault.kind);
    if (!is_excused) throw new Violation("answers", `a request ends with error ${errno}`);
  }

  #readAll(): Uint8Array {
    const content = new Uint8Array(DEVICE_BYTES);
    for (let off = 0; off < DEVICE_BYTES; off += READ_BYTES) {
      const { errno, bytes } = this.#device!.read(off, READ_BYTES);
      if (errno !== 0) throw new Error(`a read at ${off} ends with error ${errno}`);
      content.set(bytes, off);
    }
    return content;
  }

  #drain(): void {
    guard("write-back", () => this.#device!.drain());
  }

  /** The power fails. */
  #cut(): void {
    const memory = this.#newMemory();
    const backing = new CrashBacking(this.#backing.durable, memory.bytes, this.#random);
    new CrashStates(this.#memory, this.#backing, this.#random).makeOne({ memory, backing });
    this.#memory = memory;
    this.#backing = backing;
    this.#arm();
  }
}

function rethrow(error: unknown): never {
  throw error;
}

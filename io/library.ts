/**
 * A cache inside a Deno program: opened, read, written, flushed and trimmed by promises, while the program does other things.
 *
 * Requests that are begun together go into one turn of the cache's loop. As long as one is under way a turn comes with every turn of the
 * program's own loop; without any, when write-back wants one, which does not keep the program alive.
 *
 * @module
 */

import type { CacheMode } from "../core/cache_mode.ts";
import type { Counters } from "../core/counters.ts";
import type { Status } from "../core/engine.ts";
import { CacheError, OK } from "../core/errors.ts";
import { SECTOR_BYTES } from "../core/format.ts";
import type { LatencyReport } from "../core/latencies.ts";
import { Jobs } from "./jobs.ts";
import { errorText } from "./libc.ts";
import { LocalCache } from "./local_cache.ts";
import { applySetting } from "./settings.ts";

/** Longest zeroing handed to the engine at once. */
const MAX_ZERO_BYTES = 1024 ** 3;

/** What `Cache.open` opens. */
export interface CacheOptions {
  /** A file of at least 512 MiB, a block device, or device DAX. */
  readonly cache_path: string;
  /** A file, a block device, or an NBD URI. */
  readonly backing_path: string;
  /** Whether a new cache gets checksums; a cache that is there must have the same setting. If left out: only one that is there is opened, as it is. */
  readonly data_crc?: boolean;
  /** The one that the cache has, writeback for a new one, if left out. */
  readonly cache_mode?: CacheMode;
}

/** What a cache has done, and how it stands. */
export interface CacheStats {
  readonly counters: Readonly<Counters>;
  readonly status: Status;
  readonly latencies: LatencyReport;
}

/** A request under way: what is done with its pieces, and how it ends. */
interface Waiting {
  readonly what: string;
  /** A write's payload. */
  readonly payload: Uint8Array | null;
  /** What a read fills. */
  readonly into: Uint8Array | null;
  readonly resolve: () => void;
  readonly reject: (error: CacheError) => void;
}

/** An open cache. Both devices are locked: no other process can use them until it is closed. */
export class Cache implements AsyncDisposable {
  /** Size of the cached device. */
  readonly size_bytes: number;
  readonly #local: LocalCache;
  readonly #jobs: Jobs;
  readonly #waiting = new Map<number, Waiting>();
  /** Requests that found no free slot. */
  #starved: (() => void)[] = [];
  #job: { resolve: (text: string) => void; reject: (error: CacheError) => void } | null = null;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #is_turn_due = false;
  #is_closed = false;

  private constructor(local: LocalCache) {
    this.#local = local;
    this.size_bytes = local.engine.size_bytes;
    this.#jobs = new Jobs({
      engine: local.engine,
      backingTrouble: () => local.backing.trouble,
      now_ms: () => performance.now(),
    });
    this.#sleep();
  }

  /**
   * Opens a cache, and makes a new one on a device of zeroes. Reads the log: that may take a second for each million cached ranges.
   *
   * @throws {CacheError} It cannot be opened, is in use, or is damaged. Neither device was changed.
   */
  static open({ data_crc, ...options }: CacheOptions): Cache {
    return new Cache(new LocalCache({ ...options, data_crc: data_crc ?? null }));
  }

  /**
   * Reads bytes of any alignment.
   *
   * @throws {RangeError} They are not all on the device.
   * @throws {CacheError} An I/O error.
   */
  async read(off_bytes: number, len_bytes: number): Promise<Uint8Array<ArrayBuffer>> {
    this.#check("read", off_bytes, len_bytes);
    const bytes = new Uint8Array(len_bytes);
    const parts = this.#parts(off_bytes, len_bytes, this.#local.engine.max_request_bytes);
    await Promise.all(parts.map(([off, len]) =>
      this.#request(`read of ${len} bytes at ${off}`, {
        begin: () => this.#local.engine.beginRead(off, len),
        into: bytes.subarray(off - off_bytes, off - off_bytes + len),
      })
    ));
    return bytes;
  }

  /**
   * Writes bytes of any alignment. They are safe from a crash of this program after the next `flush`, or at once with `fua`.
   *
   * @throws {RangeError} They are not all on the device.
   * @throws {CacheError} An I/O error.
   */
  async write(off_bytes: number, bytes: Uint8Array, { fua = false } = {}): Promise<void> {
    this.#check("write", off_bytes, bytes.length);
    const parts = this.#parts(off_bytes, bytes.length, this.#local.engine.max_request_bytes);
    await Promise.all(parts.map(([off, len]) =>
      this.#request(`write of ${len} bytes at ${off}`, {
        begin: () => this.#local.engine.beginWrite(off, len, fua),
        payload: bytes.subarray(off - off_bytes, off - off_bytes + len),
      })
    ));
  }

  /** Makes a range zeroes, whose space the backing device may give up. Errors as those of `write`. */
  async trim(off_bytes: number, len_bytes: number): Promise<void> {
    await this.#zero("trim", off_bytes, len_bytes, true);
  }

  /** Makes a range zeroes, whose space the backing device keeps. Errors as those of `write`. */
  async zero(off_bytes: number, len_bytes: number): Promise<void> {
    await this.#zero("zeroing", off_bytes, len_bytes, false);
  }

  async #zero(what: string, off_bytes: number, len_bytes: number, may_punch: boolean) {
    this.#check(what, off_bytes, len_bytes);
    await Promise.all(
      this.#parts(off_bytes, len_bytes, MAX_ZERO_BYTES).map(([off, len]) =>
        this.#request(`${what} of ${len} bytes at ${off}`, {
          begin: () => this.#local.engine.beginZero(off, len, may_punch, false),
        })
      ),
    );
  }

  /** Returns when every write that has ended before would survive a power cut. Throws `CacheError` on an I/O error. */
  async flush(): Promise<void> {
    this.#checkOpen();
    await this.#request("flush", { begin: () => this.#local.engine.beginFlush() });
  }

  /**
   * `flush` (writes everything back, and keeps it cached), `drop_clean`, `invalidate START LENGTH`, `scrub`, or a setting such as
   * `gc_percent N`: docs/messages.md says what each does. Returns its answer.
   *
   * @throws {CacheError} It is refused, or could not be done.
   */
  async message(...words: string[]): Promise<string> {
    this.#checkOpen();
    const begun = this.#jobs.ask(words, 0);
    if (begun === undefined) {
      applySetting(this.#local.engine, words);
      this.#wake();
      return "";
    }
    if (begun !== null) throw new CacheError(begun.ok ? "refused" : begun.error);
    return await new Promise((resolve, reject) => {
      this.#job = { resolve, reject };
      this.#wake();
    });
  }

  /** What the cache has done since it was opened, and the fields of the status line. */
  stats(): CacheStats {
    this.#checkOpen();
    const { engine } = this.#local;
    return {
      counters: { ...engine.counters },
      status: engine.status(),
      latencies: engine.latencies(),
    };
  }

  /** Waits for what is under way, commits the log, and lets go of both devices. What is dirty stays in the cache. */
  async close(): Promise<void> {
    if (this.#is_closed) return;
    this.#is_closed = true;
    while (this.#waiting.size > 0 || this.#starved.length > 0 || this.#job !== null) {
      this.#turn();
      await new Promise((wake) => setTimeout(wake, 0));
    }
    clearTimeout(this.#timer);
    using local = this.#local;
    local.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #checkOpen(): void {
    if (this.#is_closed) throw new CacheError("the cache has been closed");
  }

  #check(what: string, off_bytes: number, len_bytes: number): void {
    this.#checkOpen();
    const is_range = Number.isSafeInteger(off_bytes) && Number.isSafeInteger(len_bytes) &&
      off_bytes >= 0 && len_bytes >= 0 && off_bytes + len_bytes <= this.size_bytes;
    if (is_range) return;
    throw new RangeError(
      `${what} of ${len_bytes} bytes at ${off_bytes}, but the device has ${this.size_bytes}`,
    );
  }

  /** A range, cut into parts that the engine takes. Cuts are at sectors where the range begins at one. */
  #parts(off_bytes: number, len_bytes: number, most_bytes: number): [off: number, len: number][] {
    const parts: [number, number][] = [];
    const step_bytes = most_bytes - most_bytes % SECTOR_BYTES;
    for (let at = 0; at < len_bytes; at += step_bytes) {
      parts.push([off_bytes + at, Math.min(step_bytes, len_bytes - at)]);
    }
    return parts;
  }

  async #request(
    what: string,
    { begin, payload = null, into = null }: {
      begin: () => number;
      payload?: Uint8Array | null;
      into?: Uint8Array | null;
    },
  ): Promise<void> {
    let slot = begin();
    while (slot < 0) {
      await new Promise<void>((resolve) => {
        this.#starved.push(resolve);
        this.#wake();
      });
      slot = begin();
    }
    await new Promise<void>((resolve, reject) => {
      this.#waiting.set(slot, { what, payload, into, resolve, reject });
      this.#wake();
    });
  }

  /** A turn comes as soon as the program has nothing else to do at once. */
  #wake(): void {
    if (this.#is_turn_due) return;
    this.#is_turn_due = true;
    queueMicrotask(() => {
      this.#is_turn_due = false;
      if (this.#is_closed) return;
      this.#turn();
      this.#sleep();
    });
  }

  #sleep(): void {
    clearTimeout(this.#timer);
    const is_busy = this.#waiting.size > 0 || this.#starved.length > 0 || this.#job !== null;
    const sleep_ms = is_busy ? 0 : this.#local.nextTimerMs();
    if (sleep_ms === Infinity && !this.#local.has_work_under_way) return;
    this.#timer = setTimeout(() => this.#wake(), Math.min(sleep_ms, IDLE_LOOK_MS));
    if (!is_busy) Deno.unrefTimer(this.#timer);
  }

  #turn(): void {
    const { engine } = this.#local;
    this.#local.turn(0);
    if (this.#job !== null) this.#stepJob();
    for (let slot = engine.takePlaced(); slot >= 0; slot = engine.takePlaced()) {
      this.#copy(slot, this.#waiting.get(slot)!.payload!, true);
      engine.payloadArrived(slot);
    }
    for (let slot = engine.takeAnswered(); slot >= 0; slot = engine.takeAnswered()) {
      this.#end(slot);
    }
    const starved = this.#starved;
    this.#starved = [];
    for (const resolve of starved) resolve();
    engine.pump(performance.now());
  }

  #stepJob(): void {
    const end = this.#jobs.step(performance.now());
    if (end === null) return;
    const { resolve, reject } = this.#job!;
    this.#job = null;
    if (!end.reply.ok) reject(new CacheError(end.reply.error));
    else resolve("text" in end.reply ? end.reply.text : "");
  }

  #end(slot: number): void {
    const { engine } = this.#local;
    const { what, into, resolve, reject } = this.#waiting.get(slot)!;
    this.#waiting.delete(slot);
    const errno = engine.error(slot);
    if (errno === OK && into !== null) this.#copy(slot, into, false);
    engine.release(slot);
    if (errno === OK) resolve();
    else reject(new CacheError(`${what}: ${errorText(errno)}`));
  }

  /** Moves bytes between the program and the pieces of a request. */
  #copy(slot: number, bytes: Uint8Array, is_write: boolean): void {
    const { engine, arena } = this.#local;
    let at = 0;
    for (let piece = engine.firstPiece(slot); piece >= 0; piece = engine.nextPiece(piece)) {
      const addr = engine.pieceAddr(piece);
      const len = engine.pieceLen(piece);
      if (is_write) arena.bytes.set(bytes.subarray(at, at + len), addr);
      else bytes.set(arena.bytes.subarray(addr, addr + len), at);
      at += len;
    }
  }
}

/** How often what goes on in the background is looked at. */
const IDLE_LOOK_MS = 20;

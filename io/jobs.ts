/**
 * Messages that take long: a device does them a step in each turn of its loop, beside its requests, one at a time.
 *
 * | message | what it does |
 * |---|---|
 * | `flush` | writes back everything that is dirty when it comes, and keeps it cached |
 * | `drop_clean` | the same, and then forgets all clean data and takes its keys off the log |
 * | `invalidate START LEN` | forgets a range, in sectors, which must not be dirty |
 * | `scrub` | verifies all checksums, and heals what is clean |
 *
 * A job ends when who asked for it has gone, or when the device is removed or its table wiped: what it has done by then stays done.
 *
 * @module
 */

import { assert } from "../core/assert.ts";
import type { Engine } from "../core/engine.ts";
import { EIO } from "../core/errors.ts";
import { SECTOR_BYTES } from "../core/format.ts";
import type { ScrubReport } from "../core/upkeep.ts";
import { BUSY, type ControlReply, INVALID, type JobProgress } from "./control_protocol.ts";
import { errorText } from "./libc.ts";

/** How long write-back may stand still while the backing device reports errors. */
const STUCK_MS = 10_000;
/** How often a job is looked at that waits for write-back or GC. */
const LOOK_MS = 20;
/** Longest part of a turn that a job takes, in ms. */
const STEP_MS = 1;

/** The first words of these messages. */
export const JOB_WORDS = ["flush", "drop_clean", "invalidate", "scrub"] as const;
type JobWord = typeof JOB_WORDS[number];

function isJobWord(word: string): word is JobWord {
  return (JOB_WORDS as readonly string[]).includes(word);
}

/** What jobs need of their device. */
export interface JobsHost {
  readonly engine: Pick<
    Engine,
    | "counters"
    | "size_bytes"
    | "has_failed"
    | "setDraining"
    | "setReclaiming"
    | "isReclaimed"
    | "has_checksums"
    | "scrub"
    | "forget"
    | "countDirty"
  >;
  /** Why the backing device is away for now; "": it is there. */
  backingTrouble(): string;
  now_ms(): number;
}

/** One job. `step` returns the answer when it is over, and null as long as it goes on. */
interface Job {
  /** Whether there is always something to do, so that the loop does not sleep. */
  readonly is_busy: boolean;
  readonly progress: JobProgress;
  step(now_ms: number): ControlReply | null;
  stop(): void;
}

/** The jobs of one device. */
export class Jobs {
  readonly #host: JobsHost;
  #job: Job | null = null;
  #client = -1;

  constructor(host: JobsHost) {
    this.#host = host;
  }

  get is_under_way(): boolean {
    return this.#job !== null;
  }

  /** How far the job under way is; null: there is none. */
  get progress(): JobProgress | null {
    return this.#job?.progress ?? null;
  }

  /** Begins what a message asks for: null, the answer comes from `step`, or a refusal; undefined: it is no such message. */
  ask(args: readonly string[], client: number): ControlReply | null | undefined {
    const [word = "", ...rest] = args;
    if (!isJobWord(word)) return undefined;
    if (this.#job !== null) {
      return refused(BUSY, "a flush, drop_clean, invalidate or scrub is under way");
    }
    const wanted = word === "invalidate" ? 2 : 0;
    if (rest.length !== wanted) {
      const takes = wanted === 0 ? "no words" : "<start> and <length>, in sectors,";
      return refused(INVALID, `${word} takes ${takes} but ${rest.length} are given`);
    }
    if (this.#host.engine.has_failed) return refused(errorText(EIO), "the cache device has failed");
    const made = this.#make(word, rest);
    if ("ok" in made) return made;
    this.#job = made;
    this.#client = client;
    return null;
  }

  #make(word: JobWord, rest: string[]): Job | ControlReply {
    const { engine } = this.#host;
    switch (word) {
      case "flush":
        return new FlushJob(this.#host);
      case "drop_clean":
        return new DropJob(this.#host);
      case "invalidate": {
        const size_sectors = engine.size_bytes / SECTOR_BYTES;
        const [start, length] = rest.map((text) => /^[0-9]{1,15}$/.test(text) ? Number(text) : NaN);
        if (length! > 0 && start! + length! <= size_sectors) {
          return new InvalidateJob(this.#host, start! * SECTOR_BYTES, length! * SECTOR_BYTES);
        }
        return refused(
          INVALID,
          `invalidate ${rest.join(" ")}, but a range of sectors in 0..${size_sectors} is wanted`,
        );
      }
      case "scrub":
        if (engine.has_checksums) return new ScrubJob(this.#host);
        return refused(
          INVALID,
          "scrub: the cache was made with data_crc false, it has no checksums",
        );
    }
  }

  /** Goes on. The answer, and to whom it goes, when the job is over. The engine has to be pumped after. */
  step(now_ms: number): { client: number; reply: ControlReply } | null {
    const reply = this.#job?.step(now_ms) ?? null;
    if (reply === null) return null;
    return { client: this.#end(), reply };
  }

  /** The device does not go on to do it. The refusal, and to whom it goes; null: no job is under way. */
  cancel(): { client: number; reply: ControlReply } | null {
    if (this.#job === null) return null;
    return { client: this.#end(), reply: refused(BUSY, "the device is being removed or wiped") };
  }

  /** A client has gone: nobody waits for its job any more. */
  clientGone(client: number): void {
    if (client === this.#client) this.#end();
  }

  /** How long the loop may sleep. */
  nextTimerMs(): number {
    if (this.#job === null) return Infinity;
    return this.#job.is_busy ? 0 : LOOK_MS;
  }

  #end(): number {
    const client = this.#client;
    this.#job?.stop();
    this.#job = null;
    this.#client = -1;
    return client;
  }
}

/** Writes back what is dirty. */
class FlushJob implements Job {
  readonly is_busy = false;
  readonly #host: JobsHost;
  #first_dirty_bytes: number;
  /** Where the counter of keys that were written back has to come to. */
  #target_bytes = 0;
  #relogged = 0;
  #errors = 0;
  #deadline_ms: number;
  #seen_bytes = 0;

  constructor(host: JobsHost) {
    this.#host = host;
    this.#deadline_ms = host.now_ms() + STUCK_MS;
    this.#first_dirty_bytes = host.engine.counters.dirty_bytes;
    this.#aim();
    host.engine.setDraining(true);
  }

  /** All that is dirty now is to be written back. Write-back goes along the log, so later keys are counted later. */
  #aim(): void {
    const { counters } = this.#host.engine;
    this.#seen_bytes = counters.writeback_key_bytes;
    this.#target_bytes = counters.writeback_key_bytes + counters.dirty_bytes;
    this.#relogged = counters.writeback_relogged;
    this.#errors = this.#errorCount();
  }

  get progress(): JobProgress {
    const { counters } = this.#host.engine;
    const left_bytes = Math.max(0, this.#target_bytes - counters.writeback_key_bytes);
    return { done_bytes: Math.max(0, this.#first_dirty_bytes - left_bytes), left_bytes };
  }

  step(now_ms: number): ControlReply | null {
    const { engine } = this.#host;
    const { counters } = engine;
    const is_there = counters.writeback_key_bytes >= this.#target_bytes;
    if (is_there && counters.writeback_relogged === this.#relogged) return { ok: true, text: "" };
    const trouble = this.#host.backingTrouble();
    const has_failed = this.#errorCount() > this.#errors || trouble !== "" || engine.has_failed;
    const has_moved = counters.writeback_key_bytes > this.#seen_bytes && !is_there;
    if (has_moved || !has_failed) {
      this.#seen_bytes = counters.writeback_key_bytes;
      this.#deadline_ms = now_ms + STUCK_MS;
    }
    if (now_ms >= this.#deadline_ms) {
      const why = trouble === "" ? "" : `the backing device is away (${trouble}): `;
      const { left_bytes } = this.progress;
      const dirty_bytes = Math.max(left_bytes, counters.dirty_bytes);
      return refused(
        errorText(EIO),
        `${why}${dirty_bytes} bytes cannot be written back and stay in the cache`,
      );
    }
    if (is_there) this.#aimAgain();
    return null;
  }

  /** Some of it was logged again, since it could not be written: it is behind everything else now. */
  #aimAgain(): void {
    const errors = this.#errors;
    this.#aim();
    this.#errors = errors;
  }

  stop(): void {
    this.#host.engine.setDraining(false);
  }

  #errorCount(): number {
    const { backing_write_errors, backing_flush_errors, checksum_failures } =
      this.#host.engine.counters;
    return backing_write_errors + backing_flush_errors + checksum_failures;
  }
}

/** Writes back, takes all keys of clean data off the log, and forgets what the index still has of it. */
class DropJob implements Job {
  readonly #host: JobsHost;
  readonly #flush: FlushJob;
  #is_flushed = false;
  #is_reclaimed = false;
  #next_bytes = 0;

  constructor(host: JobsHost) {
    this.#host = host;
    this.#flush = new FlushJob(host);
  }

  get is_busy(): boolean {
    return this.#is_reclaimed;
  }

  get progress(): JobProgress {
    return this.#flush.progress;
  }

  step(now_ms: number): ControlReply | null {
    const { engine } = this.#host;
    if (!this.#is_flushed) {
      const reply = this.#flush.step(now_ms);
      if (reply === null || !reply.ok) return reply;
      this.#is_flushed = true;
      this.#flush.stop();
      engine.setReclaiming(true);
      return null;
    }
    if (engine.has_failed) return refused(errorText(EIO), "the cache device failed");
    if (!this.#is_reclaimed) {
      this.#is_reclaimed = engine.isReclaimed();
      return null;
    }
    const end_ms = this.#host.now_ms() + STEP_MS;
    while (this.#next_bytes < engine.size_bytes) {
      this.#next_bytes = engine.forget(this.#next_bytes, engine.size_bytes);
      if (this.#host.now_ms() >= end_ms) return null;
    }
    return { ok: true, text: "" };
  }

  stop(): void {
    if (!this.#is_flushed) this.#flush.stop();
    this.#host.engine.setReclaiming(false);
  }
}

/** Forgets a range that is not dirty. */
class InvalidateJob implements Job {
  readonly is_busy = true;
  readonly #host: JobsHost;
  readonly #from_bytes: number;
  readonly #to_bytes: number;
  #counted_bytes: number;
  #dirty_bytes = 0;
  #next_bytes: number;

  constructor(host: JobsHost, from_bytes: number, len_bytes: number) {
    this.#host = host;
    this.#from_bytes = this.#counted_bytes = this.#next_bytes = from_bytes;
    this.#to_bytes = from_bytes + len_bytes;
  }

  get progress(): JobProgress {
    const done_bytes = this.#next_bytes - this.#from_bytes;
    return { done_bytes, left_bytes: this.#to_bytes - this.#next_bytes };
  }

  step(): ControlReply | null {
    const { engine } = this.#host;
    const end_ms = this.#host.now_ms() + STEP_MS;
    while (this.#counted_bytes < this.#to_bytes) {
      const { dirty_bytes, next_bytes } = engine.countDirty(this.#counted_bytes, this.#to_bytes);
      this.#dirty_bytes += dirty_bytes;
      this.#counted_bytes = next_bytes;
      if (this.#host.now_ms() >= end_ms) return null;
    }
    if (this.#dirty_bytes > 0) {
      const sectors = this.#dirty_bytes / SECTOR_BYTES;
      return refused(BUSY, `${sectors} sectors of the range are dirty: flush first`);
    }
    while (this.#next_bytes < this.#to_bytes) {
      this.#next_bytes = engine.forget(this.#next_bytes, this.#to_bytes);
      if (this.#host.now_ms() >= end_ms) return null;
    }
    return { ok: true, text: "" };
  }

  stop(): void {}
}

/** Verifies everything. */
class ScrubJob implements Job {
  readonly is_busy = true;
  readonly #host: JobsHost;
  readonly #report: ScrubReport = { verified_bytes: 0, healed_bytes: 0, lost_bytes: 0 };
  #next_bytes = 0;

  constructor(host: JobsHost) {
    assert(host.engine.has_checksums, "there are checksums");
    this.#host = host;
  }

  get progress(): JobProgress {
    return {
      done_bytes: this.#next_bytes,
      left_bytes: this.#host.engine.size_bytes - this.#next_bytes,
    };
  }

  step(): ControlReply | null {
    const { engine } = this.#host;
    const end_ms = this.#host.now_ms() + STEP_MS;
    while (this.#next_bytes < engine.size_bytes) {
      this.#next_bytes = engine.scrub(this.#next_bytes, this.#report);
      if (this.#host.now_ms() >= end_ms) return null;
    }
    const { verified_bytes, healed_bytes, lost_bytes } = this.#report;
    const text = `verified ${verified_bytes} healed ${healed_bytes} lost ${lost_bytes}`;
    if (lost_bytes === 0) return { ok: true, text };
    return refused(errorText(EIO), `${text}: dirty data is damaged, and nobody else has it`);
  }

  stop(): void {}
}

function refused(what: string, why: string): ControlReply {
  return { ok: false, error: `${what}: ${why}` };
}

/**
 * Flush, FUA and write-through: requests that are answered when the log is durable up to where it was when they came, or when the
 * backing device has what they brought (`through.ts`), or both.
 *
 * Invariant: both queues are in order of what they wait for, but for a change of the cache mode, since that only grows. Who needs less
 * than the one before it waits a little longer.
 *
 * @module
 */

import { EIO, OK } from "./errors.ts";
import { SECTOR_BYTES } from "./format.ts";
import { FLUSH, PENDING, RequestQueue } from "./requests.ts";
import type { EngineState } from "./state.ts";

/** Nothing of the backing device. */
const NOTHING = -Infinity;

/** The waiting flushes, and the writes that wait for the backing device. */
export class Flushes {
  readonly #state: EngineState;
  readonly #queue: RequestQueue;
  readonly #writes: RequestQueue;

  constructor(state: EngineState) {
    this.#state = state;
    this.#queue = new RequestQueue(state.requests);
    this.#writes = new RequestQueue(state.requests);
  }

  /** A flush. Returns its slot; -1: all are in use. */
  begin(): number {
    const slot = this.#state.requests.take(FLUSH, 0, 0, false);
    if (slot >= 0) this.await(slot);
    return slot;
  }

  /** Answers the request, a flush or a FUA write that was logged, once everything before it is durable. */
  await(slot: number): void {
    const { log, requests, barriers, through, arounds } = this.#state;
    if (barriers.has_failed) return this.#state.answer(slot, EIO);
    requests.log_target[slot] = log.appended;
    requests.write_target[slot] = through.is_on ? through.target(log.appended) : NOTHING;
    requests.backing_flush[slot] = arounds.flush;
    this.#await(slot);
  }

  /** Answers a FUA write that went around the cache, once that is durable. */
  awaitAround(slot: number): void {
    const { requests, arounds } = this.#state;
    requests.log_target[slot] = 0;
    requests.write_target[slot] = NOTHING;
    requests.backing_flush[slot] = arounds.flush;
    this.#await(slot);
  }

  #await(slot: number): void {
    const { log, requests, backing_flushes, through } = this.#state;
    requests.flush_failures[slot] = backing_flushes.failures;
    if (this.#isReady(slot)) return this.#state.answer(slot, OK);
    requests.state[slot] = PENDING;
    const flush = requests.backing_flush[slot]!;
    if (!backing_flushes.isDurable(flush)) backing_flushes.want(flush);
    if (requests.write_target[slot] !== NOTHING) through.waiting++;
    this.#queue.push(slot);
    this.#tellWanted();
    if (log.durable < requests.log_target[slot]!) log.want();
  }

  /** Answers a write that was logged once the backing device has it. */
  awaitWritten(slot: number): void {
    const { log, requests, through, backing_flushes } = this.#state;
    const target = through.target(log.appended);
    if (through.written >= target) return this.#state.answer(slot, OK);
    requests.state[slot] = PENDING;
    requests.write_target[slot] = target;
    requests.flush_failures[slot] = backing_flushes.failures;
    through.waiting++;
    this.#writes.push(slot);
    log.want();
  }

  /** Answers what can be answered. Returns whether anything was. */
  step(): boolean {
    const any = this.#stepWrites();
    return this.#stepFlushes() || any;
  }

  #stepWrites(): boolean {
    const { requests, barriers, through, backing_flushes } = this.#state;
    let any = false;
    for (let slot = this.#writes.peek(); slot >= 0; slot = this.#writes.peek()) {
      const is_written = through.written >= requests.write_target[slot]!;
      // A batch that cannot be flushed is written again and again, and what is behind it never.
      const has_lost = backing_flushes.failures > requests.flush_failures[slot]!;
      if (!is_written && !has_lost && !barriers.has_failed) break;
      this.#writes.shift();
      through.waiting--;
      this.#state.answer(slot, is_written ? this.#refusal(slot) : EIO);
      any = true;
    }
    return any;
  }

  #stepFlushes(): boolean {
    const { requests, barriers, through, backing_flushes } = this.#state;
    let any = false;
    for (let slot = this.#queue.peek(); slot >= 0; slot = this.#queue.peek()) {
      const is_ready = this.#isReady(slot);
      const has_lost = this.#needsBacking(slot) &&
        backing_flushes.failures > requests.flush_failures[slot]!;
      if (!is_ready && !has_lost && !barriers.has_failed) break;
      this.#queue.shift();
      const is_through = requests.write_target[slot] !== NOTHING;
      if (is_through) through.waiting--;
      const errno = is_ready && is_through ? this.#refusal(slot) : OK;
      this.#state.answer(slot, is_ready && !has_lost ? errno : EIO);
      any = true;
    }
    if (any) this.#tellWanted();
    return any;
  }

  #isReady(slot: number): boolean {
    const { log, requests, through, backing_flushes } = this.#state;
    return log.durable >= requests.log_target[slot]! &&
      through.flushed >= requests.write_target[slot]! &&
      backing_flushes.isDurable(requests.backing_flush[slot]!);
  }

  #needsBacking(slot: number): boolean {
    const { requests } = this.#state;
    return requests.write_target[slot] !== NOTHING || requests.backing_flush[slot]! > 0;
  }

  /** EIO if the backing device has refused some of the write. */
  #refusal(slot: number): number {
    const { requests, through } = this.#state;
    if (through.refused.length === 0 || requests.kind[slot] === FLUSH) return OK;
    const sector = Math.floor(requests.off_bytes[slot]! / SECTOR_BYTES);
    const end_bytes = requests.off_bytes[slot]! + requests.len_bytes[slot]!;
    const sectors = Math.ceil(end_bytes / SECTOR_BYTES) - sector;
    return through.wasRefused(sector, sectors) ? EIO : OK;
  }

  /** Tells write-back how far it must be flushed for the first of the queue. */
  #tellWanted(): void {
    const { requests, through } = this.#state;
    const slot = this.#queue.peek();
    const target = slot < 0 ? NOTHING : requests.write_target[slot]!;
    through.flush_wanted = target === NOTHING ? Infinity : target;
  }
}

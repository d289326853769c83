/**
 * Flush and FUA: requests that are answered when the log is durable up to where it was when they came.
 *
 * Invariant: the queue is in order of `log_target`, since that only grows.
 *
 * @module
 */

import { EIO, OK } from "./errors.ts";
import { FLUSH, PENDING, RequestQueue } from "./requests.ts";
import type { EngineState } from "./state.ts";

/** The waiting flushes. */
export class Flushes {
  readonly #state: EngineState;
  readonly #queue: RequestQueue;

  constructor(state: EngineState) {
    this.#state = state;
    this.#queue = new RequestQueue(state.requests);
  }

  /** A flush. Returns its slot; -1: all are in use. */
  begin(): number {
    const slot = this.#state.requests.take(FLUSH, 0, 0, false);
    if (slot >= 0) this.await(slot);
    return slot;
  }

  /** Answers the request once every key appended so far is durable. */
  await(slot: number): void {
    const { log, requests, barriers } = this.#state;
    if (barriers.has_failed) return this.#state.answer(slot, EIO);
    if (log.durable === log.appended) return this.#state.answer(slot, OK);
    requests.state[slot] = PENDING;
    requests.log_target[slot] = log.appended;
    this.#queue.push(slot);
    log.want();
  }

  /** Answers what can be answered. Returns whether anything was. */
  step(): boolean {
    const { log, requests, barriers } = this.#state;
    let any = false;
    for (let slot = this.#queue.peek(); slot >= 0; slot = this.#queue.peek()) {
      const is_durable = log.durable >= requests.log_target[slot]!;
      if (!is_durable && !barriers.has_failed) break;
      this.#queue.shift();
      this.#state.answer(slot, is_durable ? OK : EIO);
      any = true;
    }
    return any;
  }
}

/**
 * Barriers, shared: everybody who waits for durability waits for the same one.
 *
 * Barriers are numbered from 1. Who has made stores asks `cover()` for the number of the barrier that will cover
 * them, and goes on when `done` has reached it. A barrier under way does not count: it may have started before.
 *
 * Invariants: `done <= started <= wanted`; at most one barrier is under way; after a failure none is started.
 *
 * @module
 */

import type { Memory } from "./platform.ts";

export class Barriers {
  readonly #memory: Memory;
  #wanted = 0;
  #started = 0;
  #done = 0;
  #is_under_way = false;
  #failed = false;

  constructor(memory: Memory) {
    this.#memory = memory;
  }

  /** The number of the barrier that covers every store persisted so far. It will be started by `step`. */
  cover(): number {
    this.#wanted = this.#started + 1;
    return this.#wanted;
  }

  /** Whether barrier number `barrier` is done. */
  isDone(barrier: number): boolean {
    return this.#done >= barrier;
  }

  /** The medium could not make stores durable: nothing more may be promised. */
  get has_failed(): boolean {
    return this.#failed;
  }

  /** How many barriers were done. */
  get count(): number {
    return this.#done;
  }

  get is_under_way(): boolean {
    return this.#is_under_way;
  }

  /** Starts a barrier if one is wanted and none is under way. Returns whether one has ended meanwhile. */
  step(): boolean {
    if (this.#failed || this.#is_under_way || this.#wanted === this.#started) return false;
    this.#started++;
    this.#is_under_way = !this.#memory.barrier();
    if (this.#is_under_way) return false;
    this.#done = this.#started;
    return true;
  }

  /** Nothing more may be promised: the medium has lost something. */
  fail(): void {
    this.#failed = true;
  }

  /** The barrier under way has ended. */
  end(failed: boolean): void {
    this.#is_under_way = false;
    if (failed) this.#failed = true;
    else this.#done = this.#started;
  }
}

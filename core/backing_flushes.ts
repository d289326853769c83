/**
 * Flushes of the backing device, shared: everybody who waits for one waits for the same one.
 *
 * They are numbered from 1, as barriers are. A flush that begins after a write has ended covers it, so what has ended now is covered by
 * `cover()`, and not by the flush under way.
 *
 * Invariants: `durable <= ended <= started <= wanted`; at most one flush is under way.
 *
 * @module
 */

import { type Backing, MAX_BACKING_IDS } from "./platform.ts";

/** Id of the backing request. */
export const BACKING_FLUSH_ID = MAX_BACKING_IDS - 1;

export class BackingFlushes {
  readonly #backing: Backing;
  #wanted = 0;
  #started = 0;
  #ended = 0;
  #durable = 0;
  #failures = 0;

  constructor(backing: Backing) {
    this.#backing = backing;
  }

  /** The number of the flush that will cover what has ended so far; `want` makes it start. */
  get next(): number {
    return this.#started + 1;
  }

  /** How many have failed: what they should have made durable may be lost. */
  get failures(): number {
    return this.#failures;
  }

  get is_under_way(): boolean {
    return this.#ended < this.#started;
  }

  /** Asks for the flush that covers what has ended so far. Returns its number. */
  cover(): number {
    this.want(this.next);
    return this.next;
  }

  /** Asks for a flush, which is the next one or has started. */
  want(flush: number): void {
    this.#wanted = Math.max(this.#wanted, flush);
  }

  /** Whether the flush has ended, however. */
  hasEnded(flush: number): boolean {
    return this.#ended >= flush;
  }

  /** Whether the flush, or a later one, has ended well. */
  isDurable(flush: number): boolean {
    return this.#durable >= flush;
  }

  /** Starts a flush if one is wanted and none is under way. Returns whether it did. */
  step(): boolean {
    if (this.is_under_way || this.#wanted === this.#started) return false;
    this.#started++;
    this.#backing.flush(BACKING_FLUSH_ID);
    return true;
  }

  /** The flush under way has ended. */
  end(errno: number): void {
    this.#ended = this.#started;
    if (errno === 0) this.#durable = this.#ended;
    else this.#failures++;
  }
}

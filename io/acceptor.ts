/**
 * Lets clients in on a listening socket, one after another, through the ring.
 *
 * Invariant: one accept is under way, except during the pause after a failed one.
 *
 * @module
 */

import type { Ring } from "./ring.ts";

/** After a failed accept (out of file descriptors, say) nobody is let in for so long: it could fail for ever. */
const PAUSE_MS = 1000;

export class Acceptor {
  readonly #ring: Pick<Ring, "accept">;
  readonly #user: number;
  readonly #fd: number;
  #has_failed = false;
  #again_ms = Infinity;

  /** `user` is the token of the accepts on the listening socket `fd`. */
  constructor(ring: Pick<Ring, "accept">, user: number, fd: number) {
    this.#ring = ring;
    this.#user = user;
    this.#fd = fd;
  }

  /** Waits for the next client. */
  start(): void {
    this.#ring.accept(this.#user, this.#fd);
  }

  /** An accept ended: returns the client's socket, or -1 when there is none. */
  ended(result: number): number {
    if (result < 0) {
      this.#has_failed = true;
      return -1;
    }
    this.start();
    return result;
  }

  /** Goes on after a pause. */
  turn(now_ms: number): void {
    if (this.#has_failed) {
      this.#has_failed = false;
      this.#again_ms = now_ms + PAUSE_MS;
    }
    if (now_ms < this.#again_ms) return;
    this.#again_ms = Infinity;
    this.start();
  }

  /** When `turn` has to be called at the latest, in ms from now. */
  nextTimerMs(now_ms: number): number {
    return Math.max(0, this.#again_ms - now_ms);
  }
}

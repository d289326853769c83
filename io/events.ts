/**
 * The events of a device: a number that grows, and those who wait for it to.
 *
 * @module
 */

import type { Engine } from "../core/engine.ts";
import { BUSY, type ControlReply, GONE } from "./control_protocol.ts";

/** Most clients that wait at once: the control socket has places left for others. */
export const MAX_WAITERS = 48;
/** A cache that was full is called full again only after it had room for so long. */
const ROOM_MS = 1000;

/** Answers a client of the control socket. */
export type Reply = (client: number, reply: ControlReply) => void;

/** Counts events and wakes those who wait. */
export class Events {
  /** Number of the last event. */
  number = 0;
  #waiters: { client: number; event_nr: number }[] = [];

  /** Something has happened. */
  raise(reply: Reply): void {
    this.number += 1;
    const { number } = this;
    const woken = this.#waiters.filter((waiter) => waiter.event_nr < number);
    this.#waiters = this.#waiters.filter((waiter) => waiter.event_nr >= number);
    for (const { client } of woken) reply(client, { ok: true, event_nr: number });
  }

  /** Waits for an event after number `event_nr`; null: the answer comes later. */
  wait(client: number, event_nr: number): ControlReply | null {
    if (this.number > event_nr) return { ok: true, event_nr: this.number };
    if (this.#waiters.length === MAX_WAITERS) {
      return { ok: false, error: `${BUSY}: ${MAX_WAITERS} commands wait already` };
    }
    this.#waiters.push({ client, event_nr });
    return null;
  }

  /** A client has gone. */
  forget(client: number): void {
    this.#waiters = this.#waiters.filter((waiter) => waiter.client !== client);
  }

  /** The device is gone: nobody needs to wait any longer. */
  end(reply: Reply): void {
    for (const { client } of this.#waiters) reply(client, { ok: false, error: GONE });
    this.#waiters = [];
  }
}

/** What a watch looks at. */
export type WatchedEngine = Pick<Engine, "counters" | "isClean" | "is_full">;

/**
 * Finds what the engine does not tell: an I/O error, and the moments in which the cache becomes clean or full. Looked at once
 * a turn of the loop, it costs a few comparisons.
 */
export class Watch {
  readonly #engine: WatchedEngine;
  #errors: number;
  #is_clean: boolean;
  /** Until then the cache counts as full; -Infinity: it does not. */
  #full_until_ms = -Infinity;

  constructor(engine: WatchedEngine) {
    this.#engine = engine;
    this.#errors = errorsOf(engine);
    this.#is_clean = engine.isClean();
  }

  /** True: something has happened since the last look. */
  look(now_ms: number): boolean {
    const errors = errorsOf(this.#engine);
    const has_failed = errors !== this.#errors;
    this.#errors = errors;
    const was_clean = this.#is_clean;
    this.#is_clean = this.#engine.isClean();
    const is_new_clean = this.#is_clean && !was_clean;
    return this.#becomesFull(now_ms) || has_failed || is_new_clean;
  }

  #becomesFull(now_ms: number): boolean {
    if (!this.#engine.is_full) return false;
    const was_full = now_ms < this.#full_until_ms;
    this.#full_until_ms = now_ms + ROOM_MS;
    return !was_full;
  }
}

function errorsOf({ counters }: WatchedEngine): number {
  return counters.backing_read_errors + counters.backing_write_errors +
    counters.backing_flush_errors + counters.checksum_failures + counters.log_damaged;
}

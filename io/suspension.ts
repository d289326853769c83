/**
 * A suspended device answers no request: what comes waits in the connections.
 *
 *   none -> draining -> closing -> held
 *   none -> held                                 with noflush
 *
 * `draining` lets what is under way end, `closing` commits the log and lets write-back and GC come to rest, so that in `held`
 * nothing changes on either device. With noflush, requests under way are held as they are: they may end, but are not answered.
 *
 * @module
 */

import { BUSY, type ControlReply } from "./control_protocol.ts";

/** How often a suspension is looked at while nothing else happens. */
const LOOK_MS = 50;

type Phase = "none" | "draining" | "closing" | "held";

/** What a suspension needs of its device. */
export interface SuspensionHost {
  readonly engine: {
    close(): void;
    isClosed(): boolean;
    reopen(): void;
  };
  hold(what: "requests" | "requests and answers" | null): void;
  /** Requests that are not answered, but for those whose payload has not come. */
  unansweredCount(): number;
}

/** At most one suspension at a time. */
export class Suspension {
  readonly #host: SuspensionHost;
  #phase: Phase = "none";
  #has_closed = false;
  #client = -1;

  constructor(host: SuspensionHost) {
    this.#host = host;
  }

  /** The device is suspended, or about to be. */
  get is_under_way(): boolean {
    return this.#phase !== "none";
  }

  /** Nothing changes any more on either device, or with noflush nothing is answered. */
  get is_held(): boolean {
    return this.#phase === "held";
  }

  /** The device is about to be suspended: `step` has to be called. */
  get is_pending(): boolean {
    return this.#phase === "draining" || this.#phase === "closing";
  }

  /** How long the loop may sleep. */
  nextTimerMs(): number {
    return this.is_pending ? LOOK_MS : Infinity;
  }

  /** Begins a suspension. Null: the answer comes later, from `step`. */
  ask(client: number, noflush: boolean): ControlReply | null {
    if (this.#phase === "held") return DONE;
    if (this.#phase !== "none") return { ok: false, error: BUSY };
    this.#host.hold(noflush ? "requests and answers" : "requests");
    this.#phase = noflush ? "held" : "draining";
    this.#client = client;
    return noflush ? DONE : null;
  }

  /** Goes on as far as possible; true: the device is suspended now. The engine has to be pumped after. */
  step(): boolean {
    if (this.#phase === "draining" && this.#host.unansweredCount() === 0) {
      this.#host.engine.close();
      this.#has_closed = true;
      this.#phase = "closing";
    }
    if (this.#phase !== "closing" || !this.#host.engine.isClosed()) return false;
    this.#phase = "held";
    return true;
  }

  /** Who asked. */
  get client(): number {
    return this.#client;
  }

  /** The one who asked has gone before it was done: the device goes on. */
  clientGone(client: number): void {
    if (client === this.#client && this.#phase !== "held") this.end();
  }

  /** Ends the suspension, if there is one. */
  end(): void {
    if (this.#phase === "none") return;
    this.#phase = "none";
    if (this.#has_closed) this.#host.engine.reopen();
    this.#has_closed = false;
    this.#host.hold(null);
  }
}

const DONE: ControlReply = { ok: true, notes: [] };

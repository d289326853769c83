/**
 * The way of a device to its end, from the `remove` request on.
 *
 *   none -> asked -> (draining ->) stopping -> closing -> done
 *
 * `asked` waits for a moment for clients that are just leaving; a device that is still in use then is not removed,
 * unless that is forced: its clients are dropped.
 * `draining` writes everything back first; it is given up when the one who asked goes away, or when the backing
 * device fails or is away and nothing has moved for a while. The device then goes on as if nothing had been asked.
 * `stopping` ends the serving; it is given up when somebody came in between.
 *
 * @module
 */

import { assert } from "../core/assert.ts";
import { EIO } from "../core/errors.ts";
import type { Engine } from "../core/engine.ts";
import { BUSY, type ControlReply } from "./control_protocol.ts";
import { errorText } from "./libc.ts";

/** A client that has closed its connection may have requests under way for so long. */
const LEAVING_MS = 300;
/** How long nothing may get cleaner while the backing device reports errors. */
const STUCK_MS = 10_000;
/** How often a removal is looked at while nothing else happens. */
const LOOK_MS = 50;

type Phase = "none" | "asked" | "draining" | "stopping" | "closing" | "done";

/** What a removal needs of its device. */
export interface RemovalHost {
  readonly engine: Pick<
    Engine,
    "counters" | "setDraining" | "isClean" | "close" | "isClosed" | "has_failed"
  >;
  /** Whether somebody uses the device. */
  isInUse(): boolean;
  /** Lets new clients in, or not. */
  admit(on: boolean): void;
  /** Ends the serving; asked until it is over. */
  stop(force: boolean): "going" | "gone" | "busy";
  /** Why the backing device is away for now; "": it is there. */
  backingTrouble(): string;
}

/** At most one removal of a device at a time. */
export class Removal {
  readonly #host: RemovalHost;
  #phase: Phase = "none";
  #client = -1;
  #flush = false;
  #force = false;
  #deadline_ms = 0;
  #least_dirty_bytes = 0;
  #errors_before = 0;

  constructor(host: RemovalHost) {
    this.#host = host;
  }

  get is_under_way(): boolean {
    return this.#phase !== "none";
  }
  /** Nothing of the cache device is under way any more. */
  get is_done(): boolean {
    return this.#phase === "done";
  }
  /** From now on the cache device is all that counts. */
  get is_closing(): boolean {
    return this.#phase === "closing";
  }
  /** Who asked. */
  get client(): number {
    return this.#client;
  }

  /** Begins a removal. `flush`: everything is written back first; `force`: clients are no obstacle. */
  ask(client: number, how: { flush: boolean; force: boolean }, now_ms: number): void {
    assert(this.#phase === "none", "two removals at once");
    this.#phase = "asked";
    this.#client = client;
    this.#flush = how.flush;
    this.#force = how.force;
    this.#deadline_ms = now_ms + LEAVING_MS;
  }

  /** The one who asked has gone: what can be given up is. */
  clientGone(client: number): void {
    if (client !== this.#client) return;
    // A block device may have been claimed already.
    if (this.#phase === "asked" || this.#phase === "draining") this.#giveUp();
  }

  /** Goes on as far as possible. Returns the refusal when the removal has failed. The engine has to be pumped after. */
  step(now_ms: number): ControlReply | null {
    const { engine } = this.#host;
    switch (this.#phase) {
      case "asked":
        return this.#begin(now_ms);
      case "draining":
        if (!engine.isClean()) return this.#checkDraining(now_ms);
        return this.#stop();
      case "stopping":
        return this.#stop();
      case "closing":
        if (engine.isClosed()) this.#phase = "done";
        return null;
      default:
        return null;
    }
  }

  /** What the one who asked is told when it is done. */
  outcome(): ControlReply {
    if (!this.#host.engine.has_failed) return { ok: true };
    return { ok: false, error: `${errorText(EIO)}: the cache device failed, the device is gone` };
  }

  /** How long the loop may sleep. */
  nextTimerMs(): number {
    return this.#phase === "none" ? Infinity : LOOK_MS;
  }

  #begin(now_ms: number): ControlReply | null {
    if (this.#host.isInUse()) {
      if (now_ms < this.#deadline_ms) return null;
      if (!this.#force) {
        this.#phase = "none";
        return { ok: false, error: BUSY };
      }
    }
    this.#host.admit(false);
    if (!this.#flush) return this.#stop();
    const { engine } = this.#host;
    engine.setDraining(true);
    this.#phase = "draining";
    this.#noteProgress(now_ms);
    return null;
  }

  #stop(): ControlReply | null {
    this.#phase = "stopping";
    const how = this.#host.stop(this.#force);
    if (how === "busy") {
      this.#giveUp();
      return { ok: false, error: BUSY };
    }
    if (how === "going") return null;
    this.#host.engine.close();
    this.#phase = "closing";
    return null;
  }

  #checkDraining(now_ms: number): ControlReply | null {
    const { dirty_bytes } = this.#host.engine.counters;
    const has_failed = this.#errors() > this.#errors_before || this.#host.engine.has_failed ||
      this.#host.backingTrouble() !== "";
    if (dirty_bytes < this.#least_dirty_bytes || !has_failed) this.#noteProgress(now_ms);
    if (now_ms < this.#deadline_ms) return null;
    this.#giveUp();
    const trouble = this.#host.backingTrouble();
    const why = trouble === "" ? "" : `the backing device is away (${trouble}): `;
    return {
      ok: false,
      error: `${
        errorText(EIO)
      }: ${why}${dirty_bytes} bytes cannot be written back and stay in the cache`,
    };
  }

  #noteProgress(now_ms: number): void {
    this.#deadline_ms = now_ms + STUCK_MS;
    this.#least_dirty_bytes = this.#host.engine.counters.dirty_bytes;
    this.#errors_before = this.#errors();
  }

  #errors(): number {
    const { backing_write_errors, backing_flush_errors, checksum_failures } =
      this.#host.engine.counters;
    return backing_write_errors + backing_flush_errors + checksum_failures;
  }

  #giveUp(): void {
    this.#phase = "none";
    this.#host.engine.setDraining(false);
    this.#host.admit(true);
  }
}

/**
 * A block device of the ublk driver as a device's front-end: `/dev/ublkbN`.
 *
 *   new -> starting -> live -> stopping -> stopped
 *                      live -> quiescing -> quiesced     left to another process
 *
 * Should the process end while it is live, the kernel keeps the block device and holds its requests, until a process takes
 * it over (`create --recover`) or it is given up.
 *
 * @module
 */

import { assert } from "../../core/assert.ts";
import { CacheError, EIO } from "../../core/errors.ts";
import type { Arena } from "../arena.ts";
import { userCount } from "../block_users.ts";
import { Claim } from "../claim.ts";
import type { BlockNode, Frontend, Held } from "../frontend.ts";
import { becomeIoFlusher } from "../io_flusher.ts";
import { EBUSY, errorText, POLLIN } from "../libc.ts";
import {
  INDEX_MASK,
  KIND_CLAIM,
  KIND_UBLK_COMMAND,
  KIND_UBLK_COPY,
  KIND_UBLK_REQUEST,
  tokenOf,
} from "../tokens.ts";
import type { UringRing } from "../uring.ts";
import type { UblkDriver } from "./driver.ts";
import * as ublk from "./protocol.ts";
import type { RequestEngine } from "../request_engine.ts";
import { Queues } from "./queues.ts";
import type { Served } from "./request.ts";
import { NodeLink } from "../node_link.ts";
import type { NodeRecord } from "../node_record.ts";
import type { Target } from "./target.ts";

const COMMAND_USER = tokenOf(KIND_UBLK_COMMAND);
/** How long somebody may take to leave who looks at the device while it is stopped: udev does, and our own claim. */
const LEAVING_MS = 1000;
const LOOK_MS = 50;
/** How long the kernel may wait until each queue has a request free that it can tell us by. */
const QUIESCE_MS = 5000;

export interface UblkFrontendOptions {
  readonly arena: Arena;
  readonly ring: UringRing;
  readonly engine: RequestEngine;
  readonly served: Served;
  readonly driver: UblkDriver;
  readonly target: Target;
  /** The device was taken over from a process that has gone. */
  readonly is_recovery: boolean;
  /** The device's name, and where a link to the node goes if /dev cannot have one. */
  readonly home: { readonly name: string; readonly run_dir: string };
  readonly record: NodeRecord<"ublk">;
}

export class UblkFrontend implements Frontend {
  /** Bytes of arena memory that it and the driver need. */
  static readonly ARENA_BYTES = Queues.ARENA_BYTES + Claim.ARENA_BYTES + 4096;

  readonly name = "ublk";
  readonly uri = "";
  /** The driver takes its parameters before the start only. */
  readonly can_change_read_only = false;
  readonly #o: UblkFrontendOptions;
  readonly #queues: Queues;
  readonly #claim: Claim;
  #state: "new" | "starting" | "live" | "stopping" | "stopped" | "quiescing" | "quiesced" = "new";
  #node: BlockNode | null = null;
  #link: NodeLink | null = null;
  #failure = "";
  /** The stop was refused because somebody has the device; until when that is asked again. */
  #is_refused = false;
  #deadline_ms = 0;
  #wants_stop = false;

  constructor(o: UblkFrontendOptions) {
    this.#o = o;
    this.#queues = new Queues(o);
    this.#claim = new Claim(o.arena, o.ring);
  }

  /** The kernel has requests for it, or will have. */
  get was_live(): boolean {
    return this.#state !== "new" && this.#state !== "starting";
  }

  get can_resize(): boolean {
    return this.#o.driver.can_resize;
  }
  get node(): BlockNode | null {
    return this.#node;
  }
  get unanswered_count(): number {
    return this.#queues.unanswered_count;
  }

  start(): void {
    becomeIoFlusher();
    this.#queues.start();
    this.#state = "starting";
    this.#command(this.#o.is_recovery ? ublk.CMD_END_USER_RECOVERY : ublk.CMD_START_DEV, Deno.pid);
  }

  isServing(): boolean {
    if (this.#failure !== "") throw new CacheError(this.#failure);
    return this.#state !== "starting";
  }

  handle(kind: number, user: number, result: number): void {
    switch (kind) {
      case KIND_UBLK_REQUEST:
        return this.#queues.requested(user & INDEX_MASK, result);
      case KIND_UBLK_COPY:
        return this.#queues.copied(user & INDEX_MASK, result);
      case KIND_CLAIM:
        return this.#claim.handle(result);
      default:
        assert(kind === KIND_UBLK_COMMAND, "ublk: a completion of its own kind");
        return this.#commandReady();
    }
  }

  turn(): boolean {
    const { failure } = this.#queues;
    if (failure !== 0 && this.#state === "starting") {
      this.#failure = `ublk: ${this.#o.target.path}: asking for requests: ${errorText(failure)}`;
    }
    return this.#queues.turn();
  }

  nextTimerMs(): number {
    return this.#wants_stop ? LOOK_MS : Infinity;
  }

  hold(what: Held): void {
    this.#queues.hold(what);
  }

  userCount(): number {
    return this.#node === null ? 0 : userCount(this.#node);
  }

  clientCount(): number {
    return 0;
  }

  isInUse(): boolean {
    return this.#claim.isBusy(this.#o.target.path) !== false;
  }

  admit(on: boolean): void {
    if (!on) return;
    this.#wants_stop = false;
    this.#claim.drop();
  }

  stop(force: boolean): "going" | "gone" | "busy" {
    const now_ms = performance.now();
    if (!this.#wants_stop) this.#deadline_ms = now_ms + LEAVING_MS;
    this.#wants_stop = true;
    if (this.#state === "stopped") return this.#queues.is_gone ? "gone" : "going";
    if (this.#state !== "live" || !this.#claim.drop()) return "going";
    if (this.#is_refused) {
      this.#is_refused = false;
      if (now_ms > this.#deadline_ms) return "busy";
    }
    const is_safe = (this.#o.target.flags & ublk.F_SAFE_STOP_DEV) !== 0;
    this.#state = "stopping";
    this.#command(is_safe && !force ? ublk.CMD_TRY_STOP_DEV : ublk.CMD_STOP_DEV, 0);
    return "going";
  }

  /** The kernel is told where it can be; where that fails the end of the process says the same. */
  leave(): boolean {
    if (this.#state === "live") {
      const can_quiesce = (this.#o.target.flags & ublk.F_QUIESCE) !== 0;
      this.#state = can_quiesce ? "quiescing" : "quiesced";
      if (can_quiesce) this.#command(ublk.CMD_QUIESCE_DEV, QUIESCE_MS);
    }
    return this.#state === "quiesced";
  }

  dropUnfinished(): void {}

  resized(size_bytes: number): void {
    assert(this.#state === "live", "ublk: a device grows while it is live");
    this.#o.target.resize(size_bytes);
  }

  renamed(): void {
    this.#o.record.renamed();
    if (this.#node === null) return;
    this.#link?.remove();
    this.#showNode(this.#node);
  }

  close(): void {
    assert(this.#state === "stopped" && this.#queues.is_gone, "ublk: closed after it was stopped");
    this.#link?.remove();
    this.#o.target.close();
    this.#o.target.delete();
    this.#o.record.remove();
  }

  #command(op: number, data: number): void {
    this.#o.driver.begin(op, this.#o.target.dev_id, 0, data);
    this.#o.ring.poll(COMMAND_USER, this.#o.driver.fd, POLLIN);
  }

  #commandReady(): void {
    const result = this.#o.driver.take();
    if (result === null) return this.#o.ring.poll(COMMAND_USER, this.#o.driver.fd, POLLIN);
    if (this.#state === "starting") this.#started(result);
    else if (this.#state === "quiescing") this.#state = "quiesced";
    else this.#stopped(result);
  }

  #started(result: number): void {
    const { target, is_recovery } = this.#o;
    if (result < 0) {
      const what = is_recovery ? "taking it over" : "starting it";
      this.#failure = `ublk: ${target.path}: ${what}: ${errorText(-result)}`;
      return;
    }
    this.#state = "live";
    // It may have grown while nobody served it.
    if (is_recovery && this.can_resize) this.resized(this.#o.served.size_bytes);
    this.#showNode({ ...target.number(), path: target.path });
  }

  #showNode(node: Pick<BlockNode, "major" | "minor" | "path">): void {
    this.#link = NodeLink.make(this.#o.home, node.path);
    this.#node = { ...node, link: this.#link.path };
  }

  #stopped(result: number): void {
    if (result === -EBUSY) {
      this.#state = "live";
      this.#is_refused = true;
      return;
    }
    if (result < 0) {
      throw new Error(`ublk: ${this.#o.target.path}: stopping it: ${errorText(-result || EIO)}`);
    }
    this.#state = "stopped";
  }
}

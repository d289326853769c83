/**
 * The NBD server as a device's front-end.
 *
 * @module
 */

import type { BlockNode, Frontend, Held } from "../frontend.ts";
import { becomeIoFlusher } from "../io_flusher.ts";
import { KIND_CLAIM } from "../tokens.ts";
import type { Attachment } from "./attachment.ts";
import { NbdServer, type NbdServerOptions } from "./server.ts";

export interface NbdFrontendOptions extends NbdServerOptions {
  /** Where clients connect at the moment. */
  readonly uri: () => string;
  /** Removes the socket. */
  readonly removeSocket: () => void;
  /** Makes the device's block device; null: there is to be none. */
  readonly attach: ((server: NbdServer) => Attachment) | null;
}

export class NbdFrontend implements Frontend {
  readonly name = "nbd";
  readonly #o: NbdFrontendOptions;
  readonly #server: NbdServer;
  readonly #attachment: Attachment | null;

  constructor(o: NbdFrontendOptions) {
    this.#o = o;
    this.#server = new NbdServer(o);
    this.#attachment = o.attach?.(this.#server) ?? null;
  }

  get node(): BlockNode | null {
    return this.#attachment?.node ?? null;
  }
  /** New clients see the new size; NBD has no message that tells it to the others, and the kernel does not ask again. */
  get can_resize(): boolean {
    return this.node === null;
  }
  /** The kernel does not ask again whether its device is read-only. */
  get can_change_read_only(): boolean {
    return this.node === null;
  }

  get uri(): string {
    return this.#o.uri();
  }
  get unanswered_count(): number {
    return this.#server.unanswered_count;
  }
  start(): void {
    if (this.#attachment !== null) {
      becomeIoFlusher();
      this.#attachment.start();
    }
    this.#server.start();
  }
  isServing(): boolean {
    return true;
  }
  handle(kind: number, user: number, result: number): void {
    if (kind === KIND_CLAIM) this.#attachment!.handle(result);
    else this.#server.handle(kind, user, result);
  }
  turn(now_ms: number): boolean {
    if (this.#attachment !== null) this.#attachment.turn(now_ms);
    return this.#server.turn(now_ms);
  }
  nextTimerMs(now_ms: number): number {
    const server_ms = this.#server.nextTimerMs(now_ms);
    if (this.#attachment === null) return server_ms;
    return Math.min(server_ms, this.#attachment.nextTimerMs(now_ms));
  }
  hold(what: Held): void {
    this.#server.hold(what);
  }
  userCount(): number {
    return this.#server.serving_count + (this.#attachment?.userCount() ?? 0);
  }
  clientCount(): number {
    return this.#server.serving_count;
  }
  isInUse(): boolean {
    if (this.#server.serving_count > 0) {
      this.#attachment?.unclaim();
      return true;
    }
    return this.#attachment?.isBusy() ?? false;
  }
  admit(on: boolean): void {
    this.#server.refusing = !on;
    if (on) this.#attachment?.unclaim();
    else this.#server.dropAll();
  }
  stop(force: boolean): "going" | "gone" | "busy" {
    return this.#attachment?.stop(force) ?? "gone";
  }
  /** The end of the process tells the kernel. */
  leave(): boolean {
    return true;
  }
  resized(): void {}
  dropUnfinished(): void {
    this.#server.dropUnfinished();
  }
  renamed(): void {
    this.#attachment?.renamed();
  }
  close(): void {
    this.#o.removeSocket();
  }
}

/**
 * The NBD server as a device's front-end.
 *
 * @module
 */

import type { Frontend } from "../frontend.ts";
import { NbdServer, type NbdServerOptions } from "./server.ts";

export interface NbdFrontendOptions extends NbdServerOptions {
  /** Where clients connect at the moment. */
  readonly uri: () => string;
  /** Removes the socket. */
  readonly removeSocket: () => void;
}

export class NbdFrontend implements Frontend {
  readonly name = "nbd";
  readonly node = null;
  readonly can_change_read_only = true;
  readonly #o: NbdFrontendOptions;
  readonly #server: NbdServer;

  constructor(o: NbdFrontendOptions) {
    this.#o = o;
    this.#server = new NbdServer(o);
  }

  get uri(): string {
    return this.#o.uri();
  }
  get unanswered_count(): number {
    return this.#server.unanswered_count;
  }
  start(): void {
    this.#server.start();
  }
  isServing(): boolean {
    return true;
  }
  handle(kind: number, user: number, result: number): void {
    this.#server.handle(kind, user, result);
  }
  turn(now_ms: number): boolean {
    return this.#server.turn(now_ms);
  }
  nextTimerMs(now_ms: number): number {
    return this.#server.nextTimerMs(now_ms);
  }
  hold(what: "requests" | "requests and answers" | null): void {
    this.#server.hold(what);
  }
  userCount(): number {
    return this.#server.serving_count;
  }
  isInUse(): boolean {
    return this.#server.serving_count > 0;
  }
  admit(on: boolean): void {
    this.#server.refusing = !on;
    if (!on) this.#server.dropAll();
  }
  stop(): "gone" {
    return "gone";
  }
  dropUnfinished(): void {
    this.#server.dropUnfinished();
  }
  renamed(): void {}
  close(): void {
    this.#o.removeSocket();
  }
}

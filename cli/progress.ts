/**
 * How far `remove --flush` is: one line that is redrawn on a terminal, plain lines elsewhere.
 *
 * @module
 */

import { callControl } from "../io/control_client.ts";
import type { ProgressReply } from "../io/control_protocol.ts";
import { warn } from "./output.ts";

const TERMINAL_PERIOD_MS = 200;
const PIPE_PERIOD_MS = 2000;
const MIB = 1 << 20;

/** Asks a device for its progress now and then, until it is stopped, and shows it on the standard error. */
export class FlushProgress {
  readonly #name: string;
  readonly #control_path: string;
  readonly #is_terminal = Deno.stderr.isTerminal();
  #timer: ReturnType<typeof setInterval> | undefined;
  #is_shown = false;

  constructor(name: string, control_path: string) {
    this.#name = name;
    this.#control_path = control_path;
    const period_ms = this.#is_terminal ? TERMINAL_PERIOD_MS : PIPE_PERIOD_MS;
    this.#timer = setInterval(() => this.#ask(), period_ms);
  }

  /** The device is gone, all of its data has been written back. */
  finish(): void {
    if (this.#timer === undefined) return;
    if (this.#is_shown || this.#is_terminal) this.#show(`${this.#name}: all data written back`);
    if (this.#is_terminal) warn("");
    this.stop();
  }

  /** Shows nothing from now on. */
  stop(): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
  }

  async #ask(): Promise<void> {
    let reply;
    try {
      reply = await callControl(this.#control_path, { verb: "progress" });
    } catch {
      return; // It has just ended, or is about to: the removal itself reports how.
    }
    if (reply.ok && reply.removing && this.#timer !== undefined) {
      this.#show(progressText(this.#name, reply));
    }
  }

  #show(text: string): void {
    this.#is_shown = true;
    if (this.#is_terminal) Deno.stderr.writeSync(new TextEncoder().encode(`\r\x1b[K${text}`));
    else warn(text);
  }
}

/** What a user is told of a removal that is under way. */
export function progressText(name: string, progress: ProgressReply): string {
  const left_mib = Math.ceil(progress.dirty_bytes / MIB);
  const errors = progress.writeback_errors;
  const trouble = errors > 0 ? `, ${errors} errors of the backing device, trying again` : "";
  return `${name}: ${left_mib} MiB to be written back${trouble}`;
}

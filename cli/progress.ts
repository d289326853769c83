/**
 * How far `remove --flush` is: one line that is redrawn on a terminal, plain lines elsewhere.
 *
 * @module
 */

import { callControl } from "../io/control_client.ts";
import type { ProgressReply } from "../io/control_protocol.ts";
import { writeError } from "./output.ts";

const TERMINAL_PERIOD_MS = 200;
const PIPE_PERIOD_MS = 2000;
const MIB = 1 << 20;

/** Where the progress is shown. */
export interface ProgressScreen {
  readonly is_terminal: boolean;
  readonly period_ms: number;
  write(text: string): void;
}

/** The standard error of this command. */
export function standardError(): ProgressScreen {
  const is_terminal = Deno.stderr.isTerminal();
  return {
    is_terminal,
    period_ms: is_terminal ? TERMINAL_PERIOD_MS : PIPE_PERIOD_MS,
    write: writeError,
  };
}

/** Asks a device for its progress now and then, until it is stopped, and shows it. */
export class FlushProgress {
  readonly #name: string;
  readonly #control_path: string;
  readonly #screen: ProgressScreen;
  #timer: ReturnType<typeof setInterval> | undefined;
  #is_shown = false;

  constructor(name: string, control_path: string, screen: ProgressScreen) {
    this.#name = name;
    this.#control_path = control_path;
    this.#screen = screen;
    this.#timer = setInterval(() => this.#ask(), screen.period_ms);
  }

  /** The device is gone, all of its data has been written back. */
  finish(): void {
    this.stop();
    if (this.#is_shown || this.#screen.is_terminal) {
      this.#show(`${this.#name}: all data written back`);
    }
    if (this.#screen.is_terminal) this.#screen.write("\n");
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
    this.#screen.write(this.#screen.is_terminal ? `\r\x1b[K${text}` : `${text}\n`);
  }
}

/** What a user is told of a removal that is under way. */
export function progressText(name: string, progress: ProgressReply): string {
  const left_mib = Math.ceil(progress.dirty_bytes / MIB);
  const errors = progress.writeback_errors;
  const trouble = errors > 0 ? `, ${errors} errors of the backing device, trying again` : "";
  return `${name}: ${left_mib} MiB to be written back${trouble}`;
}

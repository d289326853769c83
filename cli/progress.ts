/**
 * How far `remove --flush` is: on a terminal one line with a bar, a rate and the time that is left, from the first second on;
 * elsewhere nothing.
 *
 * @module
 */

import { callControl } from "../io/control_client.ts";
import type { ProgressReply } from "../io/control_protocol.ts";
import { writeError } from "./output.ts";
import { formatBytes } from "./stats_text.ts";

const FIRST_MS = 1000;
const PERIOD_MS = 200;
const BAR_CHARS = 24;

/** Where the progress is shown. */
export interface ProgressScreen {
  readonly first_ms: number;
  readonly period_ms: number;
  write(text: string): void;
  now_ms(): number;
}

/** The standard error of this command; null when that is no terminal. */
export function terminalScreen(): ProgressScreen | null {
  if (!Deno.stderr.isTerminal()) return null;
  return {
    first_ms: FIRST_MS,
    period_ms: PERIOD_MS,
    write: writeError,
    now_ms: () => performance.now(),
  };
}

/** Asks a device for its progress now and then, until it is stopped, and shows it. */
export class FlushProgress {
  readonly #name: string;
  readonly #control_path: string;
  readonly #screen: ProgressScreen;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #first: { dirty_bytes: number; now_ms: number } | null = null;
  #is_shown = false;

  constructor(name: string, control_path: string, screen: ProgressScreen) {
    this.#name = name;
    this.#control_path = control_path;
    this.#screen = screen;
    this.#timer = setTimeout(() => this.#ask(), screen.first_ms);
  }

  /** The device is gone, all of its data has been written back. */
  finish(): void {
    if (this.#is_shown) this.#screen.write(`\r\x1b[K${this.#name}: all data written back\n`);
    this.#is_shown = false;
    this.stop();
  }

  /** Shows nothing from now on. */
  stop(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    if (this.#is_shown) this.#screen.write("\n");
    this.#is_shown = false;
  }

  async #ask(): Promise<void> {
    let reply;
    try {
      reply = await callControl(this.#control_path, { verb: "progress" });
    } catch {
      return; // It has just ended, or is about to: the removal itself reports how.
    }
    if (this.#timer === undefined) return;
    if (reply.ok && reply.removing) this.#show(reply);
    this.#timer = setTimeout(() => this.#ask(), this.#screen.period_ms);
  }

  #show(reply: ProgressReply): void {
    const now_ms = this.#screen.now_ms();
    this.#first ??= { dirty_bytes: reply.dirty_bytes, now_ms };
    const text = progressText(reply, this.#first.dirty_bytes, now_ms - this.#first.now_ms);
    this.#screen.write(`\r\x1b[K${this.#name}: ${text}`);
    this.#is_shown = true;
  }
}

/** A bar, what is left, the rate and the time that is left; `first_bytes` were dirty `elapsed_ms` ago. */
export function progressText(
  { dirty_bytes, writeback_errors }: ProgressReply,
  first_bytes: number,
  elapsed_ms: number,
): string {
  const done_bytes = Math.max(0, first_bytes - dirty_bytes);
  const share = first_bytes === 0 ? 1 : done_bytes / first_bytes;
  const filled = Math.floor(share * BAR_CHARS);
  const bar = "#".repeat(filled) + ".".repeat(BAR_CHARS - filled);
  const parts = [`[${bar}] ${Math.floor(100 * share)}%, ${formatBytes(dirty_bytes)} left`];
  if (done_bytes > 0 && elapsed_ms > 0) {
    const bytes_per_s = (1000 * done_bytes) / elapsed_ms;
    const left_s = Math.ceil(dirty_bytes / bytes_per_s);
    parts.push(`${formatBytes(Math.round(bytes_per_s))}/s, ${left_s} s to go`);
  }
  if (writeback_errors > 0) {
    parts.push(`${writeback_errors} errors of the backing device, trying again`);
  }
  return parts.join(", ");
}

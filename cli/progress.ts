/**
 * How far something is that takes longer than a second: on a terminal one line with a bar, a rate and the time that is left, from the
 * first second on; elsewhere nothing.
 *
 * @module
 */

import { callControl } from "../io/control_client.ts";
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

/** One line that is redrawn. Without a screen nothing is drawn. */
export class ProgressBar {
  readonly #label: string;
  readonly #screen: ProgressScreen | null;
  #first: { done_bytes: number; now_ms: number } | null = null;
  #is_shown = false;

  /** `label` stands in front: the name of a device, or a path. */
  constructor(label: string, screen: ProgressScreen | null) {
    this.#label = label;
    this.#screen = screen;
  }

  /** Redraws the line. `trouble` stands at its end; "": there is none. */
  show(done_bytes: number, left_bytes: number, trouble = ""): void {
    if (this.#screen === null) return;
    const now_ms = this.#screen.now_ms();
    this.#first ??= { done_bytes, now_ms };
    const rate = {
      bytes: done_bytes - this.#first.done_bytes,
      elapsed_ms: now_ms - this.#first.now_ms,
    };
    const text = progressText(done_bytes, left_bytes, rate, trouble);
    this.#screen.write(`\r\x1b[K${this.#label}: ${text}`);
    this.#is_shown = true;
  }

  /** It is done: `text` takes the place of the bar, if there was one. */
  finish(text: string): void {
    if (this.#is_shown) this.#screen!.write(`\r\x1b[K${this.#label}: ${text}\n`);
    this.#is_shown = false;
  }

  /** It has ended otherwise: the bar stays as it is. */
  stop(): void {
    if (this.#is_shown) this.#screen!.write("\n");
    this.#is_shown = false;
  }
}

/** Draws `bar` from the first second on, and a few times a second, however often it is called. */
export function steady(
  bar: ProgressBar,
  screen: ProgressScreen | null,
): (done_bytes: number, left_bytes: number) => void {
  if (screen === null) return () => {};
  let due_ms = screen.now_ms() + screen.first_ms;
  return (done_bytes, left_bytes) => {
    const now_ms = screen.now_ms();
    if (now_ms < due_ms) return;
    due_ms = now_ms + screen.period_ms;
    bar.show(done_bytes, left_bytes);
  };
}

/** A bar, what is left, the rate and the time that is left; `rate`: so much was done while the bar was there. */
export function progressText(
  done_bytes: number,
  left_bytes: number,
  rate: { readonly bytes: number; readonly elapsed_ms: number },
  trouble = "",
): string {
  const total_bytes = done_bytes + left_bytes;
  const share = total_bytes === 0 ? 1 : done_bytes / total_bytes;
  const filled = Math.floor(share * BAR_CHARS);
  const bar = "#".repeat(filled) + ".".repeat(BAR_CHARS - filled);
  const parts = [`[${bar}] ${Math.floor(100 * share)}%, ${formatBytes(left_bytes)} left`];
  if (rate.bytes > 0 && rate.elapsed_ms > 0) {
    const bytes_per_s = (1000 * rate.bytes) / rate.elapsed_ms;
    const left_s = Math.ceil(left_bytes / bytes_per_s);
    parts.push(`${formatBytes(Math.round(bytes_per_s))}/s, ${left_s} s to go`);
  }
  if (trouble !== "") parts.push(trouble);
  return parts.join(", ");
}

/** Asks a device that does something long for its progress now and then, until it is stopped, and shows it. */
export class DeviceProgress {
  readonly #control_path: string;
  readonly #screen: ProgressScreen;
  readonly #bar: ProgressBar;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #first_bytes = -1;

  constructor(name: string, control_path: string, screen: ProgressScreen) {
    this.#control_path = control_path;
    this.#screen = screen;
    this.#bar = new ProgressBar(name, screen);
    this.#timer = setTimeout(() => this.#ask(), screen.first_ms);
  }

  /** It is done: `text` says what. */
  finish(text: string): void {
    this.#bar.finish(text);
    this.stop();
  }

  /** Shows nothing from now on. */
  stop(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#bar.stop();
  }

  async #ask(): Promise<void> {
    let reply;
    try {
      reply = await callControl(this.#control_path, { verb: "progress" });
    } catch {
      return; // It has just ended, or is about to: the removal itself reports how.
    }
    if (this.#timer === undefined) return;
    if (reply.ok && reply.removing) this.#show(reply.dirty_bytes, reply.writeback_errors);
    else if (reply.ok && reply.job !== null) {
      this.#bar.show(reply.job.done_bytes, reply.job.left_bytes);
    }
    this.#timer = setTimeout(() => this.#ask(), this.#screen.period_ms);
  }

  /** Clients may write meanwhile: what is left can grow. */
  #show(dirty_bytes: number, errors: number): void {
    if (this.#first_bytes < 0) this.#first_bytes = dirty_bytes;
    const done_bytes = Math.max(0, this.#first_bytes - dirty_bytes);
    const trouble = errors === 0 ? "" : `${errors} errors of the backing device, trying again`;
    this.#bar.show(done_bytes, dirty_bytes, trouble);
  }
}

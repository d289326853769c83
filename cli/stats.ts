/**
 * `stats`: what devices have done, for people, for programs and for Prometheus.
 *
 * @module
 */

import type { StatsReply } from "../io/control_protocol.ts";
import { askAll, printNoDevices } from "./devices.ts";
import { UsageError } from "./failure.ts";
import type { Options } from "./options.ts";
import { print, printJson } from "./output.ts";
import { parseRepetition, repeat, type Repetition } from "./repeat.ts";
import { type NamedStats, prometheusText, statsLine, statsText } from "./stats_text.ts";

/** Moves the cursor up so many lines and clears what is below. */
const redraw = (lines: number) => `\x1b[${lines}A\x1b[J`;

/** `stats [NAME...]`: once, or with `--watch` again and again. */
export async function run(names: string[], options: Options): Promise<boolean> {
  if (options.json && options.prometheus) {
    throw new UsageError("Two formats: --json and --prometheus, wanted one");
  }
  const repetition = parseRepetition(options);
  if (!options.watch) {
    return await repeat(repetition, async () => {
      const { stats, is_ok } = await askStats(names);
      show(stats, names, options);
      return is_ok;
    });
  }
  const is_endless = options.count === undefined;
  return await watch(names, options, is_endless ? { ...repetition, count: Infinity } : repetition);
}

function show(stats: readonly NamedStats[], names: string[], options: Options): void {
  if (options.json) printJson(stats.map(({ name, reply }) => ({ name, ...fieldsOf(reply) })));
  else if (options.prometheus) print(prometheusText(stats).trimEnd());
  else if (names.length === 0 && stats.length === 0) printNoDevices();
  else for (const { name, reply } of stats) print(statsText(name, reply));
}

/** On a terminal one picture that is redrawn, elsewhere a line for each device and moment. */
async function watch(
  names: string[],
  options: Options,
  { count, interval_s }: Repetition,
): Promise<boolean> {
  const is_picture = Deno.stdout.isTerminal() && !options.json && !options.prometheus;
  let before: readonly NamedStats[] = [];
  let drawn_lines = 0;
  for (let shown = 1;; shown++) {
    const { stats, is_ok } = await askStats(names);
    if (is_picture) {
      const text = stats.map(({ name, reply }) => statsText(name, reply)).join("\n");
      print((drawn_lines > 0 ? redraw(drawn_lines) : "") + text);
      drawn_lines = text.split("\n").length;
    } else if (options.json || options.prometheus) show(stats, names, options);
    else for (const { name, reply } of stats) print(statsLine(name, reply, find(before, name)));
    if (!is_ok || shown >= count) return is_ok;
    before = stats;
    await sleep(interval_s);
  }
}

function find(stats: readonly NamedStats[], name: string): StatsReply | undefined {
  return stats.find((each) => each.name === name)?.reply;
}

async function askStats(names: string[]) {
  const { answers, is_ok } = await askAll("stats", names, { verb: "stats" });
  return { stats: answers, is_ok };
}

function fieldsOf({ ok: _, ...fields }: StatsReply) {
  return fields;
}

function sleep(seconds: number): Promise<void> {
  return new Promise((wake) => setTimeout(wake, 1000 * seconds));
}

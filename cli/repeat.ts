/**
 * Reports that are made again and again: `--count` and `--interval`.
 *
 * @module
 */

import { CommandLineError } from "./failure.ts";
import type { Options } from "./options.ts";
import { print } from "./output.ts";

const STANDARD_INTERVAL_S = 1;
/** Longest interval, in seconds: what a timer can wait. */
const MAX_INTERVAL_S = 2_000_000;

/** How often a report is made, and how far apart. */
export interface Repetition {
  /** Infinity: until the command is interrupted. */
  readonly count: number;
  readonly interval_s: number;
}

/**
 * Reads the two options. An interval alone repeats for ever; a count of 0 does, too.
 *
 * @throws {CommandLineError} With dmsetup's words.
 */
export function parseRepetition(options: Pick<Options, "count" | "interval">): Repetition {
  const { count, interval } = options;
  if (count !== undefined && !/^[0-9]{1,9}$/.test(count)) {
    throw new CommandLineError("Count must be zero or greater.");
  }
  const interval_s = interval === undefined ? STANDARD_INTERVAL_S : Number(interval);
  if (interval !== undefined && !/^[0-9]{1,7}$/.test(interval) || interval_s < 1) {
    throw new CommandLineError("Interval must be a positive integer.");
  }
  if (interval_s > MAX_INTERVAL_S) {
    throw new CommandLineError(`Interval must be at most ${MAX_INTERVAL_S} seconds.`);
  }
  const standard_count = interval === undefined ? 1 : Infinity;
  return { count: count === undefined ? standard_count : Number(count) || Infinity, interval_s };
}

/** Makes a report as often as is wanted, an empty line between two. False: it failed once, and that ends it. */
export async function repeat(
  { count, interval_s }: Repetition,
  report: () => Promise<boolean> | boolean,
): Promise<boolean> {
  for (let made = 1; await report(); made++) {
    if (made >= count) return true;
    await new Promise((wake) => setTimeout(wake, 1000 * interval_s));
    print("");
  }
  return false;
}

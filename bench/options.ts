/**
 * What `deno task bench` is asked to do.
 *
 * @module
 */

import { parseArgs } from "@std/cli/parse-args";

export interface BenchOptions {
  /** How often each contender has its turn in each cell. */
  readonly rounds: number;
  /** How long a turn is. */
  readonly seconds: number;
  /** Parts of names: a cell whose name holds one of them is run. Empty: every cell is. */
  readonly only: readonly string[];
}

export const USAGE = "deno task bench [--rounds N] [--seconds S] [--only CELL[,CELL...]]";

/** The arguments make no sense. */
export class OptionError extends Error {}

/** Reads the arguments. Throws `OptionError` for what it does not know. */
export function parseOptions(args: string[]): BenchOptions {
  const parsed: Record<string, string> = parseArgs(args, {
    string: ["rounds", "seconds", "only"],
    default: { rounds: "5", seconds: "1", only: "" },
    unknown: (arg: string) => {
      throw new OptionError(`${arg}: not an option of the bench: ${USAGE}`);
    },
  });
  return {
    rounds: positive("rounds", parsed.rounds!),
    seconds: positive("seconds", parsed.seconds!),
    only: parsed.only!.split(",").filter((part) => part !== ""),
  };
}

function positive(name: string, text: string): number {
  const value = Number(text);
  if (!/^\d+$/.test(text) || value < 1) {
    throw new OptionError(`--${name} ${text}: a whole number from 1 on is wanted: ${USAGE}`);
  }
  return value;
}

/**
 * The options of all commands and how a command line is read. What a verb does not know is refused.
 *
 * @module
 */

import { parseArgs } from "@std/cli/parse-args";
import { UsageError } from "./failure.ts";

/** The options that are on or off, and their letters. */
export const FLAGS = {
  flush: "",
  format: "",
  help: "h",
  json: "",
  noflush: "",
  readonly: "r",
  retry: "",
  verbose: "v",
  version: "",
} as const;

/** The options that take a value, and their letters. */
export const VALUES = {
  listen: "",
  options: "o",
  table: "",
  target: "",
  uuid: "u",
} as const;

/** Name of an option that is on or off. */
export type FlagName = keyof typeof FLAGS;
/** Name of an option that takes a value. */
export type ValueName = keyof typeof VALUES;
/** Name of an option, without its hyphens. */
export type OptionName = FlagName | ValueName;

/** Options that every verb takes. */
export const COMMON_OPTIONS: readonly OptionName[] = ["help", "verbose", "version"];

/** The options that were given: flags are true, values are texts, the others are not there. */
export type Options = { [N in FlagName]?: true } & { [N in ValueName]?: string };

/** A command line, taken apart. */
export interface CommandLine {
  /** The verb and its arguments. */
  readonly words: string[];
  readonly options: Options;
}

/**
 * Takes a command line apart. Options may stand before and after words; after `--` all are words.
 *
 * @throws {UsageError} An unknown option, a value that is missing, or one that is not wanted.
 */
export function parseCommandLine(args: string[]): CommandLine {
  const letters: Record<string, string> = {};
  for (const [name, letter] of [...Object.entries(FLAGS), ...Object.entries(VALUES)]) {
    if (letter !== "") letters[letter] = name;
  }
  checkFlagValues(args);
  const parsed: Record<string, unknown> & { _: string[] } = parseArgs(args, {
    boolean: Object.keys(FLAGS),
    string: ["_", ...Object.keys(VALUES)],
    alias: letters,
    unknown: (arg: string, key?: string) => {
      if (key !== undefined) throw new UsageError(`Unrecognised option: ${arg}`);
      return true;
    },
  });
  const options: Record<string, unknown> = {};
  for (const name of Object.keys(FLAGS)) if (parsed[name] === true) options[name] = true;
  for (const name of Object.keys(VALUES)) {
    const value = parsed[name];
    if (value === undefined) continue;
    if (value === "") throw new UsageError(`Option --${name} needs a value`);
    options[name] = value;
  }
  return { words: parsed._, options: options as Options };
}

/** Refuses options that the verb does not take. */
export function checkOptions(verb: string, options: Options, known: readonly OptionName[]): void {
  for (const name of Object.keys(options) as OptionName[]) {
    if (!known.includes(name) && !COMMON_OPTIONS.includes(name)) {
      throw new UsageError(`Unrecognised option for ${verb}: --${name}`);
    }
  }
}

/** `--flag=value` would be taken for `--flag`, whatever the value says. */
function checkFlagValues(args: string[]): void {
  for (const arg of args) {
    if (arg === "--") return;
    const [name, value] = arg.split("=", 2);
    if (value !== undefined && Object.keys(FLAGS).some((flag) => `--${flag}` === name)) {
      throw new UsageError(`Option ${name} takes no value: "${value}"`);
    }
  }
}

/**
 * The options of all commands and how a command line is read, in the way of getopt_long(3), which dmsetup uses: same
 * forms, same messages. Written out here since a command's start-up time is that of what it loads.
 *
 * Invariants:
 * - Nothing is guessed: an option that is not known, or not the verb's, refuses the command line.
 * - Options and words may be mixed; after `--` all are words.
 *
 * @module
 */

import { CommandLineError } from "./failure.ts";

/** The options that are on or off, and their letters (each of them stands for the option). */
export const FLAGS = {
  columns: "cC",
  concise: "",
  data: "",
  deferred: "",
  flush: "",
  force: "f",
  format: "",
  help: "h",
  inactive: "",
  insecure: "",
  json: "",
  nameprefixes: "",
  noflush: "",
  noheadings: "",
  nolockfs: "",
  notable: "n",
  prometheus: "",
  readonly: "r",
  recover: "",
  retry: "",
  rows: "",
  setuuid: "",
  "tls-verify-peer": "",
  tree: "",
  unquoted: "",
  verbose: "v",
  version: "",
  watch: "",
  yes: "y",
} as const;

/** The options that take a value, and their letters. */
export const VALUES = {
  count: "",
  exec: "",
  frontend: "",
  interval: "",
  listen: "",
  major: "j",
  minor: "m",
  options: "o",
  select: "S",
  separator: "",
  sort: "O",
  table: "",
  target: "",
  tls: "",
  "tls-certificates": "",
  "tls-psk": "",
  uuid: "u",
} as const;

/** The options that may have a value, behind an equals sign. */
export const OPTIONALS = { attach: "" } as const;

/** Name of an option that is on or off. */
export type FlagName = keyof typeof FLAGS;
/** Name of an option that takes a value. */
export type ValueName = keyof typeof VALUES;
/** Name of an option that may have a value. */
export type OptionalName = keyof typeof OPTIONALS;
/** Name of an option, without its hyphens. */
export type OptionName = FlagName | ValueName | OptionalName;

/** Options that every verb takes. `--yes` answers questions, which only few verbs have. */
export const COMMON_OPTIONS: readonly OptionName[] = ["help", "verbose", "version", "yes"];

/** The options that have to do with NBD clients. */
export const NBD_OPTIONS: readonly OptionName[] = [
  "listen",
  "insecure",
  "tls",
  "tls-certificates",
  "tls-verify-peer",
  "tls-psk",
];

/** The options that were given: flags are true, values are texts, "" where there may be none; the others are not there. */
export type Options = { [N in FlagName]?: true } & { [N in ValueName | OptionalName]?: string };

/** A command line, taken apart. */
export interface CommandLine {
  /** The verb and its arguments. */
  readonly words: string[];
  readonly options: Options;
}

/**
 * Takes a command line apart. The last one of several values counts.
 *
 * @throws {CommandLineError} An unknown option, a value that is missing, or one that is not wanted.
 */
export function parseCommandLine(args: string[]): CommandLine {
  const words: string[] = [];
  const options: Record<string, true | string> = {};
  const rest = [...args];
  for (let arg = rest.shift(); arg !== undefined; arg = rest.shift()) {
    if (arg === "--") {
      words.push(...rest);
      break;
    }
    if (arg.startsWith("--")) readLong(arg, rest, options);
    else if (arg.startsWith("-") && arg !== "-") readLetters(arg.slice(1), rest, options);
    else words.push(arg);
  }
  return { words, options: options as Options };
}

/** Refuses options that the verb does not take. */
export function checkOptions(verb: string, options: Options, known: readonly OptionName[]): void {
  for (const name of Object.keys(options) as OptionName[]) {
    if (!known.includes(name) && !COMMON_OPTIONS.includes(name)) {
      throw new CommandLineError(`pcache: unrecognized option '--${name}' for ${verb}`);
    }
  }
}

/** `--name`, `--name=value` or `--name value`. */
function readLong(arg: string, rest: string[], options: Record<string, true | string>): void {
  const equals = arg.indexOf("=");
  const given = equals < 0 ? arg : arg.slice(0, equals);
  const name = completed(given.slice(2));
  if (name === null) throw new CommandLineError(`pcache: unrecognized option '${arg}'`);
  if (Object.hasOwn(FLAGS, name)) {
    if (equals >= 0) {
      throw new CommandLineError(`pcache: option '--${name}' doesn't allow an argument`);
    }
    options[name] = true;
    return;
  }
  if (Object.hasOwn(OPTIONALS, name)) {
    options[name] = equals < 0 ? "" : arg.slice(equals + 1);
    return;
  }
  const value = equals >= 0 ? arg.slice(equals + 1) : rest.shift();
  if (value === undefined) {
    throw new CommandLineError(`pcache: option '--${name}' requires an argument`);
  }
  options[name] = value;
}

/** The option that a name stands for; a beginning is enough if no other option has it. */
function completed(given: string): string | null {
  const names = [FLAGS, VALUES, OPTIONALS].flatMap((table) => Object.keys(table));
  if (names.includes(given)) return given;
  const found = names.filter((name) => given !== "" && name.startsWith(given));
  if (found.length > 1) {
    const possibilities = found.map((name) => `'--${name}'`).join(" ");
    throw new CommandLineError(
      `pcache: option '--${given}' is ambiguous; possibilities: ${possibilities}`,
    );
  }
  return found[0] ?? null;
}

/** `-rf`, `-oVALUE` or `-o VALUE`. */
function readLetters(letters: string, rest: string[], options: Record<string, true | string>) {
  for (const [at, letter] of [...letters].entries()) {
    const flag = nameOf(FLAGS, letter);
    if (flag !== null) {
      options[flag] = true;
      continue;
    }
    const name = nameOf(VALUES, letter);
    if (name === null) throw new CommandLineError(`pcache: invalid option -- '${letter}'`);
    const value = [...letters].slice(at + 1).join("") || rest.shift();
    if (value === undefined) {
      throw new CommandLineError(`pcache: option requires an argument -- '${letter}'`);
    }
    options[name] = value;
    return;
  }
}

function nameOf(table: Readonly<Record<string, string>>, letter: string): string | null {
  return Object.keys(table).find((name) => table[name]!.includes(letter)) ?? null;
}

/**
 * The entry of the program. Verbs are loaded when they are called, so that `status` is quick.
 *
 * @module
 */

import { CommandLineError, reportFailure, UsageError } from "./failure.ts";
import { EXIT_FAILED, EXIT_OK, print, warn } from "./output.ts";
import { checkOptions, type CommandLine, type Options, parseCommandLine } from "./options.ts";
import { ADDRESS_OPTIONS, DEVICE_PROCESS, usageText, type Verb, VERBS } from "./verbs.ts";

/** Runs a command line; returns the exit status: 0 or 1. */
export async function main(args: string[]): Promise<number> {
  let is_verbose = Boolean(Deno.env.get("PCACHE_DEBUG"));
  try {
    const line = parseCommandLine(args);
    is_verbose ||= line.options.verbose === true;
    if (await runVerb(line)) return EXIT_OK;
    warn("Command failed.");
  } catch (error) {
    reportFailure(error, is_verbose, usageText);
  }
  return EXIT_FAILED;
}

async function runVerb({ words, options }: CommandLine): Promise<boolean> {
  if (options.help) {
    print(usageText());
    return true;
  }
  const [name, ...given] = options.version ? ["version"] : words;
  if (name === undefined) throw new UsageError("");
  const verb = VERBS.find((verb) => verb.name === name || verb.alias === name);
  if (verb === undefined) throw new UsageError("Unknown command.");
  const known = verb.devices === "none" ? verb.options : [...ADDRESS_OPTIONS, ...verb.options];
  checkOptions(verb.name, options, known);
  const args = await addressed(verb, given, options);
  if (args.length < verb.min_args || args.length > verb.max_args) {
    throw new UsageError("Incorrect number of arguments.");
  }
  const { run } = await verb.load();
  return await run(args, options);
}

/** A device may be named by its UUID or its numbers, as in dmsetup: its name then takes the first place. */
async function addressed(verb: Verb, args: string[], options: Options): Promise<string[]> {
  const { major, minor, uuid } = options;
  if ((major === undefined) !== (minor === undefined)) {
    throw new CommandLineError("Please specify both major number and minor number.");
  }
  const is_addressed = uuid !== undefined || minor !== undefined;
  if (verb.devices === "none" || verb.devices === "new" || !is_addressed) return args;
  const { findDevice } = await import("./devices.ts");
  return [await findDevice(verb.name, options), ...args];
}

/** The device process is the same program; it reads no command line. */
async function start(): Promise<number> {
  if (Deno.args[0] !== DEVICE_PROCESS) return await main(Deno.args);
  const { runDeviceProcess } = await import("./device_process.ts");
  return await runDeviceProcess() ? EXIT_OK : EXIT_FAILED;
}

if (import.meta.main) start().then(Deno.exit); // pack/ makes a script of this: no await at the top

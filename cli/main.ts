/**
 * The entry of the program. Verbs are loaded when they are called, so that `status` is quick.
 *
 * @module
 */

import { reportFailure, UsageError } from "./failure.ts";
import { EXIT_FAILED, EXIT_OK, print, warn } from "./output.ts";
import { checkOptions, type CommandLine, parseCommandLine } from "./options.ts";
import { DEVICE_PROCESS, usageText, VERBS } from "./verbs.ts";

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
  const [name, ...args] = options.version ? ["version"] : words;
  if (name === undefined) throw new UsageError("No command specified.");
  const verb = VERBS.find((verb) => verb.name === name);
  if (verb === undefined) throw new UsageError("Unknown command.");
  checkOptions(verb.name, options, verb.options);
  if (args.length < verb.min_args || args.length > verb.max_args) {
    throw new UsageError("Incorrect number of arguments.");
  }
  const { run } = await verb.load();
  return await run(args, options);
}

/** The device process is the same program; it reads no command line. */
async function start(): Promise<number> {
  if (Deno.args[0] !== DEVICE_PROCESS) return await main(Deno.args);
  const { runDeviceProcess } = await import("./device_process.ts");
  return await runDeviceProcess() ? EXIT_OK : EXIT_FAILED;
}

if (import.meta.main) start().then(Deno.exit); // pack/ makes a script of this: no await at the top

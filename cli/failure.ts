/**
 * How a command ends when it did not do what it was told: the reason on the standard error, never a bare stack.
 *
 * @module
 */

import { CacheError } from "../core/errors.ts";
import { warn } from "./output.ts";

/** The command line was wrong: the usage is shown instead of `Command failed.` */
export class UsageError extends Error {
  override readonly name = "UsageError";
}

/** An option or its value was wrong: dmsetup's line about that takes the place of `Command failed.` */
export class CommandLineError extends Error {
  override readonly name = "CommandLineError";
}

/** A report was asked for that cannot be made: the message says it all. */
export class ReportError extends Error {
  override readonly name = "ReportError";
}

/** Help on a report was asked for in the place of a field: the message is that help. */
export class ReportHelp extends ReportError {}

/** Something that must not happen happened in the device process; `details` is what it wrote last. */
export class DeviceProcessError extends Error {
  override readonly name = "DeviceProcessError";
  constructor(message: string, readonly details: string) {
    super(message);
  }
}

/** A verb failed on a device: the words and their order are dmsetup's. */
export function failedOn(verb: string, name: string, reason: string): CacheError {
  return new CacheError(`pcache: ${verb} on ${name} failed: ${reason}`);
}

/** Says on the standard error why a command failed. `usage` is shown after a wrong command line. */
export function reportFailure(error: unknown, is_verbose: boolean, usage: () => string): void {
  if (error instanceof UsageError) {
    warn(error.message === "" ? usage() : `${error.message}\n${usage()}`);
    return;
  }
  if (error instanceof CommandLineError) {
    warn(`${error.message}\nCouldn't process command line.`);
    return;
  }
  if (error instanceof ReportError) {
    warn(error.message);
    return;
  }
  if (error instanceof CacheError) warn(error.message);
  else if (error instanceof Deno.errors.BrokenPipe) return;
  else reportInternal(error, is_verbose);
  warn("Command failed.");
}

function reportInternal(error: unknown, is_verbose: boolean): void {
  const advice = is_verbose ? "" : " (-v or PCACHE_DEBUG=1 shows the details)";
  warn(`pcache: internal error: ${reasonOf(error)}; please report${advice}`);
  if (is_verbose) warn(detailsOf(error));
}

function reasonOf(error: unknown): string {
  if (error instanceof DeviceProcessError) return error.message;
  return firstLine(error instanceof Error ? `${error.name}: ${error.message}` : String(error));
}

function detailsOf(error: unknown): string {
  if (error instanceof DeviceProcessError) return error.details;
  return (error instanceof Error ? error.stack : undefined) ?? String(error);
}

function firstLine(text: string): string {
  return text.split("\n")[0]!;
}

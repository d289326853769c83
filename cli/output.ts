/**
 * The two streams of a command: what was asked for, and what went wrong on the way.
 *
 * @module
 */

import { CacheError } from "../core/errors.ts";

/** Exit status of a command that did what it was told. */
export const EXIT_OK = 0;
/** Exit status of every failure (DMSETUP, "Exit status and messages"). */
export const EXIT_FAILED = 1;

/**
 * Prints a line, or several, on the standard output.
 *
 * @throws {CacheError} It cannot be written, because a disk is full for instance.
 * @throws {Deno.errors.BrokenPipe} Whoever reads it has gone.
 */
export function print(text: string): void {
  try {
    writeAll(Deno.stdout, `${text}\n`);
  } catch (error) {
    if (error instanceof Deno.errors.BrokenPipe) throw error;
    throw new CacheError(`Cannot write to the standard output: ${(error as Error).message}`);
  }
}

/** Prints a line, or several, on the standard error. */
export function warn(text: string): void {
  writeError(`${text}\n`);
}

/** Writes a text as it is on the standard error. If that fails there is nobody left to tell. */
export function writeError(text: string): void {
  try {
    writeAll(Deno.stderr, text);
  } catch {
    // The exit status still says that something failed.
  }
}

/** Prints a value as JSON, indented, for programs and for people. */
export function printJson(value: unknown): void {
  print(JSON.stringify(value, null, 2));
}

function writeAll(stream: { writeSync(bytes: Uint8Array): number }, text: string): void {
  const bytes = new TextEncoder().encode(text);
  for (let at = 0; at < bytes.length;) at += stream.writeSync(bytes.subarray(at));
}

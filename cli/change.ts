/**
 * Verbs that change devices and have nothing to print.
 *
 * @module
 */

import { CacheError } from "../core/errors.ts";
import type { ControlRequest } from "../io/control_protocol.ts";
import { ask } from "./devices.ts";
import { showVerbose } from "./info.ts";
import type { Options } from "./options.ts";
import { warn } from "./output.ts";

type Change = ControlRequest & { verb: "suspend" | "resume" | "clear" | "wipe" | "load" };

/** Sends the request to each device; goes on with the next one when one refuses. */
export async function changeAll(
  verb: string,
  names: string[],
  request: Change,
  options: Options,
): Promise<boolean> {
  if (names.length === 0) throw new CacheError("No device specified.");
  let is_ok = true;
  for (const name of names) {
    try {
      await change(verb, name, request, options);
    } catch (error) {
      if (!(error instanceof CacheError)) throw error;
      warn(error.message);
      is_ok = false;
    }
  }
  return is_ok;
}

/**
 * Sends the request to a device.
 *
 * @throws {CacheError} It is not there, or it refused.
 */
export async function change(
  verb: string,
  name: string,
  request: Change,
  options: Options,
): Promise<void> {
  const { notes } = await ask(verb, name, request);
  for (const note of notes) warn(`${name}: ${note}`);
  await showVerbose(verb, name, options);
}

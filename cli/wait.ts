/**
 * `wait`: sleeps until something has happened to a device.
 *
 * @module
 */

import { CacheError } from "../core/errors.ts";
import { ask } from "./devices.ts";
import { showVerbose } from "./info.ts";
import type { Options } from "./options.ts";
import { printJson } from "./output.ts";

/** `wait NAME [EVENT]`: until the number of the last event is above EVENT, which is 0 if left out. */
export async function run(args: string[], options: Options): Promise<boolean> {
  const [name, event = "0"] = args;
  if (name === undefined) throw new CacheError("No device specified.");
  const number = Number(event);
  if (!/^[0-9]+$/.test(event) || !Number.isSafeInteger(number)) {
    throw new CacheError(`Invalid event number: "${event}", wanted a number, as info shows it`);
  }
  const { event_nr } = await ask("wait", name, { verb: "wait", event_nr: number });
  if (options.json) printJson({ name, event_nr });
  else await showVerbose("wait", name, options);
  return true;
}

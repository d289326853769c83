/**
 * `ls`: the devices and their numbers.
 *
 * @module
 */

import { TARGET_TYPE } from "../core/table.ts";
import { livingDevices, printNoDevices } from "./devices.ts";
import type { Options } from "./options.ts";
import { print, printJson } from "./output.ts";

/** Prints `NAME\t(MAJ:MIN)` for each device, or `NAME\t(MAJ, MIN)` with `--target`, as dmsetup does. */
export async function run(_args: string[], options: Options): Promise<boolean> {
  const is_wanted = (options.target ?? TARGET_TYPE) === TARGET_TYPE;
  const devices = is_wanted ? await livingDevices() : [];
  if (options.json) {
    printJson(devices.map(({ name, minor }) => ({ name, major: MAJOR, minor })));
    return true;
  }
  if (devices.length === 0) printNoDevices();
  const separator = options.target === undefined ? ":" : ", ";
  for (const { name, minor } of devices) print(`${name}\t(${MAJOR}${separator}${minor})`);
  return true;
}

/** A device that is served on a socket only has no kernel number: its major number is 0 (DMSETUP, "Output"). */
export const MAJOR = 0;

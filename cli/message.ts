/**
 * `message`: changes a setting of a running device.
 *
 * @module
 */

import { CacheError } from "../core/errors.ts";
import { ask } from "./devices.ts";
import { failedOn } from "./failure.ts";
import { print } from "./output.ts";

/** `message NAME SECTOR MESSAGE...`: prints the answer, if there is one. */
export async function run(args: string[]): Promise<boolean> {
  const [name, sector, ...words] = args as [string, string, ...string[]];
  if (!/^[0-9]+$/.test(sector)) {
    throw new CacheError(`Invalid sector: "${sector}", wanted a number; if it is not needed, 0`);
  }
  if (Number(sector) > 0) {
    const { length_sectors } = await ask("message", name, { verb: "info" });
    if (Number(sector) >= length_sectors) {
      throw failedOn("message", name, `Invalid argument: sector ${sector} of ${length_sectors}`);
    }
  }
  const { text } = await ask("message", name, { verb: "message", args: words });
  if (text !== "") print(text);
  return true;
}

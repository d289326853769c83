/**
 * `remove_all`: ends all devices.
 *
 * @module
 */

import { CacheError } from "../core/errors.ts";
import { clearLeftovers, publishedNames, runRoot } from "../io/run_dir.ts";
import { recordedNames } from "../io/node_record.ts";
import { livingDevices } from "./devices.ts";
import type { Options } from "./options.ts";
import { warn } from "./output.ts";
import { removeDevice } from "./remove.ts";

/** Ends every device, those of which only a block device is left included, then clears the folders of those whose process was killed. */
export async function run(_args: string[], options: Options): Promise<boolean> {
  let is_ok = true;
  const root = runRoot();
  const living = (await livingDevices()).map(({ name }) => name);
  for (const name of new Set([...living, ...recordedNames(root)])) {
    try {
      await removeDevice("remove_all", name, options);
    } catch (error) {
      if (!(error instanceof CacheError)) throw error;
      warn(error.message);
      is_ok = false;
    }
  }
  for (const name of publishedNames(root)) clearLeftovers(root, name);
  return is_ok;
}

/**
 * `remove_all`: ends all devices.
 *
 * @module
 */

import { CacheError } from "../core/errors.ts";
import { clearLeftovers, publishedNames, runRoot } from "../io/run_dir.ts";
import { livingDevices } from "./devices.ts";
import type { Options } from "./options.ts";
import { warn } from "./output.ts";
import { removeDevice } from "./remove.ts";

/** Ends every device, then clears the folders of those whose process was killed. */
export async function run(_args: string[], options: Options): Promise<boolean> {
  let is_ok = true;
  for (const { name } of await livingDevices()) {
    try {
      await removeDevice("remove_all", name, options);
    } catch (error) {
      if (!(error instanceof CacheError)) throw error;
      warn(error.message);
      is_ok = false;
    }
  }
  const root = runRoot();
  for (const name of publishedNames(root)) clearLeftovers(root, name);
  return is_ok;
}

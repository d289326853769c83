/**
 * `wipe_table`: replaces a device's table by one that fails all I/O, and lets go of what it stands on.
 *
 * @module
 */

import { changeAll } from "./change.ts";
import type { Options } from "./options.ts";

/** `wipe_table NAME...`: returns when others may use both devices. */
export async function run(names: string[], options: Options): Promise<boolean> {
  return await changeAll("wipe_table", names, { verb: "wipe" }, options);
}

/**
 * `suspend`: holds a device's I/O until it is resumed.
 *
 * @module
 */

import { changeAll } from "./change.ts";
import type { Options } from "./options.ts";

/** `suspend NAME...`: returns when nothing is under way any more; with `--noflush` at once. */
export async function run(names: string[], options: Options): Promise<boolean> {
  const noflush = options.noflush === true;
  return await changeAll("suspend", names, { verb: "suspend", noflush }, options);
}

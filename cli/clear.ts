/**
 * `clear`: empties the place of the inactive table.
 *
 * @module
 */

import { changeAll } from "./change.ts";
import type { Options } from "./options.ts";

/** `clear NAME` */
export async function run(names: string[], options: Options): Promise<boolean> {
  return await changeAll("clear", names, { verb: "clear" }, options);
}

/**
 * `resume`: a suspended device goes on, and a table that was loaded becomes live.
 *
 * @module
 */

import { changeAll } from "./change.ts";
import type { Options } from "./options.ts";

/** `resume NAME...` */
export async function run(names: string[], options: Options): Promise<boolean> {
  return await changeAll("resume", names, { verb: "resume" }, options);
}

/**
 * `targets`: the target types that a table line may name.
 *
 * @module
 */

import { TARGET_TYPE } from "../core/table.ts";
import type { Options } from "./options.ts";
import { print, printJson } from "./output.ts";
import { targetLine, targetVersion } from "./target_version.ts";

/** Prints a line for each target type: there is one. */
export function run(_args: string[], options: Options): boolean {
  if (options.json) printJson([targetVersion(TARGET_TYPE)]);
  else print(targetLine(TARGET_TYPE));
  return true;
}

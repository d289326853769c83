/**
 * `targets`: the target types that a table line may name.
 *
 * @module
 */

import { TARGET_TYPE } from "../core/table.ts";
import { print } from "./output.ts";
import { targetLine } from "./target_version.ts";

/** Prints a line for each target type: there is one. */
export function run(): boolean {
  print(targetLine(TARGET_TYPE));
  return true;
}

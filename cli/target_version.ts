/**
 * `target-version`: the version of target types.
 *
 * @module
 */

import { TARGET_TYPE, TARGET_VERSION } from "../core/table.ts";
import { failedOn } from "./failure.ts";
import { print, warn } from "./output.ts";

/** Prints a line for each target type named, or for all of them. */
export function run(targets: string[]): boolean {
  let is_ok = true;
  for (const target of targets.length > 0 ? targets : [TARGET_TYPE]) {
    if (target === TARGET_TYPE) {
      print(targetLine(target));
    } else {
      warn(failedOn("target-version", target, "Invalid argument").message);
      is_ok = false;
    }
  }
  return is_ok;
}

/** A target type and its version, as dmsetup prints them. */
export function targetLine(target: string): string {
  return `${target.padEnd(16)} v${TARGET_VERSION.join(".")}`;
}

/**
 * `target-version`: the version of target types.
 *
 * @module
 */

import { TARGET_TYPE, TARGET_VERSION } from "../core/table.ts";
import { failedOn } from "./failure.ts";
import type { Options } from "./options.ts";
import { print, printJson, warn } from "./output.ts";

/** Prints a line for each target type named, or for all of them. */
export function run(targets: string[], options: Options): boolean {
  let is_ok = true;
  const known: string[] = [];
  for (const target of targets.length > 0 ? targets : [TARGET_TYPE]) {
    if (target === TARGET_TYPE) {
      known.push(target);
      if (!options.json) print(targetLine(target));
    } else {
      warn(failedOn("target-version", target, "Invalid argument").message);
      is_ok = false;
    }
  }
  if (options.json) printJson(known.map(targetVersion));
  return is_ok;
}

/** A target type and its version, for `--json`. */
export function targetVersion(target: string): { target: string; version: string } {
  return { target, version: TARGET_VERSION.join(".") };
}

/** A target type and its version, as dmsetup prints them. */
export function targetLine(target: string): string {
  return `${target.padEnd(16)} v${TARGET_VERSION.join(".")}`;
}

/**
 * `version`: of the program and of its engine, which come together.
 *
 * @module
 */

import config from "../deno.json" with { type: "json" };
import type { Options } from "./options.ts";
import { print, printJson } from "./output.ts";

/** Prints both versions, as dmsetup prints its library's and its driver's. */
export function run(_args: string[], options: Options): boolean {
  const { version } = config;
  if (options.json) {
    printJson({ library_version: version, driver_version: version });
    return true;
  }
  print(`Library version:   ${version}\nDriver version:    ${version}`);
  return true;
}

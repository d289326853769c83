/**
 * `version`: of the program and of its engine, which come together.
 *
 * @module
 */

import config from "../deno.json" with { type: "json" };
import { print } from "./output.ts";

/** Prints both versions, as dmsetup prints its library's and its driver's. */
export function run(): boolean {
  print(`Library version:   ${config.version}\nDriver version:    ${config.version}`);
  return true;
}

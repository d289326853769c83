/**
 * `deps`: what each device stands on.
 *
 * @module
 */

import type { InfoReply } from "../io/control_protocol.ts";
import { dependencies, shortPath } from "./device_fields.ts";
import { askAll, linePrefix, printNoDevices } from "./devices.ts";
import { type DeviceForm, parseDeviceForm } from "./ls.ts";
import type { Options } from "./options.ts";
import { print, printJson } from "./output.ts";

/** Prints a line for each device named, or for all. */
export async function run(names: string[], options: Options): Promise<boolean> {
  const form = parseDeviceForm(options.options);
  const { answers, is_ok } = await askAll("deps", names, { verb: "info" });
  if (options.json) {
    printJson(answers.map(({ name, reply }) => ({ name, deps: dependencies(reply) })));
    return is_ok;
  }
  if (names.length === 0 && answers.length === 0) printNoDevices();
  for (const { name, reply } of answers) {
    print(linePrefix(name, names, answers.length) + depsLine(reply, form));
  }
  return is_ok;
}

/**
 * `2 dependencies\t: (MAJ, MIN) (MAJ, MIN)`, or with names: the cache device, then the backing device. One on a server
 * has no number: `(nbd)` stands in its place.
 */
export function depsLine(info: InfoReply, form: DeviceForm): string {
  const items = dependencies(info).map(({ major, minor, path }) => {
    if (form !== "devno") return ` (${shortPath(path)})`;
    return major === null ? " (nbd)" : ` (${major}, ${minor})`;
  });
  return `${items.length} dependencies\t:${items.join("")}`;
}

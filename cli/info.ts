/**
 * `info`: a device's state, where its clients connect, and its process.
 *
 * @module
 */

import type { InfoReply } from "../io/control_protocol.ts";
import { askAll, printNoDevices } from "./devices.ts";
import { MAJOR } from "./ls.ts";
import type { Options } from "./options.ts";
import { print, printJson } from "./output.ts";

/** Prints a block of lines for each device named, or for all. */
export async function run(names: string[], options: Options): Promise<boolean> {
  const { answers, is_ok } = await askAll("info", names, { verb: "info" });
  if (options.json) {
    printJson(answers.map(({ reply: { ok: _, ...info } }) => ({ ...info, major: MAJOR })));
    return is_ok;
  }
  if (names.length === 0 && answers.length === 0) printNoDevices();
  for (const { reply } of answers) print(infoText(reply));
  return is_ok;
}

/** dmsetup's lines, then our own in the same column, then an empty line. */
export function infoText(info: InfoReply): string {
  const lines = [
    `Name:              ${info.name}`,
    `State:             ACTIVE${info.read_only ? " (READ-ONLY)" : ""}`,
    `Read Ahead:        0`,
    `Tables present:    LIVE`,
    `Open count:        ${info.open_count}`,
    `Event number:      0`,
    `Major, minor:      ${MAJOR}, ${info.minor}`,
    `Number of targets: 1`,
  ];
  if (info.uuid !== "") lines.push(`UUID: ${info.uuid}`);
  lines.push(
    `Frontend:          ${info.frontend}`,
    `URI:               ${info.uri}`,
    `PID:               ${info.pid}`,
  );
  return lines.join("\n") + "\n";
}

/**
 * `table`: the table lines, in a form that `create` accepts.
 *
 * @module
 */

import { parseTable, TARGET_TYPE } from "../core/table.ts";
import { askAll, linePrefix, printNoDevices } from "./devices.ts";
import type { Options } from "./options.ts";
import { print, printJson } from "./output.ts";

/** Prints a line for each device named, or for all. */
export async function run(names: string[], options: Options): Promise<boolean> {
  const { answers, is_ok } = await askAll("table", names, { verb: "table" });
  if (options.json) {
    printJson(answers.map(({ name, reply }) => ({
      name,
      table: reply.table,
      target: TARGET_TYPE,
      start: 0,
      ...parseTable(reply.table, { kind: "option" }),
    })));
    return is_ok;
  }
  if (names.length === 0 && answers.length === 0) printNoDevices();
  for (const { name, reply } of answers) {
    if ((options.target ?? TARGET_TYPE) !== TARGET_TYPE) continue;
    print(linePrefix(name, names, answers.length) + reply.table);
  }
  return is_ok;
}

/**
 * `table`: the table lines, in a form that `create` accepts.
 *
 * @module
 */

import { parseTable, TARGET_TYPE } from "../core/table.ts";
import { formatConcise } from "./concise.ts";
import { type Answer, ask, askAll, linePrefix, printNoDevices } from "./devices.ts";
import type { Options } from "./options.ts";
import { print, printJson } from "./output.ts";

/** Prints a line for each device named, or for all. */
export async function run(names: string[], options: Options): Promise<boolean> {
  const { answers, is_ok } = await askAll("table", names, {
    verb: "table",
    inactive: options.inactive === true,
  });
  if (options.concise) {
    if (answers.length > 0) print(await conciseLine(answers));
    return is_ok;
  }
  if (options.json) {
    printJson(answers.map(({ name, reply }) => ({
      name,
      table: reply.table,
      target: targetOf(reply.table),
      ...fieldsOf(reply.table),
    })));
    return is_ok;
  }
  if (names.length === 0 && answers.length === 0) printNoDevices();
  for (const { name, reply } of answers) {
    if (options.target !== undefined && options.target !== targetOf(reply.table)) continue;
    print(linePrefix(name, names, answers.length) + reply.table);
  }
  return is_ok;
}

/** The target type of a table line; null: there is no table. */
function targetOf(table: string): string | null {
  return table.split(" ")[2] ?? null;
}

/** What a table line of ours says, for `--json`. */
function fieldsOf(table: string) {
  if (targetOf(table) !== TARGET_TYPE) return {};
  return { start: 0, ...parseTable(table, { kind: "option" }) };
}

/** The devices in one line, for `create --concise`. */
async function conciseLine(answers: readonly Answer<{ verb: "table" }>[]): Promise<string> {
  const devices = [];
  for (const { name, reply } of answers) {
    const { uuid, minor, read_only } = await ask("table", name, { verb: "info" });
    devices.push({ name, uuid, minor, read_only, table: reply.table === "" ? [] : [reply.table] });
  }
  return formatConcise(devices);
}

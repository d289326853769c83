/**
 * `load`: puts a table into a device's inactive place; `resume` makes it live.
 *
 * @module
 */

import { CacheError } from "../core/errors.ts";
import { change } from "./change.ts";
import type { Options } from "./options.ts";
import { readTable, tableConfig } from "./table_input.ts";

/** `load NAME [FILE]` */
export async function run(args: string[], options: Options): Promise<boolean> {
  const [name, table_path] = args;
  if (name === undefined) throw new CacheError("Please specify device.");
  const table = await readTable(table_path, options.table);
  const config = tableConfig(table, options.readonly === true);
  await change("load", name, { verb: "load", table: config }, options);
  return true;
}

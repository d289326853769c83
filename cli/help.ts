/**
 * `help`: the usage, each verb with its line of help, and the table line.
 *
 * @module
 */

import { DEVICE_FIELDS } from "./device_fields.ts";
import type { Options } from "./options.ts";
import { print } from "./output.ts";
import { listFields } from "./report/fields.ts";
import { usageText } from "./verbs.ts";

/** Prints the help text. */
export function run(_args: string[], options: Options): boolean {
  print(usageText(true) + TABLE_HELP);
  if (options.columns) print(`\n${listFields(DEVICE_FIELDS)}`);
  return true;
}

const TABLE_HELP = `
A table is one line, in the kernel's form or in the short one:
	<start> <length> pcache <cache_dev> <backing_dev> [<#args> <key> <value> ...]
	pcache <cache_dev> <backing_dev> [<#args>] [<key> <value> ...]
Keys: cache_mode writeback|writethrough|writearound|writeonly (the default is what the cache has,
writeback for a new one); data_crc true|false (the default is false); eviction fifo|reinsert (the
default is fifo). Start is 0, length is in sectors of 512 bytes; the short form takes the whole backing
device. A blank in a path: "\\ ".
The run directory is $PCACHE_RUN_DIR, else /run/pcache for root, else $XDG_RUNTIME_DIR/pcache.`;

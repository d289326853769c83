/**
 * `help`: the usage, each verb with its line of help, and the table line.
 *
 * @module
 */

import { print } from "./output.ts";
import { VERBS } from "./verbs.ts";

/** Prints the help text. */
export function run(): boolean {
  print("Usage:\n\npcache\n        [--version] [-h|--help] [-v|--verbose]\n");
  for (const verb of VERBS) {
    print(`\t${`${verb.name} ${verb.usage}`.trimEnd()}\n\t        ${verb.help}`);
  }
  print(TABLE_HELP);
  return true;
}

const TABLE_HELP = `
A table is one line, in the kernel's form or in the short one:
	<start> <length> pcache <cache_dev> <backing_dev> [<#args> <key> <value> ...]
	pcache <cache_dev> <backing_dev> [<#args>] [<key> <value> ...]
Keys: cache_mode writeback; data_crc true|false (the default is false). Start is 0, length is in
sectors of 512 bytes; the short form takes the whole backing device. A blank in a path: "\\ ".
The run directory is $PCACHE_RUN_DIR, else /run/pcache for root, else $XDG_RUNTIME_DIR/pcache.`;

/**
 * `status`: the kernel's fields in the kernel's order (DESIGN §5).
 *
 * @module
 */

import { TARGET_TYPE } from "../core/table.ts";
import type { BlankStatusReply, StatusPosition, StatusReply } from "../io/control_protocol.ts";
import { askAll, linePrefix, printNoDevices } from "./devices.ts";
import type { Options } from "./options.ts";
import { print, printJson } from "./output.ts";

/** Prints a line for each device named, or for all. */
export async function run(names: string[], options: Options): Promise<boolean> {
  const { answers, is_ok } = await askAll("status", names, {
    verb: "status",
    inactive: options.inactive === true,
  });
  if (options.json) {
    printJson(answers.map(({ name, reply: { ok: _, ...fields } }) => ({
      name,
      ...fields,
    })));
    return is_ok;
  }
  if (names.length === 0 && answers.length === 0) printNoDevices();
  for (const { name, reply } of answers) {
    if (options.target !== undefined && options.target !== reply.target) continue;
    print(linePrefix(name, names, answers.length) + statusLine(reply));
  }
  return is_ok;
}

/**
 * The status line of a device, "" without a table: `0 2097152 pcache 0 31 31 29 70 1182 6:2093904 0:15973104 0:15645224`. Both
 * flags are in hex, everything else is decimal.
 */
export function statusLine(status: StatusReply | BlankStatusReply): string {
  if (status.target !== TARGET_TYPE) {
    return status.target === null ? "" : `0 ${status.length_sectors} ${status.target} `;
  }
  return [
    status.start,
    status.length_sectors,
    TARGET_TYPE,
    status.sb_flags.toString(16),
    status.seg_total,
    status.cache_segs,
    status.segs_used,
    status.gc_percent,
    status.cache_flags.toString(16),
    position(status.key_head),
    position(status.dirty_tail),
    position(status.key_tail),
  ].join(" ");
}

function position({ seg, off }: StatusPosition): string {
  return `${seg}:${off}`;
}

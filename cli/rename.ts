/**
 * `rename`: gives a device another name, or a UUID.
 *
 * @module
 */

import { checkName, checkUuid } from "../io/run_dir.ts";
import { ask } from "./devices.ts";
import type { Options } from "./options.ts";

/** `rename NAME NEW_NAME`, `rename NAME --setuuid UUID` */
export async function run(args: string[], options: Options): Promise<boolean> {
  const [name, wanted] = args as [string, string];
  if (options.setuuid) {
    checkUuid(wanted);
    await ask("rename", name, { verb: "set_uuid", uuid: wanted });
  } else {
    checkName(wanted);
    await ask("rename", name, { verb: "rename", from: name, to: wanted });
  }
  return true;
}

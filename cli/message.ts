/**
 * `message`: changes a setting of a running device, or has it do something.
 *
 * @module
 */

import { CacheError } from "../core/errors.ts";
import { checkName, controlPath, runRoot } from "../io/run_dir.ts";
import { ask } from "./devices.ts";
import { failedOn } from "./failure.ts";
import { print } from "./output.ts";
import { DeviceProgress, terminalScreen } from "./progress.ts";

/** `message NAME SECTOR MESSAGE...`: prints the answer, if there is one; at a terminal a bar for what takes long. */
export async function run(args: string[]): Promise<boolean> {
  const [name, sector, ...words] = args as [string, string, ...string[]];
  if (!/^[0-9]+$/.test(sector)) {
    throw new CacheError(`Invalid sector: "${sector}", wanted a number; if it is not needed, 0`);
  }
  if (Number(sector) > 0) {
    const { length_sectors } = await ask("message", name, { verb: "info" });
    if (Number(sector) >= length_sectors) {
      throw failedOn("message", name, `Invalid argument: sector ${sector} of ${length_sectors}`);
    }
  }
  const screen = terminalScreen();
  checkName(name);
  const path = controlPath(runRoot(), name);
  const progress = screen === null ? null : new DeviceProgress(name, path, screen);
  try {
    const { text } = await ask("message", name, { verb: "message", args: words });
    progress?.finish(`${words[0]} done`);
    if (text !== "") print(text);
  } finally {
    progress?.stop();
  }
  return true;
}

/**
 * `repair`: says how a damaged cache that nobody uses can be repaired, and does it when told to.
 *
 * @module
 */

import { planRepair } from "../core/repair.ts";
import { backingBytes, withCache } from "./offline.ts";
import type { Options } from "./options.ts";
import { print, printJson } from "./output.ts";

/** `repair CACHE [BACKING]`: false when there is something to repair and it was not told to. */
export function run([cache_dev, backing_dev]: string[], options: Options): boolean {
  return withCache("repair", cache_dev!, (cache) => {
    const size_bytes = backingBytes(backing_dev);
    const plan = planRepair(cache.memory, size_bytes === undefined ? {} : { size_bytes });
    const { repairs, losses, overlay } = plan;
    const is_needed = overlay.is_changed;
    const is_done = is_needed && options.yes === true;
    if (is_done) {
      cache.prepare();
      overlay.apply();
    }
    if (options.json) {
      printJson({ cache_dev, is_needed, is_done, repairs, losses });
    } else {
      for (const line of repairs) print(line);
      for (const line of losses) print(`lost: ${line}`);
      print(`${cache_dev}: ${outcome(is_needed, is_done)}`);
    }
    return !is_needed || is_done;
  });
}

function outcome(is_needed: boolean, is_done: boolean): string {
  if (!is_needed) return "nothing to repair";
  return is_done ? "repaired" : "nothing was written: repair --yes does what is said above";
}

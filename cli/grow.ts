/**
 * `grow`: gives a cache that nobody uses the segments that its device has gained.
 *
 * @module
 */

import { planGrowth } from "../core/grow.ts";
import { withCache } from "./offline.ts";
import { print } from "./output.ts";

/** `grow CACHE`. */
export function run([cache_dev]: string[]): boolean {
  withCache("grow", cache_dev!, (cache) => {
    const { segs_before, segs_after, overlay } = planGrowth(cache.memory);
    cache.prepare();
    overlay.apply();
    print(`${cache_dev}: ${segs_after} segments, it had ${segs_before}`);
  });
  return true;
}

/**
 * `format`: makes a new cache on a cache device that nobody uses.
 *
 * @module
 */

import { checkCache } from "../core/check.ts";
import { CacheError } from "../core/errors.ts";
import { inspectCache, type Inspection, prepareCache } from "../core/media.ts";
import type { Memory } from "../core/platform.ts";
import { parseTable } from "../core/table.ts";
import { withCache } from "./offline.ts";
import type { Options } from "./options.ts";
import { print } from "./output.ts";
import { formatBytes } from "./stats_text.ts";

/** `format CACHE [KEY VALUE...]`. */
export function run([cache_dev, ...words]: string[], options: Options): boolean {
  const { data_crc, cache_mode } = parseTable(`pcache - - ${words.join(" ")}`, { kind: "option" });
  withCache("format", cache_dev!, (device) => {
    const { memory } = device;
    if (!options.yes) refuseContent(memory, data_crc);
    const inspection = inspectCache(memory, {
      data_crc,
      format: true,
      ...(cache_mode === null ? {} : { cache_mode }),
    });
    device.prepare();
    const cache = prepareCache(memory, inspection);
    print(`${cache_dev}: formatted, ${cache.n_segs} segments, data_crc ${data_crc}`);
  });
  return true;
}

/** Refuses a device that is not new, and says what would be lost. */
function refuseContent(memory: Memory, data_crc: boolean): void {
  let inspection: Inspection;
  try {
    inspection = inspectCache(memory, { data_crc });
  } catch (error) {
    if (!(error instanceof CacheError)) throw error;
    throw new CacheError(`${loss(memory, error.message)}; format --yes does it all the same`);
  }
  if (inspection.fresh) return;
  throw new CacheError(`${loss(memory, "a cache is on it")}; format --yes does it all the same`);
}

function loss(memory: Memory, why: string): string {
  const { log } = checkCache(memory);
  if (log === null) return why;
  const dirty = log.dirty_bytes === 0
    ? "nothing of it is dirty"
    : `${formatBytes(log.dirty_bytes)} of it are dirty`;
  return `a cache is on it, ${dirty}`;
}

/**
 * check and repair on forged images: a device without an error opens, and so does a repaired one; neither ever leaves the device.
 *
 * @module
 */

import { assertEquals, assertGreater } from "@std/assert";
import { checkCache } from "../core/check.ts";
import { Engine } from "../core/engine.ts";
import { CacheError } from "../core/errors.ts";
import { readLog } from "../core/log_keys.ts";
import { inspectCache, prepareCache } from "../core/media.ts";
import type { Memory } from "../core/platform.ts";
import { planRepair } from "../core/repair.ts";
import { CacheInfo } from "../core/slots.ts";
import { DEVICE_BYTES, forgedImages, GEOMETRY } from "./crash/forged.ts";
import { Random, seedOr } from "./random.ts";
import { SimBacking } from "./sim_backing.ts";
import { SimMemory } from "./sim_memory.ts";

const IMAGES = 2500;
const LIMITS = { requests: 8, pieces: 128, staged_keys: 128, batch_ksets: 4 };
const OPTIONS = { geometry: GEOMETRY, size_bytes: DEVICE_BYTES };

/** Why the cache is refused, with the data_crc setting that it says it has; "": it opens, and keeps its content. */
function refusal(memory: SimMemory): string {
  try {
    const info = new CacheInfo(memory);
    const has_info = info.load();
    const options = { geometry: GEOMETRY, data_crc: has_info && info.data_crc };
    const inspection = inspectCache(memory, options);
    if (inspection.fresh) return "nothing is on it that counts";
    const backing = new SimBacking(new Uint8Array(DEVICE_BYTES), memory.bytes, new Random(1));
    const cache = prepareCache(memory, inspection);
    Engine.open({ memory, backing, cache, now_ms: 0, limits: LIMITS });
    return "";
  } catch (error) {
    if (error instanceof CacheError) return error.message;
    throw error;
  }
}

/** What the log says, if anybody can read it: it ends for any content. */
function readAll(memory: Memory): void {
  const { cache } = checkCache(memory, OPTIONS);
  if (cache === null) return;
  try {
    for (const { keys } of readLog(cache, memory)) assertEquals(keys.length <= 128, true);
  } catch (error) {
    if (!(error instanceof CacheError)) throw error;
  }
}

Deno.test("a forged image without an error opens, and so does a repaired one", () => {
  const random = new Random(seedOr(11));
  const counts = { refused: 0, repaired: 0, beyond: 0 };
  const images = forgedImages(random);
  for (let n = 0; n < IMAGES; n++) {
    const { memory, changed } = images.next().value;
    const what = `image ${n} of seed ${random.seed}, ${changed}`;
    const { findings } = checkCache(memory, OPTIONS);
    readAll(memory);
    const refused = refusal(memory);
    if (refused !== "") counts.refused++;
    if (findings.errors === 0) assertEquals(refused, "", what);
    const before = memory.cache.slice();
    try {
      const plan = planRepair(memory, OPTIONS);
      assertEquals(memory.cache, before, `${what}: written to before it was asked for`);
      plan.overlay.apply();
      assertEquals(refusal(memory), "", what);
      assertEquals(checkCache(memory, OPTIONS).findings.list, plan.after.findings.list, what);
      counts.repaired++;
    } catch (error) {
      if (!(error instanceof CacheError)) throw new Error(what, { cause: error });
      counts.beyond++;
      assertGreater(findings.errors, 0, `${what}: ${error.message}`);
    }
  }
  console.log(counts);
  assertGreater(counts.refused, IMAGES / 4);
  assertGreater(counts.repaired, IMAGES / 2);
});

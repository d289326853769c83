/**
 * A small simulated device: for tests that break something and look at one answer.
 *
 * @module
 */

import { LIMITS } from "../core/engine.ts";
import { fillFor, Random } from "./random.ts";
import { SimBacking } from "./sim_backing.ts";
import { SimDevice } from "./sim_device.ts";
import { SimMemory } from "./sim_memory.ts";

const KIB = 1024;
const MIB = 1024 * KIB;

/** Segments of 256 KiB, and a backing device of 16 MiB filled with `fillFor(0)`. */
export class SmallDevice extends SimDevice {
  constructor(
    { segments = 32, data_crc = true, cheap = false, staged = null as ArrayBuffer | null } = {},
    memory = new SimMemory({
      cache_bytes: 0x5000 + segments * 256 * KIB,
      buffer_bytes: 8 * MIB,
      barrier_is_cheap: cheap,
    }),
  ) {
    const content = new Uint8Array(16 * MIB);
    fillFor(0, content);
    const geometry = { segment_bytes: 256 * KIB, min_cache_bytes: 0 };
    const backing = new SimBacking(content, memory.bytes, new Random(1));
    super(memory, backing, { geometry, data_crc }, LIMITS, staged);
  }

  /** Flips one bit of each place on the cache device that holds the 64 bytes of `content` from `at` on. */
  damage(content: Uint8Array, at: number): void {
    const wanted = content.subarray(at, at + 64);
    const { cache } = this.memory;
    let found = 0;
    for (let i = cache.indexOf(wanted[0]!); i >= 0; i = cache.indexOf(wanted[0]!, i + 1)) {
      if (!wanted.every((byte, k) => cache[i + k] === byte)) continue;
      cache[i] = cache[i]! ^ 1;
      found++;
    }
    if (found === 0) throw new Error("the content to damage is not on the cache device");
  }
}

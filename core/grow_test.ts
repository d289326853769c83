import { assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { fillFor, Random } from "../tests/random.ts";
import { SimBacking } from "../tests/sim_backing.ts";
import { SimDevice } from "../tests/sim_device.ts";
import { SimMemory } from "../tests/sim_memory.ts";
import { checkCache } from "./check.ts";
import { CacheError } from "./errors.ts";
import { SEGMENTS_ADDR } from "./format.ts";
import { planGrowth } from "./grow.ts";
import { planRepair } from "./repair.ts";

const KIB = 1024;
const GEOMETRY = { segment_bytes: 256 * KIB, min_cache_bytes: 0 };
const OPTIONS = { geometry: GEOMETRY };

function memoryOf(segments: number): SimMemory {
  const cache_bytes = SEGMENTS_ADDR + segments * GEOMETRY.segment_bytes;
  return new SimMemory({ cache_bytes, buffer_bytes: 8 * 1024 * KIB });
}

function deviceOn(memory: SimMemory): SimDevice {
  const backing = new SimBacking(new Uint8Array(8 * 1024 * KIB), memory.bytes, new Random(1));
  return new SimDevice(memory, backing, { geometry: GEOMETRY, data_crc: true });
}

function content(id: number): Uint8Array {
  const bytes = new Uint8Array(32 * KIB);
  fillFor(id, bytes);
  return bytes;
}

/** A cache with dirty data, on a device that has grown from 8 segments to `segments`. */
function grownDevice(segments: number): SimMemory {
  const small = memoryOf(8);
  const device = deviceOn(small);
  for (let i = 0; i < 10; i++) assertEquals(device.write(i * 64 * KIB, content(i + 1)), 0);
  device.flush();
  const memory = memoryOf(segments);
  memory.cache.set(small.cache);
  return memory;
}

function assertContent(memory: SimMemory, segments: number): void {
  const device = deviceOn(memory);
  assertEquals(device.engine.status().cache_segs, segments);
  for (let i = 0; i < 10; i++) {
    assertEquals(device.read(i * 64 * KIB, 32 * KIB), { errno: 0, bytes: content(i + 1) });
  }
}

Deno.test("a cache takes the segments that its device has gained, and keeps what it holds", () => {
  const memory = grownDevice(20);
  const before = memory.cache.slice();
  const { segs_before, segs_after, overlay } = planGrowth(memory, OPTIONS);
  assertEquals([segs_before, segs_after], [8, 20]);
  assertEquals(memory.cache, before, "a plan writes nothing");
  overlay.apply();
  assertEquals(checkCache(memory, OPTIONS).findings.list, []);
  assertContent(memory, 20);
  const device = deviceOn(memory);
  for (let i = 0; i < 60; i++) assertEquals(device.write(i * 64 * KIB, content(i + 1)), 0);
  assertContent(memory, 20);
  assertStringIncludes(
    assertThrows(() => planGrowth(memory, OPTIONS), CacheError).message,
    "the device holds 20 segments, and the cache has all of them",
  );
});

Deno.test("a growth that is cut short leaves a cache that opens, or that repair makes what it was", () => {
  const memory = grownDevice(12);
  const before = memory.cache.slice();
  const { overlay } = planGrowth(memory, OPTIONS);
  const stores: { addr: number; bytes: Uint8Array }[] = [];
  const write = memory.write.bind(memory);
  memory.write = (addr, from, len) => {
    stores.push({ addr, bytes: from.slice(0, len) });
    write(addr, from, len);
  };
  overlay.apply();
  memory.write = write;
  for (let kept = 0; kept <= stores.length; kept++) {
    memory.cache.set(before);
    for (const { addr, bytes } of stores.slice(0, kept)) memory.cache.set(bytes, addr);
    if (checkCache(memory, OPTIONS).findings.errors > 0) {
      planRepair(memory, OPTIONS).overlay.apply();
    }
    const { n_segs } = checkCache(memory, OPTIONS).cache!;
    assertContent(memory, n_segs);
  }
});

Deno.test("a damaged cache is repaired before it grows", () => {
  const memory = grownDevice(12);
  memory.bytes.fill(0, 0x4000, 0x4020);
  assertStringIncludes(
    assertThrows(() => planGrowth(memory, OPTIONS), CacheError).message,
    "the cache is damaged, repair it first: key tail: no valid copy",
  );
});

/** An engine that goes on with larger devices. */

import { assert, assertEquals, assertThrows } from "@std/assert";
import { fillFor, Random } from "../tests/random.ts";
import { SimBacking } from "../tests/sim_backing.ts";
import { SimDevice } from "../tests/sim_device.ts";
import { SimMemory } from "../tests/sim_memory.ts";
import { CacheError } from "./errors.ts";
import { planGrowth } from "./grow.ts";
import { inspectCache, prepareCache } from "./media.ts";

const KIB = 1024;
const MIB = 1024 * KIB;
const SEGMENT_BYTES = 256 * KIB;
const GEOMETRY = { segment_bytes: SEGMENT_BYTES, min_cache_bytes: 0 };

function memoryOf(segments: number): SimMemory {
  return new SimMemory({
    cache_bytes: 0x5000 + segments * SEGMENT_BYTES,
    buffer_bytes: 8 * MIB,
    barrier_is_cheap: true,
  });
}

function content(id: number, bytes: number): Uint8Array {
  const made = new Uint8Array(bytes);
  fillFor(id, made);
  return made;
}

/** `assertEquals` takes its time with millions of bytes. */
function assertSame(bytes: Uint8Array, wanted: Uint8Array): void {
  assertEquals(bytes.length, wanted.length);
  assertEquals(bytes.findIndex((byte, i) => byte !== wanted[i]), -1, "the first byte that differs");
}

/** A closed device, with data that is dirty, clean, zeroed and overwritten. */
function closedDevice(): { device: SimDevice; want: Uint8Array } {
  const want = content(0, 4 * MIB);
  const memory = memoryOf(16);
  const backing = new SimBacking(want.slice(), memory.bytes, new Random(1));
  const options = { geometry: GEOMETRY, data_crc: true };
  const device = new SimDevice(memory, backing, options);
  const write = (at: number, id: number, bytes: number) => {
    assertEquals(device.write(at, content(id, bytes)), 0);
    want.set(content(id, bytes), at);
  };
  write(0, 1, 64 * KIB);
  device.drain();
  write(32 * KIB, 2, 100 * KIB);
  write(4 * MIB - 1000, 3, 1000);
  assertEquals(device.zero(40 * KIB, 8 * KIB), 0);
  want.fill(0, 40 * KIB, 48 * KIB);
  device.read(1 * MIB, 64 * KIB);
  device.engine.setSequentialCutoff(8192);
  device.engine.setWritebackRate(0);
  device.engine.close();
  device.runUntil("it is closed", () => device.engine.isClosed());
  return { device, want };
}

Deno.test("it goes on with a larger backing device and more segments: content, settings and counters", () => {
  const { device, want } = closedDevice();
  const { engine } = device;
  const before = { ...engine.counters };
  const memory = memoryOf(20);
  memory.cache.set(device.memory.cache);
  const grown = new Uint8Array(6 * MIB);
  grown.set(device.backing.bytes);
  const backing = new SimBacking(grown, memory.bytes, new Random(2));
  planGrowth(memory, { geometry: GEOMETRY }).overlay.apply();
  const cache = prepareCache(memory, inspectCache(memory, device.options));
  engine.reload({ memory, backing, cache, now_ms: 0 });

  assertEquals(engine.size_bytes, 6 * MIB);
  assertEquals([engine.status().seg_total, engine.status().cache_segs], [20, 20]);
  assertEquals([engine.sequential_cutoff_bytes, engine.writeback_rate], [8192, 0]);
  assertEquals({ ...engine.counters }, before);
  const after = new SimDevice(memory, backing, device.options);
  after.engine = engine;
  const wanted = new Uint8Array(6 * MIB);
  wanted.set(want);
  for (let at = 0; at < 6 * MIB; at += 256 * KIB) {
    assertSame(after.read(at, 256 * KIB).bytes, wanted.subarray(at, at + 256 * KIB));
  }
  assertEquals(after.write(5 * MIB, content(9, 300 * KIB)), 0);
  wanted.set(content(9, 300 * KIB), 5 * MIB);
  after.drain();
  assertSame(backing.bytes, wanted);
  assert(engine.counters.writeback_bytes > before.writeback_bytes);
});

Deno.test("what is refused leaves it as it was, and it goes on with that", () => {
  const { device, want } = closedDevice();
  const { engine, memory } = device;
  const before = { ...engine.counters };
  const small = new SimBacking(new Uint8Array(1 * MIB), memory.bytes, new Random(2));
  const cache = prepareCache(memory, inspectCache(memory, device.options));
  assertThrows(
    () => engine.reload({ memory, backing: small, cache, now_ms: 0 }),
    CacheError,
    "cached device",
  );
  assertEquals([engine.size_bytes, { ...engine.counters }], [4 * MIB, before]);
  engine.reopen();
  device.drain();
  assertSame(device.backing.bytes, want);
});

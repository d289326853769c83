/** Zeroing, through the engine: what it costs, where its bytes lie, how it is written back. */

import { assert, assertEquals } from "@std/assert";
import { content, HandDevice } from "../tests/hand_device.ts";
import { Random } from "../tests/random.ts";
import { SimBacking } from "../tests/sim_backing.ts";
import { SimDevice } from "../tests/sim_device.ts";
import { SimMemory } from "../tests/sim_memory.ts";
import { LIMITS } from "./engine.ts";
import { EIO } from "./errors.ts";

const KIB = 1024;
const MIB = 1024 * KIB;
const OLD = content(0, 16 * MIB);

/** What the device holds with a range zeroed. */
function zeroed(off: number, len: number, of = OLD): Uint8Array {
  const bytes = of.slice(0, MIB);
  bytes.fill(0, off, off + len);
  return bytes;
}

function drain(device: HandDevice): void {
  device.engine.setDraining(true);
  device.settle();
  assertEquals(device.engine.isClean(), true);
  device.engine.setDraining(false);
}

/** Compares the start of the device, also after everything was written back. */
function assertHolds(device: HandDevice, want: Uint8Array): void {
  for (let off = 0; off < want.length; off += 256 * KIB) {
    assertEquals(device.read(off, 256 * KIB).bytes, want.slice(off, off + 256 * KIB));
  }
  drain(device);
  assertEquals(device.backing.bytes.slice(0, want.length), want);
  device.assertNothingHeld();
}

for (const data_crc of [false, true]) {
  Deno.test(`a zeroed range reads as zeroes, at any alignment, data_crc ${data_crc}`, () => {
    const ranges = [[0, 512], [4096, 70_000], [100, 300], [500, 24], [1000, 1000], [513, 262_144]];
    for (const [off, len] of ranges) {
      const device = new HandDevice({ data_crc, segments: 24 });
      assertEquals(device.zero(off!, len!), 0);
      assertHolds(device, zeroed(off!, len!));
    }
  });
}

Deno.test("zeroing takes one area for many ranges, another for those to be punched", () => {
  const device = new HandDevice({ data_crc: true });
  for (let i = 0; i < 40; i++) device.zero(i * 256 * KIB, 256 * KIB, i % 2 === 1);
  const { engine } = device;
  const places = new Set<string>();
  engine.index.forEach((_, extent) => {
    places.add(`${engine.index.segment(extent)}:${engine.index.place(extent)}`);
  });
  assertEquals(engine.index.extents, 40 * Math.ceil(512 / 61)); // a key has an eighth of a segment at most
  assert(places.size <= 40, `${places.size} places`);
  assertEquals(engine.status().segs_used, 2); // the log's, and the data head's
  const { zeroes, trims, zeroed_bytes, trimmed_bytes } = engine.counters;
  assertEquals([zeroes, trims, zeroed_bytes, trimmed_bytes], [20, 20, 5 * MIB, 5 * MIB]);
});

Deno.test("no two zeroings of a sector lie at the same place; an area is left when it has served", () => {
  const device = new HandDevice();
  const seen = new Set<string>();
  for (let i = 0; i < 300; i++) {
    assertEquals(device.zero((i % 3) * 512, 2048), 0);
    const { index } = device.engine;
    const extent = index.find(2);
    const start = index.place(extent) + 2 - index.start(extent);
    seen.add(`${index.segment(extent)}:${start}`);
  }
  assertEquals(seen.size, 300);
});

Deno.test("zeroed, written, zeroed again: the first being written back says nothing of the second", () => {
  const memory = new SimMemory({ cache_bytes: 4 * MIB, buffer_bytes: 1 * MIB });
  const backing = new SimBacking(OLD.slice(), memory.bytes, new Random(1));
  const options = {
    geometry: { segment_bytes: 256 * KIB, min_cache_bytes: 0 },
    data_crc: false,
  };
  const device = new SimDevice(memory, backing, options, { ...LIMITS, batch_ksets: 1 });
  for (const flush of [() => device.zero(0, 4096), () => device.write(0, content(1, 4096))]) {
    flush();
    device.flush();
  }
  device.zero(0, 4096);
  device.flush();
  // The first two come to the backing device, a batch each; the third one does not.
  backing.fault = (kind) => kind !== "flush" && backing.ended.write > 0 ? EIO : 0;
  device.engine.setDraining(true);
  const { counters } = device.engine;
  device.runUntil("the third one is logged again", () => counters.writeback_relogged > 0);
  backing.fault = () => 0;
  device.drain();
  assertEquals(backing.bytes.subarray(0, 4096), new Uint8Array(4096));
});

Deno.test("a zeroing longer than a turn's keys goes on in the next one, behind it a write waits", () => {
  const device = new HandDevice({ data_crc: true });
  const { engine } = device;
  const slots = Array.from({ length: 16 }, () => engine.beginZero(0, 16 * MIB, false, false));
  // A segment's eighth is 31 KiB: 540 keys each.
  const last = engine.beginWrite(512, 512, false);
  assertEquals(device.answered(), slots.slice(0, 1));
  assertEquals(engine.nextTimerMs(0), 0);
  device.pump();
  const then = device.answered();
  assert(then.length >= 1 && then.length <= 2, `${then}`);
  assertEquals(device.placed(), []);
  for (let i = 0; i < 20; i++) device.pump();
  device.answered();
  assertEquals(device.placed(), [last]);
});

Deno.test("zeroes are made by the backing device, neighbours at once, data beside them is written", () => {
  const device = new HandDevice();
  device.zero(0, 256 * KIB);
  device.zero(256 * KIB, 64 * KIB);
  device.zero(320 * KIB, 64 * KIB, true);
  device.write(384 * KIB, content(3, 4 * KIB));
  device.write(64 * KIB, content(4, 4 * KIB));
  device.flush();
  device.engine.setDraining(true);
  device.pump();
  while (device.backing.pending.length === 0) device.endBarrier();
  device.now_ms += 20; // no requests come: all are begun
  device.pump();
  assertEquals(
    device.under_way(),
    [
      `write ${384 * KIB}+4096`,
      `write ${64 * KIB}+4096`,
      `zero 0+${64 * KIB}`,
      `zero ${320 * KIB}+${64 * KIB}`,
      `zero ${68 * KIB}+${252 * KIB}`,
    ].sort(),
  );
  device.settle();
  assertEquals(device.engine.counters.writeback_zeroed_bytes, 380 * KIB);
  const want = zeroed(0, 384 * KIB);
  want.set(content(3, 4 * KIB), 384 * KIB);
  want.set(content(4, 4 * KIB), 64 * KIB);
  assertHolds(device, want);
});

Deno.test("zeroes that the backing device cannot make, or fails to, are written", () => {
  for (const can_zero of [false, true]) {
    const device = new HandDevice();
    device.backing.can_zero = can_zero;
    device.backing.fault = (kind) => kind === "zero" ? EIO : 0;
    device.zero(1000, 300 * KIB);
    drain(device);
    assertEquals(device.backing.ended.zero, can_zero ? 1 : 0);
    assertEquals(device.engine.counters.backing_write_errors, 0);
    assertEquals(device.engine.counters.writeback_zeroed_bytes, 0);
    assertHolds(device, zeroed(1000, 300 * KIB));
  }
});

Deno.test("after a restart zeroes are read and written back as data", () => {
  const device = new HandDevice({ data_crc: true });
  assertEquals(device.zero(512, 200 * KIB, true, true), 0);
  device.reopen();
  assertEquals(device.read(0, 256 * KIB).bytes, zeroed(512, 200 * KIB).slice(0, 256 * KIB));
  drain(device);
  assertEquals(device.backing.ended.zero, 0);
  assertHolds(device, zeroed(512, 200 * KIB));
});

Deno.test("an edge whose sector cannot be read ends the zeroing with an error, and the rest is zeroed", () => {
  const device = new HandDevice();
  device.backing.fault = (kind) => kind === "read" ? EIO : 0;
  assertEquals(device.zero(100, 64 * KIB), EIO);
  device.backing.fault = () => 0;
  assertHolds(device, zeroed(512, 64 * KIB - 512));
});

Deno.test("when the cache device has failed, zeroing ends with an error", () => {
  const device = new HandDevice();
  device.engine.beginZero(0, 512, false, true);
  device.pump();
  device.endBarrier(EIO);
  for (const slot of device.answered()) {
    assertEquals(device.engine.error(slot), EIO);
    device.engine.release(slot);
  }
  assertEquals(device.zero(0, 4096), EIO);
  device.assertNothingHeld();
});

/** Reads, through the engine: what a range becomes when the cache holds some of it. */

import { assert, assertEquals, assertThrows } from "@std/assert";
import { content, HandDevice } from "../tests/hand_device.ts";
import { Random, seedOr } from "../tests/random.ts";
import { AssertionFailure } from "./assert.ts";

const KIB = 1024;
const MIB = 1024 * KIB;
const OLD = content(0, 16 * MIB);

Deno.test("a read of hits and holes in turn, at every alignment", () => {
  const device = new HandDevice();
  const want = OLD.slice(0, 8 * KIB);
  for (
    const [id, at, len] of [[1, 512, 512], [2, 2048, 1536], [3, 4096, 512], [
      4,
      4608,
      1024,
    ]] as const
  ) {
    const bytes = content(id, len);
    assertEquals(device.write(at, bytes), 0);
    want.set(bytes, at);
  }
  const random = new Random(seedOr(51));
  for (let i = 0; i < 300; i++) {
    const off = random.below(8 * KIB);
    const len = random.between(1, 8 * KIB - off);
    assertEquals(
      device.read(off, len),
      { errno: 0, bytes: want.slice(off, off + len) },
      `${off}+${len}`,
    );
  }
  device.assertNothingHeld();
});

for (const data_crc of [false, true]) {
  Deno.test(`reads that come together, hits and holes in turn: each has its own bytes, data_crc ${data_crc}`, () => {
    const device = new HandDevice({ data_crc });
    const { engine } = device;
    const want = OLD.slice();
    // Every second block of some leaves: holes between them split these leaves while reads behind them wait for their turn.
    for (let block = 0; block < 256; block += 2) {
      const bytes = content(block + 1, 4 * KIB);
      assertEquals(device.write(block * 4 * KIB, bytes), 0);
      want.set(bytes, block * 4 * KIB);
    }
    // All of them, hits and holes in turn.
    const blocks = Array.from({ length: 256 }, (_, i) => (i * 77) % 256);
    for (let from = 0; from < blocks.length; from += 64) {
      const reads = blocks.slice(from, from + 64).map((block) => block * 4 * KIB);
      const slots = reads.map((off) => engine.beginRead(off, 4 * KIB));
      device.settle();
      const answered = device.answered();
      assertEquals(answered.toSorted((a, b) => a - b), slots.toSorted((a, b) => a - b));
      for (const [i, off] of reads.entries()) {
        assertEquals(device.bytesOf(slots[i]!), want.slice(off, off + 4 * KIB), `${off}`);
        engine.release(slots[i]!);
      }
    }
    assertEquals(engine.counters.fills, 128);
    device.settle();
    device.assertNothingHeld();
  });
}

Deno.test("a read across 4 MiB boundaries and segments, to the last byte of the device", () => {
  const device = new HandDevice({ segments: 48 });
  const { engine } = device;
  const off = 4 * MIB - 300 * KIB;
  const written = content(9, 600 * KIB);
  assertEquals(device.write(off, written), 0);
  assertEquals(device.read(off + 1, 600 * KIB - 2).bytes, written.slice(1, -1));
  assertEquals(device.read(engine.size_bytes - 1, 1).bytes, OLD.slice(-1));
  assertEquals(device.read(engine.size_bytes - 100 * KIB, 100 * KIB).bytes, OLD.slice(-100 * KIB));
});

Deno.test("neighbours in the cache that are neighbours on the device are one piece", () => {
  const device = new HandDevice();
  const { engine } = device;
  for (let i = 0; i < 8; i++) device.write(i * 4096, content(i + 1, 4096));
  const slot = engine.beginRead(100, 8 * 4096 - 100);
  assertEquals(device.answered(), [slot]);
  assertEquals(engine.pieceLen(engine.firstPiece(slot)), 8 * 4096 - 100);
  assertEquals(engine.nextPiece(engine.firstPiece(slot)), -1);
});

Deno.test("a reply that has not left keeps its bytes, whatever is written and collected meanwhile", () => {
  const device = new HandDevice({ segments: 8 });
  const { engine } = device;
  engine.setGcPercent(0);
  const first = content(1, 64 * KIB);
  assertEquals(device.write(0, first), 0);
  const slot = engine.beginRead(0, 64 * KIB);
  assertEquals(device.answered(), [slot]);
  for (let i = 0; i < 100; i++) {
    const at = (i % 8) * 64 * KIB;
    while (device.memory.barrier_is_under_way) device.endBarrier();
    const write = engine.beginWrite(at, 64 * KIB, false);
    let placed: number[] = [];
    for (let turn = 0; placed.length === 0 && turn < 100; turn++) {
      device.settle();
      placed = device.placed();
      device.now_ms += 100;
    }
    assertEquals(placed, [write]);
    device.receive(write, content(100 + i, 64 * KIB));
    engine.payloadArrived(write);
    assertEquals(device.answered(), [write]);
    engine.release(write);
  }
  assert(engine.counters.segments_freed > 8, "the cache was gone through");
  assertEquals(device.bytesOf(slot), first);
  engine.release(slot);
  device.settle();
  device.assertNothingHeld();
});

Deno.test("no more requests than there are slots; a released one can be used again", () => {
  const device = new HandDevice();
  const { engine } = device;
  device.write(0, content(1, 512));
  const slots = Array.from({ length: engine.max_requests }, () => engine.beginRead(0, 512));
  assert(slots.every((slot) => slot >= 0) && new Set(slots).size === slots.length);
  assertEquals([engine.beginRead(0, 512), engine.beginWrite(0, 512, false), engine.beginFlush()], [
    -1,
    -1,
    -1,
  ]);
  assertEquals(device.answered().length, slots.length);
  engine.release(slots[5]!);
  assertEquals(engine.beginRead(0, 512), slots[5]);
});

Deno.test("a range that is not on the device is a caller's mistake", () => {
  const { engine } = new HandDevice();
  for (const [off, len] of [[0, 0], [-1, 2], [engine.size_bytes, 1], [engine.size_bytes - 1, 2]]) {
    assertThrows(() => engine.beginRead(off!, len!), AssertionFailure);
    assertThrows(() => engine.beginWrite(off!, len!, false), AssertionFailure);
  }
  assertThrows(() => engine.beginRead(0, engine.max_request_bytes + 1), AssertionFailure);
});

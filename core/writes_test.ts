/** Writes, through the engine: space first, payload second, index and log last. */

import { assert, assertEquals } from "@std/assert";
import { content, HandDevice } from "../tests/hand_device.ts";
import { Random, seedOr } from "../tests/random.ts";
import { EIO } from "./errors.ts";

const KIB = 1024;
const MIB = 1024 * KIB;
const OLD = content(0, 16 * MIB);
/** Larger than any one read of these tests. */
const AREA = 64 * KIB;

/** Lengths of a request's pieces. */
function pieces(device: HandDevice, slot: number): number[] {
  const { engine } = device;
  const list: number[] = [];
  for (let piece = engine.firstPiece(slot); piece >= 0; piece = engine.nextPiece(piece)) {
    list.push(engine.pieceLen(piece));
  }
  return list;
}

/** Hands over the payload of a placed write, and lets the engine go on. */
function pay(device: HandDevice, slot: number, bytes: Uint8Array): void {
  device.receive(slot, bytes);
  device.engine.payloadArrived(slot);
  device.pump();
}

/** Compares the start of the device, also after everything was written back. */
function assertHolds(device: HandDevice, want: Uint8Array): void {
  device.settle();
  for (const slot of device.answered()) device.engine.release(slot);
  assertEquals(device.read(0, want.length), { errno: 0, bytes: want });
  device.engine.setDraining(true);
  device.settle();
  assertEquals(device.engine.isClean(), true);
  assertEquals(device.backing.bytes.slice(0, want.length), want);
  device.assertNothingHeld();
}

Deno.test("a write is not seen before its payload is whole, and at once then", () => {
  const device = new HandDevice();
  const { engine } = device;
  const bytes = content(1, 4 * KIB);
  const slot = engine.beginWrite(0, 4 * KIB, false);
  assertEquals(device.placed(), [slot]);
  device.receive(slot, bytes.subarray(0, 2 * KIB));
  assertEquals(device.read(0, 4 * KIB).bytes, OLD.slice(0, 4 * KIB));
  pay(device, slot, bytes);
  assertEquals(device.answered(), [slot]);
  assertEquals(device.read(0, 4 * KIB).bytes, bytes);
});

Deno.test("of two writes to one place the one whose payload was whole last is the newer", () => {
  const device = new HandDevice();
  const [first, second] = [0, 1].map(() => device.engine.beginWrite(0, 4 * KIB, false));
  assertEquals(device.placed(), [first, second]);
  pay(device, second!, content(2, 4 * KIB));
  pay(device, first!, content(1, 4 * KIB));
  assertEquals(device.answered(), [second, first]);
  for (const slot of [first!, second!]) device.engine.release(slot);
  assertHolds(device, content(1, 4 * KIB));
});

Deno.test("a write is cut at 4 MiB of the device, at a segment's end, and around parts of sectors", () => {
  const device = new HandDevice({ segments: 48 });
  const { engine } = device;
  const at = (off: number, len: number) => {
    const slot = engine.beginWrite(off, len, false);
    assertEquals(device.placed(), [slot]);
    const list = pieces(device, slot);
    engine.payloadLost(slot);
    return list;
  };
  assertEquals(at(0, 64 * KIB), [64 * KIB]);
  assertEquals(at(4 * MIB - 1 * KIB, 3 * KIB), [1 * KIB, 2 * KIB]);
  assertEquals(at(100, 2000), [412, 1536, 52]);
  assertEquals(at(512, 700), [512, 188]);
  assertEquals(at(700, 100), [100]);
  assertEquals(at(500, 24), [12, 12]);
  const parts = at(0, 600 * KIB);
  assertEquals(parts.reduce((sum, len) => sum + len), 600 * KIB);
  assert(parts.length >= 3 && parts.every((len) => len <= 244 * KIB), `${parts}`);
});

Deno.test("with data_crc a key has at most 64 KiB", () => {
  const device = new HandDevice({ data_crc: true });
  const slot = device.engine.beginWrite(0, 160 * KIB, false);
  assertEquals(pieces(device, slot), [64 * KIB, 64 * KIB, 32 * KIB]);
});

Deno.test("a full cache: writes wait in order, without a timer's help, and all of them end", () => {
  const device = new HandDevice({ segments: 6 });
  const { engine } = device;
  const waiting: number[] = [];
  const order: number[] = [];
  const unpaid = new Map<number, number>();
  for (let i = 0; i < 60; i++) {
    const len = i % 5 === 4 ? 512 : 64 * KIB; // a small one that would fit does not overtake
    const slot = engine.beginWrite((i % 40) * 64 * KIB, len, false);
    unpaid.set(slot, len);
    waiting.push(slot);
  }
  assert(engine.counters.waited > 30, `${engine.counters.waited} waited`);
  while (unpaid.size > 0) {
    const placed = device.placed();
    order.push(...placed);
    for (const slot of placed) {
      pay(device, slot, content(slot, unpaid.get(slot)!));
      unpaid.delete(slot);
    }
    for (const slot of device.answered()) assertEquals(engine.error(slot), 0);
    if (placed.length > 0) continue;
    assert(
      device.memory.barrier_is_under_way || device.backing.pending.length > 0,
      `stuck with ${unpaid.size} writes waiting`,
    );
    if (device.memory.barrier_is_under_way) device.endBarrier();
    else device.end();
  }
  assertEquals(order, waiting);
  device.settle();
  for (const slot of waiting) engine.release(slot);
  device.assertNothingHeld();
});

Deno.test("a full cache sleeps until something ends: nothing is due", () => {
  const device = new HandDevice({ segments: 6 });
  const { engine } = device;
  while (engine.counters.waited === 0) engine.beginWrite(0, 64 * KIB, false);
  device.pump();
  assertEquals(engine.nextTimerMs(device.now_ms), Infinity, "payloads hold all space");
  for (const slot of device.placed()) pay(device, slot, content(slot, 64 * KIB));
  for (let turns = 0; engine.counters.segments_freed === 0; turns++) {
    assert(
      device.memory.barrier_is_under_way || device.backing.pending.length > 0,
      `${turns} turns`,
    );
    assertEquals(engine.nextTimerMs(device.now_ms), Infinity, "what is under way will tell");
    if (device.memory.barrier_is_under_way) device.endBarrier();
    else device.end();
  }
});

Deno.test("a payload that is lost leaves the place as it was, in whatever state the write was", () => {
  for (const state of ["placed, not told", "told", "half received", "waiting"] as const) {
    const device = new HandDevice({ segments: 6 });
    const { engine } = device;
    assertEquals(device.write(0, content(1, 4 * KIB)), 0);
    const others: number[] = [];
    if (state === "waiting") {
      while (engine.counters.waited === 0) others.push(engine.beginWrite(MIB, 64 * KIB, false));
    }
    const slot = engine.beginWrite(0, 4 * KIB, false);
    if (state === "told" || state === "half received") assertEquals(device.placed(), [slot]);
    if (state === "half received") device.receive(slot, content(2, 2 * KIB));
    engine.payloadLost(slot);
    for (const other of others) engine.payloadLost(other);
    device.pump();
    assertEquals([device.placed(), device.answered()], [[], []], state);
    assertEquals(engine.requests_in_use, 0, state);
    assertHolds(device, content(1, 4 * KIB));
  }
});

Deno.test("a lost write that waited lets those behind it go on, in order", () => {
  const device = new HandDevice({ segments: 6 });
  const { engine } = device;
  const slots: number[] = [];
  while (engine.counters.waited < 3) slots.push(engine.beginWrite(0, 64 * KIB, false));
  const [lost, second, third] = slots.slice(-3);
  const placed = device.placed();
  assertEquals(placed, slots.slice(0, -3));
  engine.payloadLost(lost!);
  for (const slot of placed) engine.payloadLost(slot);
  device.settle();
  assertEquals(device.placed(), [second, third]);
  for (const slot of [second!, third!]) pay(device, slot, content(slot, 64 * KIB));
  assertEquals(device.answered(), [second, third]);
});

Deno.test("hundreds of thousands of lost payloads leave nothing behind: slots, pieces, space, room in the log", () => {
  const device = new HandDevice();
  const { engine } = device;
  const random = new Random(seedOr(61));
  for (let i = 0; i < 270_000; i++) { // more than the log can stage
    const slot = engine.beginWrite(i % 1000, random.between(1, 1200), random.chance(0.1));
    if (random.chance(0.5)) assertEquals(engine.takePlaced(), slot);
    engine.payloadLost(slot);
    if (i % 100 === 0) device.settle();
  }
  device.settle();
  assertEquals([device.placed(), engine.requests_in_use], [[], 0]);
  assertEquals(
    [engine.counters.waited, engine.status().segs_used],
    [0, 2],
    "the log, the data head",
  );
  assertEquals(device.write(0, content(1, 512)), 0);
  device.assertNothingHeld();
});

Deno.test("unaligned writes over holes, hits and each other, to the byte", () => {
  const random = new Random(seedOr(62));
  for (const data_crc of [false, true]) {
    const device = new HandDevice({ data_crc });
    const want = OLD.slice(0, AREA);
    for (let i = 0; i < 150; i++) {
      const off = random.below(AREA - 1);
      const len = random.between(1, Math.min(AREA - off, random.pick([10, 600, 5000])));
      const bytes = content(i + 1, len);
      assertEquals(device.write(off, bytes), 0);
      want.set(bytes, off);
      if (i % 30 === 0) assertEquals(device.read(0, AREA).bytes, want);
    }
    assertHolds(device, want);
  }
});

Deno.test("an edge in a hole reads its sector from the backing device, an edge on a hit does not", () => {
  const device = new HandDevice();
  device.write(4096, content(1, 512));
  const hit = device.beginWhole(4096 + 100, content(2, 412));
  assertEquals([device.answered(), device.under_way()], [[hit], []]);
  const hole = device.beginWhole(100, content(3, 1000));
  assertEquals([device.answered(), device.under_way()], [[], ["read 0+512", "read 1024+512"]]);
  device.end();
  assertEquals(device.answered(), []);
  device.end();
  assertEquals(device.answered(), [hole]);
  const want = OLD.slice(0, 4608);
  want.set(content(1, 512), 4096);
  want.set(content(2, 412), 4196);
  want.set(content(3, 1000), 100);
  for (const slot of [hit, hole]) device.engine.release(slot);
  assertHolds(device, want);
});

Deno.test("an edge in a placeholder waits for the read that is under way", () => {
  const device = new HandDevice();
  const read = device.engine.beginRead(0, 8 * KIB);
  device.pump();
  const write = device.beginWhole(1000, content(1, 100));
  assertEquals([device.answered(), device.under_way()], [[], ["read 0+8192"]]);
  device.end();
  assertEquals(device.answered().toSorted(), [read, write].toSorted());
  const want = OLD.slice(0, 8 * KIB);
  want.set(content(1, 100), 1000);
  for (const slot of [read, write]) device.engine.release(slot);
  assertHolds(device, want);
});

Deno.test("several unaligned writes to one sector that is being read all land", () => {
  const device = new HandDevice();
  const slots = [10, 200, 20].map((at, i) => device.beginWhole(at, content(i + 1, 30)));
  assertEquals(device.under_way(), ["read 0+512"]);
  device.end();
  assertEquals(device.answered().toSorted(), slots.toSorted());
  const got = device.read(0, 512).bytes;
  assertEquals(got.slice(200, 230), content(2, 30));
  assertEquals([got.slice(10, 20), got.slice(40, 50)], [
    content(1, 30).slice(0, 10),
    content(3, 30).slice(20),
  ]);
  // Which of the two that overlap is the newer one is the engine's choice, for all of the overlap.
  const overlaps = [content(1, 30).slice(10), content(3, 30).slice(0, 20)].map((bytes) =>
    bytes.join()
  );
  assert(overlaps.includes(got.slice(20, 40).join()));
  assertEquals(got.slice(230), OLD.slice(230, 512));
});

Deno.test("an edge that waits keeps what a racing write brings to its sector", () => {
  const device = new HandDevice();
  const edge = device.beginWhole(100, content(1, 100));
  const racing = device.beginWhole(0, content(2, 1024));
  assertEquals(device.answered(), [racing]);
  device.end();
  assertEquals(device.answered(), [edge]);
  const want = content(2, 1024);
  want.set(content(1, 100), 100);
  for (const slot of [edge, racing]) device.engine.release(slot);
  assertHolds(device, want);
});

Deno.test("an edge that cannot be read is an error for its write, and leaves nothing held", () => {
  const device = new HandDevice();
  device.backing.fault = (kind) => kind === "read" ? EIO : 0;
  const slot = device.beginWhole(100, content(1, 2000), true);
  while (device.backing.pending.length > 0) device.end();
  device.settle();
  assertEquals([device.answered(), device.engine.error(slot)], [[slot], EIO]);
  device.engine.release(slot);
  device.backing.fault = () => 0;
  assertEquals(device.read(0, 512).bytes, OLD.slice(0, 512), "its edge is as it was");
  device.assertNothingHeld();
});

Deno.test("edges wait for transfer buffers when replies hold them all", () => {
  const device = new HandDevice({ buffer_bytes: 64 * KIB });
  const { engine } = device;
  const reads = [0, 1].map((i) => engine.beginRead(i * MIB, 32 * KIB));
  device.settle();
  assertEquals(device.answered().toSorted(), reads.toSorted());
  const slots = [8, 9, 10].map((at) => device.beginWhole(at * MIB + 100, content(at, 50)));
  assertEquals([device.under_way(), device.answered()], [[], []]);
  engine.release(reads[0]!);
  device.settle();
  assertEquals(device.answered().toSorted(), slots.toSorted());
  for (const at of [8, 9, 10]) {
    assertEquals(device.read(at * MIB + 90, 20).bytes.slice(10), content(at, 50).slice(0, 10));
    assertEquals(device.read(at * MIB + 90, 10).bytes, OLD.slice(at * MIB + 90, at * MIB + 100));
  }
});

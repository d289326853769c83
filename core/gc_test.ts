/** GC, through the engine: when segments are freed, and what must be durable before. */

import { assert, assertEquals } from "@std/assert";
import { content, HandDevice } from "../tests/hand_device.ts";

const KIB = 1024;
const MIB = 1024 * KIB;

/** Writes `bytes` in all from `off` on, 64 KiB a kset, and writes it back. */
function fill(device: HandDevice, off: number, bytes: number): void {
  for (let at = 0; at < bytes; at += 64 * KIB) {
    const slot = device.beginWhole(off + at, content(1 + at / (64 * KIB), 64 * KIB));
    const flush = device.engine.beginFlush();
    device.settle();
    assertEquals(device.answered(), [slot, flush]);
    for (const each of [slot, flush]) device.engine.release(each);
  }
  device.engine.setDraining(true);
  device.settle();
  device.engine.setDraining(false);
  assertEquals(device.engine.isClean(), true);
}

Deno.test("GC begins when the share of used segments reaches gc_percent, and ends below it", () => {
  const device = new HandDevice({ segments: 20 });
  const { engine } = device;
  engine.setGcPercent(50);
  device.settle();
  fill(device, 0, 30 * 64 * KIB); // eight segments of 244 KiB, and the log
  assertEquals([engine.status().segs_used, engine.counters.gc_rounds], [9, 0]);
  fill(device, 4 * MIB, 64 * KIB);
  fill(device, 4 * MIB, 64 * KIB); // the tenth
  assert(engine.counters.gc_rounds > 0);
  const { segs_used } = engine.status();
  assert(segs_used < 10 && segs_used >= 8, `${segs_used} used: a round more than needed at most`);
});

Deno.test("a freed segment: key tail first, then its new generation, then it is free, a barrier each", () => {
  const device = new HandDevice({ segments: 20 });
  const { engine } = device;
  fill(device, 0, 2 * 244 * KIB + 64 * KIB); // the third holds the data head
  const before = engine.status();
  assertEquals([before.segs_used, before.key_tail], [4, { seg: 0, off: 0 }]);
  engine.setGcPercent(0);
  device.pump();
  device.endBarrier(); // of the new gc_percent
  assertEquals(device.memory.barrier_is_under_way, true);
  assert(engine.status().key_tail.off > 0, "the key tail is stored");
  assertEquals([engine.counters.segments_freed, engine.status().segs_used], [0, 4]);
  device.endBarrier();
  assertEquals(
    [engine.counters.segments_freed, engine.status().segs_used],
    [1, 4],
    "a new generation",
  );
  device.endBarrier();
  assertEquals(engine.status().segs_used, 3);
  device.settle();
  const { segs_used, key_tail, dirty_tail } = engine.status();
  assertEquals([segs_used, key_tail], [2, dirty_tail], "the log, the data head");
});

Deno.test("what is collected is a miss again, at once and after a start", () => {
  const device = new HandDevice({ segments: 20 });
  fill(device, 0, 4 * 244 * KIB);
  device.engine.setGcPercent(0);
  device.settle();
  for (const _ of ["at once", "after a start"]) {
    const reads = device.backing.ended.read;
    assertEquals(device.read(0, 64 * KIB).bytes, content(1, 64 * KIB));
    assertEquals(device.backing.ended.read, reads + 1);
    device.settle();
    device.reopen();
    device.memory.dropBarrier();
  }
});

Deno.test("GC never passes the dirty tail", () => {
  const device = new HandDevice({ segments: 20 });
  const { engine } = device;
  engine.setGcPercent(0);
  fill(device, 0, 244 * KIB - 52 * KIB);
  for (let i = 0; i < 3; i++) {
    const slot = device.beginWhole(8 * MIB + i * MIB, content(50 + i, 4 * KIB));
    assertEquals(device.answered(), [slot]);
    engine.release(slot);
    const flush = engine.beginFlush();
    device.pump();
    while (device.memory.barrier_is_under_way) device.endBarrier();
    assertEquals(device.answered(), [flush]);
    engine.release(flush);
    const { key_tail, dirty_tail, key_head } = engine.status();
    assertEquals(key_tail, dirty_tail);
    assert(dirty_tail.off < key_head.off, "something is dirty");
    assertEquals(device.read(8 * MIB, 4 * KIB).bytes, content(50, 4 * KIB));
  }
  device.reopen();
  device.memory.dropBarrier();
  for (let i = 0; i < 3; i++) {
    assertEquals(device.read(8 * MIB + i * MIB, 4 * KIB).bytes, content(50 + i, 4 * KIB));
  }
});

Deno.test("the log's segments are freed, too: it goes round the cache many times", () => {
  const device = new HandDevice({ segments: 8, barrier_is_cheap: true });
  const { engine } = device;
  const sector = content(1, 512);
  const positions = new Set<number>();
  for (let i = 0; i < 60_000; i++) {
    const slot = engine.beginWrite((i % 500) * 512, 512, false);
    let placed = device.placed();
    for (let turns = 0; placed.length === 0 && turns < 50; turns++) {
      device.settle();
      placed = device.placed();
    }
    assertEquals(placed, [slot]);
    device.receive(slot, sector);
    engine.payloadArrived(slot);
    assertEquals(device.answered(), [slot]);
    engine.release(slot);
    if (i % 128 === 127) device.settle();
    positions.add(engine.status().key_head.seg);
  }
  assert(positions.size >= 6, `the log was in ${positions.size} segments`);
  device.engine.setDraining(true);
  device.settle();
  assertEquals(device.backing.bytes.slice(0, 512), sector);
  device.assertNothingHeld();
});

Deno.test("segments used never fall below what is held: log and data head", () => {
  const device = new HandDevice({ segments: 12 });
  const { engine } = device;
  engine.setGcPercent(0);
  for (let round = 0; round < 30; round++) {
    fill(device, (round % 8) * MIB, 512 * KIB);
    const { segs_used } = engine.status();
    assert(segs_used >= 2 && segs_used <= 3, `${segs_used} used in round ${round}`);
  }
  assert(engine.counters.segments_freed > 40);
});

/** Flush and FUA, through the engine: answered when the log is durable, and as few barriers as can be. */

import { assertEquals } from "@std/assert";
import { content, HandDevice } from "../tests/hand_device.ts";

function beginFlushes(device: HandDevice, count: number): number[] {
  return Array.from({ length: count }, () => device.engine.beginFlush());
}

function release(device: HandDevice, slots: number[]): void {
  for (const slot of slots) device.engine.release(slot);
}

/** Writes one sector, which is answered at once. */
function write(device: HandDevice, id: number): void {
  const slot = device.beginWhole(id * 4096, content(id, 512));
  assertEquals(device.answered(), [slot]);
  device.engine.release(slot);
}

Deno.test("a flush with nothing to make durable is answered at once, without a barrier", () => {
  const device = new HandDevice();
  const barriers = device.memory.barriers;
  const slot = device.engine.beginFlush();
  device.pump();
  assertEquals(device.answered(), [slot]);
  write(device, 1);
  device.engine.beginFlush();
  device.pump();
  device.endBarrier();
  device.endBarrier();
  assertEquals([device.answered().length, device.memory.barriers - barriers], [1, 2]);
  const again = device.engine.beginFlush();
  device.pump();
  assertEquals([device.answered(), device.memory.barrier_is_under_way], [[again], false]);
});

Deno.test("many flushes that wait together share one pair of barriers, and are answered in order", () => {
  const device = new HandDevice();
  write(device, 1);
  const before = device.memory.barriers;
  const slots = beginFlushes(device, 20);
  device.pump();
  slots.push(...beginFlushes(device, 20)); // nothing was written since: the same commit will do
  device.pump();
  device.endBarrier();
  slots.push(...beginFlushes(device, 20));
  device.pump();
  assertEquals(device.answered(), []);
  device.endBarrier();
  assertEquals([device.answered(), device.memory.barriers - before], [slots, 2]);
  assertEquals(device.memory.barrier_is_under_way, false);
});

Deno.test("flushes and writes that come during a commit share the next one", () => {
  const device = new HandDevice();
  write(device, 1);
  const first = device.engine.beginFlush();
  device.pump();
  const before = device.memory.barriers;
  const later: number[] = [];
  for (let id = 2; id < 12; id++) {
    write(device, id);
    later.push(device.engine.beginFlush());
  }
  device.pump();
  device.endBarrier();
  device.endBarrier();
  assertEquals(device.answered(), [first]);
  device.endBarrier();
  assertEquals(device.answered(), []);
  device.endBarrier();
  assertEquals([device.answered(), device.memory.barriers - before], [later, 4]);
  release(device, [first, ...later]);
  device.assertNothingHeld();
});

Deno.test("a FUA write is answered when it is durable, and with it what was written before", () => {
  const device = new HandDevice();
  write(device, 1);
  const fua = device.beginWhole(65536, content(9, 4096), true);
  assertEquals(device.answered(), []);
  device.endBarrier();
  assertEquals(device.answered(), []);
  device.endBarrier();
  assertEquals([device.answered(), device.engine.error(fua)], [[fua], 0]);
  device.reopen();
  device.memory.dropBarrier();
  assertEquals(device.read(65536, 4096).bytes, content(9, 4096));
  assertEquals(device.read(4096, 512).bytes, content(1, 512));
});

Deno.test("a flush does not wait for a write whose payload is still on its way", () => {
  const device = new HandDevice();
  const { engine } = device;
  engine.beginWrite(0, 4096, false);
  assertEquals(device.placed().length, 1);
  write(device, 1);
  const flush = engine.beginFlush();
  device.pump();
  device.endBarrier();
  device.endBarrier();
  assertEquals(device.answered(), [flush]);
});

Deno.test("where barriers are cheap a flush still closes the kset, and nothing waits for the timer", () => {
  const device = new HandDevice({ barrier_is_cheap: true });
  write(device, 1);
  const flush = device.engine.beginFlush();
  device.pump();
  device.endBarrier();
  device.endBarrier();
  assertEquals(device.answered(), [flush]);
});

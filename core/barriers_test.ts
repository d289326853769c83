import { assertEquals } from "@std/assert";
import { SimMemory } from "../tests/sim_memory.ts";
import { Barriers } from "./barriers.ts";

/** Barriers that take time. */
function newBarriers(): { memory: SimMemory; barriers: Barriers; end: () => void } {
  const memory = new SimMemory({ cache_bytes: 4096, barriers_are_asynchronous: true });
  const barriers = new Barriers(memory);
  const end = () => {
    memory.completeBarrier();
    barriers.end(false);
  };
  return { memory, barriers, end };
}

Deno.test("a barrier is started only when one is wanted, and once", () => {
  const { memory, barriers } = newBarriers();
  assertEquals([barriers.step(), memory.barrier_is_under_way], [false, false]);
  barriers.cover();
  assertEquals([barriers.step(), memory.barrier_is_under_way], [false, true]);
  barriers.step(); // SimMemory throws at a second one
});

Deno.test("everybody who asks before it starts waits for the same barrier", () => {
  const { memory, barriers, end } = newBarriers();
  const wanted = [barriers.cover(), barriers.cover(), barriers.cover()];
  assertEquals(wanted.map((barrier) => barriers.isDone(barrier)), [false, false, false]);
  barriers.step();
  end();
  assertEquals(wanted.map((barrier) => barriers.isDone(barrier)), [true, true, true]);
  barriers.step();
  assertEquals([memory.barriers, barriers.count, barriers.is_under_way], [1, 1, false]);
});

Deno.test("a barrier under way may have missed the stores: who asks then waits for the next", () => {
  const { barriers, end } = newBarriers();
  const first = barriers.cover();
  barriers.step();
  const second = barriers.cover();
  end();
  assertEquals([barriers.isDone(first), barriers.isDone(second)], [true, false]);
  barriers.step();
  end();
  assertEquals(barriers.isDone(second), true);
});

Deno.test("a barrier that is done at once says so", () => {
  const barriers = new Barriers(new SimMemory({ cache_bytes: 4096 }));
  const barrier = barriers.cover();
  assertEquals([barriers.step(), barriers.isDone(barrier), barriers.step()], [true, true, false]);
});

Deno.test("after a failure nothing is durable any more, and no barrier is started or under way", () => {
  const { memory, barriers } = newBarriers();
  const barrier = barriers.cover();
  barriers.step();
  memory.completeBarrier();
  barriers.end(true);
  barriers.cover();
  assertEquals([barriers.step(), memory.barrier_is_under_way], [false, false]);
  assertEquals([barriers.has_failed, barriers.is_under_way], [true, false]);
  assertEquals(barriers.isDone(barrier), false);
});

Deno.test("a failure seen elsewhere starts no further barrier, and the one under way still ends", () => {
  const { barriers, end } = newBarriers();
  const barrier = barriers.cover();
  barriers.step();
  barriers.fail();
  assertEquals([barriers.has_failed, barriers.is_under_way], [true, true]);
  end();
  assertEquals([barriers.isDone(barrier), barriers.is_under_way], [true, false]);
  barriers.cover();
  assertEquals([barriers.step(), barriers.is_under_way], [false, false]);
});

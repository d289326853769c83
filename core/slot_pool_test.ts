import { assertEquals, assertThrows } from "@std/assert";
import { AssertionFailure } from "./assert.ts";
import { SlotPool } from "./slot_pool.ts";

Deno.test("every number below the limit is handed out once, then -1", () => {
  const pool = new SlotPool(5);
  const taken = Array.from({ length: 5 }, () => pool.take());
  assertEquals(taken.toSorted(), [0, 1, 2, 3, 4]);
  assertEquals([pool.take(), pool.in_use, pool.available], [-1, 5, 0]);
});

Deno.test("what was given back is handed out again, and nothing that is in use", () => {
  const pool = new SlotPool(4);
  for (let i = 0; i < 4; i++) pool.take();
  pool.put(1);
  pool.put(3);
  assertEquals([pool.in_use, pool.available], [2, 2]);
  assertEquals([pool.take(), pool.take()].toSorted(), [1, 3]);
  assertEquals(pool.take(), -1);
});

Deno.test("a number that was never taken is not given back", () => {
  const pool = new SlotPool(4);
  pool.take();
  assertThrows(() => pool.put(1), AssertionFailure);
  assertThrows(() => pool.put(-1), AssertionFailure);
});

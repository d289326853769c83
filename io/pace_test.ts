import { assertEquals } from "@std/assert";
import { Counters } from "../core/counters.ts";
import { Pace } from "./pace.ts";

/** Dirty data came, or was written back. */
function dirtied(counters: Counters, bytes: number): void {
  counters.dirty_bytes += bytes;
}
function writtenBack(counters: Counters, bytes: number): void {
  counters.dirty_bytes -= bytes;
  counters.writeback_key_bytes += bytes;
  counters.writeback_bytes += bytes;
}

Deno.test("the oldest dirty data is what came first of what is left", () => {
  const counters = new Counters();
  const pace = new Pace(counters, 0);
  const age = (now_ms: number) => {
    pace.look(now_ms);
    return pace.report(now_ms).dirty_age_ms;
  };
  assertEquals(age(5000), 0);
  dirtied(counters, 100);
  assertEquals(age(6000), 0);
  assertEquals(age(9000), 3000);
  dirtied(counters, 50);
  assertEquals(age(20_000), 14_000);
  writtenBack(counters, 100);
  assertEquals(age(21_000), 1000);
  writtenBack(counters, 50);
  assertEquals(age(22_000), 0);
});

Deno.test("what was dirty at the start is as old as the device, also after many samples", () => {
  const counters = new Counters();
  dirtied(counters, 100);
  const pace = new Pace(counters, 0);
  for (let second = 1; second <= 5000; second++) pace.look(1000 * second);
  assertEquals(pace.report(5_000_000).dirty_age_ms, 5_000_000);
});

Deno.test("rates are those of the last ten seconds", () => {
  const counters = new Counters();
  const pace = new Pace(counters, 0);
  for (let second = 1; second <= 30; second++) {
    writtenBack(counters, 1000);
    counters.segments_freed += 2;
    pace.look(1000 * second);
  }
  const { writeback_bytes_per_s, segments_freed_per_s } = pace.report(30_000);
  assertEquals([writeback_bytes_per_s, segments_freed_per_s], [1000, 2]);
  assertEquals(pace.report(60_000).writeback_bytes_per_s, 0);
});

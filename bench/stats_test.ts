/** Medians, spreads, and how numbers are printed. */

import { assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { median, ratio, short, spread } from "./stats.ts";

Deno.test("median of odd, even and unsorted values", () => {
  assertEquals(median([3]), 3);
  assertEquals(median([9, 1, 5]), 5);
  assertEquals(median([10, 9, 1, 2]), 5.5);
  assertEquals(median([100, 20, 3, 20, 1]), 20); // by size, not by letters
  assertThrows(() => median([]), RangeError);
});

Deno.test("spread is relative to the median", () => {
  assertEquals(spread([7]), 0);
  assertAlmostEquals(spread([90, 100, 120]), 0.3);
  assertEquals(spread([0, 0, 0]), 0);
});

Deno.test("numbers are printed with three figures", () => {
  assertEquals(short(0), "0");
  assertEquals(short(1.234), "1.23");
  assertEquals(short(56.78), "56.8");
  assertEquals(short(999.6), "1000");
  assertEquals(short(9999), "9999");
  assertEquals(short(182_345), "182 k");
  assertEquals(short(12_345), "12.3 k");
  assertEquals(short(3_210_000), "3.21 M");
  assertEquals(short(Infinity), "-");
});

Deno.test("a ratio needs both sides", () => {
  assertEquals(ratio(231, 100), "2.31x");
  assertEquals(ratio(231, undefined), "-");
  assertEquals(ratio(undefined, 3), "-");
  assertEquals(ratio(1, 0), "-");
});

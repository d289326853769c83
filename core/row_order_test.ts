import { assertEquals, assertThrows } from "@std/assert";
import { AssertionFailure } from "./assert.ts";
import { RowOrder } from "./row_order.ts";

const MOST = 5000;

/** The rows in order. */
function sorted(order: RowOrder, numbers: number[]): number[] {
  order.clear();
  for (const number of numbers) order.add(number);
  order.sort();
  return numbers.map((_, place) => order.row(place));
}

Deno.test("rows come in the order of their numbers, those with the same one as they were added", () => {
  const order = new RowOrder(MOST);
  let state = 1;
  const next = () => state = Math.imul(state, 1103515245) + 12345 & 0x7fffffff;
  for (const limit of [1, 2, 7, 2048, 2049, 1 << 22, 0x7fffffff]) {
    for (const count of [0, 1, 2, 100, MOST]) {
      const numbers = Array.from({ length: count }, () => next() % limit);
      const wanted = numbers.map((_, row) => row).sort((a, b) => numbers[a]! - numbers[b]!);
      assertEquals(sorted(order, numbers), wanted, `${count} rows of numbers below ${limit}`);
      assertEquals(order.count, count);
    }
  }
});

Deno.test("numbers that differ in one digit only, whichever", () => {
  const order = new RowOrder(MOST);
  for (const shift of [0, 10, 11, 21, 22, 30]) {
    const high = 2 ** shift;
    assertEquals(sorted(order, [high, 0, high, 0]), [1, 3, 0, 2]);
    assertEquals([order.number(0), order.number(1)], [high, 0]);
  }
});

Deno.test("a number below 0 is none", () => {
  assertThrows(() => new RowOrder(1).add(-1), AssertionFailure);
});

/** The profiler sees what is allocated here, and nothing where nothing is. */

import { assertEquals } from "@std/assert";
import { allocatedIn, allocatedWhenCompiled } from "./allocations.ts";

Deno.test("objects are counted, collected or not; numbers in a loop cost nothing", async () => {
  const kept: unknown[] = [];
  const found = await allocatedIn("allocations_test", function keeper() {
    for (let n = 0; n < 1_000_000; n++) kept[n % 100] = { n, text: "abc", more: kept };
  });
  const bytes = found.get("keeper (allocations_test.ts)") ?? 0;
  // An object of three fields: a header of three words and the fields.
  assertEquals(bytes > 30e6 && bytes < 100e6, true, `${bytes} bytes`);

  const words = new Uint32Array(1024);
  const work = () => {
    for (let n = 0; n < 1_000_000; n++) words[n & 1023] = (words[n & 1023]! + n) >>> 0;
  };
  const by_work = await allocatedWhenCompiled("allocations_test", 1e6, work);
  const none = by_work.values().reduce((sum, one) => sum + one, 0);
  assertEquals(none < 1e6, true, `${none} bytes`);
  assertEquals((await allocatedIn("no such module", work)).size, 0);
});

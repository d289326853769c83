import { assert, assertEquals } from "@std/assert";
import { StreamedRuns } from "./streamed_runs.ts";

Deno.test("runs grow where they end, in turns; what is asked for has to lie in one", () => {
  const runs = new StreamedRuns();
  assert(!runs.has(0, 0));
  for (let part = 0; part < 4; part++) {
    for (let client = 0; client < 16; client++) {
      runs.add(client * 10_000 + part * 1000, client * 10_000 + part * 1000 + 1000);
    }
  }
  for (let client = 0; client < 16; client++) {
    const from = client * 10_000;
    assert(runs.has(from, from + 4000));
    assert(runs.has(from + 700, from + 3100));
    assert(!runs.has(from, from + 4001));
    assert(!runs.has(from - 1, from + 10));
  }
});

Deno.test("one run more than there is room for takes the place of the oldest", () => {
  const runs = new StreamedRuns();
  for (let run = 0; run < 17; run++) runs.add(run * 100, run * 100 + 50);
  const kept = Array.from({ length: 17 }, (_, run) => runs.has(run * 100, run * 100 + 50));
  assertEquals(kept, [false, ...Array.from({ length: 16 }, () => true)]);
});

Deno.test("what was cleared is forgotten, also by what goes on where it ended", () => {
  const runs = new StreamedRuns();
  runs.add(0, 100);
  runs.clear();
  assert(!runs.has(0, 100));
  runs.add(100, 200);
  assert(!runs.has(50, 150));
  assert(runs.has(100, 200));
});

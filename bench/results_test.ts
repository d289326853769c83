/** Medians of rounds, ratios of medians. */

import { assertAlmostEquals, assertEquals } from "@std/assert";
import { isMet, judge, merged, type Results, scoreOf } from "./results.ts";

function load(iops: number) {
  const latencies = { p50_us: iops / 10, p99_us: iops, p999_us: iops * 2 };
  const costs = { cpu_us: iops / 2, client_us: 1000 };
  return { requests: 1, iops, bytes_per_second: iops * 1e6, ...latencies, ...costs };
}

Deno.test("the score is the median of the rounds", () => {
  const score = scoreOf("pcache", [load(90), load(300), load(100)], "IOPS");
  assertEquals([score.value, score.p50_us, score.p99_us, score.p999_us], [100, 10, 100, 200]);
  assertEquals(score.cpu_us, 50);
  assertAlmostEquals(score.spread, 2.1);
  assertEquals(score.rounds, [90, 300, 100]);
  assertEquals(scoreOf("pcache", [load(7)], "MB/s").value, 7);
});

Deno.test("the verdict compares with the best of the others", () => {
  const scores = [
    scoreOf("pcache", [load(300)], "IOPS"),
    scoreOf("qemu_nbd", [load(100)], "IOPS"),
    scoreOf("nbdkit_file", [load(150)], "IOPS"),
  ];
  const [verdict] = judge(scores, [
    { of: "pcache", to: ["qemu_nbd", "nbdkit_file"], least: 2 },
  ], 1);
  assertEquals([verdict!.best, verdict!.ratio], ["nbdkit_file", 2]);
  // A client that takes 1 ms for a request asks for 1000 a second at most.
  assertAlmostEquals(verdict!.bound, 1000 / 150);
});

Deno.test("a limit may be a floor or a ceiling", () => {
  const fact = { who: "pcache", what: "CPU", value: 0.1, unit: "%" };
  assertEquals(isMet(fact), true);
  assertEquals(isMet({ ...fact, wanted: { is: "at most", limit: 0.1 } }), true);
  assertEquals(isMet({ ...fact, wanted: { is: "at most", limit: 0.09 } }), false);
  assertEquals(isMet({ ...fact, wanted: { is: "at least", limit: 0.2 } }), false);
});

Deno.test("cells that were not measured now are kept from a run in the same way", () => {
  const facts = (name: string, value: number) => ({
    name,
    date: "2026-11-21",
    title: name,
    facts: [{ who: "pcache", what: "CPU", value, unit: "%" }],
  });
  const run = { machine: "m", software: "s", rounds: 5, seconds: 4, cells: [] };
  const before: Results = { ...run, special: [facts("b", 1), facts("c", 1), facts("gone", 1)] };
  const now: Results = { ...run, special: [facts("c", 2), facts("a", 2)] };
  const both = merged(now, before, ["a", "b", "c"]).special;
  assertEquals(both.map(({ name, facts }) => [name, facts[0]!.value]), [["a", 2], ["b", 1], [
    "c",
    2,
  ]]);
  assertEquals(merged(now, { ...before, seconds: 1 }, ["a", "b", "c"]), now);
  assertEquals(merged(now, null, ["a", "b", "c"]), now);
});

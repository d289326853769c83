/** Medians of rounds, ratios of medians. */

import { assertAlmostEquals, assertEquals } from "@std/assert";
import { isMet, judge, scoreOf } from "./results.ts";

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

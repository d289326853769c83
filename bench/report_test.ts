/** The report and the chart, from made-up results. */

import { assertEquals, assertStringIncludes } from "@std/assert";
import { chart, scaled } from "./chart.ts";
import { markdown, table } from "./report.ts";
import { judge, type Results, type Score } from "./results.ts";

function score(id: Score["id"], value: number): Score {
  return {
    id,
    value,
    iops: value,
    spread: 0.1,
    p50_us: 5,
    p99_us: 50,
    p999_us: 500,
    cpu_us: 2.5,
    client_us: 4,
    rounds: [value],
  };
}

const SCORES = [score("pcache", 240_000), score("bare", 300_000), score("qemu_nbd", 100_000)];
const RESULTS: Results = {
  machine: "2 cores",
  software: "fio 3",
  rounds: 5,
  seconds: 4,
  cells: [{
    name: "randread-d32-c1",
    date: "2026-11-21",
    title: "4 KiB random read",
    unit: "IOPS",
    scores: SCORES,
    verdicts: judge(SCORES, [
      { of: "pcache", to: ["qemu_nbd"], least: 2 },
      { of: "pcache", to: ["bare"], least: 0.9 },
    ], 1),
  }],
  special: [{
    name: "idle",
    date: "2026-11-21",
    title: "no client",
    facts: [{
      who: "pcache",
      what: "CPU",
      value: 0.2,
      unit: "% of a core",
      wanted: { is: "at most", limit: 0.1 },
    }],
  }],
};

Deno.test("columns are as wide as their widest entry", () => {
  assertEquals(
    table([["a", "bb"], ["long", "c"]]),
    "| a    | bb  |\n| ---- | --- |\n| long | c   |",
  );
});

Deno.test("the report has ratios, rates and verdicts", () => {
  const text = markdown(RESULTS);
  const lines = text.split("\n").map((line) => line.replace(/ +/g, " "));
  for (
    const wanted of [
      "| 4 KiB random read | 2.40x | - | - | - | 0.80x | - | - |",
      "| 4 KiB random read, IOPS | 240 k | 300 k | 100 k |",
      "| 4 KiB random read | pcache / qemu-nbd | 2.40x | at least 2.0x | yes | 2.50x |",
      "| 4 KiB random read | pcache / bare server | 0.80x | at least 0.9x | NO | 0.83x |",
      "| no client | pcache: CPU | 0.20 % of a core | at most 0.1 % of a core | NO | - |",
      "| 4 KiB random read | pcache | 5.00 | 50.0 | 500 | 2.50 | 4.00 | 10 % |",
    ]
  ) {
    assertEquals(lines.includes(wanted), true, `${wanted}\n${lines.join("\n")}`);
  }
});

Deno.test("the chart's unit is the best peer", () => {
  assertEquals(scaled(RESULTS.cells[0]!), [2.4, 3, 1]);
  const svg = chart(RESULTS);
  assertStringIncludes(svg, "240 k  (2.40x)");
  assertEquals(svg.match(/<rect /g)!.length, 4);
});

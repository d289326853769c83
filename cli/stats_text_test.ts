import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { Counters } from "../core/counters.ts";
import { type Histogram, LATENCY_BUCKETS } from "../core/latencies.ts";
import type { StatsReply } from "../io/control_protocol.ts";
import {
  formatBytes,
  formatMicroseconds,
  prometheusText,
  quantile,
  statsLine,
  statsText,
} from "./stats_text.ts";

function histogram(counts: Record<number, number>): Histogram {
  const buckets = Array.from({ length: LATENCY_BUCKETS }, (_, bucket) => counts[bucket] ?? 0);
  return { count: buckets.reduce((a, b) => a + b, 0), sum_us: 5000, buckets };
}

function makeStats(counters: Partial<Counters> = {}): StatsReply {
  return {
    ok: true,
    uptime_ms: 5000,
    open_count: 1,
    cache_mode: "writeback",
    is_mode_settled: true,
    writeback_rate: null,
    eviction: "fifo",
    sequential_cutoff: 0,
    requests_under_way: 3,
    requests_waiting: 2,
    dirty_age_ms: 1500,
    writeback_bytes_per_s: 2048,
    segments_freed_per_s: 0,
    counters: Object.assign(new Counters(), counters),
    latency: {
      read: histogram({ 0: 98, 11: 2 }),
      write: histogram({}),
      flush: histogram({ 32: 1 }),
    },
  };
}

Deno.test("bytes and times are written for people", () => {
  assertEquals([0, 1023, 1536, 2 ** 60].map(formatBytes), [
    "0 B",
    "1023 B",
    "1.5 KiB",
    "1024.0 PiB",
  ]);
  assertEquals([0, 999, 1500, 2e6].map(formatMicroseconds), ["0 us", "999 us", "1.5 ms", "2.0 s"]);
});

Deno.test("a share of the requests is reached in a bucket", () => {
  const { read, write } = makeStats().latency;
  assertEquals([0.5, 0.98, 0.99, 1].map((part) => quantile(read, part)), [1, 1, 2048, 2048]);
  assertEquals(quantile(write, 0.5), 0);
});

Deno.test("the page names everything", () => {
  const text = statsText("d", makeStats({ reads: 100, read_hits: 75, read_misses: 25, healed: 3 }));
  assertStringIncludes(text, "Reads:             75 hits, 0 partial hits, 25 misses (75% hits)\n");
  assertStringIncludes(text, "Read latency:      mean 50 us, half under 1 us, 99% under 2.0 ms,");
  assertStringIncludes(text, "Write latency:     -\n");
  assertStringIncludes(text, "Dirty:             0 B, oldest 2 s\n");
  assertStringIncludes(text, "Checksums:         0 failures, 3 healed\n");
});

Deno.test("a line holds what was done since the last one", () => {
  const before = makeStats({ reads: 10, written_bytes: 4096, dirty_bytes: 7 });
  const now = makeStats({
    reads: 15,
    written_bytes: 8192,
    dirty_bytes: 9,
    backing_write_errors: 2,
  });
  assertMatch(
    statsLine("d", now, before),
    /^d: reads=5 read_bytes=0 writes=0 written_bytes=4096 .* dirty_bytes=9 .* errors=2$/,
  );
  assertStringIncludes(statsLine("d", now), "d: reads=15 ");
});

Deno.test("Prometheus: each metric is declared once, histograms are cumulative and end with +Inf", () => {
  const text = prometheusText([
    { name: "a", reply: makeStats({ reads: 1 }) },
    { name: "b", reply: makeStats({ reads: 2 }) },
  ]);
  const declared = text.split("\n").filter((line) => line.startsWith("# TYPE"));
  assertEquals(new Set(declared).size, declared.length);
  assertStringIncludes(text, '\npcache_requests_total{device="b",kind="read"} 2\n');
  assertStringIncludes(text, '_bucket{device="a",kind="read",le="0.000001"} 98\n');
  assertStringIncludes(text, '_bucket{device="a",kind="read",le="0.002048"} 100\n');
  assertStringIncludes(text, '_bucket{device="a",kind="flush",le="+Inf"} 1\n');
  assertStringIncludes(text, '\npcache_request_seconds_sum{device="a",kind="read"} 0.005\n');
  for (const line of text.trimEnd().split("\n")) {
    const is_sample = /^[a-z_]+\{[a-z]+="[^"]*"(?:,[a-z]+="[^"]*")*\} [0-9.e+-]+$/.test(line);
    assert(is_sample || line.startsWith("# "), line);
  }
});

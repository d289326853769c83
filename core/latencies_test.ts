import { assertEquals } from "@std/assert";
import { Latencies, LATENCY_BUCKETS } from "./latencies.ts";
import { FLUSH, READ, WRITE } from "./requests.ts";

Deno.test("requests fall into buckets of powers of two microseconds, each kind by itself", () => {
  const latencies = new Latencies(4);
  const took_ms: [ms: number, bucket: number][] = [
    [0, 0],
    [0.0009, 0],
    [0.001, 1],
    [0.0015, 1],
    [0.002, 2],
    [1, 10],
    [1.024, 11],
    [1e9, LATENCY_BUCKETS - 1],
  ];
  for (const [ms] of took_ms) {
    latencies.begin(3, 0);
    latencies.end(3, WRITE, ms);
  }
  latencies.begin(0, 5);
  latencies.begin(1, 5);
  latencies.end(1, READ, 7);
  latencies.end(0, FLUSH, 4); // a clock that went back counts as none
  const { read, write, flush } = latencies.report();
  const wanted = new Array(LATENCY_BUCKETS).fill(0);
  for (const [, bucket] of took_ms) wanted[bucket]++;
  assertEquals([write.count, write.buckets], [took_ms.length, wanted]);
  assertEquals([read.count, read.sum_us, read.buckets[11]], [1, 2000, 1]);
  assertEquals([flush.count, flush.sum_us, flush.buckets[0]], [1, 0, 1]);
});

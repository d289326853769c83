/** fio's report, cut down to what is read of it. */

import { assertEquals, assertThrows } from "@std/assert";
import { nbdJob, parseReport } from "./fio.ts";

const NOTHING = { iops: 0, bw_bytes: 0, total_ios: 0 };

/** 40 % of 3 seconds. */
const COSTS = { usr_cpu: 10, sys_cpu: 30, job_runtime: 3000 };

function direction(iops: number, p50_ns: number) {
  return {
    iops,
    bw_bytes: iops * 4096,
    total_ios: iops * 3,
    clat_ns: {
      percentile: { "50.000000": p50_ns, "99.000000": p50_ns * 10, "99.900000": p50_ns * 100 },
    },
  };
}

function report(read: unknown, write: unknown, error = 0): string {
  return JSON.stringify({ jobs: [{ error, read, write, ...COSTS }] });
}

Deno.test("a load in one direction", () => {
  const load = parseReport(report(NOTHING, direction(1000, 2000)));
  assertEquals(load, {
    requests: 3000,
    iops: 1000,
    bytes_per_second: 4096000,
    p50_us: 2,
    p99_us: 20,
    p999_us: 200,
    client_us: 400,
  });
});

Deno.test("a mixed load is summed up; its latencies are its reads'", () => {
  const load = parseReport(report(direction(700, 3000), direction(300, 5000)));
  assertEquals(load.iops, 1000);
  assertEquals(load.p50_us, 3);
});

Deno.test("a job that failed or did nothing is no measurement", () => {
  assertThrows(() => parseReport('{"jobs":[]}'), Error, "no job");
  assertThrows(() => parseReport(report(NOTHING, NOTHING)), Error, "did nothing");
  assertThrows(() => parseReport(report(direction(1, 1), NOTHING, 5)), Error, "error 5");
  assertThrows(() => parseReport("nbd: connected\n{}"), SyntaxError);
});

Deno.test("connections are jobs", () => {
  assertEquals(nbdJob("nbd+unix:///?socket=/s", 4096, 4), [
    "ioengine=nbd",
    "uri=nbd+unix:///?socket=/s",
    "size=4096",
    "numjobs=4",
  ]);
});

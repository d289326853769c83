/** What is read of /proc. */

import { assertEquals, assertThrows } from "@std/assert";
import { cpuBetween, processCost, statSeconds, statusBytes } from "./processes.ts";

Deno.test("threads come and go", () => {
  const sizes = { rss_bytes: 0, anonymous_bytes: 0 };
  const before = { cpu_ns: new Map([["1", 100], ["2", 5000]]), ...sizes };
  const after = { cpu_ns: new Map([["1", 130], ["3", 7]]), ...sizes };
  assertEquals(cpuBetween(before, after), 37);
});

Deno.test("a size of the status file", () => {
  const status = "Name:\tdeno\nVmRSS:\t   33000 kB\nRssAnon:\t  12 kB\n";
  assertEquals(statusBytes(status, "VmRSS"), 33000 * 1024);
  assertEquals(statusBytes(status, "RssAnon"), 12 * 1024);
  assertThrows(() => statusBytes(status, "RssFile"), Error, "RssFile");
});

Deno.test("this process has used some of everything", () => {
  const cost = processCost(Deno.pid);
  assertEquals([...cost.cpu_ns.values()].some((ns) => ns > 0), true);
  assertEquals(cost.rss_bytes > cost.anonymous_bytes && cost.anonymous_bytes > 1 << 20, true);
});

Deno.test("the stat file of a program with a bad name", () => {
  const stat = "12 (a) b) S 1 12 12 0 -1 4194560 1 2 3 4 250 50 7 8 20 0 11 0 99";
  assertEquals(statSeconds(stat), 3);
});

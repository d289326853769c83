/** What is read of /proc. */

import { assertEquals, assertThrows } from "@std/assert";
import { cpuOf, processCost, statusBytes } from "./processes.ts";

Deno.test("times of threads are summed up", () => {
  assertEquals(cpuOf(["123 45 6\n", "1000 0 1\n"]), 1123);
});

Deno.test("a size of the status file", () => {
  const status = "Name:\tdeno\nVmRSS:\t   33000 kB\nRssAnon:\t  12 kB\n";
  assertEquals(statusBytes(status, "VmRSS"), 33000 * 1024);
  assertEquals(statusBytes(status, "RssAnon"), 12 * 1024);
  assertThrows(() => statusBytes(status, "RssFile"), Error, "RssFile");
});

Deno.test("this process has used some of everything", () => {
  const cost = processCost(Deno.pid);
  assertEquals(cost.cpu_ns > 0, true);
  assertEquals(cost.rss_bytes > cost.anonymous_bytes && cost.anonymous_bytes > 1 << 20, true);
});

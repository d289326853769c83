import { assertEquals } from "@std/assert";
import type { DeviceEvent } from "./device_config.ts";
import { readingTeller } from "./reading.ts";

Deno.test("the reading of the log is told of from the first second on, five times a second", () => {
  const told: DeviceEvent[] = [];
  let now_ms = 5000;
  let measured = 0;
  const measure = () => {
    measured++;
    return 1000;
  };
  const onRead = readingTeller(measure, (event) => told.push(event), () => now_ms);
  now_ms = 5999;
  onRead(100);
  assertEquals([told, measured], [[], 0]);
  for (
    const [at_ms, done_bytes] of [[6000, 200], [6199, 300], [6200, 400], [7000, 1064]] as const
  ) {
    now_ms = at_ms;
    onRead(done_bytes);
  }
  assertEquals(told, [
    { event: "reading", done_bytes: 200, left_bytes: 800 },
    { event: "reading", done_bytes: 400, left_bytes: 600 },
    { event: "reading", done_bytes: 1064, left_bytes: 0 }, // the log was measured roughly
  ]);
  assertEquals(measured, 1);
});

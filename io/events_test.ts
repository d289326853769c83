import { assertEquals } from "@std/assert";
import { Counters } from "../core/counters.ts";
import type { ControlReply } from "./control_protocol.ts";
import { Events, MAX_WAITERS, Watch } from "./events.ts";

Deno.test("an event wakes those who wait for it, and nobody twice", () => {
  const events = new Events();
  const replies: [number, ControlReply][] = [];
  const reply = (client: number, reply: ControlReply) => void replies.push([client, reply]);
  assertEquals([events.wait(1, 0), events.wait(2, 1), events.wait(3, 0)], [null, null, null]);
  events.forget(3);
  events.raise(reply);
  assertEquals(replies, [[1, { ok: true, event_nr: 1 }]]);
  assertEquals(events.wait(4, 0), { ok: true, event_nr: 1 });
  events.raise(reply);
  assertEquals(replies[1], [2, { ok: true, event_nr: 2 }]);
  events.wait(5, 9);
  events.end(reply);
  assertEquals(replies[2], [5, { ok: false, error: "No such device or address" }]);
  events.raise(reply);
  assertEquals(replies.length, 3);
});

Deno.test("so many may wait that others still reach the device", () => {
  const events = new Events();
  for (let client = 0; client < MAX_WAITERS; client++) assertEquals(events.wait(client, 0), null);
  assertEquals(events.wait(99, 0)?.ok, false);
  events.forget(7);
  assertEquals(events.wait(99, 0), null);
});

Deno.test("errors, becoming clean and becoming full are events; staying so is none", () => {
  const engine = {
    counters: new Counters(),
    clean: true,
    is_full: false,
    isClean() {
      return this.clean;
    },
  };
  const watch = new Watch(engine);
  assertEquals(watch.look(0), false);
  engine.clean = false;
  assertEquals(watch.look(1), false);
  engine.clean = true;
  assertEquals([watch.look(2), watch.look(3)], [true, false]);
  engine.counters.backing_write_errors++;
  assertEquals([watch.look(4), watch.look(5)], [true, false]);
  engine.is_full = true;
  assertEquals([watch.look(6), watch.look(900)], [true, false]);
  engine.is_full = false;
  assertEquals(watch.look(1000), false);
  engine.is_full = true;
  assertEquals([watch.look(1800), watch.look(1900)], [false, false]);
  engine.is_full = false;
  watch.look(2000);
  engine.is_full = true;
  assertEquals(watch.look(9000), true);
});

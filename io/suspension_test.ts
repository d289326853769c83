import { assertEquals } from "@std/assert";
import { Suspension } from "./suspension.ts";

class FakeHost {
  unanswered = 0;
  held: string | null = null;
  readonly engine = {
    closing: false,
    closed: false,
    close() {
      this.closing = true;
    },
    reopen() {
      this.closing = false;
    },
    isClosed() {
      return this.closing && this.closed;
    },
  };
  hold(what: string | null): void {
    this.held = what;
  }
  unansweredCount(): number {
    return this.unanswered;
  }
}

const DONE = { ok: true, notes: [] };

Deno.test("what is under way ends, then the engine comes to rest, then it is suspended", () => {
  const host = new FakeHost();
  const suspension = new Suspension(host);
  host.unanswered = 1;
  assertEquals(suspension.ask(7, false), null);
  assertEquals([host.held, suspension.step(), host.engine.closing], ["requests", false, false]);
  assertEquals(suspension.ask(8, false), { ok: false, error: "Device or resource busy" });
  host.unanswered = 0;
  assertEquals([suspension.step(), host.engine.closing], [false, true]);
  host.engine.closed = true;
  assertEquals([suspension.step(), suspension.step()], [true, false]);
  assertEquals(suspension.ask(8, false), DONE);
  suspension.clientGone(7);
  assertEquals(suspension.is_under_way, true);
  suspension.end();
  assertEquals([host.held, host.engine.closing, suspension.is_under_way], [null, false, false]);
});

Deno.test("with noflush it is suspended at once, answers and all", () => {
  const host = new FakeHost();
  const suspension = new Suspension(host);
  host.unanswered = 1;
  assertEquals(suspension.ask(7, true), DONE);
  assertEquals([host.held, suspension.step()], ["requests and answers", false]);
  assertEquals(host.engine.closing, false);
});

Deno.test("a suspension whose client goes before it is done is given up", () => {
  const host = new FakeHost();
  const suspension = new Suspension(host);
  suspension.ask(7, false);
  suspension.step();
  suspension.clientGone(8);
  assertEquals(suspension.is_under_way, true);
  suspension.clientGone(7);
  assertEquals([host.held, host.engine.closing, suspension.is_under_way], [null, false, false]);
});

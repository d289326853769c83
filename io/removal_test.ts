import { assertEquals } from "@std/assert";
import { Counters } from "../core/counters.ts";
import { BUSY } from "./control_protocol.ts";
import { Removal } from "./removal.ts";

/** A device that is dirty until the test says otherwise. */
class FakeHost {
  readonly engine = {
    counters: new Counters(),
    draining: false,
    clean: false,
    closing: false,
    closed: false,
    has_failed: false,
    setDraining(on: boolean) {
      this.draining = on;
    },
    isClean() {
      return this.clean;
    },
    close() {
      this.closing = true;
    },
    isClosed() {
      return this.closing && this.closed;
    },
  };
  clients = 0;
  admits = true;
  trouble = "";
  stopped: "going" | "gone" | "busy" = "gone";
  isInUse(): boolean {
    return this.clients > 0;
  }
  stop(): "going" | "gone" | "busy" {
    return this.stopped;
  }
  admit(on: boolean): void {
    this.admits = on;
  }
  backingTrouble(): string {
    return this.trouble;
  }
}

Deno.test("without flush it closes at once, and is done when the engine is closed", () => {
  const host = new FakeHost();
  const removal = new Removal(host);
  removal.ask(7, { flush: false, force: false }, 0);
  assertEquals(removal.step(0), null);
  assertEquals([host.engine.closing, host.engine.draining, host.admits], [true, false, false]);
  removal.step(1);
  assertEquals(removal.is_done, false);
  host.engine.closed = true;
  removal.step(2);
  assertEquals([removal.is_done, removal.client, removal.outcome()], [true, 7, { ok: true }]);
});

Deno.test("with flush it waits until the cache is clean", () => {
  const host = new FakeHost();
  const removal = new Removal(host);
  removal.ask(7, { flush: true, force: false }, 0);
  removal.step(0);
  assertEquals([host.engine.draining, host.engine.closing, host.admits], [true, false, false]);
  // However long it takes, as long as the backing device reports no errors.
  for (let now_ms = 0; now_ms < 100_000; now_ms += 1000) assertEquals(removal.step(now_ms), null);
  host.engine.clean = true;
  removal.step(100_000);
  assertEquals(host.engine.closing, true);
});

Deno.test("clients that are leaving are waited for, others make the device busy", () => {
  const host = new FakeHost();
  const removal = new Removal(host);
  host.clients = 1;
  removal.ask(7, { flush: false, force: false }, 0);
  assertEquals(removal.step(100), null);
  assertEquals(removal.step(299), null);
  assertEquals(removal.step(300), { ok: false, error: BUSY });
  assertEquals([removal.is_under_way, host.admits, host.engine.closing], [false, true, false]);

  removal.ask(8, { flush: false, force: false }, 1000);
  assertEquals(removal.step(1100), null);
  host.clients = 0;
  assertEquals(removal.step(1200), null);
  assertEquals(host.engine.closing, true);
});

Deno.test("when the one who asked goes, draining ends and the device goes on", () => {
  const host = new FakeHost();
  const removal = new Removal(host);
  removal.ask(7, { flush: true, force: false }, 0);
  removal.step(0);
  removal.clientGone(8);
  assertEquals(removal.is_under_way, true);
  removal.clientGone(7);
  assertEquals([removal.is_under_way, host.engine.draining, host.admits], [false, false, true]);
});

Deno.test("when the one who asked goes at once, the device is free for others again", () => {
  const host = new FakeHost();
  const removal = new Removal(host);
  host.clients = 1;
  removal.ask(7, { flush: false, force: false }, 0);
  removal.step(0);
  host.admits = false;
  removal.clientGone(7);
  assertEquals([removal.is_under_way, host.admits], [false, true]);
});

Deno.test("a removal that closes already is not given up", () => {
  const host = new FakeHost();
  const removal = new Removal(host);
  removal.ask(7, { flush: false, force: false }, 0);
  removal.step(0);
  removal.clientGone(7);
  assertEquals(removal.is_under_way, true);
});

Deno.test("draining is given up when errors come and nothing gets cleaner", () => {
  const host = new FakeHost();
  const { counters } = host.engine;
  const removal = new Removal(host);
  counters.dirty_bytes = 5000;
  removal.ask(7, { flush: true, force: false }, 0);
  removal.step(0);
  // Errors, but it gets cleaner.
  for (let now_ms = 0; now_ms <= 20_000; now_ms += 1000) {
    counters.backing_write_errors += 1;
    counters.dirty_bytes -= 100;
    assertEquals(removal.step(now_ms), null);
  }
  counters.backing_write_errors += 1;
  assertEquals(removal.step(29_999), null);
  assertEquals(removal.step(30_000), {
    ok: false,
    error: "Input/output error: 2900 bytes cannot be written back and stay in the cache",
  });
  assertEquals([removal.is_under_way, host.engine.draining, host.admits], [false, false, true]);
});

Deno.test("draining is given up when the backing device stays away", () => {
  const host = new FakeHost();
  const removal = new Removal(host);
  host.engine.counters.dirty_bytes = 5000;
  removal.ask(7, { flush: true, force: false }, 0);
  removal.step(0);
  host.trouble = "Connection refused";
  assertEquals(removal.step(9000), null);
  host.trouble = "";
  assertEquals(removal.step(9500), null);
  host.trouble = "Connection refused";
  assertEquals(removal.step(19_499), null);
  assertEquals(removal.step(19_500), {
    ok: false,
    error: "Input/output error: the backing device is away (Connection refused): " +
      "5000 bytes cannot be written back and stay in the cache",
  });
  assertEquals([removal.is_under_way, host.engine.draining, host.admits], [false, false, true]);
});

Deno.test("a failed cache device is reported in the end", () => {
  const host = new FakeHost();
  host.engine.has_failed = true;
  const reply = new Removal(host).outcome();
  assertEquals(reply.ok, false);
});

import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { EIO } from "../core/errors.ts";
import { fillFor } from "../tests/random.ts";
import { SmallDevice } from "../tests/small_device.ts";
import type { ControlReply } from "./control_protocol.ts";
import { Jobs } from "./jobs.ts";

const KIB = 1024;
const CLIENT = 3;

/** A device, its jobs, and a clock that goes on with every look. */
function rig(options: { data_crc?: boolean } = {}) {
  const device = new SmallDevice(options);
  let trouble = "";
  const jobs = new Jobs({
    engine: device.engine,
    backingTrouble: () => trouble,
    now_ms: () => device.now_ms,
  });
  return { device, jobs, setTrouble: (text: string) => trouble = text };
}

function write(device: SmallDevice, i: number): void {
  const bytes = new Uint8Array(64 * KIB);
  fillFor(i + 1, bytes);
  assertEquals(device.write(i * 64 * KIB, bytes), 0);
}

/** Asks, and goes on until it is answered. */
function ask({ device, jobs }: ReturnType<typeof rig>, ...args: string[]): ControlReply {
  const refusal = jobs.ask(args, CLIENT);
  if (refusal !== null) return refusal ?? { ok: false, error: "not known" };
  let end: ReturnType<Jobs["step"]> = null;
  device.runUntil(`${args[0]} is over`, () => {
    for (let turn = 0; turn < 4 && end === null; turn++) {
      end = jobs.step(device.now_ms);
      device.engine.pump(device.now_ms);
    }
    if (end === null) device.now_ms += Math.min(20, jobs.nextTimerMs());
    return end !== null;
  });
  const { client, reply } = end! as { client: number; reply: ControlReply };
  assertEquals(client, CLIENT);
  assertEquals(jobs.is_under_way, false);
  return reply;
}

function errorOf(reply: ControlReply): string {
  return reply.ok ? "" : reply.error;
}

Deno.test("flush writes everything back and keeps it cached", () => {
  const it = rig();
  for (let i = 0; i < 20; i++) write(it.device, i);
  assertEquals(ask(it, "flush"), { ok: true, text: "" });
  assertEquals(it.device.engine.counters.dirty_bytes, 0);
  const { ended } = it.device.backing;
  const reads = ended.read;
  it.device.read(0, 64 * KIB);
  assertEquals(ended.read, reads, "a hit");
});

Deno.test("flush ends although writes go on: what comes later is not waited for", () => {
  const it = rig();
  for (let i = 0; i < 20; i++) write(it.device, i);
  assertEquals(it.jobs.ask(["flush"], CLIENT), null);
  const { left_bytes } = it.jobs.progress!;
  assertEquals(left_bytes, 20 * 64 * KIB);
  let end = null;
  for (let i = 0; end === null; i = (i + 1) % 20) {
    write(it.device, i);
    end = it.jobs.step(it.device.now_ms);
  }
  assertEquals(end.reply, { ok: true, text: "" });
  assert(it.device.engine.counters.dirty_bytes > 0);
});

Deno.test("flush gives up when the backing device fails for long, and write-back goes its usual way", () => {
  const it = rig();
  write(it.device, 0);
  it.device.backing.fault = (kind) => kind === "write" ? EIO : 0;
  assertStringIncludes(errorOf(ask(it, "flush")), "65536 bytes cannot be written back and stay in");
  it.device.backing.fault = () => 0;
  assertEquals(ask(it, "flush"), { ok: true, text: "" });

  write(it.device, 1);
  it.setTrouble("no answer");
  it.device.backing.fault = (kind) => kind === "write" ? EIO : 0;
  assertStringIncludes(
    errorOf(ask(it, "flush")),
    "the backing device is away (no answer): 65536 bytes",
  );
});

Deno.test("drop_clean forgets everything, also in the log", () => {
  const it = rig();
  for (let i = 0; i < 20; i++) write(it.device, i);
  assertEquals(ask(it, "drop_clean"), { ok: true, text: "" });
  assertEquals(it.device.engine.index.extents, 0);
  const { key_tail, dirty_tail } = it.device.engine.status();
  assertEquals(key_tail, dirty_tail);
});

Deno.test("invalidate forgets a clean range, and refuses a dirty one and what is no range", () => {
  const it = rig();
  write(it.device, 0);
  write(it.device, 1);
  assertEquals(ask(it, "flush").ok, true);
  write(it.device, 1);
  const { engine } = it.device;
  assertStringIncludes(
    errorOf(ask(it, "invalidate", "0", "256")),
    "128 sectors of the range are dirty",
  );
  const before = engine.index.extents;
  assertEquals(ask(it, "invalidate", "0", "128"), { ok: true, text: "" });
  assertEquals(engine.index.extents, before - 1);
  for (
    const [start, length] of [["0", "0"], ["32768", "1"], ["-1", "8"], ["x", "8"], ["32767", "2"]]
  ) {
    assertStringIncludes(
      errorOf(ask(it, "invalidate", start!, length!)),
      "a range of sectors in 0..32768",
    );
  }
  assertStringIncludes(errorOf(ask(it, "invalidate", "1")), "takes <start> and <length>");
});

Deno.test("scrub says what it found, and needs checksums", () => {
  const it = rig();
  for (let i = 0; i < 20; i++) write(it.device, i);
  assertEquals(ask(it, "scrub"), { ok: true, text: `verified ${20 * 64 * KIB} healed 0 lost 0` });
  const bytes = new Uint8Array(64 * KIB);
  fillFor(5, bytes);
  it.device.damage(bytes, 0);
  assertStringIncludes(errorOf(ask(it, "scrub")), "healed 0 lost 65536: dirty data is damaged");
  assertStringIncludes(errorOf(ask(rig({ data_crc: false }), "scrub")), "it has no checksums");
});

Deno.test("one job at a time, which ends with who asked for it, or with the device", () => {
  const it = rig();
  write(it.device, 0);
  assertEquals(it.jobs.ask(["gc_percent", "5"], CLIENT), undefined);
  assertEquals(it.jobs.ask(["flush"], CLIENT), null);
  assertStringIncludes(errorOf(it.jobs.ask(["scrub"], 9)!), "Device or resource busy: a flush");
  it.jobs.clientGone(9);
  assertEquals(it.jobs.is_under_way, true);
  it.jobs.clientGone(CLIENT);
  assertEquals([it.jobs.is_under_way, it.jobs.cancel(), it.jobs.nextTimerMs()], [
    false,
    null,
    Infinity,
  ]);
  assertEquals(it.jobs.ask(["scrub"], CLIENT), null);
  assertEquals(it.jobs.nextTimerMs(), 0);
  assertStringIncludes(errorOf(it.jobs.cancel()!.reply), "being removed or wiped");
  assertEquals(
    errorOf(ask(it, "flush", "now")),
    "Invalid argument: flush takes no words but 1 are given",
  );
});

import { assert, assertEquals } from "@std/assert";
import { fillFor } from "../tests/random.ts";
import { SmallDevice } from "../tests/small_device.ts";

const KIB = 1024;
const MIB = 1024 * KIB;

function content(id: number, bytes: number): Uint8Array {
  const made = new Uint8Array(bytes);
  fillFor(id, made);
  return made;
}

/** All of a job that is done a part at a time; returns how many parts. */
function all(device: SmallDevice, part: (from_bytes: number) => number): number {
  let parts = 0;
  for (let at = 0; at < device.engine.size_bytes; parts++) {
    const next = part(at);
    assert(next > at, "every part goes on");
    at = next;
  }
  return parts;
}

function scrub(device: SmallDevice) {
  const report = { verified_bytes: 0, healed_bytes: 0, lost_bytes: 0 };
  const parts = all(device, (from) => device.engine.scrub(from, report));
  return { ...report, parts };
}

Deno.test("a scrub verifies everything once, in bounded parts", () => {
  const device = new SmallDevice();
  for (let i = 0; i < 40; i++) device.write(i * 100 * KIB, content(i + 1, 96 * KIB));
  const report = scrub(device);
  assertEquals(report.verified_bytes, 40 * 96 * KIB);
  assertEquals([report.healed_bytes, report.lost_bytes], [0, 0]);
  assert(report.parts >= 3, "a part is a mebibyte and a key at most");
});

Deno.test("a scrub heals clean data and tells of dirty data, which stays an error", () => {
  const device = new SmallDevice();
  const clean = content(7, 64 * KIB);
  const dirty = content(8, 4 * KIB);
  device.write(1 * MIB, clean);
  device.drain();
  device.write(2 * MIB, dirty);
  device.damage(clean, 1000);
  device.damage(dirty, 0);
  const report = scrub(device);
  assertEquals([report.healed_bytes, report.lost_bytes], [64 * KIB, 4 * KIB]);
  assertEquals(device.engine.counters.healed, 1);
  const failures = device.engine.counters.checksum_failures;
  assertEquals(device.read(1 * MIB, 64 * KIB), { errno: 0, bytes: clean });
  assertEquals(device.engine.counters.checksum_failures, failures, "it was read anew");
  assertEquals(device.read(2 * MIB, 4 * KIB).errno, 5);
  assertEquals(scrub(device).healed_bytes, 0);
});

Deno.test("forgetting: clean data is read from the backing device again, dirty data stays", () => {
  const device = new SmallDevice();
  device.write(0, content(1, 64 * KIB));
  device.drain();
  device.write(16 * KIB, content(2, 8 * KIB));
  const changed = content(3, 64 * KIB);
  device.backing.bytes.set(changed, 0); // somebody else's doing
  assertEquals(device.read(0, 16 * KIB).bytes, content(1, 64 * KIB).slice(0, 16 * KIB));
  const { dirty_bytes, next_bytes } = device.engine.countDirty(0, 64 * KIB);
  assertEquals([dirty_bytes, next_bytes], [8 * KIB, 64 * KIB]);
  assertEquals(device.engine.countDirty(24 * KIB, 64 * KIB).dirty_bytes, 0);

  assertEquals(device.engine.forget(20 * KIB, 48 * KIB), 48 * KIB);
  const wanted = content(1, 64 * KIB);
  wanted.set(content(2, 8 * KIB), 16 * KIB);
  wanted.set(changed.subarray(24 * KIB, 48 * KIB), 24 * KIB);
  assertEquals(device.read(0, 64 * KIB), { errno: 0, bytes: wanted });
});

Deno.test("reclaiming: the log begins at the dirty tail, and nothing clean comes back after a crash", () => {
  const device = new SmallDevice();
  for (let i = 0; i < 10; i++) device.write(i * 64 * KIB, content(i + 1, 64 * KIB));
  device.drain();
  assertEquals(device.engine.isReclaimed(), false);
  device.engine.setReclaiming(true);
  device.runUntil("the log begins at the dirty tail", () => device.engine.isReclaimed());
  device.engine.setReclaiming(false);
  all(device, (from) => device.engine.forget(from, device.engine.size_bytes));
  device.write(5 * MIB, content(99, 4 * KIB));
  device.flush();
  device.backing.bytes.set(content(50, 64 * KIB), 0);
  for (let opened = 0; opened < 2; opened++) {
    assertEquals(device.read(0, 64 * KIB), { errno: 0, bytes: content(50, 64 * KIB) });
    assertEquals(device.read(5 * MIB, 4 * KIB), { errno: 0, bytes: content(99, 4 * KIB) });
    assert(device.engine.replayed.keys < 10);
    device.reopen();
  }
});

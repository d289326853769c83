/** Misses, through the engine: who waits for which backing read, and what of it is kept. */

import { assert, assertEquals, assertThrows } from "@std/assert";
import { content, HandDevice } from "../tests/hand_device.ts";
import { CacheError, EIO } from "./errors.ts";
import { MAX_FILL_READS } from "./fills.ts";

const KIB = 1024;
const MIB = 1024 * KIB;
/** What the backing device holds at first. */
const OLD = content(0, 16 * MIB);

function old(off: number, len: number): Uint8Array {
  return OLD.slice(off, off + len);
}

/** What the index holds of a range: "hole", "waits", "clean", "dirty", with sectors. */
function layout(device: HandDevice, off: number, len: number): string[] {
  const parts: string[] = [];
  const { index } = device.engine;
  index.forEach((sector, extent) => {
    if (sector * 512 < off || sector * 512 >= off + len) return;
    const kind = index.isPlaceholder(extent) ? "waits" : index.isClean(extent) ? "clean" : "dirty";
    parts.push(`${kind} ${sector - off / 512}+${index.sectors(extent)}`);
  });
  return parts;
}

Deno.test("a second reader of a hole waits for the first, and the backing device is read once", () => {
  const device = new HandDevice();
  const { engine } = device;
  const whole = engine.beginRead(64 * KIB, 8 * KIB);
  const part = engine.beginRead(64 * KIB + 1000, 2000);
  device.pump();
  assertEquals(device.under_way(), ["read 65536+8192"]);
  assertEquals(device.answered(), []);
  device.end();
  assertEquals(device.answered().toSorted(), [whole, part].toSorted());
  assertEquals(device.bytesOf(whole), old(64 * KIB, 8 * KIB));
  assertEquals(device.bytesOf(part), old(64 * KIB + 1000, 2000));
  for (const slot of [whole, part]) engine.release(slot);
  assertEquals(device.read(64 * KIB, 8 * KIB), { errno: 0, bytes: old(64 * KIB, 8 * KIB) });
  assertEquals([device.backing.ended.read, engine.counters.fills], [1, 1]);
  device.assertNothingHeld();
});

Deno.test("a reader of more than a placeholder reads only what lies beside it", () => {
  const device = new HandDevice();
  const { engine } = device;
  engine.beginRead(8 * KIB, 4 * KIB);
  const wide = engine.beginRead(0, 16 * KIB);
  device.pump();
  assertEquals(device.under_way(), ["read 0+8192", "read 12288+4096", "read 8192+4096"]);
  device.end(({ off }) => off === 0);
  device.end(({ off }) => off === 12288);
  assertEquals(device.answered(), []);
  device.end();
  assertEquals(device.answered().length, 2);
  assertEquals(device.bytesOf(wide), old(0, 16 * KIB));
});

Deno.test("misses of a stream past the cutoff are read, and not kept; hits and edges are as ever", () => {
  const device = new HandDevice();
  const { engine } = device;
  engine.setSequentialCutoff(12 * KIB);
  assertEquals(device.write(20 * KIB, content(1, 4 * KIB)), 0);
  const want = old(0, 64 * KIB);
  want.set(content(1, 4 * KIB), 20 * KIB);
  for (let off = 0; off < 64 * KIB; off += 4 * KIB) {
    assertEquals(device.read(off, 4 * KIB).bytes, want.slice(off, off + 4 * KIB), `${off}`);
  }
  assertEquals(layout(device, 0, 64 * KIB), ["clean 0+8", "clean 8+8", "clean 16+8", "dirty 40+8"]);
  assertEquals(engine.counters.passed_bytes, 48 * KIB);
  assertEquals(device.write(64 * KIB + 100, content(2, 1000)), 0); // in the stream's way
  assertEquals(layout(device, 64 * KIB, 4 * KIB), ["dirty 0+1", "dirty 1+1", "dirty 2+1"]);

  // Who waits for such a read gets its bytes; a write over it stays.
  engine.beginRead(512 * KIB, 16 * KIB);
  device.pump();
  engine.beginRead(516 * KIB, 512);
  device.beginWhole(520 * KIB, content(3, 512));
  device.end();
  for (const slot of device.answered()) engine.release(slot);
  assertEquals(layout(device, 512 * KIB, 16 * KIB), ["dirty 16+1"]);

  engine.setSequentialCutoff(0);
  device.read(1 * MIB, 64 * KIB);
  assertEquals(layout(device, 1 * MIB, 64 * KIB), ["clean 0+128"]);
  device.assertNothingHeld();
  for (const wrong of [-1, 1, 4095, 4096.5, NaN, Infinity]) {
    assertThrows(() => engine.setSequentialCutoff(wrong), CacheError, "sequential_cutoff");
  }
});

Deno.test("a write over a part of a placeholder: its part stays the write's, the rest is kept as read", () => {
  const device = new HandDevice();
  const { engine } = device;
  const first = engine.beginRead(0, 16 * KIB);
  device.pump();
  const written = content(7, 4 * KIB);
  const write = device.beginWhole(4 * KIB, written);
  assertEquals(device.answered(), [write]);
  assertEquals(layout(device, 0, 16 * KIB), ["waits 0+8", "dirty 8+8", "waits 16+16"]);

  const second = engine.beginRead(0, 16 * KIB); // begun after the write was answered
  device.pump();
  assertEquals(device.under_way(), ["read 0+16384"]);
  device.end();
  assertEquals(device.answered().toSorted(), [first, second].toSorted());
  const want = old(0, 16 * KIB);
  want.set(written, 4 * KIB);
  assertEquals(device.bytesOf(second), want);
  for (const slot of [first, second, write]) engine.release(slot);
  assertEquals(layout(device, 0, 16 * KIB), ["clean 0+8", "dirty 8+8", "clean 16+16"]);
  assertEquals(device.read(0, 16 * KIB).bytes, want);
  assertEquals(device.backing.ended.read, 1);
  device.assertNothingHeld();
});

Deno.test("a placeholder that writes covered whole keeps nothing of what was read", () => {
  const device = new HandDevice();
  const { engine } = device;
  const read = engine.beginRead(0, 8 * KIB);
  device.pump();
  for (const at of [4, 0]) device.beginWhole(at * KIB, content(at + 1, 4 * KIB));
  for (const slot of device.answered()) engine.release(slot);
  device.end();
  assertEquals(device.answered(), [read]);
  assertEquals(layout(device, 0, 8 * KIB), ["dirty 0+8", "dirty 8+8"]);
  assertEquals(device.read(4 * KIB, 4 * KIB).bytes, content(5, 4 * KIB));
});

Deno.test("a backing read that fails is an error for everybody who waited, and leaves a hole", () => {
  const device = new HandDevice();
  const { engine } = device;
  device.backing.fault = () => EIO;
  const slots = [engine.beginRead(0, 8 * KIB), engine.beginRead(4 * KIB, 512)];
  device.pump();
  const write = device.beginWhole(0, content(1, 512));
  device.end();
  assertEquals(device.answered().toSorted(), [...slots, write].toSorted());
  assertEquals(slots.map((slot) => engine.error(slot)), [EIO, EIO]);
  assertEquals([engine.error(write), layout(device, 0, 8 * KIB)], [0, ["dirty 0+1"]]);
  for (const slot of [...slots, write]) engine.release(slot);
  device.assertNothingHeld();
  device.backing.fault = () => 0;
  assertEquals(device.read(512, 1024).bytes, old(512, 1024));
});

Deno.test("more misses than backing requests: the rest follow, in order", () => {
  const device = new HandDevice();
  const { engine } = device;
  const count = MAX_FILL_READS + 50;
  const slots = Array.from({ length: count }, (_, i) => engine.beginRead(i * 4096, 512));
  device.pump();
  assertEquals(device.backing.pending.length, MAX_FILL_READS);
  device.end(({ off }) => off === 9 * 4096);
  assert(device.under_way().includes(`read ${MAX_FILL_READS * 4096}+512`));
  device.settle();
  assertEquals(device.answered().length, count);
  for (const [i, slot] of slots.entries()) {
    assertEquals(device.bytesOf(slot), old(i * 4096, 512));
    engine.release(slot);
  }
  device.assertNothingHeld();
});

Deno.test("reads wait for transfer buffers, and go on when replies have left", () => {
  const device = new HandDevice({ buffer_bytes: 64 * KIB });
  const { engine } = device;
  const len = engine.max_request_bytes;
  assertEquals(len, 32 * KIB);
  const slots = Array.from({ length: 5 }, (_, i) => engine.beginRead(i * MIB, len));
  device.pump();
  assertEquals(device.under_way(), ["read 0+32768", "read 1048576+32768"]);
  assertEquals(engine.counters.waited, 3);
  const seen: number[] = [];
  while (seen.length < slots.length) {
    device.settle();
    const answered = device.answered();
    assert(answered.length > 0, "the next read goes on when a buffer is free");
    for (const slot of answered) {
      assertEquals(device.bytesOf(slot), old(slots.indexOf(slot) * MIB, len));
      engine.release(slot);
      seen.push(slot);
    }
  }
  device.assertNothingHeld();
});

Deno.test("a long miss that waits for buffers is not overtaken by short ones, only by hits", () => {
  const device = new HandDevice({ buffer_bytes: 64 * KIB });
  const { engine } = device;
  assertEquals(device.write(8 * MIB, content(1, 4 * KIB)), 0);
  const first = [engine.beginRead(0, 32 * KIB), engine.beginRead(1 * MIB, 16 * KIB)];
  const long = engine.beginRead(2 * MIB, 32 * KIB);
  const short = engine.beginRead(3 * MIB, 4 * KIB); // there is room for it
  const hit = engine.beginRead(8 * MIB, 4 * KIB);
  const shared = engine.beginRead(0, 4 * KIB); // waits for the first
  device.pump();
  assertEquals(device.under_way(), ["read 0+32768", "read 1048576+16384"]);
  assertEquals(device.answered(), [hit]);
  device.end();
  device.end();
  assertEquals(device.answered().toSorted(), [...first, shared].toSorted());
  for (const slot of [...first, shared]) engine.release(slot);
  device.pump();
  const offs = device.backing.pending.map(({ off }) => Math.floor(off / MIB));
  assertEquals([...new Set(offs)], [2, 3], "the long one, perhaps in parts, then the short one");
  device.settle();
  assertEquals(device.answered().toSorted(), [long, short].toSorted());
});

Deno.test("a hit needs no transfer buffer", () => {
  const device = new HandDevice({ buffer_bytes: 64 * KIB });
  const { engine } = device;
  assertEquals(device.write(8 * MIB, content(1, 4 * KIB)), 0);
  for (let i = 0; i < 3; i++) engine.beginRead(i * MIB, engine.max_request_bytes);
  const hit = engine.beginRead(8 * MIB, 4 * KIB);
  device.pump();
  assertEquals(device.answered(), [hit]);
});

Deno.test("what the cache has no room for is answered all the same, and not kept", () => {
  const device = new HandDevice({ segments: 6 });
  const { engine } = device;
  // Payloads on their way hold all the space there is for data.
  while (engine.counters.waited === 0) engine.beginWrite(0, 32 * KIB, false);
  device.placed();
  const read = engine.beginRead(
    8 * MIB,
    256 * KIB < engine.max_request_bytes ? 256 * KIB : 64 * KIB,
  );
  device.pump();
  while (device.backing.pending.length > 0) device.end();
  assertEquals(device.answered(), [read]);
  assertEquals(device.bytesOf(read), old(8 * MIB, 64 * KIB));
  assert(engine.counters.fills_not_kept > 0);
  assert(
    !layout(device, 8 * MIB, MIB).some((part) => part.startsWith("waits")),
    "no placeholder stays",
  );
});

Deno.test("with data_crc, what was read is kept in keys of 64 KiB", () => {
  const device = new HandDevice({ data_crc: true });
  assertEquals(device.read(0, 200 * KIB).bytes, old(0, 200 * KIB));
  assertEquals(layout(device, 0, 200 * KIB), [
    "clean 0+128",
    "clean 128+128",
    "clean 256+128",
    "clean 384+16",
  ]);
});

/** Cache modes, through the engine: when a write is answered, what reaches the backing device and when, what is kept. */

import { assert, assertEquals } from "@std/assert";
import { content, HandDevice } from "../tests/hand_device.ts";
import { CACHE_MODES } from "./cache_mode.ts";
import { EIO } from "./errors.ts";
import { inspectCache, prepareCache } from "./media.ts";
import { Engine } from "./engine.ts";

const KIB = 1024;

function release(device: HandDevice, slots: number[]): void {
  for (const slot of slots) device.engine.release(slot);
}

/** What a backing device under the cache holds of a range. */
function backed(device: HandDevice, off: number, len: number): Uint8Array {
  return device.backing.bytes.slice(off, off + len);
}

Deno.test("the mode is stored with the cache, and kept unless another one is asked for", () => {
  for (const mode of CACHE_MODES) {
    const device = new HandDevice({ cache_mode: mode });
    assertEquals(device.engine.cache_mode, mode);
    device.settle();
    const { memory, backing, options } = device;
    const open = (more: object) => {
      const cache = prepareCache(
        memory,
        inspectCache(memory, { ...options, cache_mode: "writeonly" }),
      );
      return Engine.open({ memory, backing, cache, now_ms: 0, ...more });
    };
    assertEquals(open({}).cache_mode, mode);
    const before = memory.cache.slice();
    const changed = open({ cache_mode: "writethrough" });
    assertEquals(
      [changed.cache_mode, memory.cache],
      ["writethrough", before],
      "opening writes nothing",
    );
    device.engine = changed;
    device.settle();
    assertEquals(open({}).cache_mode, "writethrough");
    assertEquals((changed.status().cache_flags >>> 2) & 0xf, 1);
  }
});

Deno.test("writethrough: the key is durable before the backing device is written, and that before the answer", () => {
  const device = new HandDevice({ cache_mode: "writethrough" });
  const slot = device.beginWhole(8 * KIB, content(1, 4 * KIB));
  assertEquals([device.answered(), device.under_way()], [[], []], "the log comes first");
  device.endBarrier();
  assertEquals(device.under_way(), []);
  device.endBarrier();
  assertEquals([device.answered(), device.under_way()], [[], ["write 8192+4096"]]);
  device.end();
  assertEquals(device.answered(), [slot]);
  assertEquals(backed(device, 8 * KIB, 4 * KIB), content(1, 4 * KIB));
  assertEquals(device.under_way(), [], "nobody waits for a flush");
});

Deno.test("writethrough: writes that follow each other share a flush, which comes when it is asked for, or after a second", () => {
  const device = new HandDevice({ cache_mode: "writethrough", barrier_is_cheap: true });
  for (let i = 0; i < 5; i++) {
    const slot = device.beginWhole(i * 4 * KIB, content(i, 4 * KIB));
    device.settle();
    assertEquals(device.answered(), [slot]);
    release(device, [slot]);
  }
  assertEquals(device.backing.ended, { read: 0, write: 5, zero: 0, flush: 0 });
  assert(device.engine.counters.dirty_bytes > 0, "it is dirty until it is flushed");
  const flush = device.engine.beginFlush();
  device.pump();
  assertEquals(device.under_way(), ["flush 0+0"]);
  device.settle();
  assertEquals(device.answered(), [flush]);
  assertEquals([device.backing.ended.flush, device.engine.counters.dirty_bytes], [1, 0]);
  release(device, [flush]);

  const held = device.beginWhole(0, content(9, 512));
  device.settle();
  assertEquals([device.answered(), device.backing.ended.flush], [[held], 1]);
  device.now_ms += 1000; // a client that does not release its answer is no reason to wait longer
  device.settle();
  assertEquals(device.backing.ended.flush, 2);
});

Deno.test("writethrough: FUA, zeroing and trimming are on the backing device when they are answered", () => {
  const device = new HandDevice({ cache_mode: "writethrough" });
  const fua = device.beginWhole(0, content(1, 4 * KIB), true);
  device.endBarrier();
  device.endBarrier();
  device.end(({ kind }) => kind === "write");
  assertEquals([device.answered(), device.under_way()], [[], ["flush 0+0"]]);
  device.settle();
  assertEquals(device.answered(), [fua]);
  release(device, [fua]);
  assertEquals(device.zero(KIB, 2 * KIB), 0);
  assertEquals(backed(device, KIB, 2 * KIB), new Uint8Array(2 * KIB));
  assertEquals(device.zero(512, 512, true, true), 0);
  assertEquals(backed(device, 512, 512), new Uint8Array(512));
  assertEquals(device.write(100, content(2, 300)), 0);
  assertEquals(backed(device, 100, 300), content(2, 300));
});

Deno.test("writethrough: what the backing device refuses is an error, and stays dirty in the cache", () => {
  const device = new HandDevice({ cache_mode: "writethrough" });
  device.backing.fault = (kind, off) => kind === "write" && off === 4 * KIB ? EIO : 0;
  assertEquals(device.write(4 * KIB, content(1, 4 * KIB)), EIO);
  assertEquals(device.write(64 * KIB, content(2, 4 * KIB)), 0);
  assertEquals(device.read(4 * KIB, 4 * KIB).bytes, content(1, 4 * KIB));
  device.backing.fault = () => 0;
  device.drain();
  assertEquals(backed(device, 4 * KIB, 4 * KIB), content(1, 4 * KIB));
});

Deno.test("writethrough: a flush of the backing device that fails is an error of every flush that waits", () => {
  const device = new HandDevice({ cache_mode: "writethrough" });
  assertEquals(device.write(0, content(1, 4 * KIB)), 0);
  device.backing.fault = (kind) => kind === "flush" ? EIO : 0;
  assertEquals(device.flush(), EIO);
  device.backing.fault = () => 0;
  assertEquals(device.flush(), 0, "the batch was written again");
  assertEquals(device.engine.counters.backing_flush_errors, 1);
});

Deno.test("a change to writethrough: what is dirty is written back, requests wait a little, the promise holds then", () => {
  const device = new HandDevice({ barrier_is_cheap: true });
  const { engine } = device;
  for (let i = 0; i < 100; i++) assertEquals(device.write(i * 4 * KIB, content(i, 4 * KIB)), 0);
  assertEquals(engine.is_mode_settled, true);
  engine.setCacheMode("writethrough");
  assertEquals(engine.is_mode_settled, false);
  const first = device.beginWhole(0, content(500, 4 * KIB));
  assert(engine.counters.dirty_bytes > 0 && backed(device, 0, 4)[0] !== content(500, 4)[0]);
  device.settle();
  assertEquals(device.answered(), [first]);
  release(device, [first]);
  assertEquals([device.flush(), engine.is_mode_settled], [0, true]);
  device.settle();
  assertEquals(engine.counters.dirty_bytes, 0);
  for (let i = 1; i < 100; i++) {
    assertEquals(backed(device, i * 4 * KIB, 4 * KIB), content(i, 4 * KIB));
  }
  assertEquals(backed(device, 0, 4 * KIB), content(500, 4 * KIB));
});

Deno.test("writearound: what the cache does not hold goes straight to the backing device, and nothing is logged", () => {
  const device = new HandDevice({ cache_mode: "writearound" });
  device.settle();
  const { engine } = device;
  const used = engine.status().segs_used;
  const slot = device.beginWhole(8 * KIB, content(1, 8 * KIB));
  assertEquals([device.answered(), device.under_way()], [[], ["write 8192+8192"]]);
  device.settle();
  assertEquals(device.answered(), [slot]);
  release(device, [slot]);
  assertEquals([engine.status().segs_used, engine.counters.dirty_bytes], [used, 0]);
  assertEquals(engine.counters.around_bytes, 8 * KIB);
  const flush = engine.beginFlush();
  device.pump();
  assertEquals(device.under_way(), ["flush 0+0"]);
  device.settle();
  assertEquals(device.answered(), [flush]);
  release(device, [flush]);
  assertEquals(device.flush(), 0);
  assertEquals(device.backing.ended.flush, 1, "nothing went around since");
  assertEquals(device.read(8 * KIB, 8 * KIB).bytes, content(1, 8 * KIB));
  device.assertNothingHeld();
});

Deno.test("writearound: what the cache holds is logged, and written through", () => {
  const device = new HandDevice({ cache_mode: "writearound" });
  device.settle();
  device.read(0, 4 * KIB); // a clean copy
  assertEquals(device.write(2 * KIB, content(1, 4 * KIB)), 0);
  assertEquals(device.engine.counters.around_bytes, 0);
  const reads = device.backing.ended.read;
  assertEquals(device.read(2 * KIB, 4 * KIB).bytes, content(1, 4 * KIB));
  assertEquals(device.backing.ended.read, reads, "a hit");
  assertEquals(backed(device, 2 * KIB, 4 * KIB), content(1, 4 * KIB));
  assertEquals(device.write(64 * KIB + 7, content(2, 100)), 0, "a part of a sector");
  assertEquals(backed(device, 64 * KIB + 7, 100), content(2, 100));
});

Deno.test("writearound: readers wait for a write under way, and see it", () => {
  const device = new HandDevice({ cache_mode: "writearound" });
  device.settle();
  const write = device.beginWhole(0, content(1, 4 * KIB));
  const read = device.engine.beginRead(KIB, 8 * KIB);
  device.pump();
  assertEquals([device.answered(), device.under_way()], [[], ["read 4096+5120", "write 0+4096"]]);
  device.settle();
  assertEquals(device.answered().sort(), [write, read].sort());
  assertEquals(device.bytesOf(read).slice(0, 3 * KIB), content(1, 4 * KIB).slice(KIB));
  release(device, [write, read]);
  device.assertNothingHeld();
});

Deno.test("writearound: a copy that comes while the payload is on its way has the write logged", () => {
  const device = new HandDevice({ cache_mode: "writearound" });
  device.settle();
  const { engine } = device;
  const slot = engine.beginWrite(0, 4 * KIB, false);
  assertEquals(device.placed(), [slot]);
  device.receive(slot, content(1, 4 * KIB));
  assertEquals(device.read(0, 2 * KIB).bytes, content(0, 2 * KIB));
  engine.payloadArrived(slot);
  device.settle();
  assertEquals(device.answered(), [slot]);
  release(device, [slot]);
  assertEquals([engine.counters.around_bytes, device.read(0, 4 * KIB).bytes], [
    0,
    content(1, 4 * KIB),
  ]);
  assertEquals(backed(device, 0, 4 * KIB), content(1, 4 * KIB));
  device.assertNothingHeld();
});

Deno.test("writearound: what is read before it is flushed is dirty, and clean when it was", () => {
  for (const is_flushed of [false, true]) {
    const device = new HandDevice({ cache_mode: "writearound" });
    device.settle();
    assertEquals(device.write(0, content(1, 4 * KIB)), 0);
    if (is_flushed) assertEquals(device.flush(), 0);
    const read = device.engine.beginRead(0, 4 * KIB);
    device.pump();
    device.end(({ kind }) => kind === "read");
    assertEquals(device.answered(), [read]);
    assertEquals(device.engine.counters.dirty_bytes, is_flushed ? 0 : 4 * KIB);
  }
});

Deno.test("writearound: an error of the backing device is the write's; a payload that is lost holds nothing", () => {
  const device = new HandDevice({ cache_mode: "writearound" });
  device.settle();
  device.backing.fault = (kind) => kind === "write" ? EIO : 0;
  assertEquals(device.write(0, content(1, 4 * KIB)), EIO);
  device.backing.fault = () => 0;
  for (let i = 0; i < 10_000; i++) {
    const slot = device.engine.beginWrite(0, 256 * KIB, false);
    if (i % 2 === 0) assertEquals(device.placed(), [slot]);
    device.engine.payloadLost(slot);
    device.placed();
  }
  assertEquals(device.write(0, content(2, 4 * KIB)), 0);
  assertEquals(device.read(0, 4 * KIB).bytes, content(2, 4 * KIB));
  device.assertNothingHeld();
});

Deno.test("writearound: payloads that do not come leave half of the buffers to readers", () => {
  const device = new HandDevice({ cache_mode: "writearound", buffer_bytes: 1024 * KIB });
  device.settle();
  const slots = Array.from(
    { length: 6 },
    (_, i) => device.engine.beginWrite(i * 256 * KIB, 128 * KIB, false),
  );
  device.pump();
  assertEquals(device.placed(), slots, "those that find no buffers are to be logged");
  assertEquals(device.read(4096 * KIB, 400 * KIB).bytes, content(0, 4496 * KIB).slice(4096 * KIB));
});

Deno.test("writeonly: writes are cached, and what is read from the backing device is not", () => {
  const device = new HandDevice({ cache_mode: "writeonly" });
  device.read(0, 4 * KIB);
  device.read(0, 4 * KIB);
  assertEquals(device.backing.ended.read, 2);
  assertEquals(device.write(0, content(1, 4 * KIB)), 0);
  assertEquals(device.read(0, 4 * KIB).bytes, content(1, 4 * KIB));
  assertEquals([device.backing.ended.read, device.backing.ended.write], [2, 0]);
});

for (const mode of ["writethrough", "writearound"] as const) {
  Deno.test(`${mode}: a clean stop leaves nothing dirty`, () => {
    const device = new HandDevice({ cache_mode: mode });
    device.settle();
    for (let i = 0; i < 20; i++) assertEquals(device.write(i * KIB, content(i, 4 * KIB)), 0);
    device.engine.close();
    device.settle();
    assertEquals(device.engine.isClosed(), true);
    assertEquals(device.engine.counters.dirty_bytes, 0);
    const { dirty_tail, key_head } = device.engine.status();
    assertEquals(dirty_tail, key_head);
  });
}

Deno.test("writearound: a clean stop flushes what went around the cache", () => {
  const device = new HandDevice({ cache_mode: "writearound" });
  device.settle();
  assertEquals(device.write(0, content(1, 4 * KIB)), 0);
  assertEquals(device.engine.counters.around_bytes, 4 * KIB);
  const { flush } = device.backing.ended;
  device.engine.close();
  assertEquals(device.engine.isClosed(), false);
  device.settle();
  assertEquals(device.engine.isClosed(), true);
  assertEquals(device.backing.ended.flush, flush + 1);
});

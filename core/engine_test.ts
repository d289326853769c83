import { assert, assertEquals, assertThrows } from "@std/assert";
import { content, HandDevice } from "../tests/hand_device.ts";
import { SmallDevice } from "../tests/small_device.ts";
import { CacheError, EIO } from "./errors.ts";
import { DATA_OFF_BYTES, ksetBytes, putU32, SEGMENTS_ADDR } from "./format.ts";

const MIB = 1024 * 1024;

Deno.test("the status of a fresh cache, and after a write", () => {
  const device = new SmallDevice({ segments: 20, data_crc: true });
  const fresh = {
    sb_flags: 0,
    seg_total: 20,
    cache_segs: 20,
    segs_used: 1,
    gc_percent: 70,
    cache_flags: 1 | 2 | 70 << 6,
    key_head: { seg: 0, off: 0 },
    dirty_tail: { seg: 0, off: 0 },
    key_tail: { seg: 0, off: 0 },
  };
  assertEquals(device.engine.status(), fresh);
  device.write(0, content(1, 4096));
  device.flush();
  const written = { ...fresh, segs_used: 2, key_head: { seg: 0, off: ksetBytes(1) } };
  assertEquals(device.engine.status(), written);
  assertEquals(device.engine.counters.dirty_bytes, 4096);
  device.drain();
  const { dirty_tail, key_tail } = device.engine.status();
  assertEquals([dirty_tail, key_tail], [written.key_head, fresh.key_tail]);
  assertEquals(device.engine.counters.dirty_bytes, 0);
});

Deno.test("an engine that is opened stores nothing on an existing cache", () => {
  const device = new SmallDevice();
  device.write(0, content(1, 4096));
  device.flush();
  const before = device.memory.cache.slice();
  device.reopen();
  assertEquals(device.memory.cache, before);
});

Deno.test("gc_percent: 0..90, kept over a re-open, two changes never closer than a barrier", () => {
  const device = new HandDevice();
  for (const wrong of [-1, 91, 1.5, NaN, Infinity]) {
    assertThrows(() => device.engine.setGcPercent(wrong), CacheError, "but it must be 0..90");
  }
  device.engine.setGcPercent(10);
  device.engine.setGcPercent(20);
  device.engine.setGcPercent(30);
  device.engine.pump(0);
  assertEquals(device.engine.status().gc_percent, 10, "20 and 30 wait for the barrier");
  device.endBarrier();
  assertEquals(device.engine.status().gc_percent, 30);
  device.settle();
  device.reopen();
  assertEquals(device.engine.status().gc_percent, 30);
});

Deno.test("close commits what is staged, and waits for what is under way", () => {
  const device = new HandDevice();
  const { engine } = device;
  assertEquals(device.write(0, content(1, 4096)), 0);
  engine.setGcPercent(50);
  assertEquals(engine.isClosed(), false, "nobody has asked");
  engine.close();
  engine.pump(0);
  for (let barriers = 0; !engine.isClosed(); barriers++) {
    assert(device.memory.barrier_is_under_way && barriers < 4, `${barriers} barriers`);
    device.endBarrier();
  }
  assertEquals(engine.status().key_head, { seg: 0, off: ksetBytes(1) });
  device.reopen();
  assertEquals(device.engine.counters.dirty_bytes, 4096, "dirty data stays dirty");
  assertEquals(device.engine.status().gc_percent, 50);
  assertEquals(device.read(0, 4096).bytes, content(1, 4096));
});

Deno.test("close starts no write-back, and ends the one under way", () => {
  const idle = new HandDevice();
  idle.write(0, content(1, 4096));
  idle.engine.close();
  idle.now_ms += 10_000;
  idle.settle();
  assertEquals([idle.engine.isClosed(), idle.backing.ended.write], [true, 0]);
  assertEquals(idle.engine.nextTimerMs(idle.now_ms), Infinity);

  const busy = new HandDevice();
  const { engine, backing } = busy;
  busy.write(0, content(1, 4096));
  engine.setDraining(true);
  engine.pump(0);
  busy.endBarrier();
  busy.endBarrier();
  assertEquals(backing.pending.map(({ kind }) => kind), ["write"]);
  engine.setDraining(false);
  engine.close();
  engine.pump(0);
  assertEquals(engine.isClosed(), false);
  busy.settle();
  assertEquals([engine.isClosed(), engine.isClean()], [true, true]);
});

for (const ended of [0, 1, 2]) {
  Deno.test(`a cache device that fails at barrier ${ended + 1}: writes and flushes are errors, reads go on, close ends`, () => {
    const device = new HandDevice();
    const { engine, memory } = device;
    assertEquals(device.write(0, content(1, 4096)), 0);
    const flush = engine.beginFlush();
    engine.setDraining(true);
    engine.pump(0);
    for (let n = 0; n < ended; n++) device.endBarrier();
    while (device.backing.pending.length > 0) device.end();
    assert(memory.barrier_is_under_way);
    device.endBarrier(EIO);
    assertEquals([engine.has_failed, engine.isClosed()], [true, false]);
    assertEquals(engine.error(flush), ended < 2 ? EIO : 0);
    assertEquals(device.answered(), [flush]);

    const late = [engine.beginWrite(0, 512, false), engine.beginFlush()];
    engine.pump(0);
    assertEquals(late.map((slot) => engine.error(slot)), [EIO, EIO]);
    assertEquals(device.answered(), late);
    assertEquals(device.read(0, 4096), { errno: 0, bytes: content(1, 4096) });
    assertEquals(device.read(1 * MIB, 512).errno, 0);
    assertEquals(engine.nextTimerMs(60_000), Infinity, "nothing is due any more");
    engine.close();
    engine.pump(0);
    assertEquals(engine.isClosed(), true);
  });
}

for (const [what, at, word] of [["its magic", 8, 0], ["its number of keys", 4, 1e9]] as const) {
  Deno.test(`a kset that loses ${what} while the device runs fails the device, not the process`, () => {
    const device = new SmallDevice();
    device.write(0, content(1, 4096));
    device.flush();
    putU32(device.memory.bytes, SEGMENTS_ADDR + DATA_OFF_BYTES + at, word); // the first kset
    device.engine.setDraining(true);
    device.engine.pump(device.now_ms);
    assertEquals([device.engine.has_failed, device.engine.counters.log_damaged], [true, 1]);
    assertEquals(device.read(0, 4096), { errno: 0, bytes: content(1, 4096) });
    assertEquals(device.flush(), EIO);
    assertEquals(device.engine.nextTimerMs(60_000), Infinity);
  });
}

Deno.test("time is asked for only when there is something to do", () => {
  const device = new SmallDevice();
  const { engine } = device;
  assertEquals(engine.nextTimerMs(0), Infinity);
  device.write(0, content(1, 512));
  assertEquals(engine.nextTimerMs(0), 1000, "the kset's age");
  assertEquals(engine.nextTimerMs(400), 600);
  assertEquals(engine.nextTimerMs(5000), 0);
  device.flush();
  const wait_ms = engine.nextTimerMs(0);
  assert(wait_ms > 0 && wait_ms <= 1000, `write-back in ${wait_ms} ms`);
  device.drain();
  assertEquals(engine.nextTimerMs(0), Infinity);
});

Deno.test("without a flush, a write is durable after a second, and on the backing device soon after", () => {
  const device = new SmallDevice();
  device.write(0, content(1, 4096));
  device.runUntil("it is written back", () => device.engine.isClean());
  assert(device.now_ms >= 1000 && device.now_ms <= 3000, `${device.now_ms} ms`);
  assertEquals(device.backing.bytes.slice(0, 4096), content(1, 4096));
});

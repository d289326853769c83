import { assert, assertEquals, assertThrows } from "@std/assert";
import { fillFor } from "../tests/random.ts";
import { SmallDevice } from "../tests/small_device.ts";
import { CacheError } from "./errors.ts";

const KIB = 1024;
const MIB = 1024 * KIB;

/** Writes `count` pieces of 64 KiB, 128 KiB apart so that they are not merged. */
function write(device: SmallDevice, count: number): void {
  for (let i = 0; i < count; i++) {
    const bytes = new Uint8Array(64 * KIB);
    fillFor(i + 1, bytes);
    assertEquals(device.write((i % 100) * 128 * KIB, bytes), 0);
  }
}

/** Lets time go on, with everything under way ending at once; returns what the backing device was given to write. */
function pass(device: SmallDevice, ms: number): number {
  const before = device.backing.ended.write;
  const end_ms = device.now_ms + ms;
  for (; device.now_ms <= end_ms; device.now_ms += 5) {
    do device.engine.pump(device.now_ms); while (
      device.backing.endOne((id, errno) => device.engine.backingDone(id, errno))
    );
  }
  return (device.backing.ended.write - before) * 64 * KIB;
}

Deno.test("write-back keeps to its rate, and sleeps until it may go on", () => {
  const device = new SmallDevice();
  write(device, 60);
  device.engine.setWritebackRate(512 * KIB);
  const written = pass(device, 4000);
  assert(written >= 1.5 * MIB && written <= 2.5 * MIB, `${written} bytes in four seconds`);
  const sleep_ms = device.engine.nextTimerMs(device.now_ms);
  assert(sleep_ms <= 130, `one piece at the rate takes 125 ms, not ${sleep_ms}`);
  device.engine.setWritebackRate(Infinity);
  pass(device, 1000);
  assertEquals(device.engine.counters.dirty_bytes, 0);
});

Deno.test("paused write-back writes nothing by itself, and all of it for who waits", () => {
  const device = new SmallDevice();
  device.engine.setWritebackRate(0);
  assertEquals(device.engine.writeback_rate, 0);
  write(device, 20);
  assertEquals(pass(device, 20_000), 0);
  device.drain();
  assertEquals(device.engine.counters.dirty_bytes, 0);
  write(device, 400); // three times what the cache holds: requests wait, and are answered
  assertEquals(device.read(0, 64 * KIB).errno, 0);
});

Deno.test("a batch that is held back does not keep the cache from closing", () => {
  const device = new SmallDevice();
  write(device, 30);
  device.engine.setWritebackRate(64 * KIB);
  assert(pass(device, 2000) > 0);
  device.engine.setWritebackRate(0);
  pass(device, 100);
  device.engine.close();
  device.runUntil("it is closed", () => device.engine.isClosed());
});

Deno.test("a rate under a page a second is refused", () => {
  const device = new SmallDevice();
  for (const rate of [-1, 1, 4095, 5000.5, NaN]) {
    assertThrows(() => device.engine.setWritebackRate(rate), CacheError, "must be 4096 bytes");
  }
  device.engine.setWritebackRate(4096);
});

/** Eviction, through the engine: what GC carries to the head, and what it does not. */

import { assert, assertEquals } from "@std/assert";
import { content, HandDevice } from "../tests/hand_device.ts";
import { MAIN } from "./segments.ts";

const KIB = 1024;
const BLOCK = 16 * KIB;

/** A device of 16 segments of 256 KiB, of which GC lets 8 be held. */
function makeDevice(data_crc = true): HandDevice {
  const device = new HandDevice({ barrier_is_cheap: true, data_crc });
  device.engine.setGcPercent(50);
  device.engine.setEviction("reinsert");
  return device;
}

function read(device: HandDevice, block: number): Uint8Array {
  const { errno, bytes } = device.read(block * BLOCK, BLOCK);
  assertEquals(errno, 0);
  return bytes;
}

/** Whether a read of the block is answered without the backing device. */
function isHit(device: HandDevice, block: number): boolean {
  const before = device.backing.ended.read;
  read(device, block);
  return device.backing.ended.read === before;
}

let scanned = 0;

/** Reads blocks that nobody reads again for long, `count` of them. */
function scan(device: HandDevice, count: number): void {
  for (let i = 0; i < count; i++) {
    read(device, 200 + scanned++ % 800);
    device.now_ms += 1000; // the log is committed, write-back passes it
    device.settle();
  }
}

for (const data_crc of [false, true]) {
  Deno.test(`a scan goes through, and what is read again and again stays, data_crc ${data_crc}`, () => {
    const device = makeDevice(data_crc);
    for (let n = 0; n < 30; n++) {
      for (const hot of [1, 2, 3]) {
        assertEquals(
          read(device, hot),
          content(0, 16 * 1024 * KIB).slice(hot * BLOCK, (hot + 1) * BLOCK),
        );
      }
      scan(device, 20);
    }
    const { carried_bytes, fills } = device.engine.counters;
    assert(carried_bytes > 0 && carried_bytes < fills * BLOCK / 4, `${carried_bytes} carried`);
    assertEquals([1, 2, 3].map((block) => isHit(device, block)), [true, true, true]);
    device.engine.setEviction("fifo");
    scan(device, 300);
    assertEquals([1, 2, 3].map((block) => isHit(device, block)), [false, false, false]);
    assertEquals(device.engine.counters.carried_bytes, carried_bytes);
  });
}

Deno.test("what moves to the main part keeps the hits beyond those that it needed", () => {
  const device = makeDevice();
  const { index, segments } = device.engine;
  scan(device, 140); // GC has given space back before
  const hitsInMain = (hot: number) => {
    const extent = index.holds(hot * BLOCK / 512);
    return extent >= 0 && segments.part(index.segment(extent)) === MAIN ? index.hits(extent) : -1;
  };
  for (const [hot, touches] of [[1, 1], [2, 2], [3, 3], [4, 9]] as const) {
    for (let n = 0; n <= touches; n++) read(device, hot);
  }
  for (let n = 0; n < 400 && hitsInMain(4) < 0; n++) scan(device, 1);
  assertEquals(
    [1, 2, 3, 4].map(hitsInMain),
    [0, 0, 1, 1],
    "one touch is enough while there is room",
  );
});

Deno.test("GC does not wait for a pause of the requests: the cache holds little more than it may", () => {
  const device = makeDevice();
  let most_held = 0;
  for (let n = 0; n < 400; n++) {
    device.now_ms += 150; // five seconds bring eight segments
    assertEquals(device.read((n * 64 % 8192) * KIB, 64 * KIB).errno, 0);
    device.settle();
    if (n > 50) most_held = Math.max(most_held, device.engine.segments.held);
  }
  assert(most_held <= 11, `${most_held} segments`);
});

Deno.test("when everything is hot, GC still gives space back", () => {
  const device = makeDevice();
  for (let n = 0; n < 600; n++) {
    for (let times = 0; times < 4; times++) read(device, n % 200);
    device.now_ms += 1000;
    device.settle();
  }
  const { segments_freed, fills_not_kept } = device.engine.counters;
  assert(segments_freed > 20, `${segments_freed} freed`);
  assertEquals(fills_not_kept, 0);
});

Deno.test("what was overwritten is not carried, and what is dirty comes to the backing device", () => {
  const device = makeDevice();
  for (let n = 0; n < 12; n++) {
    for (let times = 0; times < 3; times++) read(device, 7);
    assertEquals(device.write(7 * BLOCK + 512, content(n, 512)), 0);
    scan(device, 40);
    assertEquals(read(device, 7).slice(512, 1024), content(n, 512));
  }
  device.drain();
  const from = 7 * BLOCK + 512;
  assertEquals(device.backing.bytes.slice(from, from + 512), content(11, 512));
});

Deno.test("what stays where it is is logged again, and is there after a restart", () => {
  for (const data_crc of [false, true]) {
    const device = makeDevice(data_crc);
    for (let n = 0; n < 60; n++) {
      for (const hot of [1, 2, 3]) read(device, hot);
      scan(device, 4);
      // A part of a key stays, too.
      if (n === 30) assertEquals(device.write(2 * BLOCK + 1024, content(9, 512)), 0);
    }
    const { kept_keys, carried_bytes } = device.engine.counters;
    assert(kept_keys * BLOCK > carried_bytes, `${kept_keys} keys, ${carried_bytes} bytes`);
    device.flush();
    device.reopen();
    assertEquals([1, 2, 3].map((block) => isHit(device, block)), [true, true, true]);
    assertEquals(read(device, 2).slice(1024, 1536), content(9, 512));
    assertEquals(read(device, 3), content(0, 4 * BLOCK).slice(3 * BLOCK));
    assertEquals(device.engine.counters.checksum_failures, 0);
  }
});

Deno.test("with nothing to do GC comes to rest, whatever is held", () => {
  const device = makeDevice();
  device.engine.setGcPercent(0);
  for (let n = 0; n < 40; n++) {
    for (let times = 0; times < 3; times++) read(device, n % 10);
  }
  device.flush();
  device.drain();
  const { kept_keys } = device.engine.counters;
  for (let n = 0; n < 100; n++) {
    device.now_ms += 1000;
    device.settle();
  }
  const { kept_keys: later } = device.engine.counters;
  assert(later < kept_keys + 100, `${kept_keys} keys, then ${later}`);
  assertEquals(device.engine.isClean(), true);
});

Deno.test("after a restart what was carried is there", () => {
  const device = makeDevice();
  for (let n = 0; n < 20; n++) {
    for (let times = 0; times < 2; times++) read(device, 5);
    scan(device, 20);
  }
  assert(device.engine.counters.carried_bytes > 0);
  device.flush();
  device.reopen();
  assertEquals(device.engine.eviction, "fifo", "it is the table's to say");
  assertEquals(isHit(device, 5), true);
});

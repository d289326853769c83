/** Write-back, through the engine: what reaches the backing device, when, and in which order. */

import { SmallDevice } from "../tests/small_device.ts";
import { assert, assertEquals } from "@std/assert";
import { content, HandDevice } from "../tests/hand_device.ts";
import { Random, seedOr } from "../tests/random.ts";
import { EIO } from "./errors.ts";
import { ksetBytes } from "./format.ts";

const KIB = 1024;
const MIB = 1024 * KIB;
const OLD = content(0, 16 * MIB);

/** Writes, and lets everything end but write-back. */
function write(device: HandDevice, off: number, bytes: Uint8Array): void {
  const slot = device.beginWhole(off, bytes);
  assertEquals(device.answered(), [slot]);
  device.engine.release(slot);
}

/** Makes what was written durable. */
function commit(device: HandDevice): void {
  const slot = device.engine.beginFlush();
  device.pump();
  while (device.memory.barrier_is_under_way) device.endBarrier();
  assertEquals(device.answered(), [slot]);
  device.engine.release(slot);
}

/** Begins to write everything back, as far as it goes without an end of anything. */
function drain(device: HandDevice): void {
  device.engine.setDraining(true);
  device.pump();
}

Deno.test("nothing is written back before its kset is durable", () => {
  const device = new HandDevice();
  write(device, 0, content(1, 4096));
  drain(device);
  assertEquals(device.under_way(), []);
  device.endBarrier();
  assertEquals(device.under_way(), []);
  device.endBarrier();
  assertEquals(device.under_way(), ["write 0+4096"]);
});

Deno.test("write, flush, dirty tail: each begins when the one before has ended", () => {
  const device = new HandDevice();
  const { engine } = device;
  write(device, 0, content(1, 4096));
  write(device, 1 * MIB, content(2, 4096));
  commit(device);
  drain(device);
  assertEquals(device.under_way(), ["write 0+4096", "write 1048576+4096"]);
  device.end();
  assertEquals(device.under_way().length, 1, "the flush waits for every write");
  device.end();
  assertEquals(device.under_way(), ["flush 0+0"]);
  assertEquals([engine.status().dirty_tail, device.memory.barrier_is_under_way], [{
    seg: 0,
    off: 0,
  }, false]);
  device.end();
  assertEquals(engine.status().dirty_tail, { seg: 0, off: ksetBytes(2) });
  assertEquals([engine.isClean(), engine.counters.dirty_bytes], [false, 8192]);
  device.endBarrier();
  assertEquals([engine.isClean(), engine.counters.dirty_bytes], [true, 0]);
});

Deno.test("neighbours are written together, in whatever order they were written", () => {
  const device = new HandDevice();
  for (const i of [3, 0, 7, 5, 1, 6, 2, 4]) write(device, MIB + i * 4096, content(i + 1, 4096));
  write(device, 4 * MIB - 4096, content(20, 4096));
  write(device, 4 * MIB, content(21, 4096)); // neighbours over the end of a subtree
  commit(device);
  drain(device);
  assertEquals(device.under_way(), ["write 1048576+32768", "write 4190208+8192"]);
  device.settle();
  for (let i = 0; i < 8; i++) {
    const at = MIB + i * 4096;
    assertEquals(device.backing.bytes.slice(at, at + 4096), content(i + 1, 4096));
  }
});

Deno.test("of many versions only the newest is written", () => {
  const device = new HandDevice();
  for (let version = 1; version <= 10; version++) write(device, 0, content(version, 8192));
  write(device, 2048, content(11, 1024));
  commit(device);
  drain(device);
  assertEquals(device.under_way(), ["write 0+8192"]);
  device.settle();
  const want = content(10, 8192);
  want.set(content(11, 1024), 2048);
  assertEquals(device.backing.bytes.slice(0, 8192), want);
  const { writeback_bytes, writeback_key_bytes, writeback_batches } = device.engine.counters;
  assertEquals([writeback_bytes, writeback_key_bytes, writeback_batches], [
    8192,
    10 * 8192 + 1024,
    1,
  ]);
});

Deno.test("what was overwritten after the batch began is written as it was, then again", () => {
  const device = new HandDevice();
  write(device, 0, content(1, 4096));
  commit(device);
  drain(device);
  write(device, 0, content(2, 4096));
  device.end(({ kind }) => kind === "write");
  assertEquals(device.backing.bytes.slice(0, 4096), content(1, 4096));
  device.settle();
  assertEquals([device.backing.bytes.slice(0, 4096), device.engine.isClean()], [
    content(2, 4096),
    true,
  ]);
  assertEquals(device.backing.ended.write, 2);
});

Deno.test("clean data is not written", () => {
  const device = new HandDevice();
  const slot = device.engine.beginRead(0, 64 * KIB);
  device.pump();
  device.end();
  assertEquals(device.answered(), [slot]);
  write(device, 128 * KIB, content(1, 512));
  drain(device);
  device.settle();
  assertEquals([device.engine.isClean(), device.backing.ended.write], [true, 1]);
  assertEquals(device.engine.counters.writeback_bytes, 512);
});

Deno.test("no write is longer than 1 MiB, few are under way while requests come, more when much is dirty or it is drained, many when none come", () => {
  const device = new HandDevice({ segments: 60 });
  for (let i = 0; i < 24; i++) write(device, 2 * MIB + i * 128 * KIB, content(i + 1, 128 * KIB));
  for (let i = 0; i < 40; i++) write(device, 8 * MIB + i * 8192, content(i + 1, 4096));
  commit(device);
  const writes = () => device.under_way().filter((request) => request.startsWith("write"));
  while (writes().length === 0) { // until it has waited long enough
    write(device, 15 * MIB, content(99, 512));
    device.now_ms += 10;
    device.pump();
  }
  assertEquals(writes().length, 2);
  for (let i = 0; i < 40; i++) write(device, 9 * MIB + i * 128 * KIB, content(i + 1, 128 * KIB));
  assertEquals(writes().length, 4, "more than half of the cache is dirty");
  drain(device);
  assertEquals(writes().length, 4, "requests go before whoever waits for all of it");
  const aside = () => device.backing.pending.filter(({ is_aside }) => is_aside).length;
  assertEquals(aside(), 4, "requests do not wait for them to be handed over");
  device.now_ms += 20;
  device.pump();
  assertEquals([writes().length, aside()], [43, 4]);
  assert(writes().includes(`write ${2 * MIB}+${MIB}`), "the first of three");
  assert(device.backing.pending.every(({ len }) => len <= MIB));
});

Deno.test("write-back waits for a quiet moment, five seconds or much that is dirty at most", () => {
  const quiet = new HandDevice();
  write(quiet, 0, content(1, 512));
  commit(quiet);
  const wait_ms = quiet.engine.nextTimerMs(quiet.now_ms);
  assert(wait_ms > 0 && wait_ms <= 100, `${wait_ms} ms`);
  assertEquals(quiet.under_way(), []);
  quiet.now_ms += wait_ms;
  quiet.pump();
  assertEquals(quiet.under_way(), ["write 0+512"]);

  const busy = new HandDevice();
  write(busy, 0, content(1, 512));
  commit(busy);
  for (let turn = 0; busy.under_way().length === 0; turn++) {
    assert(turn <= 500, "five seconds have passed");
    busy.now_ms += 10;
    busy.pump();
    write(busy, 4096, content(turn, 512));
  }
  assertEquals(busy.under_way(), ["write 0+512"]);
  assert(busy.now_ms >= 4000, `${busy.now_ms} ms: requests kept coming`);

  const dirty = new HandDevice(); // time stands still
  for (let turn = 0; dirty.under_way().length === 0; turn++) {
    assert(turn <= 1000, `${dirty.engine.counters.dirty_bytes} bytes are dirty`);
    write(dirty, turn * 4096, content(turn, 4096));
    commit(dirty);
  }
  const all_bytes = 16 * (256 * KIB);
  assert(dirty.engine.counters.dirty_bytes >= 0.45 * all_bytes, "a burst is left alone");
});

Deno.test("a range that cannot be written stays dirty, through its new key, and its neighbours are written", () => {
  const device = new HandDevice();
  const { engine, backing } = device;
  backing.fault = (kind, off, len) => kind === "write" && off <= 4096 && off + len > 4096 ? EIO : 0;
  for (let i = 0; i < 3; i++) write(device, i * 4096, content(i + 1, 4096));
  commit(device);
  const { key_head } = engine.status();
  drain(device);
  device.settle();
  assertEquals(backing.bytes.slice(0, 4096), content(1, 4096));
  assertEquals(backing.bytes.slice(8192, 12288), content(3, 4096));
  assertEquals(backing.bytes.slice(4096, 8192), OLD.slice(4096, 8192));
  assertEquals([engine.isClean(), engine.counters.dirty_bytes], [false, 4096]);
  assert(engine.counters.writeback_relogged >= 1);
  assert(engine.status().dirty_tail.off >= key_head.off, "the tail has moved on");
  assert(engine.nextTimerMs(device.now_ms) > 0, "a pause before the next try");
  assertEquals(device.read(4096, 4096).bytes, content(2, 4096));

  device.reopen();
  device.memory.dropBarrier();
  assertEquals(device.engine.counters.dirty_bytes, 4096, "found again after a start");
  backing.fault = () => 0;
  drain(device);
  device.settle();
  assertEquals([device.engine.isClean(), backing.bytes.slice(4096, 8192)], [
    true,
    content(2, 4096),
  ]);
});

Deno.test("a flush that fails: the whole batch is written again", () => {
  const device = new HandDevice();
  const { engine, backing } = device;
  backing.fault = (kind) => kind === "flush" ? EIO : 0;
  write(device, 0, content(1, 4096));
  commit(device);
  drain(device);
  device.settle();
  assertEquals([engine.counters.backing_flush_errors, engine.counters.dirty_bytes], [1, 4096]);
  assertEquals(engine.status().dirty_tail, { seg: 0, off: 0 });
  const wait_ms = engine.nextTimerMs(device.now_ms);
  assert(wait_ms > 0 && wait_ms < 10_000, `${wait_ms} ms`);
  backing.fault = () => 0;
  backing.bytes.fill(0, 0, 4096); // what was not flushed may be lost
  device.now_ms += wait_ms;
  device.settle();
  assertEquals([engine.isClean(), backing.bytes.slice(0, 4096)], [true, content(1, 4096)]);
});

Deno.test("at any moment the backing device holds a prefix of the log, give or take the batch under way", () => {
  const random = new Random(seedOr(71));
  const device = new HandDevice({ segments: 40 });
  const blocks = 8;
  const most = 2000; // more than a batch
  const written: number[] = [];
  for (let version = 1; version <= most; version++) {
    const block = random.below(blocks);
    write(device, block * 512, content(version, 512));
    written.push(block);
    if (version % 7 === 0) commit(device);
  }
  const version_of = new Map<string, number>();
  for (let version = 1; version <= most; version++) {
    version_of.set(content(version, 512).join(), version);
  }
  const onBacking = (block: number) =>
    version_of.get(device.backing.bytes.slice(block * 512, block * 512 + 512).join()) ?? 0;
  drain(device);
  let flushed = 0;
  for (let turns = 0; !device.engine.isClean(); turns++) {
    assert(turns < 1000);
    const is_flush = device.backing.pending.some(({ kind }) => kind === "flush");
    if (is_flush) {
      // All of the batch is there: the versions are those of some moment.
      const versions = Array.from({ length: blocks }, (_, block) => onBacking(block));
      const moment = Math.max(...versions);
      const want = Array.from(
        { length: blocks },
        (_, block) => written.slice(0, moment).lastIndexOf(block) + 1,
      );
      assertEquals(versions, want, `at version ${moment}`);
      assert(moment >= flushed);
      flushed = moment;
    }
    if (device.memory.barrier_is_under_way) device.endBarrier();
    else device.end();
  }
  const { writeback_batches, writeback_bytes } = device.engine.counters;
  assert(writeback_batches >= 2, `${writeback_batches} batches`);
  assertEquals(
    writeback_bytes <= writeback_batches * blocks * 512,
    true,
    "each block once a batch",
  );
});

Deno.test("ksets of a single key each, as a flush after every write leaves them, go into one batch", () => {
  const device = new SmallDevice({ cheap: true });
  for (let i = 0; i < 200; i++) {
    assertEquals(device.write(i * 8192, new Uint8Array(4096).fill(i)), 0);
    assertEquals(device.flush(), 0);
  }
  device.drain();
  assertEquals(device.engine.counters.writeback_batches, 1);
  assertEquals(device.backing.ended.flush, 1);
});

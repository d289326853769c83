import { assert, assertEquals, assertThrows } from "@std/assert";
import { SMALL_GEOMETRY } from "../tests/log_builder.ts";
import { SimMemory } from "../tests/sim_memory.ts";
import { crc32c } from "./crc32c.ts";
import { CacheError } from "./errors.ts";
import {
  GENERATION_OFF_BYTES,
  INFO_ADDR,
  INFO_INIT_DONE,
  KEY_TAIL_ADDR,
  MAX_GENERATION,
  putU32,
  segmentAddr,
  SEGMENTS_ADDR,
} from "./format.ts";
import { CacheInfo, Generations, isNewer, PositionSlots } from "./slots.ts";

function emptyMemory(): SimMemory {
  return new SimMemory({ cache_bytes: SEGMENTS_ADDR + 4 * SMALL_GEOMETRY.segment_bytes });
}

function keyTail(memory: SimMemory): PositionSlots {
  return new PositionSlots(memory, KEY_TAIL_ADDR, "key tail");
}

/** Where the tail's two slots stand, as bytes. */
function tailSlots(memory: SimMemory): [string, string] {
  const hex = (at: number) => memory.bytes.slice(at, at + 16).toHex();
  return [hex(KEY_TAIL_ADDR), hex(KEY_TAIL_ADDR + 16)];
}

/** Writes a position slot by hand. */
function putPosition(memory: SimMemory, slot: number, seq: number, seg: number, off: number): void {
  const bytes = new Uint8Array(16);
  bytes[4] = seq;
  putU32(bytes, 8, seg);
  putU32(bytes, 12, off);
  putU32(bytes, 0, crc32c(bytes, 4, 16));
  memory.write(KEY_TAIL_ADDR + slot * 16, bytes, 16);
}

Deno.test("sequence numbers wrap", () => {
  assert(isNewer(1, 0) && !isNewer(0, 1));
  assert(isNewer(0, 255) && !isNewer(255, 0));
  assert(isNewer(100, 229) && !isNewer(229, 100));
  assert(isNewer(127, 0) && !isNewer(129, 0));
  assert(!isNewer(7, 7));
});

Deno.test("a position: none on an empty device, and the last one stored after any number of stores", () => {
  const memory = emptyMemory();
  assertEquals(keyTail(memory).load(), false);
  const tail = keyTail(memory);
  for (let i = 1; i <= 600; i++) {
    tail.store(i % 4, i * 8);
    const loaded = keyTail(memory);
    assert(loaded.load());
    assertEquals([loaded.seg, loaded.off], [i % 4, i * 8], `store ${i}`);
  }
});

Deno.test("a store leaves the latest copy alone, also right after a load", () => {
  const memory = emptyMemory();
  keyTail(memory).store(0, 0);
  for (let i = 1; i <= 300; i++) {
    const before = tailSlots(memory);
    const tail = keyTail(memory);
    tail.load();
    const [old_seg, old_off] = [tail.seg, tail.off];
    tail.store(1, i * 8);
    const after = tailSlots(memory);
    assertEquals(before.filter((slot, n) => slot !== after[n]).length, 1, "one slot changes");
    // The store is lost: the position from before is what is read.
    const changed = before.findIndex((slot, n) => slot !== after[n]);
    const lost = emptyMemory();
    lost.bytes.set(memory.bytes);
    lost.bytes.fill(0xee, KEY_TAIL_ADDR + changed * 16, KEY_TAIL_ADDR + changed * 16 + 16);
    const survivor = keyTail(lost);
    assert(survivor.load());
    assertEquals([survivor.seg, survivor.off], [old_seg, old_off]);
  }
});

Deno.test("a position: the newer valid slot counts, whichever it is", () => {
  const cases = [
    { seqs: [1, 2], want: 1 },
    { seqs: [2, 1], want: 0 },
    { seqs: [255, 0], want: 1 },
    { seqs: [0, 255], want: 0 },
    { seqs: [5, 5], want: 0 },
  ];
  for (const { seqs, want } of cases) {
    const memory = emptyMemory();
    putPosition(memory, 0, seqs[0]!, 0, 800);
    putPosition(memory, 1, seqs[1]!, 1, 808);
    const tail = keyTail(memory);
    assert(tail.load());
    assertEquals(tail.seg, want, `${seqs}`);
    // The newer one is damaged: the older one counts.
    memory.bytes[KEY_TAIL_ADDR + want * 16 + 9]! ^= 0x40;
    assert(tail.load());
    assertEquals(tail.seg, 1 - want, `${seqs}, damaged`);
  }
});

Deno.test("an unknown version is refused, not skipped", () => {
  const memory = emptyMemory();
  keyTail(memory).store(0, 0);
  const slot = memory.bytes.subarray(KEY_TAIL_ADDR, KEY_TAIL_ADDR + 16);
  for (
    const [at, message] of [[5, "version 1,"], [6, "reserved field 1,"], [
      7,
      "reserved field 256,",
    ]] as const
  ) {
    slot[at] = 1;
    putU32(slot, 0, crc32c(slot, 4, 16));
    assertThrows(() => keyTail(memory).load(), CacheError, `key tail: ${message}`);
    slot[at] = 0;
  }
});

Deno.test("cache info: gc_percent survives, the rest of the flags stays", () => {
  const memory = emptyMemory();
  const info = new CacheInfo(memory);
  assertEquals(info.load(), false);
  info.n_segs = 4;
  info.flags = 0x1183;
  info.store();
  for (const percent of [0, 42, 90, 70]) {
    info.setGcPercent(percent);
    info.store();
    const loaded = new CacheInfo(memory);
    assert(loaded.load());
    assertEquals([loaded.gc_percent, loaded.n_segs, loaded.seg_id], [percent, 4, 0]);
    assertEquals(loaded.flags & 0x3f, 3);
  }
  for (const percent of [-1, 91, 128, 1.5, NaN, Infinity]) {
    assertThrows(
      () => info.setGcPercent(percent),
      CacheError,
      `gc_percent ${percent}, but it must be 0..90`,
    );
  }
  assertEquals(info.gc_percent, 70);
});

Deno.test("cache info: half done means that the older copy is without init done", () => {
  const memory = emptyMemory();
  const info = new CacheInfo(memory);
  info.store();
  assertEquals(info.isHalfDone(), false, "not done at all");
  info.flags |= INFO_INIT_DONE;
  info.store();
  assertEquals(info.isHalfDone(), true);
  info.store();
  assertEquals(info.isHalfDone(), false);
  memory.bytes.fill(0, INFO_ADDR, INFO_ADDR + 24);
  assert(info.load());
  assertEquals(info.isHalfDone(), false, "the older copy is damaged");
});

Deno.test("generations: 0 where no slot is valid, counted on, kept apart", () => {
  const memory = emptyMemory();
  const chain = Uint32Array.of(3, 0, 2);
  const generations = new Generations(memory, SMALL_GEOMETRY, chain);
  for (let seg = 0; seg < 3; seg++) generations.load(seg);
  for (let i = 1; i <= 300; i++) {
    generations.bump(1);
    if (i % 3 === 0) generations.bump(0);
    const loaded = new Generations(memory, SMALL_GEOMETRY, chain);
    for (let seg = 0; seg < 3; seg++) loaded.load(seg);
    assertEquals([0, 1, 2].map((seg) => loaded.get(seg)), [Math.floor(i / 3), i, 0]);
  }
  // Cache segment 0 is device segment 3, and nothing else was written.
  assert(memory.bytes.subarray(segmentAddr(SMALL_GEOMETRY, 3)).some((byte) => byte !== 0));
  const untouched = memory.bytes.subarray(
    segmentAddr(SMALL_GEOMETRY, 1),
    segmentAddr(SMALL_GEOMETRY, 3),
  );
  assert(untouched.every((byte) => byte === 0));
});

Deno.test("generations: a newer one that a key proves is counted on from", () => {
  const memory = emptyMemory();
  const generations = new Generations(memory, SMALL_GEOMETRY, Uint32Array.of(0));
  generations.adopt(0, 2 ** 32 + 5);
  assertEquals(memory.stores, 0, "in memory only");
  generations.bump(0);
  const loaded = new Generations(memory, SMALL_GEOMETRY, Uint32Array.of(0));
  loaded.load(0);
  assertEquals(loaded.get(0), 2 ** 32 + 6);
});

Deno.test("generations: one that no segment can have is refused", () => {
  const memory = emptyMemory();
  const generations = new Generations(memory, SMALL_GEOMETRY, Uint32Array.of(0));
  assertThrows(
    () => generations.adopt(0, MAX_GENERATION + 1),
    CacheError,
    "generation of cache segment 0",
  );
  const addr = segmentAddr(SMALL_GEOMETRY, 0) + GENERATION_OFF_BYTES;
  const slot = memory.bytes.subarray(addr, addr + 16);
  slot.fill(0xff, 8);
  putU32(slot, 0, crc32c(slot, 4, 16));
  assertThrows(() => generations.load(0), CacheError, "generation of cache segment 0");
});

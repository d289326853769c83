/**
 * Replay of logs made by hand: what it enters, and what it refuses (FORMAT, "What a reader must refuse"). Every checksum is right
 * unless a test says otherwise. `SimMemory` throws `RangeError` for an access outside the devices, which no test expects.
 *
 * @module
 */

import { assert, assertEquals, assertThrows } from "@std/assert";
import { type KeyFields, LogBuilder, SMALL_GEOMETRY } from "../tests/log_builder.ts";
import { Random, seedOr } from "../tests/random.ts";
import { CacheError } from "./errors.ts";
import { ExtentIndex } from "./extent_index.ts";
import { KEY_CLEAN, KSET_HEADER_BYTES, ksetBytes, MAX_GENERATION } from "./format.ts";
import { KeySums } from "./key_sums.ts";
import { inspectCache, type OpenedCache, prepareCache } from "./media.ts";
import { replay, type Replayed } from "./replay.ts";
import { Segments } from "./segments.ts";

const KIB = 1024;
const MIB = 1024 * KIB;
const TOTAL = 12;
const DEVICE_BYTES = 16 * MIB + 512;
const DATA_BYTES = SMALL_GEOMETRY.segment_bytes - 12 * KIB;

/** A good key: the others differ from it in one field. */
const KEY: KeyFields = { off: 8192, len: 4096, seg: 3, seg_off: 512 };

/** What replay made of a log. */
interface Outcome extends Replayed {
  readonly cache: OpenedCache;
  readonly index: ExtentIndex;
  readonly segments: Segments;
  readonly sums: KeySums;
}

function newBuilder(): LogBuilder {
  return new LogBuilder({ segments: TOTAL });
}

/** The builder's cache, checked and read anew but for its log. */
function openCache({ memory, geometry, data_crc }: LogBuilder): OpenedCache {
  return prepareCache(memory, inspectCache(memory, { geometry, data_crc }));
}

/** Opens the builder's cache anew and replays it; nothing may be stored on the way. */
function replayed(builder: LogBuilder): Outcome {
  const { memory } = builder;
  const stores = memory.stores;
  try {
    const cache = openCache(builder);
    const index = new ExtentIndex(DEVICE_BYTES / 512, cache.n_segs);
    const segments = new Segments(TOTAL, cache.generations, () => {});
    const sums = new KeySums(TOTAL);
    const tables = { index, segments, sums };
    return { cache, ...tables, ...replay(cache, memory, DEVICE_BYTES, tables) };
  } finally {
    assertEquals(memory.stores, stores, "replay stores nothing");
  }
}

function assertRefused(builder: LogBuilder, message: string): void {
  assertThrows(() => replayed(builder), CacheError, message);
}

/** Live extents: sector, sectors, segment, place, and whether it is clean. */
function extents({ index }: Outcome): [number, number, number, number, boolean][] {
  const list: [number, number, number, number, boolean][] = [];
  index.forEach((sector, extent) => {
    list.push([
      sector,
      index.sectors(extent),
      index.segment(extent),
      index.place(extent),
      index.isClean(extent),
    ]);
  });
  return list;
}

Deno.test("a fresh cache: an empty log at its tails", () => {
  const outcome = replayed(newBuilder());
  assertEquals([outcome.head_seg, outcome.head_off, outcome.keys, outcome.dirty_bytes], [
    0,
    0,
    0,
    0,
  ]);
  assertEquals([extents(outcome), outcome.segments.used], [[], 1]);
});

Deno.test("later keys cover earlier ones, along last ksets into other segments", () => {
  const builder = newBuilder();
  builder.kset([
    { off: 0, len: 8192, seg: 3, seg_off: 0 },
    { off: 2048, len: 1024, seg: 4, seg_off: 512 },
  ]);
  builder.last(7);
  builder.kset([{ off: 1024, len: 512, seg: 5, seg_off: 0 }]);
  builder.last(2);
  const outcome = replayed(builder);
  assertEquals(extents(outcome), [
    [0, 2, 3, 0, false],
    [2, 1, 5, 0, false],
    [3, 1, 3, 3, false],
    [4, 2, 4, 1, false],
    [6, 10, 3, 6, false],
  ]);
  const { segments } = outcome;
  assertEquals([3, 4, 5].map((seg) => segments.keys(seg)), [1, 1, 1]);
  assertEquals([0, 7, 2].map((seg) => segments.isLog(seg)), [true, true, true]);
  assertEquals([outcome.head_seg, outcome.head_off, outcome.keys], [2, 0, 3]);
  assertEquals([segments.used, outcome.dirty_bytes], [6, 8192 + 1024 + 512]);
});

Deno.test("dirty is what lies behind the dirty tail and is not marked clean", () => {
  const builder = newBuilder();
  builder.kset([{ ...KEY, off: 0 }, { ...KEY, off: 4096, flags: KEY_CLEAN }]);
  builder.cache.dirty_tail.store(builder.seg, builder.off);
  builder.kset([{ ...KEY, off: 8192 }, { ...KEY, off: 12288, flags: KEY_CLEAN }]);
  const outcome = replayed(builder);
  assertEquals(extents(outcome).map((extent) => extent[4]), [true, true, false, true]);
  assertEquals(outcome.dirty_bytes, 4096);
});

Deno.test("keys before the key tail do not count", () => {
  const builder = newBuilder();
  builder.kset([{ ...KEY, off: 0 }]);
  builder.last(1);
  builder.kset([{ ...KEY, off: 4096 }]);
  for (const tail of [builder.cache.key_tail, builder.cache.dirty_tail]) tail.store(1, 64);
  builder.kset([{ ...KEY, off: 8192 }]);
  const outcome = replayed(builder);
  assertEquals(extents(outcome), [[16, 8, 3, 1, false]]);
  assertEquals([outcome.segments.keys(3), outcome.segments.isFree(0)], [1, true]);
});

Deno.test("a key of an older generation is dead: not in the index, not counted, its checksum unknown", () => {
  const builder = newBuilder();
  builder.cache.generations.bump(3);
  builder.cache.generations.bump(3);
  builder.kset([{ ...KEY, gen: 1 }, { ...KEY, gen: 0 }, { ...KEY, off: 0, seg_off: 8192, gen: 2 }]);
  const outcome = replayed(builder);
  assertEquals(extents(outcome), [[0, 8, 3, 16, false]]);
  assertEquals([outcome.segments.keys(3), outcome.dirty_bytes], [1, 4096]);
  assert(!outcome.sums.find(3, 1, 1));
});

Deno.test("a key of a newer generation is believed, and the keys counted before it are dead", () => {
  const builder = newBuilder();
  builder.kset([KEY, { ...KEY, off: 0, seg_off: 8192 }, { ...KEY, off: 65536, seg: 4 }]);
  builder.kset([{ ...KEY, off: 32768, gen: 7 }, { ...KEY, off: 40960, gen: 6 }]);
  const outcome = replayed(builder);
  assertEquals(outcome.cache.generations.get(3), 7);
  assertEquals(extents(outcome), [[64, 8, 3, 1, false], [128, 8, 4, 1, false]]);
  assertEquals([outcome.segments.keys(3), outcome.segments.keys(4)], [1, 1]);
  assert(outcome.sums.find(3, 1, 8) && !outcome.sums.find(3, 16, 8));
  assertEquals(outcome.dirty_bytes, 2 * 4096, "what is dead is not dirty");
});

Deno.test("the largest generation that is possible is believed", () => {
  const builder = newBuilder();
  builder.kset([{ ...KEY, gen: MAX_GENERATION }]);
  assertEquals(replayed(builder).cache.generations.get(3), MAX_GENERATION);
});

/** Why a key must be refused; "" when it must not. Written from FORMAT, not from the code. */
function refusalOf({ off, len, flags = 0, seg, seg_off, gen = 0 }: KeyFields): string {
  if (len === 0) return "length 0";
  if (off % 512 !== 0 || len % 512 !== 0) return "aligned to 512";
  if (off + len > DEVICE_BYTES) return "but the cached device has";
  if (Math.floor(off / (4 * MIB)) !== Math.floor((off + len - 1) / (4 * MIB))) return "crosses";
  if (flags !== 0 && flags !== KEY_CLEAN) return "flags";
  if (seg >= TOTAL) return `segment ${seg}`;
  if (seg_off % 512 !== 0) return "multiple of 512";
  if (seg_off + len > DATA_BYTES) return "of its segment";
  if (gen > MAX_GENERATION) return "generation";
  return seg === 0 ? "holds the log" : "";
}

const BOUNDARIES = [
  0,
  1,
  2,
  3,
  511,
  512,
  513,
  1024,
  TOTAL - 1,
  TOTAL,
  TOTAL + 1,
  4096,
  65535,
  65536,
]
  .concat([DATA_BYTES - 4096, DATA_BYTES - 512, DATA_BYTES, DATA_BYTES + 512, MIB])
  .concat([4 * MIB - 4096, 4 * MIB - 512, 4 * MIB, 8 * MIB - 512, 16 * MIB])
  .concat([DEVICE_BYTES - 4096, DEVICE_BYTES - 512, DEVICE_BYTES, DEVICE_BYTES + 512])
  .concat([2 ** 31 - 512, 2 ** 31, 2 ** 32 - 4096, 2 ** 32 - 512, 2 ** 32 - 1]);
/** For fields of 64 bits. */
const LARGE = [2 ** 32, 2 ** 32 + 8192, 2 ** 44, MAX_GENERATION - 1, MAX_GENERATION]
  .concat([MAX_GENERATION + 1, 2 ** 53, 2 ** 63, 2 ** 64 - 2048]);

for (const field of ["off", "len", "flags", "seg", "seg_off", "gen"] as const) {
  Deno.test(`a key's ${field}: every value is refused for what it is, or replayed`, () => {
    const random = new Random(seedOr(21));
    const is_large = field === "off" || field === "gen";
    const values = is_large ? [...BOUNDARIES, ...LARGE] : [...BOUNDARIES];
    for (let i = 0; i < 700; i++) {
      const value = random.u32() >>> random.below(32);
      values.push(value, value & ~511);
      if (is_large) values.push(random.u32() * 2 ** random.below(32) + value);
    }
    const builder = newBuilder();
    const seen = { refused: 0, replayed: 0 };
    for (const value of values.map((value) => value % 2 ** 64)) {
      const key = { ...KEY, [field]: value >= 0 ? value : value + 2 ** 32 };
      builder.seg = builder.off = 0;
      builder.kset([key]);
      const refusal = refusalOf(key);
      if (refusal !== "") {
        seen.refused++;
        assertRefused(builder, refusal);
        continue;
      }
      seen.replayed++;
      const { off, len, seg, seg_off, flags = 0 } = key;
      const want = [off / 512, len / 512, seg, seg_off / 512, flags === KEY_CLEAN];
      assertEquals(extents(replayed(builder)).flat(), want);
    }
    assert(seen.refused > 1 && seen.replayed > 1, JSON.stringify(seen));
  });
}

Deno.test("a kset's key_num: over 128 refused, 0 is the log's end, what has no keys is refused", () => {
  const random = new Random(seedOr(22));
  const builder = newBuilder();
  const keys = Array.from({ length: 100 }, (_, i) => ({ ...KEY, off: i * 4096 }));
  const values = Array.from({ length: 131 }, (_, i) => i);
  for (let i = 0; i < 500; i++) values.push(random.u32() >>> random.below(24));
  for (const key_num of [...values, 2 ** 31, 2 ** 32 - 1]) {
    builder.seg = builder.off = 0;
    builder.memory.bytes.fill(
      0,
      builder.cache.dataAddr(0, 0),
      builder.cache.dataAddr(0, DATA_BYTES),
    );
    builder.kset(keys, { key_num });
    if (key_num > 128) {
      assertRefused(builder, `key_num ${key_num}, but a kset has at most 128 keys`);
    } else if (key_num > 100) assertRefused(builder, "key 100 of the kset at 0:0: length 0");
    else assertEquals(replayed(builder).keys, key_num);
  }
});

Deno.test("a kset's flags: only last is known", () => {
  const random = new Random(seedOr(23));
  const builder = newBuilder();
  for (let i = 0; i < 500; i++) {
    const flags = i < 64 && i >= 32 ? 0 : i < 32 ? 2 ** i : random.u32() & ~1;
    const flags_hi = i < 64 && i >= 32 ? 2 ** (i - 32) : 0;
    if (flags === 1) continue;
    builder.seg = builder.off = 0;
    builder.kset([KEY], { flags: flags >>> 0, flags_hi });
    assertRefused(builder, "but only 0x1 (last) is known");
  }
});

Deno.test("a kset that reaches over its segment's end is refused, also where it would fit the device", () => {
  for (const room of [ksetBytes(2) - 8, ksetBytes(1) + 8, 32]) {
    const builder = newBuilder();
    builder.off = DATA_BYTES - room;
    for (const tail of [builder.cache.key_tail, builder.cache.dirty_tail]) {
      tail.store(0, builder.off);
    }
    builder.kset([], { key_num: 2 });
    assertRefused(builder, `104 bytes long, but its segment ends ${room} bytes after its start`);
  }
});

Deno.test("a log that leaves no room for a last kset is refused: it could not go on", () => {
  const end = ksetBytes(1);
  for (const room of [KSET_HEADER_BYTES, KSET_HEADER_BYTES - 8, 8, 0]) {
    const builder = newBuilder();
    builder.seg = TOTAL - 1;
    builder.off = DATA_BYTES - room - end;
    const { key_tail, dirty_tail } = builder.cache;
    for (const tail of [key_tail, dirty_tail]) tail.store(builder.seg, builder.off);
    builder.kset([KEY]);
    if (room === KSET_HEADER_BYTES) assertEquals(replayed(builder).head_off, DATA_BYTES - room);
    else assertRefused(builder, `log ends at ${TOTAL - 1}:${DATA_BYTES - room}`);
  }
});

Deno.test("a last kset's segment: every number but a free segment's is refused", () => {
  const random = new Random(seedOr(24));
  const builder = newBuilder();
  const values = Array.from({ length: TOTAL + 3 }, (_, i) => i);
  for (let i = 0; i < 500; i++) values.push(random.u32() >>> random.below(32));
  for (const next_seg of [...values, 2 ** 31, 2 ** 32 - 1]) {
    builder.seg = builder.off = 0;
    builder.kset([KEY]);
    builder.last(next_seg, {}, 0);
    if (next_seg >= TOTAL) assertRefused(builder, `next segment ${next_seg}, but there are 12`);
    else if (next_seg === 0) {
      assertRefused(builder, "next segment 0, but the log was there already");
    } else if (next_seg === KEY.seg) {
      assertRefused(builder, "segment 3: holds the log, but keys name it");
    } else assertEquals(replayed(builder).head_seg, next_seg);
  }
});

Deno.test("a log of last ksets alone: through every segment once, and never in a circle", () => {
  const random = new Random(seedOr(25));
  for (let round = 0; round < 50; round++) {
    const builder = newBuilder();
    const order = Array.from({ length: TOTAL - 1 }, (_, i) => i + 1);
    order.sort(() => random.below(3) - 1);
    for (const seg of order) builder.last(seg);
    const outcome = replayed(builder);
    assertEquals([outcome.head_seg, outcome.segments.used], [order.at(-1), TOTAL]);
    builder.last(random.below(TOTAL), {}, 0);
    assertRefused(builder, "but the log was there already");
  }
});

Deno.test("keys that name a segment the log lies in are refused; dead ones were there before the log", () => {
  for (const seg of [0, 5]) {
    for (const gen of [0, 1, 2]) {
      const builder = newBuilder();
      builder.cache.generations.bump(seg);
      builder.kset([{ ...KEY, seg, seg_off: 8192, gen }]);
      builder.last(5);
      if (gen === 0) assertEquals(extents(replayed(builder)), []);
      else {assertRefused(
          builder,
          `segment ${seg}: holds the log, but keys name it as holding data`,
        );}
    }
  }
});

Deno.test("tails: every place that is a kset's start is right, in order; every other is refused", () => {
  const builder = newBuilder();
  const starts = ["0:0"];
  const note = () => starts.push(`${builder.seg}:${builder.off}`);
  for (const count of [1, 3, 2]) {
    builder.kset(Array.from({ length: count }, () => KEY));
    note();
  }
  builder.last(2);
  note();
  for (const count of [2, 1]) {
    builder.kset(Array.from({ length: count }, () => KEY));
    note();
  }
  const { key_tail, dirty_tail } = builder.cache;
  let right = 0;
  for (let seg = 0; seg < 4; seg++) {
    for (let off = 0; off < 480; off += 8) {
      key_tail.store(0, 0);
      dirty_tail.store(seg, off);
      const at = starts.indexOf(`${seg}:${off}`);
      if (at < 0) {
        assertRefused(builder, `dirty tail ${seg}:${off}: not in the log, which goes from 0:0 to`);
        continue;
      }
      right++;
      for (const [i, start] of starts.entries()) {
        const [tail_seg, tail_off] = start.split(":").map(Number);
        key_tail.store(tail_seg!, tail_off!);
        if (i <= at) assertEquals(replayed(builder).head_seg, 2);
        else assertRefused(builder, `dirty tail ${seg}:${off}: not in the log`);
      }
    }
  }
  assertEquals(right, starts.length);
});

Deno.test("tails outside the data areas are refused before the log is read", () => {
  const random = new Random(seedOr(26));
  const builder = newBuilder();
  for (const name of ["key_tail", "dirty_tail"] as const) {
    const values = [DATA_BYTES, DATA_BYTES + 8, 2 ** 31, 2 ** 32 - 8];
    for (let i = 0; i < 300; i++) values.push(random.u32() >>> random.below(16));
    for (const value of values) {
      const is_outside = value >= DATA_BYTES;
      builder.cache[name].store(1, value);
      // Inside, but not where the other tail is: refused as well, by replay.
      if (is_outside) assertThrows(() => openCache(builder), CacheError, name.replace("_", " "));
      else assertThrows(() => replayed(builder), CacheError);
      if (value < TOTAL) continue;
      builder.cache[name].store(value, 0);
      assertThrows(() => openCache(builder), CacheError, name.replace("_", " "));
    }
    builder.cache[name].store(0, 0);
  }
  replayed(builder);
});

Deno.test("the log ends at a wrong checksum, whatever lies behind it", () => {
  const builder = newBuilder();
  builder.kset([KEY]);
  const torn = builder.kset([{ ...KEY, off: 0 }], { bad_crc: true });
  builder.kset([{ ...KEY, off: 0xffff }]);
  const outcome = replayed(builder);
  assertEquals([outcome.head_seg, outcome.head_off, outcome.keys], [torn.seg, torn.off, 1]);
});

Deno.test("a last kset that a power cut tore is the log's end", () => {
  const builder = newBuilder();
  builder.kset([KEY]);
  const place = builder.last(9);
  const at = builder.cache.dataAddr(place.seg, place.off);
  for (const next_seg of [9, 1000]) {
    for (const word of [0, 8, 16]) {
      builder.seg = 0;
      builder.off = place.off;
      builder.last(next_seg, {}, 9);
      builder.memory.bytes.fill(0, at + word, at + word + 8);
      const outcome = replayed(builder);
      assertEquals([outcome.head_seg, outcome.head_off], [place.seg, place.off]);
    }
  }
});

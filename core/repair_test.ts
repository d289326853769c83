import { assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { type KeyFields, LogBuilder, SMALL_GEOMETRY } from "../tests/log_builder.ts";
import { SimMemory } from "../tests/sim_memory.ts";
import { checkCache } from "./check.ts";
import { CacheError } from "./errors.ts";
import {
  DIRTY_TAIL_ADDR,
  KEY_TAIL_ADDR,
  KSET_HEADER_BYTES,
  ksetBytes,
  putU32,
  SEGMENTS_ADDR,
} from "./format.ts";
import { readLog } from "./log_keys.ts";
import { planRepair } from "./repair.ts";

const OPTIONS = { geometry: SMALL_GEOMETRY, size_bytes: 1 << 20 };

function key(sector: number, fields: Partial<KeyFields> = {}): KeyFields {
  return { off: sector * 512, len: 512, seg: 3, seg_off: sector * 512, ...fields };
}

/** Applies the repair, and returns what the log says then: the offset of each key that means something. */
function repaired({ memory }: LogBuilder): { keys: number[]; repairs: string; losses: string } {
  const before = memory.cache.slice();
  const { repairs, losses, overlay } = planRepair(memory, OPTIONS);
  assertEquals(memory.cache, before, "a plan writes nothing");
  overlay.apply();
  const { cache, findings } = checkCache(memory, OPTIONS);
  assertEquals(findings.list, []);
  const keys = [...readLog(cache!, memory)].flatMap((kset) => kset.keys)
    .filter(({ dead }) => !dead).map(({ off }) => off / 512);
  return { keys, repairs: repairs.join("\n"), losses: losses.join("\n") };
}

function errorsOf({ memory }: LogBuilder): string {
  return checkCache(memory, OPTIONS).findings.list.map(({ text }) => text).join("\n");
}

function refusalOf(builder: LogBuilder): string {
  const { message } = assertThrows(() => planRepair(builder.memory, OPTIONS), CacheError);
  return message;
}

Deno.test("a key that must be refused goes, and the others of its kset stay", () => {
  const builder = new LogBuilder({ segments: 6 });
  builder.kset([key(1), key(2, { len: 100 }), key(3)]);
  builder.kset([key(4)]);
  assertStringIncludes(errorsOf(builder), "key 1 of the kset at 0:0: range 1024+100");
  const { keys, repairs, losses } = repaired(builder);
  assertEquals(keys, [1, 3, 4]);
  assertStringIncludes(repairs, "key 1 of the kset at 0:0");
  assertStringIncludes(losses, "bytes 1024+100");
});

Deno.test("keys that name a segment of the log go, also when the log comes there later", () => {
  const builder = new LogBuilder({ segments: 6 });
  builder.kset([key(1), key(2, { seg: 5 })]);
  builder.last(5);
  builder.kset([key(3), key(4, { seg: 0 })]);
  assertStringIncludes(errorsOf(builder), "segment 5: holds the log, but 1 keys name it as data");
  const { keys, losses } = repaired(builder);
  assertEquals(keys, [1, 3]);
  assertEquals(losses.split("\n").length, 2);
});

Deno.test("a last kset that leads back into the log ends it", () => {
  const builder = new LogBuilder({ segments: 6 });
  builder.kset([key(1)]);
  builder.last(0);
  assertStringIncludes(errorsOf(builder), "the log was there already");
  assertEquals(repaired(builder).keys, [1]);
});

Deno.test("a last kset that is broken leads where it says, or to the only segment that has a log", () => {
  for (const forged_next of [4, 3]) {
    const builder = new LogBuilder({ segments: 6 });
    builder.kset([key(1, { seg: 2 })]);
    const last = builder.last(4);
    builder.kset([key(2, { seg: 2 })]);
    const addr = builder.cache.dataAddr(last.seg, last.off);
    putU32(builder.memory.bytes, addr + 4, forged_next);
    builder.memory.bytes[addr] = builder.memory.bytes[addr]! ^ 1;
    assertStringIncludes(errorsOf(builder), "the log goes on in another segment, which is lost");
    const { keys, repairs } = repaired(builder);
    assertEquals(keys, [1, 2]);
    assertStringIncludes(repairs, "the log goes on in segment 4");
  }
});

Deno.test("a log that breaks before the dirty tail starts at the dirty tail: nothing dirty is lost", () => {
  const builder = new LogBuilder({ segments: 6 });
  const first = builder.kset([key(1), key(2)]);
  builder.kset([key(3)]);
  const dirty = builder.kset([key(4)]);
  builder.kset([key(5)]);
  builder.cache.dirty_tail.store(dirty.seg, dirty.off);
  builder.memory.bytes.fill(
    0,
    builder.cache.dataAddr(first.seg, first.off) + 60,
    builder.cache.dataAddr(0, dirty.off),
  );
  const { keys, repairs, losses } = repaired(builder);
  assertEquals([keys, losses], [[4, 5], ""]);
  assertStringIncludes(repairs, `key tail: 0:${dirty.off}, as the dirty tail`);
});

/** A log whose first kset has four keys, with data; `damage` is given it as it stands on the device. */
function withDamagedKset(data_crc: boolean, damage: (kset: Uint8Array) => void): LogBuilder {
  const builder = new LogBuilder({ segments: 6, data_crc });
  for (let i = 0; i < 5; i++) builder.putData(3, i * 512, new Uint8Array(512).fill(i + 1));
  const { seg, off } = builder.kset([key(0), key(1), key(2), key(3)]);
  builder.kset([key(4)]);
  const addr = builder.cache.dataAddr(seg, off);
  damage(builder.memory.bytes.subarray(addr, addr + ksetBytes(4)));
  return builder;
}

Deno.test("every single flipped bit of a kset is put right, with and without checksums of data", () => {
  for (const data_crc of [false, true]) {
    for (let byte = 0; byte < ksetBytes(4); byte++) {
      if (16 <= byte && byte < 24) continue; // a kset's flags say how it is to be read
      const builder = withDamagedKset(
        data_crc,
        (kset) => kset[byte] = kset[byte]! ^ (1 << byte % 8),
      );
      const { keys, losses } = repaired(builder);
      assertEquals([keys, losses], [[0, 1, 2, 3, 4], ""], `byte ${byte}`);
    }
  }
});

Deno.test("of a kset with more damage, keys before a stretch that their data shows, and behind the next one", () => {
  const KEYS = KSET_HEADER_BYTES;
  const cases: [what: string, from: number, to: number, with_crc: number[]][] = [
    ["the second key", KEYS + 40, KEYS + 80, [0, 3, 4]],
    // What is left of the third key is impossible, so the stretch may reach into the fourth one.
    ["the second key's end, and the third one's offset", KEYS + 72, KEYS + 84, [0, 4]],
    ["magic, flags and the first key's offset", 8, KEYS + 5, [2, 3, 4]],
  ];
  for (const [what, from, to, with_crc] of cases) {
    const damage = (kset: Uint8Array) => {
      for (let at = from; at < to; at++) kset[at] = kset[at]! ^ (at % 2 === 0 ? 0x3a : 0x41);
    };
    const { keys, losses } = repaired(withDamagedKset(true, damage));
    assertEquals(keys, with_crc, what);
    assertEquals(losses.split("\n").length, 5 - with_crc.length);
    assertEquals(repaired(withDamagedKset(false, damage)).keys, [4], `${what}, without data_crc`);
  }
});

Deno.test("a kset damaged in two places, or where no data shows it, is not trusted at all", () => {
  const possible = withDamagedKset(true, (kset) => {
    const at = KSET_HEADER_BYTES + 40 + 1;
    kset[at] = kset[at]! ^ 0x62;
  });
  assertEquals(repaired(possible).keys, [4]);
  const { keys } = repaired(withDamagedKset(true, (kset) => {
    kset.fill(0xff, KSET_HEADER_BYTES + 8, KSET_HEADER_BYTES + 12);
    kset.fill(0xff, KSET_HEADER_BYTES + 88, KSET_HEADER_BYTES + 92);
  }));
  assertEquals(keys, [4]);
});

Deno.test("ksets of an earlier use of the segment are never taken for the log's", () => {
  const builder = new LogBuilder({ segments: 6 });
  for (let i = 0; i < 4; i++) builder.kset([key(i)]);
  // The segment is used again: one new kset, torn, and the end mark that was stored before it.
  const torn_addr = builder.cache.dataAddr(0, 0);
  builder.memory.bytes.fill(0x11, torn_addr, torn_addr + 4);
  builder.memory.bytes.fill(0, torn_addr + 64, torn_addr + 88);
  assertStringIncludes(errorsOf(builder), "torn or damaged; nothing follows it");
  assertEquals(repaired(builder).keys, []);
});

Deno.test("what cannot be told is not guessed", () => {
  const no_tails = new LogBuilder({ segments: 6 });
  no_tails.kset([key(1)]);
  no_tails.seg = 4;
  no_tails.off = 0;
  no_tails.kset([key(2)]);
  no_tails.memory.bytes.fill(0, KEY_TAIL_ADDR, DIRTY_TAIL_ADDR + 32);
  assertStringIncludes(refusalOf(no_tails), "the log may begin in any of the segments 0, 4");

  const around = new LogBuilder({ segments: 6 });
  around.kset([key(1)]);
  around.cache.info.setMode(2);
  around.cache.info.store();
  around.memory.bytes.fill(0, KEY_TAIL_ADDR, DIRTY_TAIL_ADDR + 32);
  assertStringIncludes(refusalOf(around), "writes may have gone around the cache");

  const short = new LogBuilder({ segments: 6 });
  const cut = new SimMemory({ cache_bytes: SEGMENTS_ADDR + 5 * SMALL_GEOMETRY.segment_bytes });
  cut.cache.set(short.memory.cache.subarray(0, cut.cache_bytes));
  const { message } = assertThrows(() => planRepair(cut, OPTIONS), CacheError);
  assertStringIncludes(message, "the cache has 6 segments, but the device holds 5");

  const nothing = new SimMemory({ cache_bytes: cut.cache_bytes });
  assertStringIncludes(
    assertThrows(() => planRepair(nothing, OPTIONS), CacheError).message,
    "there is no cache on this device",
  );
});

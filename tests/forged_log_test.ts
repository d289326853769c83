/**
 * Logs that nobody's cache would write: each is refused with a reason, or replayed without touching anything outside
 * the devices (FORMAT, "What a reader must refuse"). All checksums are right.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import { assert, assertEquals, assertThrows } from "@std/assert";
import { CacheError } from "../core/errors.ts";
import { KEY_CLEAN, ksetBytes } from "../core/format.ts";
import { type KeyFields, LogBuilder, SMALL_GEOMETRY } from "./log_builder.ts";
import { fillFor, Random, seedOr } from "./random.ts";
import { SimBacking } from "./sim_backing.ts";
import { SimDevice } from "./sim_device.ts";

const KIB = 1024;
const MIB = 1024 * KIB;
const SEGMENTS = 12;
const DEVICE_BYTES = 16 * MIB;
const DATA_BYTES = SMALL_GEOMETRY.segment_bytes - 12 * KIB;

/** A good key: the others differ from it in one field. */
const KEY: KeyFields = { off: 8192, len: 4096, seg: 3, seg_off: 512 };

function newBuilder(data_crc = false): LogBuilder {
  return new LogBuilder({ segments: SEGMENTS, data_crc, buffer_bytes: 8 * MIB });
}

/** Opens the builder's cache, as `create` would. */
function open(builder: LogBuilder, on_backing = new Uint8Array(DEVICE_BYTES)): SimDevice {
  const { memory, geometry, data_crc } = builder;
  const backing = new SimBacking(on_backing, memory.bytes, new Random(1));
  return new SimDevice(memory, backing, { geometry, data_crc });
}

function assertRefused(builder: LogBuilder, message: string): void {
  const before = builder.memory.bytes.slice();
  assertThrows(() => open(builder), CacheError, message);
  assertEquals(builder.memory.bytes, before, "a refused device is left as it was");
}

Deno.test("a log that is right: newest key of each byte, over three segments, dead keys dead", () => {
  const builder = newBuilder(true);
  const content = new Uint8Array(4 * 4096);
  fillFor(5, content);
  const pages = [0, 1, 2, 3].map((i) => content.subarray(i * 4096, (i + 1) * 4096));
  for (const [i, page] of pages.entries()) builder.putData(3, i * 4096, page);
  builder.cache.generations.bump(4);
  builder.kset([{ off: 0, len: 8192, seg: 3, seg_off: 0 }]);
  builder.last(7);
  builder.kset([{ off: 4096, len: 4096, seg: 3, seg_off: 8192 }]);
  builder.kset([{ off: 0, len: 4096, seg: 4, seg_off: 0, gen: 0 }]);
  builder.last(6);
  const head = builder.kset([{ off: 6144, len: 1024, seg: 3, seg_off: 12288 }]);
  const device = open(builder);
  const want = new Uint8Array(8192);
  want.set(pages[0]!);
  want.set(pages[2]!, 4096);
  want.set(pages[3]!.subarray(0, 1024), 6144);
  assertEquals(device.read(0, 8192), { errno: 0, bytes: want });
  assertEquals(device.engine.status().key_head, { seg: head.seg, off: head.off + ksetBytes(1) });
  device.drain();
  assertEquals(device.backing.bytes.subarray(0, 8192), want);
});

Deno.test("refused: each field of a key", () => {
  const cases: [Partial<KeyFields>, string][] = [
    [{ len: 0 }, "length 0, but a key has at least one sector"],
    [{ off: 8193 }, "range 8193+4096, but keys are aligned to 512 bytes"],
    [{ len: 100 }, "range 8192+100, but keys are aligned to 512 bytes"],
    [{ off: DEVICE_BYTES }, "but the cached device has 16777216 bytes"],
    [{ off: DEVICE_BYTES - 512, len: 1024 }, "but the cached device has 16777216 bytes"],
    [{ off: 2 ** 52 }, "but the cached device has 16777216 bytes"],
    [{ off: 2 ** 64 - 2048 }, "but the cached device has 16777216 bytes"],
    [{ len: 0xffff_fe00 }, "but the cached device has 16777216 bytes"],
    [{ off: 4 * MIB - 512, len: 1024 }, "but a key never crosses a multiple of 4194304"],
    [{ flags: 1 }, "flags 0x1, but only 0x2 (clean) is known"],
    [{ flags: 0x8000_0002 }, "but only 0x2 (clean) is known"],
    [{ seg: SEGMENTS }, `segment ${SEGMENTS}, but there are ${SEGMENTS}`],
    [{ seg: 0xffff_ffff }, `segment 4294967295, but there are ${SEGMENTS}`],
    [{ seg_off: 511 }, "offset 511 in its segment, but it must be a multiple of 512"],
    [{ seg_off: DATA_BYTES - 512 }, `bytes ${DATA_BYTES - 512}+4096 of its segment`],
    [{ seg_off: 0xffff_fe00 }, "bytes 4294966784+4096 of its segment"],
    [{ gen: 2 ** 53 }, "generation 9007199254740992, but at most 4503599627370496 is possible"],
  ];
  for (const [forged, message] of cases) {
    const builder = newBuilder();
    builder.kset([KEY, { ...KEY, ...forged }]);
    assertRefused(builder, `key 1 of the kset at 0:0: `);
    assertRefused(builder, message);
  }
});

Deno.test("refused: a key is checked also when it is dead, clean, or behind the dirty tail", () => {
  const bad = { ...KEY, seg_off: DATA_BYTES };
  const dead = newBuilder();
  dead.cache.generations.bump(3);
  dead.kset([{ ...bad, gen: 0 }]);
  assertRefused(dead, "of its segment, but a data area has");
  const clean = newBuilder();
  clean.kset([{ ...bad, flags: KEY_CLEAN }]);
  assertRefused(clean, "of its segment, but a data area has");
  const written_back = newBuilder();
  written_back.kset([bad]);
  written_back.cache.dirty_tail.store(0, written_back.off);
  assertRefused(written_back, "of its segment, but a data area has");
});

Deno.test("refused: a kset's header", () => {
  const keys = Array.from({ length: 128 }, (_, i) => ({ ...KEY, off: i * 4096 }));
  const many = newBuilder();
  many.kset(keys, { key_num: 129 });
  assertRefused(many, "kset at 0:0: key_num 129, but a kset has at most 128 keys");
  const most = newBuilder();
  most.kset(keys, { key_num: 0xffff_ffff });
  assertRefused(most, "kset at 0:0: key_num 4294967295");

  const overrun = newBuilder();
  while (overrun.off + ksetBytes(128) + ksetBytes(0) <= DATA_BYTES) overrun.kset(keys);
  const room = DATA_BYTES - overrun.off;
  overrun.kset([], { key_num: 128 });
  assertRefused(overrun, `5144 bytes long, but its segment ends ${room} bytes after its start`);

  for (
    const [forged, flags] of [[{ flags: 4 }, "0x4"], [{ flags_hi: 1 }, "0x100000000"]] as const
  ) {
    const builder = newBuilder();
    builder.kset([KEY], forged);
    assertRefused(builder, `kset at 0:0: flags ${flags}, but only 0x1 (last) is known`);
  }
});

Deno.test("refused: last ksets that name no segment, or one where the log was already", () => {
  for (const next_seg of [SEGMENTS, 0xffff_ffff]) {
    const builder = newBuilder();
    builder.kset([KEY]);
    builder.last(next_seg, {}, 1);
    assertRefused(
      builder,
      `last kset at 0:64: next segment ${next_seg}, but there are ${SEGMENTS}`,
    );
  }
  const itself = newBuilder();
  itself.last(0);
  assertRefused(itself, "last kset at 0:0: next segment 0, but the log was there already");

  const loop = newBuilder();
  for (const seg of [1, 2, 5, 1]) {
    loop.kset([KEY]);
    loop.last(seg);
  }
  assertRefused(loop, "next segment 1, but the log was there already");
});

Deno.test("refused: tails and keys that contradict the log", () => {
  const ahead = newBuilder();
  ahead.kset([KEY]);
  ahead.cache.dirty_tail.store(0, ahead.off + 8);
  assertRefused(ahead, "dirty tail 0:72: not in the log, which goes from 0:0 to 0:64");
  const behind = newBuilder();
  behind.kset([KEY]);
  behind.cache.key_tail.store(0, behind.off);
  assertRefused(behind, "dirty tail 0:0: not in the log, which goes from 0:64 to 0:64");
  const between = newBuilder();
  between.kset([KEY, KEY]);
  between.cache.dirty_tail.store(0, 64);
  assertRefused(between, "dirty tail 0:64: not in the log");

  const in_log = newBuilder();
  in_log.kset([{ ...KEY, seg: 0, seg_off: 8192 }]);
  assertRefused(in_log, "segment 0: holds the log, but keys name it as holding data");
  const later = newBuilder();
  later.kset([{ ...KEY, seg: 5 }]);
  later.last(5);
  assertRefused(later, "segment 5: holds the log, but keys name it as holding data");
});

Deno.test("the log ends where the checksum is wrong, and at no key, magic or room", () => {
  for (const forged of [{ bad_crc: true }, { key_num: 0 }, { magic_lo: 1 }]) {
    const builder = newBuilder();
    const first = builder.kset([KEY]);
    const second = builder.kset([{ ...KEY, off: 0 }], forged);
    assertEquals(open(builder).engine.status().key_head, second, JSON.stringify(forged));
    assert(first.off < second.off);
  }
  const empty = newBuilder();
  assertEquals(open(empty).engine.status().key_head, { seg: 0, off: 0 });
  const bad_last = newBuilder();
  bad_last.last(3, { bad_crc: true });
  assertEquals(open(bad_last).engine.status().key_head, { seg: 0, off: 0 });
});

/** What a device holds whose log is right, as the log says it: each key over the ones before it. */
interface RightLog {
  readonly builder: LogBuilder;
  readonly content: Uint8Array<ArrayBuffer>;
  /** What write-back has brought to the backing device: the keys before the dirty tail. */
  readonly on_backing: Uint8Array<ArrayBuffer>;
}

/** A random log, over several segments, with dead keys in it and both tails somewhere inside. */
function rightLog(random: Random): RightLog {
  const builder = newBuilder(random.chance(0.5));
  const { cache, memory } = builder;
  for (let seg = 1; seg <= 6; seg++) {
    if (random.chance(0.5)) cache.generations.bump(seg);
    fillFor(seg, memory.bytes.subarray(cache.dataAddr(seg, 0), cache.dataAddr(seg, DATA_BYTES)));
  }
  const content = new Uint8Array(DEVICE_BYTES);
  const ksets = random.between(1, 40);
  const key_tail_at = random.below(ksets);
  const dirty_tail_at = random.between(key_tail_at, ksets);
  let on_backing = new Uint8Array(DEVICE_BYTES);
  for (let n = 0; n < ksets; n++) {
    const keys = Array.from({ length: random.between(1, random.pick([2, 16, 128])) }, () => {
      const len = random.between(1, 40) * 512;
      const off = random.below(4) * 4 * MIB + random.below(128) * 512;
      const seg = random.between(1, 6);
      const gen = cache.generations.get(seg) - (random.chance(0.1) ? 1 : 0);
      return {
        off,
        len,
        seg,
        seg_off: random.below((DATA_BYTES - len) / 512) * 512,
        gen: Math.max(gen, 0),
      };
    });
    if (builder.off + ksetBytes(keys.length) + ksetBytes(0) > DATA_BYTES) {
      builder.last(builder.seg === 0 ? 9 : builder.seg + 1);
    }
    if (n === key_tail_at) cache.key_tail.store(builder.seg, builder.off);
    if (n === dirty_tail_at) {
      cache.dirty_tail.store(builder.seg, builder.off);
      on_backing = content.slice();
    }
    builder.kset(keys);
    for (const { off, len, seg, seg_off, gen } of keys) {
      if (gen < cache.generations.get(seg)) continue;
      const addr = cache.dataAddr(seg, seg_off);
      content.set(memory.bytes.subarray(addr, addr + len), off);
    }
  }
  if (dirty_tail_at === ksets) {
    cache.dirty_tail.store(builder.seg, builder.off);
    on_backing = content.slice();
  }
  return { builder, content, on_backing };
}

Deno.test("random right logs read as their keys say, and so does the backing device after write-back", () => {
  const seed = seedOr(82);
  const random = new Random(seed);
  for (let round = 0; round < 60; round++) {
    const { builder, content, on_backing } = rightLog(random);
    const device = open(builder, on_backing);
    const what = `seed ${seed}, round ${round}`;
    for (let off = 0; off < DEVICE_BYTES; off += 4 * MIB) {
      const answer = device.read(off, 65536);
      assertEquals(answer.errno, 0, what);
      assert(isSame(answer.bytes, content.subarray(off, off + 65536)), `${what}: read at ${off}`);
    }
    device.drain();
    assert(isSame(device.backing.bytes, content), `${what}: the backing device`);
  }
});

function isSame(a: Uint8Array, b: Uint8Array): boolean {
  return Buffer.compare(a, b) === 0;
}

/** A random log, most of it as a cache would write it, some fields forged. */
function forgedLog(random: Random): LogBuilder {
  const builder = newBuilder(random.chance(0.5));
  const log_segs = [0, 9, 10, 11];
  const odd = [
    0,
    1,
    2,
    3,
    511,
    512,
    SEGMENTS - 1,
    SEGMENTS,
    65535,
    DATA_BYTES - 512,
    DATA_BYTES,
    4 * MIB - 512,
  ]
    .concat([DEVICE_BYTES, 0x7fff_ffff, 0x8000_0000, 0xffff_fe00, 0xffff_ffff, 2 ** 53, 2 ** 63]);
  const is_gentle = random.chance(0.5);
  const forge = (value: number) => (random.chance(is_gentle ? 0 : 0.01) ? random.pick(odd) : value);
  for (let seg = 1; seg < SEGMENTS; seg++) {
    for (let bumps = random.below(3); bumps > 0; bumps--) builder.cache.generations.bump(seg);
  }
  const places = [{ seg: 0, off: 0 }];
  for (let ksets = random.between(1, 20); ksets > 0; ksets--) {
    const keys = Array.from({ length: random.between(1, random.pick([2, 16, 128])) }, () => {
      const len = random.between(1, 16) * 512;
      const seg = random.between(1, 6);
      const gen = Math.max(
        0,
        builder.cache.generations.get(seg) + random.pick([0, 0, 0, 0, -1, -2, 1]),
      );
      const key: KeyFields = {
        off: forge(random.below(4) * 4 * MIB + random.below(64) * 512),
        len: forge(len),
        seg: forge(seg),
        seg_off: forge(random.below((DATA_BYTES - len) / 512) * 512),
        flags: forge(random.chance(0.2) ? KEY_CLEAN : 0),
        gen: forge(gen),
      };
      return random.chance(0.02) ? { ...key, crc: random.u32() } : key;
    });
    if (builder.off + ksetBytes(keys.length) + ksetBytes(0) > DATA_BYTES || random.chance(0.2)) {
      const next = log_segs[log_segs.indexOf(builder.seg) + 1] ?? 0;
      if (next === 0) break;
      const named = forge(next);
      builder.last(named, {}, next);
    }
    builder.kset(
      keys,
      random.chance(is_gentle ? 0 : 0.02) ? { key_num: forge(keys.length + 1) } : {},
    );
    places.push({ seg: builder.seg, off: builder.off });
  }
  const key_tail = random.below(places.length);
  const dirty_tail = random.between(key_tail, places.length - 1);
  if (random.chance(0.5)) {
    builder.cache.key_tail.store(places[key_tail]!.seg, places[key_tail]!.off);
  }
  if (random.chance(0.5)) {
    builder.cache.dirty_tail.store(places[dirty_tail]!.seg, places[dirty_tail]!.off);
  }
  return builder;
}

Deno.test("random logs are refused, or replayed, read and written back without an access outside", () => {
  const seed = seedOr(81);
  const random = new Random(seed);
  const seen = { refused: 0, opened: 0 };
  for (let round = 0; round < 400; round++) {
    try {
      const builder = forgedLog(random);
      let device: SimDevice;
      try {
        device = open(builder);
      } catch (error) {
        if (!(error instanceof CacheError)) throw error;
        seen.refused++;
        continue;
      }
      seen.opened++;
      use(device, random);
    } catch (error) {
      throw new Error(`seed ${seed}, round ${round}`, { cause: error });
    }
  }
  assert(seen.refused > 50 && seen.opened > 50, JSON.stringify(seen));
});

/** Reads all that keys can name, then lets write-back and GC run for a while. */
function use(device: SimDevice, random: Random): void {
  for (let stretch = 0; stretch < 4; stretch++) {
    for (let off = 0; off < 128 * 512; off += 16384) device.read(stretch * 4 * MIB + off, 16384);
  }
  const { engine, backing } = device;
  engine.setGcPercent(random.between(0, 90));
  engine.setDraining(true);
  for (let turn = 0; turn < 200; turn++) {
    engine.pump(device.now_ms);
    if (!backing.endOne((id, errno) => engine.backingDone(id, errno))) device.now_ms += 100;
  }
}

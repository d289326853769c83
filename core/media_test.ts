import { assert, assertEquals, assertThrows } from "@std/assert";
import { CrashMemory, PowerCut } from "../tests/crash_memory.ts";
import {
  imageBytes,
  KERNEL_CASES,
  type KernelCase,
  loadImage,
  readExpected,
  statusFields,
} from "../tests/kernel_images.ts";
import { LogBuilder, SMALL_GEOMETRY } from "../tests/log_builder.ts";
import { Random, seedOr } from "../tests/random.ts";
import { SimMemory } from "../tests/sim_memory.ts";
import { crc32c } from "./crc32c.ts";
import { CacheError } from "./errors.ts";
import {
  DIRTY_TAIL_ADDR,
  GENERATION_OFF_BYTES,
  INFO_ADDR,
  KERNEL_GEOMETRY,
  KEY_TAIL_ADDR,
  KSET_HEADER_BYTES,
  putU32,
  segmentAddr,
  SEGMENTS_ADDR,
  segmentsOn,
  SUPERBLOCK_ADDR,
  u32At,
} from "./format.ts";
import { inspectCache, type Inspection, type OpenedCache, prepareCache } from "./media.ts";

const SEGMENTS = 5;
const CACHE_BYTES = SEGMENTS_ADDR + SEGMENTS * SMALL_GEOMETRY.segment_bytes;
const OPTIONS = { geometry: SMALL_GEOMETRY, data_crc: true };
const FORMAT = { ...OPTIONS, format: true };

function inspect(memory: SimMemory): Inspection {
  return inspectCache(memory, OPTIONS);
}

/** A device of five segments, formatted. */
function formatted(): SimMemory {
  const memory = new SimMemory({ cache_bytes: CACHE_BYTES });
  prepareCache(memory, inspect(memory));
  return memory;
}

function assertRefused(memory: SimMemory, message: string, options = OPTIONS): void {
  const before = memory.bytes.slice();
  assertThrows(() => inspectCache(memory, options), CacheError, message);
  assertEquals(memory.bytes, before, "a refused device is left as it was");
}

/** A structure on the media, so that tests forge its fields and keep its checksum right. */
interface Structure {
  readonly name: string;
  readonly addr: number;
  readonly len: number;
  readonly stride: number;
  /** Offsets of its 32-bit fields. */
  readonly fields: readonly number[];
}

const SUPERBLOCK: Structure = {
  name: "superblock",
  addr: SUPERBLOCK_ADDR,
  len: 24,
  stride: 0,
  fields: [4, 8, 12, 16, 20],
};
const INFO: Structure = {
  name: "info",
  addr: INFO_ADDR,
  len: 24,
  stride: 4096,
  fields: [4, 8, 12, 16, 20],
};
const KEY_TAIL: Structure = {
  name: "key tail",
  addr: KEY_TAIL_ADDR,
  len: 16,
  stride: 16,
  fields: [4, 8, 12],
};
const DIRTY_TAIL: Structure = { ...KEY_TAIL, name: "dirty tail", addr: DIRTY_TAIL_ADDR };

function segmentInfo(device_seg: number): Structure {
  const addr = segmentAddr(SMALL_GEOMETRY, device_seg);
  return { name: `info of segment ${device_seg}`, addr, len: 16, stride: 4096, fields: [4, 8, 12] };
}

function generation(device_seg: number): Structure {
  const addr = segmentAddr(SMALL_GEOMETRY, device_seg) + GENERATION_OFF_BYTES;
  return { name: `generation ${device_seg}`, addr, len: 16, stride: 16, fields: [4, 8, 12] };
}

/** Sets a 32-bit field in the given copies of a structure, with a right checksum. */
function forge(
  memory: SimMemory,
  structure: Structure,
  field: number,
  value: number,
  slots = [0, 1],
): void {
  for (const slot of structure.stride === 0 ? [0] : slots) {
    const at = structure.addr + slot * structure.stride;
    const bytes = memory.bytes.subarray(at, at + structure.len);
    putU32(bytes, field, value);
    putU32(bytes, 0, crc32c(bytes, 4, structure.len));
  }
}

/** Damages all copies of a structure. */
function damage(memory: SimMemory, structure: Structure): void {
  for (const slot of structure.stride === 0 ? [0] : [0, 1]) {
    memory.bytes.fill(
      0xa5,
      structure.addr + slot * structure.stride,
      structure.addr + slot * structure.stride + 4,
    );
  }
}

// ---- A new device

Deno.test("format: a new device becomes a cache that opens", () => {
  const memory = new SimMemory({ cache_bytes: CACHE_BYTES + 4095 });
  const inspection = inspect(memory);
  assertEquals([inspection.fresh, inspection.cache, memory.stores], [true, undefined, 0]);
  const made = prepareCache(memory, inspection);
  const stores = memory.stores;
  const opened = prepareCache(memory, inspect(memory));
  assertEquals(memory.stores, stores, "an existing cache is not written to");
  for (const cache of [made, opened]) {
    assertEquals(cache.fresh, cache === made);
    assertEquals([cache.seg_num, cache.n_segs, cache.sb_flags], [SEGMENTS, SEGMENTS, 0]);
    assertEquals([cache.data_crc, cache.info.gc_percent, cache.info.flags], [true, 70, 0x1183]);
    assertEquals([...cache.chain], [0, 1, 2, 3, 4]);
    assertEquals([...cache.chain].map((_, seg) => cache.generations.get(seg)), [0, 0, 0, 0, 0]);
    assertEquals([cache.key_tail.seg, cache.key_tail.off], [0, 0]);
    assertEquals([cache.dirty_tail.seg, cache.dirty_tail.off], [0, 0]);
    assertEquals(cache.data_bytes, 52 * 1024);
  }
});

Deno.test("format: without data_crc the flags say so", () => {
  const memory = new SimMemory({ cache_bytes: CACHE_BYTES });
  const options = { ...OPTIONS, data_crc: false };
  prepareCache(memory, inspectCache(memory, options));
  assertEquals(inspectCache(memory, options).cache!.info.flags, 0x1182);
});

Deno.test("format: everything is durable at its end", () => {
  const random = new Random(seedOr(70));
  const content = new Uint8Array(CACHE_BYTES).map(() => random.u32());
  const memory = new CrashMemory({ cache_bytes: CACHE_BYTES }, content);
  prepareCache(memory, inspectCache(memory, FORMAT));
  assertEquals(memory.afterPowerCut(random).bytes, memory.bytes, `seed ${random.seed}`);
});

Deno.test("format: asked for over a cache, nothing of the old one can be seen", () => {
  const builder = new LogBuilder({ segments: SEGMENTS, data_crc: true });
  for (let seg = 0; seg < SEGMENTS; seg++) {
    builder.cache.generations.bump(seg);
    builder.seg = seg;
    builder.off = 0;
    builder.kset([{ off: 0, len: 512, seg: 4, seg_off: 4096 }]);
  }
  builder.cache.key_tail.store(1, 64);
  builder.cache.dirty_tail.store(1, 64);
  builder.cache.info.setGcPercent(13);
  builder.cache.info.store();
  const { memory } = builder;
  const cache = prepareCache(memory, inspectCache(memory, FORMAT));
  assert(cache.fresh);
  const again = inspect(memory).cache!;
  assertEquals([again.key_tail.seg, again.key_tail.off, again.dirty_tail.off], [0, 0, 0]);
  assertEquals([again.generations.get(1), again.info.gc_percent], [0, 70]);
  for (let seg = 0; seg < SEGMENTS; seg++) {
    const at = again.dataAddr(seg, 0);
    assert(memory.bytes.subarray(at, at + KSET_HEADER_BYTES).every((byte) => byte === 0));
  }
});

Deno.test("addresses: data areas by cache segment, and back", () => {
  const memory = formatted();
  // The chain in another order: 2, 4, 0, 3, 1.
  forge(memory, INFO, 8, 2);
  for (const [device_seg, next] of [[2, 4], [4, 0], [0, 3], [3, 1]] as const) {
    forge(memory, segmentInfo(device_seg), 8, 3);
    forge(memory, segmentInfo(device_seg), 12, next);
  }
  forge(memory, segmentInfo(1), 8, 2);
  const cache = inspect(memory).cache!;
  assertEquals([...cache.chain], [2, 4, 0, 3, 1]);
  for (let seg = 0; seg < SEGMENTS; seg++) {
    const first = cache.dataAddr(seg, 0);
    const last = cache.dataAddr(seg, cache.data_bytes - 1);
    assertEquals(first, 0x5000 + cache.chain[seg]! * 65536 + 12288);
    assertEquals([cache.segmentOf(first), cache.segmentOf(last)], [seg, seg]);
  }
});

// ---- A format that is cut

/** Formats `content` with a cut at every store and barrier, and hands each survivor to `check`. */
function forEachCut(
  content: Uint8Array,
  check: (survivor: SimMemory, barriers: number, what: string) => void,
): void {
  const cuts_per_event = 8;
  const random = new Random(seedOr(71));
  for (let event = 0, is_over = false; !is_over; event++) {
    const memory = new CrashMemory({ cache_bytes: content.length }, content, event);
    try {
      prepareCache(memory, inspectCache(memory, FORMAT));
      is_over = true;
    } catch (error) {
      if (!(error instanceof PowerCut)) throw error;
    }
    check(memory.afterKill(), memory.barriers, `killed at event ${event}`);
    for (let i = 0; i < cuts_per_event; i++) {
      check(
        memory.afterPowerCut(random),
        memory.barriers,
        `seed ${random.seed}, power cut ${i} at event ${event}`,
      );
    }
  }
}

/** Opens a survivor as the next `create` does, and once more. */
function assertOpens(survivor: SimMemory, what: string): OpenedCache {
  const cache = prepareCache(survivor, inspect(survivor));
  const again = inspect(survivor);
  assert(!again.fresh, what);
  assertEquals([...again.cache!.chain], [0, 1, 2, 3, 4], what);
  return cache;
}

Deno.test("a cut format of an empty device is done again", () => {
  forEachCut(new Uint8Array(CACHE_BYTES), (survivor, barriers, what) => {
    const cache = assertOpens(survivor, what);
    if (barriers <= 1) assert(cache.fresh, what);
  });
});

Deno.test("a cut format over a cache leaves the old cache, whole, or a new device", () => {
  const builder = new LogBuilder({ segments: SEGMENTS, data_crc: true });
  builder.kset([{ off: 0, len: 512, seg: 1, seg_off: 0 }]);
  builder.cache.dirty_tail.store(0, 64);
  builder.cache.generations.bump(2);
  const old = builder.memory.cache.slice();
  const seen = { old: 0, fresh: 0, done: 0 };
  forEachCut(old, (survivor, barriers, what) => {
    const { cache } = inspect(survivor);
    if (cache === undefined) {
      seen.fresh++;
    } else if (cache.dirty_tail.off === 64) {
      seen.old++;
      assert(barriers <= 1, what); // the first one comes before any store
      // All but the slot of the cache info that was being written.
      assertEquals(survivor.bytes.subarray(KEY_TAIL_ADDR), old.subarray(KEY_TAIL_ADDR), what);
    } else {
      seen.done++;
    }
    assertOpens(survivor, what);
  });
  assert(seen.old > 0 && seen.fresh > 0 && seen.done > 0, JSON.stringify(seen));
});

Deno.test("a cut format over something else is refused as before, or done again", () => {
  const random = new Random(seedOr(72));
  const content = new Uint8Array(CACHE_BYTES).map(() => random.u32());
  const seen = { refused: 0, opened: 0 };
  forEachCut(content, (survivor, barriers, what) => {
    try {
      inspect(survivor);
    } catch (error) {
      assert(error instanceof CacheError && barriers <= 1, `${what}: ${error}`);
      seen.refused++;
      return;
    }
    seen.opened++;
    assertOpens(survivor, what);
  });
  assert(seen.refused > 0 && seen.opened > 0, JSON.stringify(seen));
});

Deno.test("a cache whose format was cut at its last store never looks new again", () => {
  const memory = formatted();
  // As the cut leaves it: the older slot says that init is not done.
  const older = u32At(memory.bytes, INFO_ADDR + 4) < u32At(memory.bytes, INFO_ADDR + 4096 + 4)
    ? 0
    : 1;
  forge(memory, INFO, 16, 0x1181, [older]);
  assert(!inspect(memory).fresh);
  prepareCache(memory, inspect(memory));
  for (const slot of [0, 1]) {
    const damaged = new SimMemory({ cache_bytes: CACHE_BYTES });
    damaged.bytes.set(memory.bytes);
    damaged.bytes[INFO_ADDR + slot * 4096 + 12]! ^= 1;
    assert(!inspect(damaged).fresh, `slot ${slot} damaged`);
  }
});

// ---- Caution

Deno.test("a device without superblock or cache info is new only if nothing shows a cache", () => {
  const without_superblock = formatted();
  without_superblock.bytes.fill(0, SUPERBLOCK_ADDR, SUPERBLOCK_ADDR + 4096);
  assertRefused(without_superblock, "superblock: magic 0, but its cache info is valid");

  const without_info = formatted();
  damage(without_info, INFO);
  assertRefused(without_info, "cache info: no valid copy, but its key tail is valid");
  damage(without_info, KEY_TAIL);
  assertRefused(without_info, "cache info: no valid copy, but its dirty tail is valid");
  damage(without_info, DIRTY_TAIL);
  for (let seg = 0; seg < SEGMENTS; seg++) {
    assertRefused(without_info, `the segment info of device segment ${seg} is valid`);
    damage(without_info, segmentInfo(seg));
  }
  assert(inspect(without_info).fresh, "a superblock alone holds nothing");
});

Deno.test("a kset at the start of any segment shows that a cache was here", () => {
  for (let seg = 0; seg < SEGMENTS; seg++) {
    const builder = new LogBuilder({ segments: SEGMENTS, data_crc: true });
    builder.seg = seg;
    if (seg % 2 === 0) builder.last(1);
    else {builder.kset(
        Array.from({ length: 128 }, () => ({ off: 0, len: 512, seg: 1, seg_off: 0 })),
      );}
    const { memory } = builder;
    const at = segmentAddr(SMALL_GEOMETRY, seg) + 12 * 1024;
    memory.bytes.fill(0, 0, at);
    for (let other = 0; other < SEGMENTS; other++) damage(memory, segmentInfo(other));
    assertRefused(memory, `superblock: magic 0, but device segment ${seg} starts with a kset`);
    assert(inspectCache(memory, FORMAT).fresh, "unless a format is asked for");
  }
});

// ---- What a reader must refuse

Deno.test("refused: each field, with the value and what was wanted", () => {
  const all_flags = "but only 0x1fff are known";
  const cases: [Structure, number, number, string][] = [
    [SUPERBLOCK, 4, 1, "superblock: flags 0x1, written by a big-endian machine"],
    [SUPERBLOCK, 4, 2, "superblock: flags 0x2, but no flag is known"],
    [
      SUPERBLOCK,
      8,
      7,
      "superblock: magic 0x65b05efa00000007, but a cache device has 0x65b05efa96c596ef",
    ],
    [SUPERBLOCK, 12, 0, "superblock: magic 0x0000000096c596ef"],
    [SUPERBLOCK, 16, 0, "superblock: seg_num 0, but at least 1 is needed"],
    [SUPERBLOCK, 16, 6, "superblock: seg_num 6, but the device holds at most 5 segments"],
    [SUPERBLOCK, 16, 0xffff_ffff, "superblock: seg_num 4294967295, but the device holds at most 5"],
    [SUPERBLOCK, 16, 4, "cache info: n_segs 5, but it must be 1..4"],
    [INFO, 8, 5, "cache info: seg_id 5, but the device has 5 segments"],
    [
      INFO,
      8,
      1,
      "device segment 4: the chain ends at cache segment 3, but it must have 5 segments",
    ],
    [INFO, 12, 0, "cache info: n_segs 0, but it must be 1..5"],
    [INFO, 12, 6, "cache info: n_segs 6, but it must be 1..5"],
    [INFO, 12, 4, "the chain goes on after cache segment 3, but it must have 4 segments"],
    [INFO, 16, 0x3183, `cache info: flags 0x3183, ${all_flags}`],
    [INFO, 16, 0x8000_1183, `cache info: flags 0x80001183, ${all_flags}`],
    [INFO, 16, 0x1193, "cache info: cache mode 4, but it must be 0..3"],
    [INFO, 16, 3 | 91 << 6, "cache info: gc_percent 91, but it must be 0..90"],
    [INFO, 16, 0x1182, "the cache was made with data_crc false, but data_crc true was asked for"],
    [segmentInfo(2), 12, 5, "segment info of device segment 2: next_seg 5, but the device has 5"],
    [segmentInfo(2), 12, 2, "segment chain: device segment 2 again as cache segment 3"],
    [segmentInfo(3), 12, 0, "segment chain: device segment 0 again as cache segment 4"],
    [segmentInfo(1), 8, 2, "the chain ends at cache segment 1, but it must have 5 segments"],
    [segmentInfo(4), 8, 3, "the chain goes on after cache segment 4"],
    [segmentInfo(1), 8, 5, "segment info of device segment 1: type 2, but a cache segment has 1"],
    [
      segmentInfo(1),
      8,
      35,
      "segment info of device segment 1: flags 0x23, but only 0x1f are known",
    ],
    [
      generation(3),
      12,
      0xffff_ffff,
      "generation of cache segment 3: 18446744069414584000, but at most",
    ],
    [KEY_TAIL, 8, 5, "key tail: cache segment 5, but the cache has 5 segments"],
    [KEY_TAIL, 12, 53248, "key tail: offset 53248, but a kset starts at 53224 at most"],
    [KEY_TAIL, 12, 53232, "key tail: offset 53232, but a kset starts at 53224 at most"],
    [KEY_TAIL, 12, 4, "key tail: offset 4, but it must be a multiple of 8"],
    [DIRTY_TAIL, 8, 0xffff_ffff, "dirty tail: cache segment 4294967295, but the cache has 5"],
    [DIRTY_TAIL, 12, 0xffff_fff8, "dirty tail: offset 4294967288, but a kset starts at 53224"],
    [INFO, 4, 0x0000_0103, "cache info: version 1, but only 0 is known"],
    [segmentInfo(0), 4, 0x0001_0003, "segment info of device segment 0: reserved field 1"],
  ];
  for (const [structure, field, value, message] of cases) {
    const memory = formatted();
    forge(memory, structure, field, value);
    assertRefused(memory, message);
  }
});

Deno.test("refused: both copies lost", () => {
  const cases: [Structure, string][] = [
    [segmentInfo(0), "segment info of device segment 0: no valid copy, but one is needed"],
    [segmentInfo(4), "segment info of device segment 4: no valid copy, but one is needed"],
    [KEY_TAIL, "key tail: input/output error, no valid copy on an initialised cache"],
    [DIRTY_TAIL, "dirty tail: input/output error, no valid copy on an initialised cache"],
    [SUPERBLOCK, "superblock: crc 0xa5a5a5a5, but its content gives 0x"],
  ];
  for (const [structure, message] of cases) {
    const memory = formatted();
    damage(memory, structure);
    assertRefused(memory, message);
  }
});

Deno.test("not refused: one copy lost, whichever it is, of anything that was written twice", () => {
  for (
    const structure of [INFO, segmentInfo(0), segmentInfo(4), generation(1), KEY_TAIL, DIRTY_TAIL]
  ) {
    for (const slot of [0, 1]) {
      const memory = formatted();
      const cache = inspect(memory).cache!;
      cache.key_tail.store(0, 0);
      cache.dirty_tail.store(0, 0);
      const at = structure.addr + slot * structure.stride;
      memory.bytes.fill(0xa5, at, at + structure.len);
      assert(!inspect(memory).fresh, `${structure.name}, slot ${slot}`);
    }
  }
});

Deno.test("refused: a device that is too small, or another data_crc setting", () => {
  const small = new SimMemory({ cache_bytes: 512 * 1024 * 1024 - 1 });
  const options = { data_crc: true, geometry: KERNEL_GEOMETRY };
  assertThrows(
    () => inspectCache(small, options),
    CacheError,
    "cache device: 536870911 bytes, but at least 536870912 bytes are needed",
  );
  assertRefused(
    formatted(),
    "cache info: the cache was made with data_crc true, but data_crc false was asked for",
    { ...OPTIONS, data_crc: false },
  );
});

Deno.test("forged images end in a cache or in a clear refusal", () => {
  const random = new Random(seedOr(73));
  const structures = [
    SUPERBLOCK,
    INFO,
    KEY_TAIL,
    DIRTY_TAIL,
    ...Array.from({ length: SEGMENTS }, (_, seg) => [segmentInfo(seg), generation(seg)]).flat(),
  ];
  const interesting = [
    0,
    1,
    2,
    3,
    4,
    5,
    6,
    7,
    31,
    255,
    53223,
    53224,
    53248,
    0x1181,
    0x1183,
    0x1fff,
    65536,
    1048576,
  ]
    .concat([0x7fff_ffff, 0x8000_0000, 0xffff_fff8, 0xffff_fffe, 0xffff_ffff]);
  const image = formatted().bytes;
  const memory = new SimMemory({ cache_bytes: CACHE_BYTES });
  const seen = { opened: 0, fresh: 0, refused: 0 };
  for (let round = 0; round < 20_000; round++) {
    memory.bytes.set(image);
    for (let forgeries = random.between(1, 4); forgeries > 0; forgeries--) {
      const structure = random.pick(structures);
      const value = random.chance(0.3) ? random.u32() : random.pick(interesting);
      const slots = random.pick([[0], [1], [0, 1]]);
      if (random.chance(0.1)) {
        memory.bytes[structure.addr + random.below(structure.len)] = random.u32();
      } else forge(memory, structure, random.pick(structure.fields), value, slots);
    }
    seen[outcome(memory, `seed ${random.seed}, round ${round}`)]++;
  }
  assert(seen.opened > 100 && seen.fresh > 10 && seen.refused > 1000, JSON.stringify(seen));
});

/** Inspects a forged device. What is opened must lie inside it. */
function outcome(memory: SimMemory, what: string): "opened" | "fresh" | "refused" {
  let inspection: Inspection;
  try {
    inspection = inspect(memory);
  } catch (error) {
    assert(error instanceof CacheError, `${what}: ${error}`);
    return "refused";
  }
  const { cache } = inspection;
  if (cache === undefined) return "fresh";
  assertEquals(new Set(cache.chain).size, cache.n_segs, what);
  assert(cache.chain.every((device_seg) => device_seg < SEGMENTS), what);
  for (const tail of [cache.key_tail, cache.dirty_tail]) {
    assert(tail.seg < cache.n_segs && tail.off + KSET_HEADER_BYTES <= cache.data_bytes, what);
  }
  return "opened";
}

// ---- The kernel's own caches

async function kernelCache(name: KernelCase): Promise<SimMemory> {
  const memory = new SimMemory({ cache_bytes: imageBytes(name, "cache") });
  await loadImage(name, "cache", memory.bytes);
  return memory;
}

/**
 * Dirty tail and key tail where no status line has them: k4-gc's write-back went on between its status line (0:15973104) and
 * the cut, and k6-torn has a line from after the re-open only (0:121472). Read from the images with a hex dump.
 */
const TAILS_AT_THE_CUT: Partial<Record<KernelCase, [string, string]>> = {
  "k4-gc": ["0:16050264", "0:15645224"],
  "k6-torn": ["0:116328", "0:0"],
};

for (const name of KERNEL_CASES) {
  Deno.test(`kernel image ${name}: opens as the kernel's status says`, async () => {
    const expected = readExpected(name);
    const memory = await kernelCache(name);
    const options = { data_crc: expected.data_crc };
    const cache = inspectCache(memory, options).cache!;
    const status = statusFields(expected.status ?? expected.status_on_reopen);
    const [sb_flags, seg_total, cache_segs, , gc_percent, cache_flags, , dirty_tail, key_tail] =
      status;
    assertEquals(cache.sb_flags.toString(16), sb_flags);
    assertEquals(`${cache.seg_num}`, seg_total);
    assertEquals(`${cache.n_segs}`, cache_segs);
    assertEquals(`${cache.info.gc_percent}`, gc_percent);
    assertEquals(cache.info.flags.toString(16), cache_flags);
    const tails = TAILS_AT_THE_CUT[name] ?? [dirty_tail, key_tail];
    assertEquals(`${cache.dirty_tail.seg}:${cache.dirty_tail.off}`, tails[0]);
    assertEquals(`${cache.key_tail.seg}:${cache.key_tail.off}`, tails[1]);
    assertThrows(
      () => inspectCache(memory, { data_crc: !expected.data_crc }),
      CacheError,
      `but data_crc ${!expected.data_crc} was asked for`,
    );
    prepareCache(memory, inspectCache(memory, options));
    assertEquals(memory.stores, 0);
  });
}

Deno.test("kernel image k4-gc: generations are those of segments that were reused", async () => {
  const { cache } = inspectCache(await kernelCache("k4-gc"), { data_crc: false });
  const generations = Array.from(cache!.chain, (_, seg) => cache!.generations.get(seg));
  assertEquals(generations[0], 0, "the log began here");
  assert(generations.slice(1).every((gen) => gen >= 6 && gen <= 8), `${generations}`);
});

Deno.test("a cache formatted here holds what the kernel's fresh one does", async () => {
  const kernel = await kernelCache("k0-fresh");
  const ours = new SimMemory({ cache_bytes: kernel.cache_bytes });
  prepareCache(ours, inspectCache(ours, { data_crc: true }));
  const superblock = (memory: SimMemory) =>
    memory.bytes.slice(SUPERBLOCK_ADDR, SUPERBLOCK_ADDR + 4096);
  assertEquals(superblock(ours), superblock(kernel));
  const positions = (memory: SimMemory) => memory.bytes.slice(KEY_TAIL_ADDR, KEY_TAIL_ADDR + 4096);
  assertEquals(positions(ours), positions(kernel));

  const [a, b] = [ours, kernel].map((memory) => inspectCache(memory, { data_crc: true }).cache!);
  assertEquals(a!.chain, b!.chain);
  assertEquals([a!.info.flags, a!.info.seg_id, a!.info.n_segs], [
    b!.info.flags,
    b!.info.seg_id,
    b!.info.n_segs,
  ]);
  // Nothing else is written; only the last segment's second info copy is ours alone.
  const last = segmentAddr(KERNEL_GEOMETRY, segmentsOn(KERNEL_GEOMETRY, ours.cache_bytes) - 1);
  assertEquals(nonzeroPages(ours).filter((at) => at !== last), nonzeroPages(kernel));
});

/** Addresses of the 4 KiB pages from the tails on that are not all zero. */
function nonzeroPages(memory: SimMemory): number[] {
  const words = new Uint32Array(memory.bytes.buffer);
  const pages: number[] = [];
  for (let i = KEY_TAIL_ADDR / 4; i < words.length; i++) {
    const page = Math.floor(i / 1024) * 4096;
    if (words[i] !== 0 && pages.at(-1) !== page) pages.push(page);
  }
  return pages;
}

import { assert, assertEquals, assertThrows } from "@std/assert";
import { SMALL_GEOMETRY } from "../tests/log_builder.ts";
import { SimMemory } from "../tests/sim_memory.ts";
import { AssertionFailure } from "./assert.ts";
import { Barriers } from "./barriers.ts";
import {
  checkKset,
  keyOff,
  keySeg,
  KSET_HEADER_BYTES,
  KSET_IS_KEYS,
  KSET_IS_LAST,
  KSET_MAX_KEYS,
  ksetBytes,
  ksetKeyNum,
  ksetNextSeg,
  SEGMENTS_ADDR,
} from "./format.ts";
import { KSET_AGE_MS, Log, STAGED_KEYS } from "./log.ts";
import { LOG_END, LOG_KEYS, LogReader } from "./log_reader.ts";
import { inspectCache, type OpenedCache, prepareCache } from "./media.ts";
import { Segments } from "./segments.ts";

const TOTAL = 8;
/** The segment that the tests' keys lie in: the last one that the log takes. */
const DATA_SEG = 7;
const DATA_BYTES = SMALL_GEOMETRY.segment_bytes - 12 * 1024;
const FULL_BYTES = ksetBytes(KSET_MAX_KEYS);
/** How many full ksets fit into a segment with a last kset behind them. */
const FULL_PER_SEGMENT = Math.floor((DATA_BYTES - KSET_HEADER_BYTES) / FULL_BYTES);

function isZero(bytes: Uint8Array, len_bytes: number): boolean {
  return bytes.subarray(0, len_bytes).every((byte) => byte === 0);
}

/** The notes of a segment that is cleared from its start up to `to_off`. */
function clearedPages(seg: number, to_off: number): string[] {
  return Array.from(
    { length: Math.ceil(to_off / 4096) },
    (_, i) => `clear ${seg}:${i * 4096}+4096`,
  );
}

/** Notes what the log stores, and the barriers between. */
class RecordingMemory extends SimMemory {
  notes: string[] = [];
  cache_device: OpenedCache | undefined;
  readonly #not_persisted = new Set<number>();

  override write(addr: number, from: Uint8Array, len_bytes: number): void {
    super.write(addr, from, len_bytes);
    if (this.cache_device === undefined) return;
    this.#not_persisted.add(addr);
    const seg = this.cache_device.segmentOf(addr);
    const place = `${seg}:${addr - this.cache_device.dataAddr(seg, 0)}`;
    const kind = checkKset(from, 0, len_bytes);
    if (kind === KSET_IS_KEYS) this.notes.push(`kset ${place} of ${ksetKeyNum(from, 0)}`);
    else if (kind === KSET_IS_LAST) this.notes.push(`last ${place} to ${ksetNextSeg(from, 0)}`);
    else if (isZero(from, len_bytes)) this.notes.push(`clear ${place}+${len_bytes}`);
    else this.notes.push(`unknown ${place}`);
  }

  override persist(addr: number, len_bytes: number): void {
    super.persist(addr, len_bytes);
    this.#not_persisted.delete(addr);
  }

  override barrier(): boolean {
    assertEquals(this.#not_persisted.size, 0, "what is stored is persisted before the barrier");
    this.notes.push("barrier");
    return super.barrier();
  }
}

/** A log alone: its memory, the barriers, and the segments it takes. */
class Fixture {
  readonly memory: RecordingMemory;
  readonly cache: OpenedCache;
  readonly segments: Segments;
  readonly barriers: Barriers;
  readonly log: Log;
  #next_key = 0;

  constructor({ cheap = false, asynchronous = false, head_off = 0 } = {}) {
    this.memory = new RecordingMemory({
      cache_bytes: SEGMENTS_ADDR + TOTAL * SMALL_GEOMETRY.segment_bytes,
      barrier_is_cheap: cheap,
      barriers_are_asynchronous: asynchronous,
    });
    const options = { geometry: SMALL_GEOMETRY, data_crc: false };
    this.cache = prepareCache(this.memory, inspectCache(this.memory, options));
    this.memory.cache_device = this.cache;
    this.segments = new Segments(TOTAL, this.cache.generations, () => {});
    this.segments.claimForLog(0);
    this.segments.settle();
    this.barriers = new Barriers(this.memory);
    this.log = new Log(this.cache, this.memory, this.segments, this.barriers, 0, head_off, 0);
  }

  /** Appends keys numbered on, their numbers as sectors. */
  append(count: number, now_ms = 0): void {
    this.log.reserve(count);
    this.log.now_ms = now_ms;
    for (let i = 0; i < count; i++) {
      this.log.append(this.#next_key++, 1, 0, DATA_SEG, 0, 0);
    }
  }

  /** Goes on as far as it can without a barrier's end. */
  step(now_ms = 0): void {
    for (;;) {
      const moved = this.log.step(now_ms);
      if (!this.barriers.step() && !moved) return;
    }
  }

  endBarrier(now_ms = 0): void {
    this.memory.completeBarrier();
    this.barriers.end(false);
    this.step(now_ms);
  }

  takeNotes(): string[] {
    const { notes } = this.memory;
    this.memory.notes = [];
    return notes;
  }

  /** The keys in the log as a reader finds them from `0:from` on: their numbers, and the number of keys of each kset. */
  read(from = 0): { keys: number[]; ksets: number[] } {
    const reader = new LogReader(this.cache, this.memory, 0, from);
    const keys: number[] = [];
    const ksets: number[] = [];
    for (let kind = reader.read(); kind !== LOG_END; kind = reader.read()) {
      if (kind === LOG_KEYS) {
        ksets.push(reader.key_num);
        for (let i = 0; i < reader.key_num; i++) {
          assertEquals(keySeg(reader.words, reader.keyAt(i)), DATA_SEG);
          keys.push(keyOff(reader.words, reader.keyAt(i)) / 512);
        }
      }
      reader.advance(kind);
    }
    assertEquals([reader.seg, reader.off], [this.log.head_seg, this.log.head_off], "the key head");
    return { keys, ksets };
  }
}

function numbers(count: number): number[] {
  return Array.from({ length: count }, (_, i) => i);
}

Deno.test("a commit: clear places, barrier, ksets, barrier; only then durable", () => {
  const device = new Fixture({ asynchronous: true });
  const { log } = device;
  device.append(3);
  log.want();
  device.step();
  assertEquals(device.takeNotes(), ["clear 0:0+4096", "barrier"]);
  assertEquals(log.durable, 0);
  device.endBarrier();
  assertEquals(device.takeNotes(), ["kset 0:0 of 3", "barrier"]);
  assertEquals([log.durable, log.head_off], [0, 0]);
  device.endBarrier();
  assertEquals([log.durable, log.appended, log.head_off], [3, 3, 144]);
  assertEquals([device.takeNotes(), device.read().keys], [[], numbers(3)]);
});

Deno.test("the key head is clear before a kset is stored there, whatever a crash left", () => {
  const device = new Fixture({ head_off: 64 });
  device.memory.bytes.fill(0xee, device.cache.dataAddr(0, 64), device.cache.dataAddr(0, 512));
  device.append(1);
  device.log.want();
  device.step();
  assertEquals(device.takeNotes(), [
    "clear 0:64+4032",
    "barrier",
    "kset 0:64 of 1",
    "barrier",
  ]);
});

Deno.test("what is clear stays so: a commit clears a page, those after it store nothing but ksets", () => {
  const device = new Fixture();
  const ksets = Math.floor((4096 - KSET_HEADER_BYTES) / ksetBytes(1));
  for (let n = 0; n <= ksets; n++) {
    device.append(1);
    device.log.want();
    device.step();
    const cleared = n === 0 ? ["clear 0:0+4096"] : n === ksets ? ["clear 0:4096+4096"] : [];
    const kset = `kset 0:${n * ksetBytes(1)} of 1`;
    assertEquals(device.takeNotes(), [...cleared, "barrier", kset, "barrier"]);
  }
  assertEquals(device.read().keys, numbers(ksets + 1));
});

Deno.test("keys wait for company: 1 s, or a flush", () => {
  for (const cheap of [true, false]) {
    const device = new Fixture({ cheap });
    const { log } = device;
    assertEquals(log.dueMs(), Infinity);
    device.append(2, 5000);
    device.append(2, 5900);
    assertEquals(log.dueMs(), 5000 + KSET_AGE_MS, "counted from the first key");
    device.step(5000 + KSET_AGE_MS - 1);
    assertEquals([device.takeNotes(), log.durable], [[], 0]);
    device.step(5000 + KSET_AGE_MS);
    assertEquals([log.durable, log.dueMs()], [4, Infinity]);
    device.append(1, 7000);
    device.step(7000);
    assertEquals(log.durable, 4);
    log.want();
    device.step(7000);
    assertEquals([log.durable, device.read().ksets], [5, [4, 1]]);
  }
});

Deno.test("where barriers are cheap a full kset is stored at once, the rest waits", () => {
  const device = new Fixture({ cheap: true });
  device.append(127);
  device.step();
  assertEquals(device.log.durable, 0);
  device.append(1 + 128 + 5);
  device.step();
  assertEquals([device.log.durable, device.read().ksets], [256, [128, 128]]);
  device.log.want();
  device.step();
  assertEquals(device.read(), { keys: numbers(261), ksets: [128, 128, 5] });
});

Deno.test("where a barrier costs, full ksets wait for a flush, and share its two barriers", () => {
  const device = new Fixture();
  device.append(500);
  device.step();
  assertEquals(device.takeNotes(), []);
  device.log.want();
  device.step();
  const barriers = device.takeNotes().filter((note) => note === "barrier");
  assertEquals([barriers.length, device.read()], [2, {
    keys: numbers(500),
    ksets: [128, 128, 128, 116],
  }]);
});

Deno.test("what is appended during a commit is committed by the next", () => {
  const device = new Fixture({ asynchronous: true });
  const { log } = device;
  device.append(2);
  log.want();
  device.step();
  device.append(3);
  log.want();
  device.endBarrier();
  device.append(1);
  device.endBarrier();
  assertEquals(log.durable, 2);
  device.endBarrier();
  device.endBarrier();
  assertEquals([log.durable, device.read()], [6, { keys: numbers(6), ksets: [2, 4] }]);
});

Deno.test("while a commit is under way nothing is due: its barrier's end will tell", () => {
  const device = new Fixture({ asynchronous: true });
  const { log } = device;
  device.append(1, 1000);
  device.step(2000);
  device.append(1, 2000);
  assertEquals(log.dueMs(), Infinity);
  device.endBarrier(9000);
  assertEquals(log.dueMs(), Infinity);
  device.endBarrier(9000);
  assertEquals([log.durable, log.dueMs()], [1, Infinity], "the next commit is under way");
  device.endBarrier(9000);
  device.endBarrier(9000);
  assertEquals([log.durable, log.dueMs()], [2, Infinity]);
});

Deno.test("at a segment's end the log goes on in another one, whose start is clear before it is named", () => {
  const device = new Fixture({ asynchronous: true });
  const keys = (FULL_PER_SEGMENT + 1) * KSET_MAX_KEYS;
  device.append(keys);
  device.log.want();
  device.step();
  const end = FULL_PER_SEGMENT * FULL_BYTES;
  const pages = [
    ...clearedPages(0, end + KSET_HEADER_BYTES),
    ...clearedPages(1, FULL_BYTES + KSET_HEADER_BYTES),
  ];
  assertEquals(device.takeNotes(), [...pages, "barrier"]);
  device.endBarrier();
  const stores = device.takeNotes();
  assertEquals(stores.slice(-3), [`last 0:${end} to 1`, "kset 1:0 of 128", "barrier"]);
  device.endBarrier();
  assertEquals([device.log.head_seg, device.log.head_off], [1, FULL_BYTES]);
  assert(device.segments.isLog(1));
  assertEquals(device.read().keys, numbers(keys));
});

Deno.test("a kset goes into a segment as long as one last kset fits behind it, to the byte", () => {
  const room_for_one = ksetBytes(1) + KSET_HEADER_BYTES;
  for (const [room, seg] of [[room_for_one, 0], [room_for_one - 8, 1]] as const) {
    const device = new Fixture({ head_off: DATA_BYTES - room });
    for (let n = 1; n <= 2; n++) {
      device.append(1);
      device.log.want();
      device.step();
      assertEquals(device.log.durable, n);
      if (n === 1) assertEquals(device.log.head_seg, seg);
    }
    assertEquals(device.read(DATA_BYTES - room).keys, [0, 1]);
  }
});

Deno.test("a log that finds no segment commits what fits, waits without a timer, and goes on", () => {
  const device = new Fixture();
  const { log, segments } = device;
  while (segments.takeForLog() >= 0); // others have them all
  const fits = FULL_PER_SEGMENT * KSET_MAX_KEYS;
  device.append(fits + 200);
  log.want();
  device.step();
  assertEquals([log.durable, log.appended], [fits, fits + 200]);
  assertEquals(log.dueMs(), Infinity, "time alone will not help");
  segments.dropLog(4);
  segments.sealRetired();
  segments.freeSealed();
  device.step();
  assertEquals([log.durable, log.head_seg], [fits + 200, 4]);
  assertEquals(device.read().keys, numbers(fits + 200));
});

Deno.test("many ksets at once: all of them, in order, over several segments", () => {
  const device = new Fixture();
  const count = 5 * FULL_PER_SEGMENT * KSET_MAX_KEYS + 77;
  device.append(count);
  device.log.want();
  device.step();
  assertEquals([device.log.durable, device.log.head_seg], [count, 5]);
  assertEquals(device.read().keys, numbers(count));
});

Deno.test("room in the log is what is neither staged nor reserved", () => {
  const device = new Fixture();
  const { log } = device;
  log.reserve(10);
  device.append(5);
  assertEquals(log.available, STAGED_KEYS - 15);
  log.unreserve(10);
  assertEquals(log.available, STAGED_KEYS - 5);
  log.want();
  device.step();
  assertEquals(log.available, STAGED_KEYS);
  log.reserve(STAGED_KEYS);
  assertThrows(() => log.reserve(1), AssertionFailure);
  log.unreserve(STAGED_KEYS);
  assertThrows(() => log.unreserve(1), AssertionFailure);
});

Deno.test("a key counts for its segment from the moment it is staged, with the generation of then", () => {
  const device = new Fixture();
  device.cache.generations.bump(DATA_SEG);
  device.append(1);
  assertEquals(device.segments.keys(DATA_SEG), 1);
});

Deno.test("after a barrier that failed nothing more is stored", () => {
  const device = new Fixture({ asynchronous: true });
  device.append(3);
  device.log.want();
  device.step();
  device.takeNotes();
  device.memory.completeBarrier();
  device.barriers.end(true);
  device.append(3);
  device.log.want();
  device.step(10_000);
  assertEquals([device.takeNotes(), device.log.durable], [[], 0]);
  assertEquals(device.log.dueMs(), Infinity);
});

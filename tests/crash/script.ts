/**
 * Scripts: what clients and the machine do, as a list of operations, so that a failing one can be shown, repeated and cut short.
 *
 * @module
 */

import { CACHE_MODES, type CacheMode } from "../../core/cache_mode.ts";
import { type Eviction, EVICTIONS } from "../../core/eviction.ts";
import type { Medium } from "./crash_memory.ts";
import type { Random } from "../random.ts";
import type { Simulation } from "../simulation.ts";
import type { Messages } from "./messages.ts";

const SECTOR = 512;

/** One thing that happens. Units: sectors, unless a name says otherwise. */
export type Operation =
  /** A request begins; it goes on when the machine does something. */
  | { readonly do: "write"; readonly at: number; readonly sectors: number; readonly fua?: boolean }
  /** Bytes of any alignment. */
  | { readonly do: "write bytes"; readonly off: number; readonly len: number }
  | { readonly do: "zero"; readonly at: number; readonly sectors: number; readonly fua?: boolean }
  | { readonly do: "trim"; readonly at: number; readonly sectors: number }
  | { readonly do: "zero bytes"; readonly off: number; readonly len: number }
  | { readonly do: "read"; readonly at: number; readonly sectors: number }
  | { readonly do: "flush" }
  /** One payload arrives; one backing request ends; a barrier under way ends; one reply leaves. */
  | { readonly do: "payload" | "backing" | "barrier" | "reply" }
  | { readonly do: "wait"; readonly ms: number }
  /** The machine does so many things, chosen by the seed. */
  | { readonly do: "steps"; readonly count: number }
  /** Every request ends. */
  | { readonly do: "settle" }
  | { readonly do: "gc_percent"; readonly percent: number }
  | { readonly do: "cache_mode"; readonly mode: CacheMode }
  | { readonly do: "eviction"; readonly policy: Eviction }
  /** Any message (`messages.ts`); the one that is done beside the requests comes to its end. */
  | { readonly do: "message"; readonly words: readonly string[] }
  | { readonly do: "message done" }
  /** A clean stop and start; everything is written back. */
  | { readonly do: "reopen" | "drain" }
  /** Crash states are looked at from here on, or not. */
  | { readonly do: "explore"; readonly on: boolean };

/** What a script runs on. */
export interface Shape {
  readonly medium: Medium;
  readonly segments: number;
  readonly device_sectors: number;
  readonly data_crc: boolean;
  /** A barrier takes time, and other things happen meanwhile. */
  readonly slow_barriers: boolean;
  /** What the cache is made with: writeback if left out. */
  readonly cache_mode?: CacheMode;
  readonly eviction?: Eviction;
}

export interface Script {
  readonly name: string;
  readonly shape: Shape;
  readonly operations: readonly Operation[];
}

/** Size of a segment: the smallest that there is. Its data area holds 40 sectors, or three full ksets. */
export const SEGMENT_BYTES = 32 * 1024;

/** Does one operation, but for "explore". */
export function perform(
  simulation: Simulation,
  messages: Messages,
  operation: Operation,
): void {
  switch (operation.do) {
    case "write": {
      const { at, sectors, fua = false } = operation;
      simulation.beginWrite(at * SECTOR, sectors * SECTOR, fua);
      break;
    }
    case "write bytes":
      simulation.beginWrite(operation.off, operation.len, false);
      break;
    case "zero": {
      const { at, sectors, fua = false } = operation;
      simulation.beginZero(at * SECTOR, sectors * SECTOR, false, fua);
      break;
    }
    case "trim":
      simulation.beginZero(operation.at * SECTOR, operation.sectors * SECTOR, true, false);
      break;
    case "zero bytes":
      simulation.beginZero(operation.off, operation.len, false, false);
      break;
    case "read":
      simulation.beginRead(operation.at * SECTOR, operation.sectors * SECTOR);
      break;
    case "flush":
      simulation.beginFlush();
      break;
    case "payload":
      simulation.pay();
      break;
    case "backing":
      simulation.endBacking();
      break;
    case "barrier":
      simulation.endBarrier();
      break;
    case "reply":
      simulation.sendReply();
      break;
    case "wait":
      simulation.now_ms += operation.ms;
      break;
    case "steps":
      for (let i = 0; i < operation.count; i++) simulation.machineStep();
      break;
    case "settle":
      simulation.settle();
      break;
    case "gc_percent":
      simulation.engine.setGcPercent(operation.percent);
      break;
    case "eviction":
      simulation.engine.setEviction(operation.policy);
      break;
    case "cache_mode":
      simulation.engine.setCacheMode(operation.mode);
      break;
    case "message":
      messages.send(operation.words);
      break;
    case "message done":
      simulation.runUntil("the message is done", () => !messages.is_under_way);
      break;
    case "reopen":
      messages.cancel();
      simulation.reopenClean();
      break;
    case "drain":
      messages.cancel();
      simulation.drain();
      break;
    case "explore":
      break;
  }
  simulation.turn();
}

const SHAPES: readonly Shape[] = [
  shape("pmem", 7, 40, true, false),
  shape("pmem", 8, 64, false, false),
  shape("pmem", 7, 32, true, true),
  shape("pages", 7, 40, true, true),
  shape("pages", 8, 64, false, true),
];

function shape(
  medium: Medium,
  segments: number,
  device_sectors: number,
  data_crc: boolean,
  slow_barriers: boolean,
): Shape {
  return { medium, segments, device_sectors, data_crc, slow_barriers };
}

/** Something random: several clients, re-opens, a changed gc_percent, a changed mode. */
export function randomScript(random: Random): Script {
  const cache_mode = random.chance(0.4) ? "writeback" : random.pick(CACHE_MODES);
  const eviction: Eviction = random.chance(0.5) ? "reinsert" : "fifo";
  const shape = { ...random.pick(SHAPES), cache_mode, eviction };
  const mode_changes = random.pick([0, 0.03]);
  const messages = random.pick([0, 0.1]);
  const operations: Operation[] = [];
  const most = random.pick([20, 60, 150]);
  const hot = random.between(4, shape.device_sectors);
  const longest = random.pick([1, 4, 20]);
  const flushes = random.pick([0.05, 0.2, 0.5]);
  const reads = random.pick([0.05, 0.3]);
  const zeroes = random.pick([0, 0.1, 0.5]);
  while (operations.length < most) {
    const sectors = random.between(1, Math.min(longest, hot));
    const at = random.below(hot - sectors + 1);
    if (random.chance(0.01)) operations.push({ do: "reopen" });
    else if (random.chance(0.02)) operations.push({ do: "drain" });
    else if (random.chance(mode_changes)) {
      operations.push({ do: "cache_mode", mode: random.pick(CACHE_MODES) });
    } else if (random.chance(messages)) {
      operations.push({ do: "message", words: randomMessage(random, shape, at, sectors) });
      if (random.chance(0.3)) operations.push({ do: "message done" });
    } else if (random.chance(0.03)) {
      operations.push({ do: "gc_percent", percent: random.pick([0, 10, 50, 70, 90]) });
    } else if (random.chance(flushes)) operations.push({ do: "flush" });
    else if (random.chance(zeroes)) operations.push(randomZeroing(random, at, sectors));
    else if (random.chance(reads)) operations.push({ do: "read", at, sectors });
    else if (random.chance(0.1)) {
      const off = at * SECTOR + random.below(SECTOR);
      operations.push({ do: "write bytes", off, len: random.between(1, sectors * SECTOR - 511) });
    } else operations.push({ do: "write", at, sectors, fua: random.chance(0.1) });
    if (random.chance(0.3)) operations.push({ do: "settle" });
    else operations.push({ do: "steps", count: random.below(8) });
  }
  return { name: `random ${random.seed}`, shape, operations };
}

function randomMessage(random: Random, shape: Shape, at: number, sectors: number): string[] {
  return random.pick([
    ["flush"],
    ["drop_clean"],
    ...(shape.data_crc ? [["scrub"]] : []),
    ["invalidate", `${at}`, `${sectors}`],
    ["writeback_rate", random.pick(["pause", "4096", "max"])],
    ["sequential_cutoff", random.pick(["0", "4096"])],
    ["eviction", random.pick(EVICTIONS)],
  ]);
}

function randomZeroing(random: Random, at: number, sectors: number): Operation {
  if (random.chance(0.4)) return { do: "trim", at, sectors };
  if (random.chance(0.7)) return { do: "zero", at, sectors, fua: random.chance(0.1) };
  const off = at * SECTOR + random.below(SECTOR);
  return { do: "zero bytes", off, len: random.between(1, sectors * SECTOR - 511) };
}

/** The n-th write of `count` single sectors, one key each, from sector 0 on. */
function singles(count: number, from = 0, stride = 1): Operation[] {
  const operations: Operation[] = [];
  for (let i = 0; i < count; i++) {
    operations.push({ do: "write", at: (from + i * stride) % 64, sectors: 1 });
    if (i % 16 === 15) operations.push({ do: "settle" });
  }
  return [...operations, { do: "settle" }];
}

function repeat(count: number, ...operations: Operation[]): Operation[] {
  return Array.from({ length: count }, () => operations).flat();
}

const FLUSH: Operation[] = [{ do: "flush" }, { do: "settle" }];
/** A part of what comes in is read again: it has a hit. */
const READ_TWICE: Operation[] = [
  { do: "read", at: 0, sectors: 8 },
  { do: "settle" },
  { do: "read", at: 2, sectors: 4 },
  { do: "settle" },
];
const EXPLORE: Operation = { do: "explore", on: true };
const REST: Operation = { do: "explore", on: false };

/** Operations on both media, with a shape of each. */
function onBoth(
  name: string,
  operations: readonly Operation[],
  changes: Partial<Shape> = {},
): Script[] {
  return (["pmem", "pages"] as const).map((medium) => ({
    name: `${name}, ${medium}`,
    shape: { ...shape(medium, 8, 64, true, medium === "pages"), ...changes },
    operations,
  }));
}

/** One sector, one key, one kset. */
function fuaSingles(count: number): Operation[] {
  const operations: Operation[] = [];
  for (let i = 0; i < count; i++) {
    operations.push({ do: "write", at: i % 32, sectors: 1, fua: true }, { do: "settle" });
  }
  return operations;
}

/** Fills one log segment but for its last kset: three of 128 keys. */
const ALMOST_A_SEGMENT: Operation[] = repeat(3, ...singles(128), ...FLUSH);

/** In each of the modes in which the backing device has what was answered. */
function inThroughModes(
  name: string,
  operations: readonly Operation[],
  changes: Partial<Shape> = {},
): Script[] {
  return (["writethrough", "writearound"] as const).flatMap((cache_mode) =>
    onBoth(`${cache_mode}: ${name}`, operations, { cache_mode, device_sectors: 24, ...changes })
  );
}

/** Messages, while requests are under way, in every mode. */
const MESSAGE_SCRIPTS: readonly Script[] = CACHE_MODES.flatMap((cache_mode) => [
  ...onBoth(`${cache_mode}: all messages, beside requests`, [
    { do: "message", words: ["writeback_rate", "pause"] },
    { do: "message", words: ["sequential_cutoff", "4096"] },
    { do: "message", words: ["eviction", "reinsert"] },
    ...repeat(2, { do: "write", at: 0, sectors: 6 }, ...FLUSH, { do: "read", at: 4, sectors: 18 }),
    EXPLORE,
    { do: "read", at: 10, sectors: 12 },
    { do: "write", at: 14, sectors: 2 },
    { do: "payload" },
    { do: "message", words: ["flush"] },
    { do: "write", at: 3, sectors: 6 },
    { do: "steps", count: 8 },
    { do: "message done" },
    { do: "message", words: ["scrub"] },
    { do: "write", at: 0, sectors: 4 },
    { do: "read", at: 16, sectors: 2 },
    { do: "message done" },
    { do: "settle" },
    // It has counted what is dirty when the write's payload comes.
    { do: "write", at: 17, sectors: 3 },
    { do: "message", words: ["invalidate", "16", "6"] },
    { do: "payload" },
    { do: "message done" },
    { do: "read", at: 15, sectors: 8 },
    { do: "settle" },
    ...FLUSH,
    { do: "message", words: ["drop_clean"] },
    { do: "write", at: 2, sectors: 6 },
    { do: "steps", count: 10 },
    { do: "message done" },
    { do: "settle" },
    { do: "message", words: ["gc_percent", "0"] },
    { do: "message", words: ["cache_mode", "writeback"] },
    { do: "write", at: 4, sectors: 2 },
    { do: "message", words: ["cache_mode", cache_mode] },
    { do: "message", words: ["writeback_rate", "4096"] },
    { do: "write", at: 6, sectors: 8 },
    { do: "settle" },
    { do: "wait", ms: 2000 },
    { do: "steps", count: 6 },
    ...FLUSH,
    { do: "message", words: ["flush"] },
    { do: "reopen" },
  ], { cache_mode, device_sectors: 24 }),
  ...onBoth(`${cache_mode}: what was forgotten is written, and what was read is kept again`, [
    { do: "read", at: 0, sectors: 12 },
    { do: "settle" },
    { do: "wait", ms: 2000 },
    ...FLUSH,
    EXPLORE,
    { do: "message", words: ["invalidate", "2", "6"] },
    { do: "message done" },
    { do: "write", at: 3, sectors: 3 },
    { do: "settle" },
    ...FLUSH,
    { do: "read", at: 0, sectors: 8 },
    { do: "settle" },
    { do: "message", words: ["drop_clean"] },
    { do: "message done" },
    { do: "write", at: 6, sectors: 4, fua: true },
    { do: "settle" },
  ], { cache_mode, device_sectors: 16 }),
  // The read begins while the write is under way to the backing device, or in the log; it may end first.
  ...onBoth(`${cache_mode}: a range that is being written is to be forgotten, and is read`, [
    EXPLORE,
    ...repeat(
      4,
      { do: "write", at: 4, sectors: 4 },
      { do: "payload" },
      { do: "message", words: ["invalidate", "4", "4"] },
      { do: "wait", ms: 1 },
      { do: "read", at: 4, sectors: 4 },
      { do: "settle" },
      { do: "read", at: 4, sectors: 4 },
      { do: "settle" },
      { do: "message", words: ["drop_clean"] },
      { do: "message done" },
      { do: "reopen" },
    ),
  ], { cache_mode, device_sectors: 12 }),
]);

/** What the cache modes promise. */
const MODE_SCRIPTS: readonly Script[] = [
  ...inThroughModes("writes over holes, hits and each other, FUA, flushes", [
    EXPLORE,
    { do: "write", at: 0, sectors: 6 },
    { do: "settle" },
    { do: "read", at: 2, sectors: 8 },
    { do: "settle" },
    { do: "write", at: 4, sectors: 4, fua: true },
    { do: "steps", count: 6 },
    { do: "write", at: 5, sectors: 2 },
    { do: "settle" },
    ...FLUSH,
    { do: "write", at: 10, sectors: 3, fua: true },
    { do: "write", at: 11, sectors: 4 },
    { do: "settle" },
    { do: "write bytes", off: 512 * 3 + 100, len: 900 },
    { do: "settle" },
    { do: "wait", ms: 2000 },
    { do: "steps", count: 6 },
    ...FLUSH,
  ]),
  ...inThroughModes("an older copy lies in the log, clean", [
    { do: "read", at: 0, sectors: 12 },
    { do: "settle" },
    ...FLUSH,
    { do: "drain" },
    EXPLORE,
    { do: "write", at: 2, sectors: 3 },
    { do: "steps", count: 10 },
    { do: "write", at: 1, sectors: 3 },
    { do: "settle" },
    { do: "write", at: 10, sectors: 4 },
    { do: "settle" },
    ...FLUSH,
  ]),
  ...inThroughModes("what is not flushed yet is read, and kept", [
    EXPLORE,
    { do: "write", at: 0, sectors: 8 },
    { do: "settle" },
    { do: "read", at: 0, sectors: 12 },
    { do: "settle" },
    { do: "wait", ms: 1100 },
    { do: "steps", count: 8 },
    { do: "write", at: 14, sectors: 2, fua: true },
    { do: "settle" },
    ...FLUSH,
  ]),
  ...inThroughModes("a write under way is overwritten, and read", [
    EXPLORE,
    { do: "write", at: 0, sectors: 8 },
    { do: "payload" },
    { do: "write", at: 2, sectors: 4 },
    { do: "payload" },
    { do: "read", at: 0, sectors: 8 },
    { do: "flush" },
    { do: "steps", count: 8 },
    { do: "write", at: 3, sectors: 6 },
    { do: "payload" },
    { do: "write bytes", off: 512 * 7 + 10, len: 100 },
    { do: "payload" },
    { do: "settle" },
    ...FLUSH,
  ]),
  ...inThroughModes("a write meets the read of its range", [
    EXPLORE,
    { do: "read", at: 0, sectors: 8 },
    { do: "write", at: 2, sectors: 4 },
    { do: "payload" },
    { do: "settle" },
    { do: "write", at: 12, sectors: 4 },
    { do: "read", at: 10, sectors: 8 },
    { do: "payload" },
    { do: "settle" },
    ...FLUSH,
  ]),
  ...inThroughModes("zeroing and trimming", [
    { do: "write", at: 0, sectors: 6 },
    ...FLUSH,
    EXPLORE,
    { do: "zero", at: 2, sectors: 6 },
    { do: "settle" },
    { do: "trim", at: 10, sectors: 4 },
    { do: "write", at: 11, sectors: 2 },
    { do: "settle" },
    ...FLUSH,
    { do: "zero bytes", off: 512 * 4 + 100, len: 1000 },
    { do: "settle" },
    ...FLUSH,
  ]),
  ...inThroughModes("a full cache", [
    ...repeat(
      3,
      { do: "read", at: 0, sectors: 20 },
      { do: "write", at: 0, sectors: 20 },
      { do: "write", at: 20, sectors: 20 },
      { do: "write", at: 40, sectors: 20 },
    ),
    { do: "settle" },
    EXPLORE,
    ...repeat(
      3,
      { do: "write", at: 3, sectors: 20 },
      { do: "write", at: 33, sectors: 20 },
      { do: "flush" },
      { do: "read", at: 10, sectors: 20 },
      { do: "settle" },
    ),
  ], { segments: 6, device_sectors: 64 }),
  ...onBoth("the mode changes while much is dirty, and back", [
    ...repeat(4, { do: "write", at: 0, sectors: 10 }, ...FLUSH),
    EXPLORE,
    { do: "cache_mode", mode: "writethrough" },
    { do: "write", at: 4, sectors: 10 },
    { do: "steps", count: 6 },
    { do: "flush" },
    { do: "steps", count: 12 },
    { do: "write", at: 0, sectors: 2 },
    { do: "settle" },
    ...FLUSH,
    { do: "cache_mode", mode: "writeback" },
    { do: "write", at: 2, sectors: 6 },
    ...FLUSH,
    { do: "cache_mode", mode: "writearound" },
    { do: "write", at: 12, sectors: 6 },
    { do: "settle" },
    { do: "cache_mode", mode: "writeback" },
    ...FLUSH,
    { do: "reopen" },
    { do: "write", at: 14, sectors: 6, fua: true },
    { do: "settle" },
  ], { device_sectors: 24 }),
  ...onBoth("the mode changes while writes go around the cache", [
    EXPLORE,
    { do: "write", at: 0, sectors: 6 },
    { do: "payload" },
    { do: "cache_mode", mode: "writeback" },
    { do: "write", at: 2, sectors: 6 },
    { do: "payload" },
    { do: "flush" },
    { do: "wait", ms: 6000 },
    { do: "steps", count: 8 },
    { do: "settle" },
    { do: "drain" },
    { do: "cache_mode", mode: "writearound" },
    { do: "write", at: 10, sectors: 2 },
    { do: "cache_mode", mode: "writeonly" },
    { do: "read", at: 8, sectors: 6 },
    { do: "settle" },
    ...FLUSH,
  ], { cache_mode: "writearound", device_sectors: 16 }),
  // What a killed process has written around the cache is volatile, and only the stored mode tells the next one.
  ...onBoth("the mode changes after writes went around the cache", [
    EXPLORE,
    ...[0, 6, 12, 18].flatMap((at): Operation[] => [
      { do: "write", at, sectors: 6 },
      { do: "settle" },
      { do: "cache_mode", mode: "writeback" },
      { do: "read", at, sectors: 2 },
      { do: "read", at: at + 1, sectors: 2 },
      { do: "settle" },
      ...FLUSH,
      { do: "cache_mode", mode: "writearound" },
      { do: "settle" },
    ]),
  ], { cache_mode: "writearound", device_sectors: 24 }),
  {
    name: "the mode changes while gc_percent is being stored",
    shape: shape("pages", 8, 48, true, true),
    operations: [
      EXPLORE,
      ...[0, 6, 12, 18, 24, 30, 36, 42].flatMap((at): Operation[] => [
        { do: "gc_percent", percent: at },
        { do: "cache_mode", mode: "writearound" },
        { do: "write", at, sectors: 6 },
        { do: "payload" },
        { do: "backing" },
        { do: "reply" },
        // What this stores is when the process may be killed.
        ...[at, at + 2, at + 4].flatMap((at): Operation[] => [
          { do: "read", at, sectors: 2 },
          { do: "backing" },
          { do: "reply" },
        ]),
        { do: "barrier" },
        { do: "settle" },
        ...FLUSH,
        { do: "cache_mode", mode: "writeback" },
        { do: "settle" },
      ]),
    ],
  },
  ...onBoth("writeonly: misses are not kept", [
    EXPLORE,
    { do: "read", at: 0, sectors: 10 },
    { do: "write", at: 4, sectors: 4 },
    { do: "settle" },
    ...FLUSH,
    { do: "read", at: 2, sectors: 8 },
    { do: "settle" },
    { do: "drain" },
    { do: "write", at: 6, sectors: 4, fua: true },
    { do: "settle" },
  ], { cache_mode: "writeonly", device_sectors: 16 }),
];

/** The narrow places, by name. */
export const SCRIPTS: readonly Script[] = [
  ...onBoth("first format, and the first write", [
    EXPLORE,
    ...singles(2),
    ...FLUSH,
  ], { segments: 5, device_sectors: 16 }),
  ...onBoth("a kset closes at its segment's end, and a last kset", [
    ...ALMOST_A_SEGMENT,
    EXPLORE,
    ...singles(100),
    ...FLUSH,
    ...singles(40, 3),
    ...FLUSH,
    ...singles(2, 60),
    ...FLUSH,
  ]),
  ...onBoth("the log fills a segment to its very end", [
    ...ALMOST_A_SEGMENT,
    // 5048 bytes are left: 24 + 40 n + 24 of them make a kset of 125 keys end exactly there.
    ...singles(120),
    ...FLUSH,
    EXPLORE,
    ...repeat(5, ...singles(1, 7), ...FLUSH),
  ]),
  ...onBoth("GC between key tail and references", [
    { do: "gc_percent", percent: 0 },
    ...repeat(
      4,
      { do: "write", at: 0, sectors: 20 },
      { do: "write", at: 20, sectors: 20 },
      ...FLUSH,
    ),
    EXPLORE,
    { do: "drain" },
    { do: "write", at: 5, sectors: 20 },
    ...FLUSH,
    { do: "wait", ms: 2000 },
    { do: "steps", count: 30 },
    { do: "write", at: 30, sectors: 20 },
    ...FLUSH,
    { do: "drain" },
  ]),
  ...onBoth("segments are used again", [
    { do: "gc_percent", percent: 0 },
    ...repeat(
      6,
      { do: "write", at: 0, sectors: 20 },
      { do: "write", at: 24, sectors: 20 },
      ...FLUSH,
      {
        do: "drain",
      },
    ),
    EXPLORE,
    ...repeat(
      3,
      { do: "write", at: 8, sectors: 20 },
      { do: "write", at: 40, sectors: 20 },
      ...FLUSH,
      { do: "drain" },
    ),
  ]),
  ...onBoth("both slots of every duplicated structure", [
    EXPLORE,
    { do: "gc_percent", percent: 0 },
    { do: "steps", count: 10 },
    { do: "gc_percent", percent: 1 },
    { do: "write", at: 0, sectors: 4 },
    { do: "drain" },
    { do: "reopen" },
    { do: "gc_percent", percent: 2 },
    { do: "write", at: 2, sectors: 4 },
    { do: "drain" },
    { do: "reopen" },
    { do: "gc_percent", percent: 90 },
    { do: "write", at: 4, sectors: 4 },
    { do: "drain" },
    { do: "gc_percent", percent: 3 },
    ...FLUSH,
  ], { device_sectors: 16 }),
  ...onBoth("a full cache", [
    ...repeat(
      3,
      { do: "write", at: 0, sectors: 20 },
      { do: "write", at: 20, sectors: 20 },
      { do: "write", at: 40, sectors: 20 },
    ),
    { do: "settle" },
    EXPLORE,
    ...repeat(
      4,
      { do: "write", at: 3, sectors: 20 },
      { do: "write", at: 33, sectors: 20 },
      { do: "flush" },
      { do: "read", at: 10, sectors: 20 },
      { do: "settle" },
    ),
  ], { segments: 6 }),
  ...onBoth("a placeholder is overwritten while its read is in flight", [
    EXPLORE,
    { do: "read", at: 0, sectors: 16 },
    { do: "write", at: 4, sectors: 4 },
    { do: "payload" },
    { do: "write bytes", off: 512 * 10 + 100, len: 700 },
    { do: "payload" },
    { do: "flush" },
    { do: "steps", count: 4 },
    { do: "read", at: 2, sectors: 12 },
    { do: "settle" },
    ...FLUSH,
    { do: "write", at: 0, sectors: 16 },
    { do: "settle" },
    ...FLUSH,
    { do: "drain" },
  ]),
  ...onBoth("overlapping writes of several clients, FUA among them", [
    EXPLORE,
    { do: "write", at: 0, sectors: 8 },
    { do: "write", at: 4, sectors: 8, fua: true },
    { do: "write", at: 2, sectors: 4 },
    { do: "steps", count: 6 },
    { do: "flush" },
    { do: "write", at: 6, sectors: 3, fua: true },
    { do: "steps", count: 6 },
    { do: "write", at: 0, sectors: 12 },
    { do: "settle" },
    { do: "flush" },
    { do: "write", at: 3, sectors: 1 },
    { do: "settle" },
    { do: "drain" },
  ]),
  ...onBoth("write-back in several batches, with overwrites between", [
    ...repeat(
      5,
      { do: "write", at: 0, sectors: 6 },
      ...FLUSH,
      { do: "write", at: 3, sectors: 6 },
      ...FLUSH,
      { do: "write", at: 20, sectors: 6 },
      ...FLUSH,
    ),
    EXPLORE,
    { do: "wait", ms: 2000 },
    { do: "steps", count: 3 },
    { do: "write", at: 1, sectors: 6 },
    ...FLUSH,
    { do: "steps", count: 12 },
    { do: "write", at: 22, sectors: 6 },
    ...FLUSH,
    { do: "drain" },
  ]),
  ...onBoth("the first zeroing stores its area, and keys name it at once", [
    { do: "write", at: 0, sectors: 16 },
    ...FLUSH,
    EXPLORE,
    { do: "zero", at: 2, sectors: 3, fua: true },
    { do: "steps", count: 4 },
    { do: "trim", at: 7, sectors: 4 },
    { do: "settle" },
    ...FLUSH,
    { do: "zero bytes", off: 512 * 12 + 100, len: 1000 },
    { do: "settle" },
    ...FLUSH,
    { do: "reopen" },
    { do: "zero", at: 1, sectors: 1 },
    { do: "drain" },
  ], { device_sectors: 20 }),
  ...onBoth("zeroed, written, zeroed again: in several batches", [
    ...repeat(
      3,
      { do: "zero", at: 0, sectors: 6 },
      ...FLUSH,
      { do: "write", at: 2, sectors: 3 },
      ...FLUSH,
      { do: "zero", at: 1, sectors: 6 },
      ...FLUSH,
      { do: "write", at: 4, sectors: 6 },
      ...FLUSH,
    ),
    { do: "trim", at: 0, sectors: 12 },
    ...FLUSH,
    EXPLORE,
    { do: "wait", ms: 2000 },
    { do: "steps", count: 3 },
    { do: "zero", at: 3, sectors: 4 },
    ...FLUSH,
    { do: "steps", count: 12 },
    { do: "write", at: 1, sectors: 4 },
    ...FLUSH,
    { do: "drain" },
  ]),
  ...onBoth("the segment of a zero area retires while zeroing goes on", [
    { do: "gc_percent", percent: 0 },
    ...repeat(
      4,
      { do: "zero", at: 0, sectors: 10 },
      { do: "write", at: 8, sectors: 20 },
      ...FLUSH,
      { do: "drain" },
    ),
    EXPLORE,
    ...repeat(
      3,
      { do: "trim", at: 4, sectors: 7 },
      { do: "write", at: 24, sectors: 20 },
      { do: "write", at: 0, sectors: 20 },
      ...FLUSH,
      { do: "drain" },
    ),
  ]),
  ...onBoth("zeroing in a full cache", [
    ...repeat(
      3,
      { do: "write", at: 0, sectors: 20 },
      { do: "write", at: 20, sectors: 20 },
      { do: "write", at: 40, sectors: 20 },
    ),
    { do: "settle" },
    EXPLORE,
    ...repeat(
      3,
      { do: "zero", at: 5, sectors: 40 },
      { do: "write", at: 33, sectors: 20 },
      { do: "trim", at: 30, sectors: 8 },
      { do: "flush" },
      { do: "settle" },
    ),
  ], { segments: 6 }),
  ...MODE_SCRIPTS,
  ...onBoth("what was read is carried to the head, and written over meanwhile", [
    { do: "gc_percent", percent: 0 },
    ...repeat(
      2,
      ...READ_TWICE,
      { do: "read", at: 2, sectors: 4 },
      { do: "settle" },
    ),
    EXPLORE,
    ...repeat(
      3,
      { do: "write", at: 10, sectors: 8 },
      { do: "settle" },
      { do: "flush" },
      { do: "wait", ms: 50 },
      { do: "steps", count: 6 },
      { do: "write", at: 3, sectors: 2 },
      { do: "read", at: 0, sectors: 12 },
      { do: "settle" },
      ...FLUSH,
      { do: "drain" },
    ),
    { do: "eviction", policy: "fifo" },
    { do: "write", at: 0, sectors: 2 },
    { do: "drain" },
  ], { eviction: "reinsert", device_sectors: 24, segments: 10 }),
  ...onBoth("what stays where it is is logged again", [
    { do: "gc_percent", percent: 60 },
    ...repeat(
      3,
      ...READ_TWICE,
    ),
    ...repeat(
      6,
      { do: "write", at: 16, sectors: 16 },
      { do: "settle" },
      ...FLUSH,
      { do: "drain" },
    ),
    EXPLORE,
    ...repeat(
      3,
      { do: "write", at: 12, sectors: 16 },
      { do: "settle" },
      { do: "read", at: 0, sectors: 8 },
      { do: "settle" },
      { do: "write", at: 4, sectors: 1 },
      { do: "settle" },
      ...FLUSH,
      { do: "wait", ms: 50 },
      { do: "steps", count: 6 },
      { do: "drain" },
    ),
  ], { eviction: "reinsert", device_sectors: 32, segments: 9 }),
  ...MESSAGE_SCRIPTS,
  {
    name: "gc_percent is changed again while it is being stored",
    shape: shape("pmem", 7, 16, true, true),
    operations: [
      EXPLORE,
      ...[5, 6, 7].map((percent): Operation => ({ do: "gc_percent", percent })),
      { do: "barrier" },
      ...[8, 9].map((percent): Operation => ({ do: "gc_percent", percent })),
      { do: "barrier" },
      { do: "barrier" },
      ...FLUSH,
    ],
  },
  // With eleven segments the log comes back to a segment before data does: 311 old ksets stand behind its key head, each
  // where a new one will end, and a last kset behind them. The 646th write is the first one there.
  ...onBoth("old ksets behind the key head", [
    { do: "gc_percent", percent: 0 },
    ...repeat(32, ...fuaSingles(20), { do: "drain" }),
    ...fuaSingles(3),
    EXPLORE,
    ...fuaSingles(6),
    { do: "drain" },
  ], { segments: 11, device_sectors: 32 }),
  ...onBoth("sequence numbers wrap", [
    { do: "gc_percent", percent: 0 },
    ...repeat(250, { do: "write", at: 3, sectors: 1 }, { do: "drain" }),
    EXPLORE,
    ...repeat(8, { do: "write", at: 2, sectors: 3 }, { do: "drain" }),
  ], { device_sectors: 16 }),
  ...onBoth("the log goes round", [
    { do: "gc_percent", percent: 0 },
    ...repeat(4, ...ALMOST_A_SEGMENT, { do: "drain" }),
    ...singles(118),
    ...FLUSH,
    EXPLORE,
    ...repeat(2, ...singles(8, 2), ...FLUSH),
    { do: "drain" },
    REST,
    ...ALMOST_A_SEGMENT,
    EXPLORE,
    ...singles(90),
    ...FLUSH,
    ...singles(30),
    ...FLUSH,
    { do: "drain" },
  ]),
];

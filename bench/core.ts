/**
 * `deno task bench:core`: the engine alone, without bytes, sockets and system calls: what a request costs in the index and the
 * log, as the cache grows; what an extent costs in memory; how fast a log is replayed; what write-back saves and GC costs; and
 * whether a request in steady state allocates. Times are the thread's own (CPU time); what the measuring loop itself takes (dice and
 * the permutation that names a block) is measured beside it, printed, and taken off hits and overwrites.
 *
 * Options: `--extents N[,N...]` (10000,1000000,10000000).
 *
 * @module
 */

import { parseArgs } from "@std/cli/parse-args";
import { dataBytes, KERNEL_GEOMETRY } from "../core/format.ts";
import { KeySums } from "../core/key_sums.ts";
import { allocatedWhenCompiled } from "./allocations.ts";
import { cpuSeconds } from "./cpu_clock.ts";
import { BLOCK_BYTES, EngineRig } from "./engine_rig.ts";
import { median, short } from "./stats.ts";

const SIZES = [10_000, 1_000_000, 10_000_000];
const ROUNDS = 5;
const GIB = 1024 ** 3;
/** So many extents, and what of the index leads to them, fit the processor's second cache. */
const NEAR_EXTENTS = 1000;
/** Operations of one round; fewer where the cache holds too few extents. */
const ROUND_OPS = 200_000;
const ALLOCATION_OPS = 400_000;
/** What is compiled allocates less than this for an operation: V8 puts a sample's whole interval on one function now and then. */
const COMPILED_BYTES = 0.03;
/** What a write adds to the log, and to spare. */
const LOGGED_BYTES = 64;
/** So long a loop that can be repeated runs before it is measured: V8 compiles beside it, and again where another kind of engine comes. */
const WARM_S = 0.3;
/** Where the modules lie whose allocations count. */
const CORE = new URL("../core/", import.meta.url).href;

/** Numbers below a limit, fast and without a table (a linear congruence, its upper bits). */
class Dice {
  #state = 12345;

  below(limit: number): number {
    this.#state = (Math.imul(this.#state, 1664525) + 1013904223) | 0;
    return Math.floor(((this.#state >>> 0) / 4294967296) * limit);
  }
}

function seconds(act: () => void): number {
  const from_s = cpuSeconds();
  act();
  return cpuSeconds() - from_s;
}

/** One row of the table of costs. */
interface Costs {
  readonly extents: number;
  readonly data_crc: boolean;
  /** The loop that names blocks; taken off `hit_ns` and `overwrite_ns`. */
  readonly loop_ns: number;
  readonly hit_ns: number;
  /** Hits of the same few extents, which the processor's caches keep: what is more in `hit_ns` is waiting for memory. */
  readonly near_hit_ns: number;
  readonly write_ns: number;
  readonly overwrite_ns: number;
  readonly split_ns: number;
  readonly extent_bytes: number;
  readonly sum_bytes: number;
  readonly replay_keys: number;
}

/** The same loop, compiled. */
function warmed(round: (ops: number) => void): (ops: number) => void {
  const end_s = cpuSeconds() + WARM_S;
  while (cpuSeconds() < end_s) round(20_000);
  return round;
}

/** Medians, over rounds, of ns for each operation. */
function nsOf(ops: number, round: (ops: number) => void): number {
  round(Math.min(ops, 20_000)); // to be compiled
  const rounds: number[] = [];
  for (let n = 0; n < ROUNDS; n++) rounds.push(seconds(() => round(ops)) * 1e9 / ops);
  return median(rounds);
}

function costs(extents: number, data_crc: boolean): Costs {
  const dice = new Dice();
  const rig = new EngineRig(extents, data_crc, 16 * GIB + extents * BLOCK_BYTES);
  const { blocks } = rig;
  // New blocks into a cache that holds nearly as many as it will: cost of a write that overlaps nothing.
  const fresh = Math.min(ROUND_OPS, extents / 10);
  let written = extents - (ROUNDS + 1) * fresh > 0 ? extents - (ROUNDS + 1) * fresh : 0;
  rig.populate(written);
  const write_ns = nsOf(fresh, (ops) => {
    for (const end = written + ops; written < end; written++) {
      rig.write(blocks.at(written) * BLOCK_BYTES, BLOCK_BYTES);
    }
  });
  rig.turn();
  for (; written < extents; written++) rig.write(blocks.at(written) * BLOCK_BYTES, BLOCK_BYTES);
  rig.turn();
  const { index } = rig.engine;
  const extent_bytes = index.used_bytes / index.extents;
  const sum_bytes = data_crc ? sumBytes(extents) : 0;
  const measured = (round: (ops: number) => void) => nsOf(ROUND_OPS, warmed(round));
  const loop_ns = measured((ops) => {
    for (let n = 0; n < ops; n++) {
      rig.sum = (rig.sum + blocks.at(dice.below(extents)) * BLOCK_BYTES) | 0;
    }
  });
  const hitNs = (among: number) =>
    measured((ops) => {
      for (let n = 0; n < ops; n++) {
        rig.read(blocks.at(dice.below(among)) * BLOCK_BYTES, BLOCK_BYTES);
      }
      rig.turn();
    });
  const hit_ns = hitNs(extents);
  const near_hit_ns = hitNs(NEAR_EXTENTS);
  const overwrite_ns = measured((ops) => {
    for (let n = 0; n < ops; n++) {
      rig.write(blocks.at(dice.below(extents)) * BLOCK_BYTES, BLOCK_BYTES);
    }
    rig.turn();
  });
  rig.flush();
  let replay_s = 0;
  let keys = 0;
  while (keys < 200_000) {
    replay_s += seconds(() => rig.reopen());
    keys += rig.engine.replayed.keys;
  }
  // Two sectors into the middle of an extent: it becomes three. Each extent once.
  let split = 0;
  const split_ns = nsOf(fresh, (ops) => {
    for (const end = split + ops; split < end; split++) {
      rig.write(blocks.at(split) * BLOCK_BYTES + 1024, 1024);
    }
    rig.turn();
  });
  const replay_keys = keys / replay_s;
  return {
    extents,
    data_crc,
    loop_ns,
    hit_ns: hit_ns - loop_ns,
    near_hit_ns: near_hit_ns - loop_ns,
    write_ns,
    overwrite_ns: overwrite_ns - loop_ns,
    split_ns,
    extent_bytes,
    sum_bytes,
    replay_keys,
  };
}

/** Memory of the checksum tables for keys of a block each, laid into segments as the data head does, in bytes a key. */
function sumBytes(keys: number): number {
  const in_segment = Math.floor(dataBytes(KERNEL_GEOMETRY) / BLOCK_BYTES);
  const sums = new KeySums(Math.ceil(keys / in_segment));
  for (let key = 0; key < keys; key++) {
    const place = (key % in_segment) * (BLOCK_BYTES / 512);
    sums.add(Math.floor(key / in_segment), place, BLOCK_BYTES / 512, key);
  }
  return sums.run_bytes / keys;
}

function printCosts(rows: Costs[]): void {
  console.log(
    `extents     data_crc  loop ns  hit ns  of ${NEAR_EXTENTS}  write ns  overwrite ns  split ns  B/extent  + sums  replay`,
  );
  for (const row of rows) {
    console.log([
      String(row.extents).padEnd(11),
      String(row.data_crc).padEnd(9),
      row.loop_ns.toFixed(0).padStart(7),
      row.hit_ns.toFixed(0).padStart(6),
      row.near_hit_ns.toFixed(0).padStart(7),
      row.write_ns.toFixed(0).padStart(9),
      row.overwrite_ns.toFixed(0).padStart(13),
      row.split_ns.toFixed(0).padStart(9),
      row.extent_bytes.toFixed(1).padStart(9),
      row.sum_bytes.toFixed(1).padStart(7),
      `${short(row.replay_keys)} keys/s`.padStart(14),
    ].join(" "));
  }
}

/** What write-back makes of dirty blocks: `next` names them. */
function mergeRatio(name: string, blocks: number, writes: number, next: (n: number) => number) {
  const rig = new EngineRig(blocks, false);
  for (let n = 0; n < writes; n++) rig.write(next(n) * BLOCK_BYTES, BLOCK_BYTES);
  rig.flush();
  const drain_s = seconds(() => rig.drain());
  const { counters } = rig.engine;
  console.log(
    `${name.padEnd(58)} ${(writes / rig.backing.writes).toFixed(2).padStart(7)} keys a write, ` +
      `${(counters.writeback_bytes / counters.writeback_key_bytes).toFixed(2)} of the bytes, ` +
      `${(drain_s * 1e9 / writes).toFixed(0).padStart(5)} ns a key`,
  );
}

function writeBack(): void {
  console.log("\nwrite-back, 100 thousand 4 KiB writes:");
  const dice = new Dice();
  const count = 100_000;
  mergeRatio("one after another", 1 << 18, count, (n) => n);
  mergeRatio("random, over 32 MiB", 1 << 13, count, () => dice.below(1 << 13));
  mergeRatio("random, over 256 MiB", 1 << 16, count, () => dice.below(1 << 16));
  mergeRatio("random, over 16 GiB", 1 << 22, count, () => dice.below(1 << 22));
  mergeRatio(
    "90 % of the writes to 10 % of 256 MiB",
    1 << 16,
    count,
    () => dice.below(10) < 9 ? dice.below(6553) : dice.below(1 << 16),
  );
}

/** A log of a million clean keys is given up: every segment comes free. */
function collect(): void {
  const keys = 1_000_000;
  const rig = new EngineRig(keys, false);
  rig.populate(keys);
  rig.flush();
  rig.drain();
  rig.engine.setGcPercent(0);
  const gc_s = seconds(() => rig.turn());
  const { segments_freed } = rig.engine.counters;
  console.log(
    `\nGC: ${segments_freed} segments freed, ${
      (gc_s * 1e6 / segments_freed).toFixed(0)
    } us each, ` +
      `${(gc_s * 1e9 / keys).toFixed(0)} ns a key`,
  );
}

/** Bytes of JavaScript heap that the engine allocates for each operation, when all is compiled and grown. */
async function allocations(): Promise<void> {
  console.log("\nheap allocated in core/ in steady state, bytes an operation (1 million extents):");
  const extents = 1_000_000;
  const dice = new Dice();
  for (const data_crc of [false, true]) {
    const rig = new EngineRig(extents, data_crc);
    rig.populate(extents);
    const offset = () => rig.blocks.at(dice.below(extents)) * BLOCK_BYTES;
    const read = () => rig.read(offset(), BLOCK_BYTES);
    const write = () => rig.write(offset(), BLOCK_BYTES);
    const kinds: [string, () => void][] = [
      ["hit", read],
      ["overwrite", write],
      ["70/30", () => dice.below(10) < 7 ? read() : write()],
    ];
    for (const [name, act] of kinds) {
      const found = await allocatedWhenCompiled(CORE, ALLOCATION_OPS * COMPILED_BYTES, () => {
        rig.memory.reserve(ALLOCATION_OPS * LOGGED_BYTES);
        for (let n = 0; n < ALLOCATION_OPS; n++) act();
      });
      const [most] = [...found].sort(([, a], [, b]) => b - a);
      const sum = found.values().reduce((sum, bytes) => sum + bytes, 0);
      const each = (sum / ALLOCATION_OPS).toFixed(2);
      const where = sum > 0 ? `most of it in ${most![0]}` : "";
      console.log(`${name.padEnd(10)} data_crc ${String(data_crc).padEnd(5)} ${each} ${where}`);
    }
  }
}

/** How many extents there are in each row. Ends the program for arguments that it does not know. */
function chosenSizes(): number[] {
  const { extents } = parseArgs(Deno.args, {
    string: ["extents"],
    unknown: (arg: string) => refuse(arg),
  });
  if (extents === undefined) return SIZES;
  const sizes = extents.split(",").map(Number);
  const are_right = sizes.every((size: number) =>
    Number.isSafeInteger(size) && size >= NEAR_EXTENTS
  );
  return are_right ? sizes : refuse(`--extents ${extents}`);
}

function refuse(what: string): never {
  console.error(`bench:core: ${what}: --extents N[,N...], whole numbers from 1000 on, is wanted`);
  Deno.exit(1);
}

async function main(): Promise<void> {
  const sizes = chosenSizes();
  costs(SIZES[0]!, true); // so that the first row meets compiled code, as the others do
  const rows: Costs[] = [];
  for (const data_crc of [false, true]) {
    for (const extents of sizes) rows.push(costs(extents, data_crc));
  }
  printCosts(rows);
  const [first, last] = [rows[0]!, rows[sizes.length - 1]!];
  console.log(
    `from ${first.extents} to ${last.extents} extents: hit x${
      (last.hit_ns / first.hit_ns).toFixed(2)
    }, ` +
      `write x${(last.write_ns / first.write_ns).toFixed(2)}, ` +
      `overwrite x${(last.overwrite_ns / first.overwrite_ns).toFixed(2)}`,
  );
  writeBack();
  collect();
  await allocations();
}

await main();

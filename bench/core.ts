/**
 * `deno task bench:core`: the engine alone, without bytes, sockets and system calls: what a request costs in the index and the
 * log, as the cache grows; what an extent costs in memory; how fast a log is replayed; what write-back saves and GC costs; and
 * whether a request in steady state allocates. Times are the thread's own (CPU time); what the measuring loop itself takes (dice and
 * the permutation that names a block) is measured beside it, printed, and taken off hits and overwrites. What memory itself takes is
 * measured as well: a cache line of as much memory as the index has, at random.
 *
 * Options: `--extents N[,N...]` (10000,1000000,10000000).
 *
 * @module
 */

import { parseArgs } from "@std/cli/parse-args";
import { dataBytes, KERNEL_GEOMETRY } from "../core/format.ts";
import { KeySums } from "../core/key_sums.ts";
import { V8_FLAGS } from "../io/runtime.ts";
import { cpuSeconds } from "./cpu_clock.ts";
import { Dice } from "./dice.ts";
import { BLOCK_BYTES, EngineRig, LOGGED_BYTES } from "./engine_rig.ts";
import { median, short } from "./stats.ts";

const SIZES = [10_000, 1_000_000, 10_000_000];
const ROUNDS = 9;
/** A machine shared with others is slower for half a second, or for several; all rounds of hits take longer than that. */
const HIT_ROUNDS = 45;
/** Of the cache: so much more than the extents take, for what is overwritten. */
const SPARE_BYTES = 16 * 1024 ** 3;
/** So many extents, and what of the index leads to them, fit the processor's second cache. */
const NEAR_EXTENTS = 1000;
/** What an extent takes in the index, about. */
const EXTENT_BYTES = 16;
const LINE_WORDS = 16;
/** Operations of one round; fewer where the cache holds too few extents for what each can be met with but once. */
const ROUND_OPS = 200_000;
/** At least so many new blocks are written in one round, and so many keys replayed. */
const FEWEST_WRITES = 20_000;
const FEWEST_KEYS = 200_000;
/** So long a loop that can be repeated runs before it is measured: V8 compiles beside it, and again where another kind of engine comes. */
const WARM_S = 0.3;

function seconds(act: () => void): number {
  const from_s = cpuSeconds();
  act();
  return cpuSeconds() - from_s;
}

/** What was measured in each round. */
type Rounds = readonly number[];

/** One row of the table of costs. */
interface Costs {
  readonly extents: number;
  readonly data_crc: boolean;
  /** The loop that names blocks; taken off `hit_ns` and `overwrite_ns`. */
  readonly loop_ns: number;
  /** A cache line, at random, of memory as large as the index: what each line that a look-up meets costs in the plainest loop. */
  readonly line_ns: Rounds;
  readonly hit_ns: Rounds;
  /** Hits of the same few extents, which the processor's caches keep: what is more in `hit_ns` is waiting for memory. */
  readonly near_hit_ns: Rounds;
  readonly write_ns: Rounds;
  readonly overwrite_ns: Rounds;
  readonly split_ns: Rounds;
  readonly extent_bytes: number;
  readonly sum_bytes: number;
  readonly replay_keys: Rounds;
}

/** A cache of one size that is measured, with others in turn. */
class Subject {
  readonly dice = new Dice();
  rig!: EngineRig;
  /** Memory as large as the index. */
  readonly #lines: Uint32Array;
  /** Blocks of a round that can be done but once in each cache: new ones, splits. */
  readonly #fresh: number;
  #written = 0;
  #split = 0;

  constructor(readonly extents: number, readonly data_crc: boolean) {
    this.#fresh = Math.min(ROUND_OPS, Math.floor(extents / (2 * ROUNDS)));
    this.#lines = new Uint32Array(extents * EXTENT_BYTES / 4).fill(1);
    this.#renew();
  }

  /** A new cache that holds half of its extents. */
  #renew(): void {
    this.rig = new EngineRig(this.extents, this.data_crc, SPARE_BYTES + this.extents * BLOCK_BYTES);
    this.#written = this.extents - ROUNDS * this.#fresh;
    this.rig.populate(this.#written);
  }

  /** ns of a write of a new block into a cache that holds more than half of what it will: it overlaps nothing. A full cache is left for a new one. */
  writeNs(): number {
    let write_s = 0;
    let ops = 0;
    for (; ops < FEWEST_WRITES; ops += this.#fresh) {
      if (this.#written === this.extents) this.#renew();
      const { rig } = this;
      rig.memory.reserve(this.#fresh * LOGGED_BYTES);
      write_s += seconds(() => {
        for (const end = this.#written + this.#fresh; this.#written < end; this.#written++) {
          rig.write(rig.blocks.at(this.#written) * BLOCK_BYTES, BLOCK_BYTES);
        }
      });
      rig.turn();
    }
    return write_s * 1e9 / ops;
  }

  /** Writes what is left, so that every extent is there. */
  fill(): void {
    const { rig } = this;
    for (; this.#written < this.extents; this.#written++) {
      rig.write(rig.blocks.at(this.#written) * BLOCK_BYTES, BLOCK_BYTES);
    }
    rig.turn();
  }

  /** Names blocks as the loops below do, and does nothing else with them. */
  name(ops: number): void {
    const { rig, dice, extents } = this;
    for (let n = 0; n < ops; n++) {
      rig.sum = (rig.sum + rig.blocks.at(dice.below(extents)) * BLOCK_BYTES) | 0;
    }
  }

  /** Reads a word of each of so many lines. None waits for another. */
  readLines(ops: number): void {
    const { rig, dice } = this;
    const lines = this.#lines;
    const count = Math.floor(lines.length / LINE_WORDS);
    let sum = 0;
    for (let n = 0; n < ops; n++) sum += lines[dice.below(count) * LINE_WORDS]!;
    rig.sum = (rig.sum + sum) | 0;
  }

  hit(ops: number, among: number): void {
    const { rig, dice } = this;
    for (let n = 0; n < ops; n++) {
      rig.read(rig.blocks.at(dice.below(among)) * BLOCK_BYTES, BLOCK_BYTES);
    }
    rig.turn();
  }

  overwrite(ops: number): void {
    const { rig, dice, extents } = this;
    for (let n = 0; n < ops; n++) {
      rig.write(rig.blocks.at(dice.below(extents)) * BLOCK_BYTES, BLOCK_BYTES);
    }
    rig.turn();
  }

  /** Keys a second. */
  replayRate(): number {
    let replay_s = 0;
    let keys = 0;
    while (keys < FEWEST_KEYS) {
      replay_s += seconds(() => this.rig.reopen());
      keys += this.rig.engine.replayed.keys;
    }
    return keys / replay_s;
  }

  /** ns of a write of two sectors into the middle of an extent: it becomes three. Each extent once. */
  splitNs(): number {
    const { rig } = this;
    const ops = this.#fresh;
    const split_s = seconds(() => {
      for (const end = this.#split + ops; this.#split < end; this.#split++) {
        rig.write(rig.blocks.at(this.#split) * BLOCK_BYTES + 1024, 1024);
      }
      rig.turn();
    });
    return split_s * 1e9 / ops;
  }
}

/** Rounds in which all subjects have their turn: what was measured of each. */
function inTurn(
  subjects: Subject[],
  measure: (subject: Subject) => number,
  rounds = ROUNDS,
): number[][] {
  const found: number[][] = subjects.map(() => []);
  for (let n = 0; n < rounds; n++) {
    for (const [i, subject] of subjects.entries()) found[i]!.push(measure(subject));
  }
  return found;
}

/** The same of a loop that can be repeated, compiled: ns for each operation, `off_ns` taken off for each subject. */
function loopInTurn(
  subjects: Subject[],
  loop: (subject: Subject, ops: number) => void,
  off_ns: number[],
  rounds = ROUNDS,
): number[][] {
  const end_s = cpuSeconds() + WARM_S;
  while (cpuSeconds() < end_s) for (const subject of subjects) loop(subject, 20_000);
  const one = (subject: Subject) => seconds(() => loop(subject, ROUND_OPS)) * 1e9 / ROUND_OPS;
  return inTurn(subjects, one, rounds).map((all, i) => all.map((ns) => ns - off_ns[i]!));
}

/** A row for each size. What differs between the rows is the sizes' doing, and not that of another moment: they take turns. */
function costs(sizes: number[], data_crc: boolean): Costs[] {
  const subjects = sizes.map((extents) => new Subject(extents, data_crc));
  const warm = new Subject(NEAR_EXTENTS * 10, data_crc);
  for (const end_s = cpuSeconds() + WARM_S; cpuSeconds() < end_s;) warm.writeNs();
  const write_ns = inTurn(subjects, (subject) => subject.writeNs());
  for (const subject of subjects) subject.fill();
  const extent_bytes = subjects.map(({ rig: { engine: { index } } }) =>
    index.used_bytes / index.extents
  );
  const nothing = subjects.map(() => 0);
  const name = (subject: Subject, ops: number) => subject.name(ops);
  const loop_ns = loopInTurn(subjects, name, nothing, HIT_ROUNDS).map(median);
  const lines = (subject: Subject, ops: number) => subject.readLines(ops);
  const line_ns = loopInTurn(subjects, lines, nothing, HIT_ROUNDS);
  const hit = (subject: Subject, ops: number) => subject.hit(ops, subject.extents);
  const hit_ns = loopInTurn(subjects, hit, loop_ns, HIT_ROUNDS);
  const nearHit = (subject: Subject, ops: number) => subject.hit(ops, NEAR_EXTENTS);
  const near_hit_ns = loopInTurn(subjects, nearHit, loop_ns, HIT_ROUNDS);
  const overwrite = (subject: Subject, ops: number) => subject.overwrite(ops);
  const overwrite_ns = loopInTurn(subjects, overwrite, loop_ns);
  for (const { rig } of subjects) rig.flush();
  const replay_keys = inTurn(subjects, (subject) => subject.replayRate());
  const split_ns = inTurn(subjects, (subject) => subject.splitNs());
  return sizes.map((extents, i) => ({
    extents,
    data_crc,
    loop_ns: loop_ns[i]!,
    line_ns: line_ns[i]!,
    hit_ns: hit_ns[i]!,
    near_hit_ns: near_hit_ns[i]!,
    write_ns: write_ns[i]!,
    overwrite_ns: overwrite_ns[i]!,
    split_ns: split_ns[i]!,
    extent_bytes: extent_bytes[i]!,
    sum_bytes: data_crc ? sumBytes(extents) : 0,
    replay_keys: replay_keys[i]!,
  }));
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
    `extents     data_crc  loop ns  line ns  hit ns  of ${NEAR_EXTENTS}  write ns  overwrite ns  split ns  B/extent  + sums  replay`,
  );
  for (const row of rows) {
    console.log([
      String(row.extents).padEnd(11),
      String(row.data_crc).padEnd(9),
      row.loop_ns.toFixed(0).padStart(7),
      median(row.line_ns).toFixed(1).padStart(8),
      median(row.hit_ns).toFixed(0).padStart(6),
      median(row.near_hit_ns).toFixed(0).padStart(7),
      median(row.write_ns).toFixed(0).padStart(9),
      median(row.overwrite_ns).toFixed(0).padStart(13),
      median(row.split_ns).toFixed(0).padStart(9),
      row.extent_bytes.toFixed(1).padStart(9),
      row.sum_bytes.toFixed(1).padStart(7),
      `${short(median(row.replay_keys))} keys/s`.padStart(14),
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

/**
 * Bytes of JavaScript heap that the engine allocates for each operation, when all is compiled and grown. In processes of their own,
 * an engine each, as a device is: what V8 puts into what depends on all that it has run before.
 */
function allocations(): void {
  console.log("\nheap allocated in core/ in steady state, bytes an operation (1 million extents):");
  const script = new URL("engine_allocations.ts", import.meta.url).pathname;
  for (const data_crc of [false, true]) {
    const args = ["run", "-A", "--no-prompt", V8_FLAGS, script, `${data_crc}`];
    const { code } = new Deno.Command(Deno.execPath(), {
      args,
      stdin: "null",
      stdout: "inherit",
      stderr: "inherit",
    }).outputSync();
    if (code !== 0) throw new Error(`deno ${args.join(" ")}: status ${code}`);
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

/** How many times as long the large one took: of the two in one round, the median over rounds. Moments that slow both do not count. */
function growth(small: Rounds, large: Rounds): string {
  return median(large.map((ns, n) => ns / small[n]!)).toFixed(2);
}

function main(): void {
  const sizes = chosenSizes();
  const rows = [...costs(sizes, false), ...costs(sizes, true)];
  printCosts(rows);
  for (const same of [rows.slice(0, sizes.length), rows.slice(sizes.length)]) {
    const [first, last] = [same[0]!, same.at(-1)!];
    console.log(
      `from ${first.extents} to ${last.extents} extents, data_crc ${first.data_crc}: ` +
        `hit x${growth(first.hit_ns, last.hit_ns)}, ` +
        `write x${growth(first.write_ns, last.write_ns)}, ` +
        `overwrite x${growth(first.overwrite_ns, last.overwrite_ns)}`,
    );
  }
  writeBack();
  collect();
  allocations();
}

main();

/**
 * Cells that are no plain load: write-back beside reads, write-back alone, misses (miss_cell.ts), the file system's own rate of
 * flushes, and doing nothing.
 *
 * @module
 */

import type { SpecialCell } from "./cells.ts";
import {
  type Contender,
  type ContenderId,
  CONTENDERS,
  PCACHE_IDS,
  type Place,
  type Sizes,
  startContender,
} from "./contenders.ts";
import { fio, nbdJob } from "./fio.ts";
import { runMisses } from "./miss_cell.ts";
import type { BenchOptions } from "./options.ts";
import { cpuBetween, processCost } from "./processes.ts";
import type { Fact, SpecialResult } from "./results.ts";
import { median } from "./stats.ts";

const MIB = 1024 * 1024;
/** As large as write-back can be kept busy with, and fits the cache beside what is in it. */
const BURST_BYTES = 1024 * MIB;
const IDLE_SECONDS = 10;
const IDLE_IDS: readonly ContenderId[] = ["pcache_file", "nbdkit_file", "nbdkit_cache", "qemu_nbd"];

/** Where a special cell is run. */
export interface Stand {
  readonly place: Place;
  readonly options: BenchOptions;
  readonly contenders: readonly Contender[];
}

/** Contenders that the cell needs in the main set. */
export function contendersOf(cell: SpecialCell): readonly ContenderId[] {
  return cell === "load-d1" || cell === "load-d32" || cell === "writeback" ? PCACHE_IDS : [];
}

export function runSpecial(cell: SpecialCell, stand: Stand): Promise<SpecialResult> {
  switch (cell) {
    case "load-d1":
      return runLoaded(cell, stand, 1);
    case "load-d32":
      return runLoaded(cell, stand, 32);
    case "writeback":
      return runWriteBack(cell, stand);
    case "miss":
      return runMisses(cell, stand.place, stand.options);
    case "sync":
      return runSync(cell, stand);
    case "idle":
      return runIdle(cell, stand);
  }
}

function caches({ contenders }: Stand): readonly Contender[] {
  return contenders.filter(({ id }) => PCACHE_IDS.includes(id));
}

/** Writes blocks of 4 KiB all over the device. */
async function dirty(stand: Stand, contender: Contender, bytes: number, job: string[]) {
  const { uri, size_bytes } = contender;
  await fio(stand.place.disk_dir, [
    ...nbdJob(uri, size_bytes, 1),
    ...["rw=randwrite", "bs=4k", "iodepth=32", `io_size=${bytes}`, ...job],
  ]);
}

async function readP99(stand: Stand, { uri, size_bytes }: Contender, depth: number) {
  return (await fio(stand.place.disk_dir, [
    ...nbdJob(uri, size_bytes, 1),
    ...["rw=randread", "bs=4k", "norandommap", `iodepth=${depth}`],
    ...["time_based", `runtime=${stand.options.seconds}`],
  ])).p99_us;
}

/** p99 of cached reads while write-back has all it can do, against the quiet one. */
async function runLoaded(name: string, stand: Stand, depth: number): Promise<SpecialResult> {
  const facts: Fact[] = [];
  const all = caches(stand);
  const quiet = new Map<ContenderId, number[]>(all.map(({ id }) => [id, []]));
  const loaded = new Map<ContenderId, number[]>(all.map(({ id }) => [id, []]));
  const left = new Map<ContenderId, number[]>(all.map(({ id }) => [id, []]));
  for (let round = 0; round < stand.options.rounds; round++) {
    for (const contender of all) {
      await contender.settle();
      quiet.get(contender.id)!.push(await readP99(stand, contender, depth));
      await dirty(stand, contender, BURST_BYTES, ["norandommap"]);
      const flushed = contender.flush();
      loaded.get(contender.id)!.push(await readP99(stand, contender, depth));
      left.get(contender.id)!.push(await contender.dirtyBytes());
      await flushed;
    }
  }
  for (const { id } of all) {
    const who = CONTENDERS[id].title;
    const before_us = median(quiet.get(id)!);
    const during_us = median(loaded.get(id)!);
    facts.push({ who, what: "p99 of reads, quiet", value: before_us, unit: "us" });
    facts.push({ who, what: "p99 of reads, write-back running", value: during_us, unit: "us" });
    facts.push({
      who,
      what: "ratio",
      value: during_us / before_us,
      unit: "x",
      wanted: { is: "at most", limit: 3 },
    });
    // 0 says that write-back was done before the reads were, and that the ratio flatters.
    const left_mib = median(left.get(id)!) / MIB;
    facts.push({ who, what: "still dirty after the reads", value: left_mib, unit: "MiB" });
  }
  return { name, title: `4 KiB random read, depth ${depth}, beside a write-back of 1 GiB`, facts };
}

/** How fast random dirty blocks reach the backing device, against fio that writes the same blocks in the same order. */
async function runWriteBack(name: string, stand: Stand): Promise<SpecialResult> {
  const { place, options } = stand;
  const all = caches(stand);
  const rates = new Map<ContenderId, number[]>(all.map(({ id }) => [id, []]));
  const plain: Record<"direct" | "buffered", number[]> = { direct: [], buffered: [] };
  const size_bytes = all[0]!.size_bytes;
  const blocks = ["rw=randwrite", "bs=4k", "randseed=1", "allrandrepeat=1"];
  const path = `${place.disk_dir}/plain`;
  for (let round = 0; round < options.rounds; round++) {
    for (const contender of all) {
      await contender.settle();
      await dirty(stand, contender, size_bytes, ["randseed=1", "allrandrepeat=1"]);
      const dirty_bytes = await contender.dirtyBytes();
      const from_ms = performance.now();
      await contender.settle();
      const rate = dirty_bytes / 1e6 / ((performance.now() - from_ms) / 1000);
      rates.get(contender.id)!.push(rate);
    }
    const file = ["ioengine=psync", `filename=${path}`, `size=${size_bytes}`, ...blocks];
    const direct = ["direct=1", `runtime=${options.seconds}`];
    plain.direct.push((await fio(place.disk_dir, [...file, ...direct])).bytes_per_second / 1e6);
    plain.buffered.push(await bufferedRate(place, [...file, "end_fsync=1"], size_bytes));
  }
  const direct = median(plain.direct);
  const buffered = median(plain.buffered);
  const facts: Fact[] = [
    { who: "fio", what: "direct, one at a time", value: direct, unit: "MB/s" },
    { who: "fio", what: "page cache, then fsync", value: buffered, unit: "MB/s" },
  ];
  for (const { id } of all) {
    const who = CONTENDERS[id].title;
    const rate = median(rates.get(id)!);
    facts.push({ who, what: "write-back", value: rate, unit: "MB/s" });
    facts.push({
      who,
      what: "of fio, direct",
      value: rate / direct,
      unit: "x",
      wanted: { is: "at least", limit: 3 },
    });
    facts.push({ who, what: "of fio, page cache", value: rate / buffered, unit: "x" });
  }
  await Deno.remove(path);
  return { name, title: "write-back of random 4 KiB blocks, no other load", facts };
}

/** fio's own rate leaves the final fsync out. */
async function bufferedRate(place: Place, job: string[], size_bytes: number): Promise<number> {
  const from_ms = performance.now();
  await fio(place.disk_dir, job);
  return size_bytes / 1e6 / ((performance.now() - from_ms) / 1000);
}

/**
 * How often the file system makes one block durable for fio itself, with no server between them. An ordinary cache file needs two
 * such steps for a write with a flush after it: the data has to be there before the kset that names it.
 */
async function runSync(name: string, { place, options }: Stand): Promise<SpecialResult> {
  const path = `${place.disk_dir}/sync`;
  const rates: number[] = [];
  for (let round = 0; round < options.rounds; round++) {
    const { iops } = await fio(place.disk_dir, [
      ...["ioengine=psync", `filename=${path}`, `size=${256 * MIB}`, "overwrite=1"],
      ...["rw=randwrite", "bs=4k", "norandommap", "fdatasync=1"],
      ...["time_based", `runtime=${options.seconds}`],
    ]);
    rates.push(iops);
  }
  await Deno.remove(path);
  const facts = [{
    who: "fio",
    what: "writes, each with an fdatasync",
    value: median(rates),
    unit: "IOPS",
  }];
  return { name, title: "4 KiB random write to a file, no server, an fdatasync after each", facts };
}

/** Empty devices of 1 GiB that nobody uses. */
async function runIdle(name: string, stand: Stand): Promise<SpecialResult> {
  const sizes: Sizes = { set: "idle", device_bytes: 1024 * MIB, cache_bytes: 512 * MIB };
  const idle: Contender[] = [];
  for (const id of IDLE_IDS) idle.push(await startContender(id, stand.place, sizes));
  await new Promise((wake) => setTimeout(wake, 1000));
  const before = idle.map(({ pid }) => processCost(pid));
  await new Promise((wake) => setTimeout(wake, IDLE_SECONDS * 1000));
  const facts: Fact[] = [];
  for (const [i, { id, pid }] of idle.entries()) {
    const after = processCost(pid);
    const percent = cpuBetween(before[i]!, after) / (IDLE_SECONDS * 1e9) * 100;
    const is_ours = PCACHE_IDS.includes(id);
    const who = CONTENDERS[id].title;
    const cpu_limit = is_ours ? { wanted: { is: "at most" as const, limit: 0.1 } } : {};
    const rss_limit = is_ours ? { wanted: { is: "at most" as const, limit: 90 } } : {};
    facts.push({ who, what: "CPU", value: percent, unit: "% of a core", ...cpu_limit });
    facts.push({ who, what: "resident", value: after.rss_bytes / MIB, unit: "MiB", ...rss_limit });
    const anonymous_mib = after.anonymous_bytes / MIB;
    facts.push({ who, what: "of it no file's", value: anonymous_mib, unit: "MiB" });
  }
  return { name, title: "an empty device of 1 GiB, no client", facts };
}

/**
 * The cell of misses: every read goes to a backing device of known latency, which is an nbdkit that waits 1 ms for each.
 *
 * @module
 */

import {
  type Contender,
  type ContenderId,
  CONTENDERS,
  type Place,
  startContender,
  startServer,
} from "./contenders.ts";
import { fio, nbdJob } from "./fio.ts";
import type { BenchOptions } from "./options.ts";
import type { Fact, SpecialResult } from "./results.ts";
import { median } from "./stats.ts";

const GIB = 1024 ** 3;
const DEPTHS = [1, 32];
/** More than anybody reads in a second; what has been read once is a miss no more. */
const MOST_IOPS = 60_000;
const BLOCK_BYTES = 4096;
const DELAY = "rdelay=1ms";
/** Each waits for one request at a time. */
const THREADS = "--threads=64";

interface Candidate {
  readonly who: string;
  readonly contender: Contender;
}

/** Every turn reads a slice of the device that nobody has read before, in random order, no block twice. */
export async function runMisses(
  name: string,
  place: Place,
  { rounds, seconds }: BenchOptions,
): Promise<SpecialResult> {
  const slice_bytes = Math.ceil(seconds * MOST_IOPS * BLOCK_BYTES / GIB) * GIB;
  const device_bytes = slice_bytes * rounds * DEPTHS.length;
  const candidates = await start(place, device_bytes);
  const rates = new Map<string, number[]>();
  const medians_us = new Map<string, number[]>();
  const p99s_us = new Map<string, number[]>();
  const note = (to: Map<string, number[]>, key: string, value: number) =>
    to.set(key, [...to.get(key) ?? [], value]);
  let slice = 0;
  for (let round = 0; round < rounds; round++) {
    for (const depth of DEPTHS) {
      for (const { who, contender } of candidates) {
        const load = await fio(place.disk_dir, [
          ...nbdJob(contender.uri, slice_bytes, 1),
          ...[`offset=${slice * slice_bytes}`, "rw=randread", "bs=4k", `iodepth=${depth}`],
          ...["time_based", `runtime=${seconds}`],
        ]);
        note(rates, `${who} ${depth}`, load.iops);
        note(medians_us, `${who} ${depth}`, load.p50_us);
        note(p99s_us, `${who} ${depth}`, load.p99_us);
      }
      slice++;
    }
  }
  const facts: Fact[] = [];
  for (const depth of DEPTHS) {
    for (const { who } of candidates) {
      const key = `${who} ${depth}`;
      const what = `depth ${depth}`;
      facts.push({ who, what, value: median(rates.get(key)!), unit: "IOPS" });
      facts.push({ who, what: `${what}, p50`, value: median(medians_us.get(key)!), unit: "us" });
      facts.push({ who, what: `${what}, p99`, value: median(p99s_us.get(key)!), unit: "us" });
    }
  }
  return { name, title: "4 KiB random reads that all miss, backing device of 1 ms", facts };
}

/** The server that waits, by itself, then those that have it behind them. */
async function start(place: Place, device_bytes: number): Promise<Candidate[]> {
  const cache_bytes = 2 * GIB;
  const sizes = { set: "miss", device_bytes, cache_bytes };
  const serve = async (id: ContenderId, who: string, ...command: string[]) => {
    const socket = `${place.disk_dir}/miss-${id}.sock`;
    const words = command.map((word) => word === "SOCKET" ? socket : word);
    return { who, contender: await startServer(id, words, socket, place, sizes) };
  };
  const nbdkit = ["nbdkit", "--foreground", THREADS, "--unix", "SOCKET"];
  const memory = ["memory", `${device_bytes}`, DELAY];
  const bare = await serve("nbdkit_memory", "nbdkit delay", ...nbdkit, "--filter=delay", ...memory);
  const { uri } = bare.contender;
  const pcache = await startContender("pcache_file", place, { ...sizes, backing_uri: uri });
  const cache = ["cache-on-read=true", "cache-min-block-size=4K"];
  return [
    bare,
    { who: CONTENDERS.pcache_file.title, contender: pcache },
    await serve("nbdkit_cache", "nbdkit cache", ...nbdkit, "--filter=cache", "nbd", uri, ...cache),
  ];
}

/**
 * `deno task bench`: pcache beside what a user could take instead, on this machine, in one run. Prints a table of ratios and
 * writes `results.json`, `results.md` and `results.svg` into `bench/`. With `--only`, the other cells stay as an earlier run in the
 * same way on the same machine has left them.
 *
 * Every contender is up from the first cell to the last. In each round of a cell each has its turn, so that what else the
 * machine does meets all of them alike. Processes and files are removed in the end, also when the bench fails or is interrupted.
 *
 * @module
 */

import { must } from "../tests/device.ts";
import { stopTagged } from "../tests/leaks.ts";
import { installPackages } from "../tests/packages.ts";
import {
  CELL_NAMES,
  chosen,
  LOAD_CELLS,
  type LoadCell,
  SPECIAL_CELLS,
  type SpecialCell,
  unknownParts,
} from "./cells.ts";
import { chart } from "./chart.ts";
import { type Contender, type ContenderId, type Place, startContender } from "./contenders.ts";
import { fio, nbdJob } from "./fio.ts";
import { type BenchOptions, OptionError, parseOptions } from "./options.ts";
import { markdown } from "./report.ts";
import { processSeconds } from "./processes.ts";
import {
  type CellResult,
  type FactsResult,
  judge,
  merged,
  type Results,
  scoreOf,
  type Turn,
} from "./results.ts";
import { contendersOf, runSpecial } from "./special_cells.ts";
import { short } from "./stats.ts";

const MIB = 1024 * 1024;
const RESULTS = new URL("results.json", import.meta.url);
const PACKAGES = new URL("packages.txt", import.meta.url);
/** All of a device is in the cache, in extents of 4 KiB, before it is measured. */
const DEVICE_BYTES = 256 * MIB;
const CACHE_BYTES = 2048 * MIB;

/** Runs the chosen cells. */
class Bench {
  readonly #running = new Map<ContenderId, Contender>();

  constructor(readonly place: Place, readonly options: BenchOptions) {}

  async run(): Promise<Omit<Results, "machine" | "software">> {
    const { rounds, seconds, only } = this.options;
    const loads = chosen(LOAD_CELLS.map(({ name }) => name), only);
    const specials = chosen(SPECIAL_CELLS, only) as SpecialCell[];
    const cells: CellResult[] = [];
    for (const cell of LOAD_CELLS.filter(({ name }) => loads.includes(name))) {
      cells.push(await this.#runCell(cell));
    }
    const special: FactsResult[] = [];
    for (const name of specials) {
      console.log(`${name}:`);
      const contenders = await this.#start(contendersOf(name));
      const result = await runSpecial(name, { ...this, contenders });
      for (const { who, what, value, unit } of result.facts) {
        console.log(`  ${who}: ${what}: ${short(value)} ${unit}`);
      }
      special.push({ ...result, date: today() });
    }
    return { rounds, seconds, cells, special };
  }

  /** The contenders, each started and filled when it is first needed. */
  async #start(ids: readonly ContenderId[]): Promise<Contender[]> {
    const sizes = { set: "main", device_bytes: DEVICE_BYTES, cache_bytes: CACHE_BYTES };
    const contenders: Contender[] = [];
    for (const id of ids) {
      let contender = this.#running.get(id);
      if (contender === undefined) {
        contender = await startContender(id, this.place, sizes);
        this.#running.set(id, contender);
        await this.#fill(contender);
      }
      contenders.push(contender);
    }
    return contenders;
  }

  /** Writes as much as a cache holds, so that a log goes over what it has used before, as it does from then on. */
  async #fill(contender: Contender): Promise<void> {
    const { uri, size_bytes } = contender;
    const job = ["rw=randwrite", "bs=4k", "iodepth=32", "end_fsync=1"];
    const loops = Math.ceil(CACHE_BYTES / size_bytes);
    await fio(this.place.disk_dir, [...nbdJob(uri, size_bytes, 1), ...job, `loops=${loops}`]);
    await this.#settle(contender);
  }

  /**
   * What a contender has to do after its turn must not slow the next one: its own work, and what it
   * left to the page cache, which the kernel would write half a minute later, in the turn of another.
   */
  async #settle(contender: Contender): Promise<void> {
    await contender.settle();
    await must("sync", "--file-system", this.place.disk_dir);
  }

  async #runCell(cell: LoadCell): Promise<CellResult> {
    const { name, title, unit } = cell;
    const contenders = await this.#start(cell.contenders);
    if (cell.before !== null) await this.#prepare(cell.before, contenders);
    const turns = new Map<ContenderId, Turn[]>(contenders.map(({ id }) => [id, []]));
    for (let round = 0; round < this.options.rounds; round++) {
      for (const contender of contenders) {
        turns.get(contender.id)!.push(await this.#runTurn(cell, contender));
        await this.#settle(contender);
      }
    }
    const clients = Math.min(cell.connections, navigator.hardwareConcurrency);
    const scores = contenders.map(({ id }) => scoreOf(id, turns.get(id)!, unit));
    console.log(`${name}: ${scores.map(({ id, value }) => `${id} ${short(value)}`).join(", ")}`);
    return {
      name,
      date: today(),
      title,
      unit,
      scores,
      verdicts: judge(scores, cell.wanted, clients),
    };
  }

  async #prepare(job: readonly string[], contenders: readonly Contender[]): Promise<void> {
    for (const contender of contenders) {
      const { uri, size_bytes } = contender;
      await fio(this.place.disk_dir, [...nbdJob(uri, size_bytes, 1), ...job]);
      await this.#settle(contender);
    }
  }

  async #runTurn(cell: LoadCell, { uri, size_bytes, pid }: Contender): Promise<Turn> {
    const before_s = processSeconds(pid);
    const load = await fio(this.place.disk_dir, [
      ...nbdJob(uri, size_bytes, cell.connections),
      ...cell.job,
      ...(cell.turn_bytes === null
        ? ["time_based", `runtime=${this.options.seconds}`]
        : [`io_size=${cell.turn_bytes}`]),
    ]);
    return { ...load, cpu_us: (processSeconds(pid) - before_s) * 1e6 / load.requests };
  }
}

/** Removes what the bench has made; it may be called again. */
async function cleanUp({ disk_dir, memory_dir }: Place, tag: string): Promise<void> {
  await stopTagged(tag);
  for (const dir of [disk_dir, memory_dir]) {
    try {
      await Deno.remove(dir, { recursive: true });
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    }
  }
}

async function machine(): Promise<string> {
  const model = /^model name\s*: (.*)$/m.exec(Deno.readTextFileSync("/proc/cpuinfo"))?.[1];
  const gib = Deno.systemMemoryInfo().total / 1024 ** 3;
  const kernel = (await must("uname", "-r")).trim();
  return `${navigator.hardwareConcurrency} x ${model ?? "unknown processor"}, ` +
    `${gib.toFixed(0)} GiB, Linux ${kernel}`;
}

async function software(): Promise<string> {
  const first = async (program: string) => (await must(program, "--version")).split("\n")[0]!;
  const versions = [await first("fio"), await first("nbdkit"), await first("qemu-nbd")];
  return [`Deno ${Deno.version.deno}`, ...versions].join(", ");
}

function today(): string {
  return new Date().toISOString().slice(0, 10);
}

/** What an earlier run has left; null: nothing. */
function earlier(): Results | null {
  try {
    return JSON.parse(Deno.readTextFileSync(RESULTS)) as Results;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return null;
    throw error;
  }
}

async function writeResults(results: Results): Promise<void> {
  const path = (name: string) => new URL(name, import.meta.url).pathname;
  const files = [path("results.json"), path("results.md"), path("results.svg")];
  Deno.writeTextFileSync(files[0]!, JSON.stringify(results, null, 2) + "\n");
  Deno.writeTextFileSync(files[1]!, markdown(results));
  Deno.writeTextFileSync(files[2]!, chart(results));
  // So that the repository's check is content with them.
  await must(Deno.execPath(), "fmt", "--quiet", ...files);
}

async function main(options: BenchOptions): Promise<number> {
  const unknown = unknownParts(CELL_NAMES, options.only);
  if (unknown.length > 0) {
    throw new OptionError(`--only ${unknown}: no cell's name holds that: ${CELL_NAMES.join(" ")}`);
  }
  if (!installPackages(PACKAGES)) return 1;
  const place: Place = {
    disk_dir: Deno.makeTempDirSync({ dir: "/var/tmp", prefix: "pcache-bench-" }),
    memory_dir: Deno.makeTempDirSync({ dir: "/dev/shm", prefix: "pcache-bench-" }),
    env: {},
  };
  const tag = place.disk_dir;
  place.env.PCACHE_TEST_TAG = tag;
  const interrupt = async () => {
    await cleanUp(place, tag);
    Deno.exit(1);
  };
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    Deno.addSignalListener(signal, interrupt);
  }
  try {
    const found = await new Bench(place, options).run();
    const now = { machine: await machine(), software: await software(), ...found };
    const results = options.only.length === 0 ? now : merged(now, earlier(), CELL_NAMES);
    await writeResults(results);
    console.log(`\n${markdown(results)}`);
    return 0;
  } finally {
    await cleanUp(place, tag);
  }
}

try {
  Deno.exit(await main(parseOptions(Deno.args)));
} catch (error) {
  if (!(error instanceof OptionError)) throw error;
  console.error(error.message);
  Deno.exit(1);
}

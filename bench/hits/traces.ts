/**
 * What is replayed: a real block trace, and synthetic ones. All in blocks of 4 KiB.
 *
 * @module
 */

import { Random } from "../../tests/random.ts";

export const BLOCK_BYTES = 4096;
const BLOCK_SECTORS = 8;

/** One request: `count` blocks from `block` on. */
export interface Access {
  readonly block: number;
  readonly count: number;
  readonly is_write: boolean;
}

export interface Trace {
  readonly name: string;
  readonly accesses: readonly Access[];
  /** Blocks that are named at all, renumbered densely, neighbours staying neighbours: 0 .. footprint-1. */
  readonly footprint: number;
}

/** Numbers the blocks that are named anew, in order. */
function dense(name: string, accesses: Access[]): Trace {
  const named = new Set<number>();
  for (const { block, count } of accesses) for (let i = 0; i < count; i++) named.add(block + i);
  const numbers = new Map([...named].sort((a, b) => a - b).map((block, number) => [block, number]));
  return {
    name,
    accesses: accesses.map((access) => ({ ...access, block: numbers.get(access.block)! })),
    footprint: named.size,
  };
}

/** The real trace (`data/README.md`): its requests, rounded out to blocks of its file system, which begin at sector 63. */
export async function realTrace(): Promise<Trace> {
  const path = new URL("data/cloudphysics.csv.zst", import.meta.url).pathname;
  const { success, stdout, stderr } = await new Deno.Command("zstdcat", { args: [path] }).output();
  if (!success) throw new Error(`zstdcat ${path}: ${new TextDecoder().decode(stderr)}`);
  const accesses: Access[] = [];
  for (const line of new TextDecoder().decode(stdout).split("\n").slice(1)) {
    if (line === "") continue;
    const [, op, sector, bytes] = line.split(",");
    const from = Number(sector) - 63 + BLOCK_SECTORS * 8;
    const block = Math.floor(from / BLOCK_SECTORS);
    const end = Math.ceil((from + Number(bytes) / 512) / BLOCK_SECTORS);
    accesses.push({ block, count: end - block, is_write: op === "W" });
  }
  return dense("cloudphysics", accesses);
}

/** Draws blocks by Zipf's law: the chance of the n-th is as 1 / n^exponent. */
class Zipf {
  readonly #sums: Float64Array;

  constructor(blocks: number, exponent: number) {
    let sum = 0;
    this.#sums = Float64Array.from({ length: blocks }, (_, n) => sum += 1 / (n + 1) ** exponent);
  }

  draw(random: Random): number {
    const wanted = random.below(2 ** 31) / 2 ** 31 * this.#sums.at(-1)!;
    let low = 0;
    let high = this.#sums.length - 1;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#sums[middle]! > wanted) high = middle;
      else low = middle + 1;
    }
    return low;
  }
}

const BLOCKS = 30_000;
const ACCESSES = 300_000;
const SCAN_BLOCKS = 16;

/** Popular blocks lie anywhere, not side by side. */
function scattered(n: number): number {
  return (n * 7_919) % BLOCKS; // 7919 is prime
}

function zipfTrace(name: string, exponent: number, write_part: number): Trace {
  const random = new Random(1);
  const zipf = new Zipf(BLOCKS, exponent);
  const accesses = Array.from({ length: ACCESSES }, () => {
    const block = scattered(zipf.draw(random));
    return { block, count: 1, is_write: random.chance(write_part) };
  });
  return dense(name, accesses);
}

/** Popular blocks, and between them long scans over blocks that are read once. */
function scanTrace(): Trace {
  const random = new Random(2);
  const zipf = new Zipf(BLOCKS, 0.9);
  const accesses: Access[] = [];
  let scanned = BLOCKS;
  let is_scanning = false;
  while (accesses.length < ACCESSES * 0.75) {
    if (random.chance(1 / 5_000)) is_scanning = !is_scanning;
    if (is_scanning && random.chance(0.2)) {
      accesses.push({ block: scanned, count: SCAN_BLOCKS, is_write: false });
      scanned += SCAN_BLOCKS;
    } else accesses.push({ block: scattered(zipf.draw(random)), count: 1, is_write: false });
  }
  return dense("zipf 0.9 and scans", accesses);
}

/** Popular blocks, and a loop over a range that is larger than most caches here. */
function loopTrace(): Trace {
  const random = new Random(3);
  const zipf = new Zipf(BLOCKS, 0.9);
  const accesses: Access[] = [];
  for (let at = 0; accesses.length < ACCESSES;) {
    if (random.chance(0.7)) {
      accesses.push({ block: scattered(zipf.draw(random)), count: 1, is_write: false });
      continue;
    }
    accesses.push({ block: BLOCKS + at, count: 4, is_write: false });
    at = (at + 4) % (BLOCKS / 2);
  }
  return dense("zipf 0.9 and a loop", accesses);
}

export async function allTraces(): Promise<Trace[]> {
  return [
    await realTrace(),
    zipfTrace("zipf 0.7", 0.7, 0),
    zipfTrace("zipf 0.9", 0.9, 0),
    zipfTrace("zipf 1.1", 1.1, 0),
    zipfTrace("zipf 0.9, 30 % writes", 0.9, 0.3),
    scanTrace(),
    loopTrace(),
  ];
}

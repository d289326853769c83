/**
 * `deno task bench:hits`: hit ratios of the engine's two eviction policies, on a real block trace and synthetic ones, beside exact LRU,
 * ARC and S3-FIFO of the same size. Prints a table and writes `bench/hits/hits.svg`.
 *
 * The engine runs as it ships, its log and its head included in its size; that is what `gc_percent` lets it hold. A block counts as a
 * hit when it was read from the cache; writes bring blocks in.
 *
 * @module
 */

import { runEngine } from "./hits/engine_run.ts";
import { plot } from "./hits/plot.ts";
import { Arc, Lru, type Policy, S3Fifo } from "./hits/policies.ts";
import { allTraces, type Trace } from "./hits/traces.ts";

/** Of the blocks that a trace names. */
const SIZES_PERCENT = [1, 10, 30];
const COLUMNS = ["fifo", "reinsert", "LRU", "ARC", "S3-FIFO"] as const;

/** One line of the table: hit ratios in percent. */
export interface Row {
  readonly trace: string;
  readonly size_percent: number;
  readonly ratios: readonly number[];
  /** Blocks that `reinsert` copied, and keys that it logged again, for each block that came in. */
  readonly carried: number;
  readonly kept: number;
}

function percentOf({ accesses }: Trace, policy: Policy): number {
  let hits = 0;
  let reads = 0;
  for (const { block, count, is_write } of accesses) {
    for (let i = 0; i < count; i++) {
      const hit = policy.access(block + i);
      if (is_write) continue;
      reads++;
      if (hit) hits++;
    }
  }
  return 100 * hits / reads;
}

function measure(trace: Trace, size_percent: number): Row {
  const wanted = trace.footprint * size_percent / 100;
  const fifo = runEngine(trace, wanted, "fifo");
  const reinsert = runEngine(trace, wanted, "reinsert");
  const others = [new Lru(fifo.size), new Arc(fifo.size), new S3Fifo(fifo.size)];
  const engines = [fifo, reinsert].map(({ hits, reads }) => 100 * hits / reads);
  return {
    trace: trace.name,
    size_percent,
    ratios: [...engines, ...others.map((policy) => percentOf(trace, policy))],
    carried: reinsert.carried / Math.max(1, reinsert.filled - reinsert.carried),
    kept: reinsert.kept_keys / Math.max(1, reinsert.filled - reinsert.carried),
  };
}

async function main(): Promise<void> {
  const rows: Row[] = [];
  console.log(
    `${"hit ratio, %".padEnd(30)}${
      COLUMNS.map((name) => name.padStart(9)).join("")
    }  carried     kept`,
  );
  for (const trace of await allTraces()) {
    for (const size_percent of SIZES_PERCENT) {
      const row = measure(trace, size_percent);
      rows.push(row);
      const name = `${trace.name}, ${size_percent} %`.padEnd(30);
      const cells = row.ratios.map((ratio) => ratio.toFixed(1).padStart(9)).join("");
      console.log(
        `${name}${cells}${row.carried.toFixed(2).padStart(9)}${row.kept.toFixed(1).padStart(9)}`,
      );
    }
  }
  const path = new URL("hits/hits.svg", import.meta.url);
  Deno.writeTextFileSync(path, plot(rows, COLUMNS));
}

if (import.meta.main) await main();

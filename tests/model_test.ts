/**
 * The model-based test: a million random operations against a plain byte array.
 *
 * Each test prints its seed; `PCACHE_SEED=N deno test -A tests/model_test.ts` runs every case with that seed.
 *
 * @module
 */

import { assert, assertEquals, assertThrows } from "@std/assert";
import { CACHE_MODES } from "../core/cache_mode.ts";
import { Model, ModelViolation } from "./model.ts";
import { fillFor, seedOr } from "./random.ts";
import { Simulation, type SimulationOptions } from "./simulation.ts";

const KIB = 1024;
const MIB = 1024 * KIB;

/** Cases: operations, and what is simulated. Together a million operations and more. */
const CASES: { operations: number; options: SimulationOptions }[] = [];
/** What all cases have met, added up. */
const TOTALS: Record<string, number> & { operations: number } = { operations: 0 };

/** [bytes of a segment, segments, MiB of the device]; the last holds requests of 4 MiB. */
const SHAPES = [[64 * KIB, 160, 24], [256 * KIB, 48, 12], [1 * MIB, 20, 24], [256 * KIB, 140, 48]];
for (let i = 0; i < 16; i++) {
  const [segment_bytes, segments, device_mib] = SHAPES[i % 4]!;
  CASES.push({
    operations: 65_000,
    options: {
      seed: seedOr(1000 + i),
      segment_bytes: segment_bytes!,
      segments: segments!,
      device_bytes: device_mib! * MIB + (i % 5) * 512,
      data_crc: i % 8 < 4,
      barriers_are_asynchronous: i < 8,
      barrier_is_cheap: i >= 12,
      backing_fails: i % 5 === 1,
      eviction: i % 2 === 0 ? "reinsert" : "fifo",
      // Where the backing device fails, only a cache that writes back hides it.
      cache_mode: i % 5 === 1 ? "writeback" : CACHE_MODES[i % 4]!,
      keeps_staged: i % 3 !== 0,
    },
  });
}

for (const { operations, options } of CASES) {
  Deno.test(`${operations} random operations, ${JSON.stringify(options)}`, () => {
    simulate(operations, options);
  });
}

Deno.test("the cases held a million operations, and everything there is to meet", () => {
  console.log(TOTALS);
  assert(TOTALS.operations >= 1_000_000);
  for (const [what, count] of Object.entries(TOTALS)) {
    assert(count >= 100, `${what}: only ${count}`);
  }
});

/** Runs one case to its end, with re-opens, drops and quiet moments in between. */
function simulate(operations: number, options: SimulationOptions): void {
  const simulation = new Simulation(options);
  const { random, seen } = simulation;
  try {
    while (simulation.operations < operations) {
      simulation.step();
      if (random.chance(1 / 2000)) simulation.changeMood();
      if (random.chance(1 / 20_000)) simulation.changeGcPercent();
      if (options.backing_fails === false && random.chance(1 / 10_000)) simulation.changeMode();
      if (random.chance(1 / 10_000)) simulation.changeCutoff();
      if (random.chance(1 / 20_000)) simulation.reopenClean();
      if (random.chance(1 / 20_000)) simulation.drop();
      if (simulation.model.history_length > 3000) simulation.quiet();
      if (random.chance(1 / 100_000)) simulation.drain();
    }
    simulation.drain();
    simulation.countEngine();
  } catch (error) {
    throw new Error(`seed ${options.seed}, operation ${simulation.operations}`, { cause: error });
  }
  console.log(`seed ${options.seed}: ${simulation.operations} operations, ${JSON.stringify(seen)}`);
  TOTALS.operations += simulation.operations;
  for (const [what, count] of Object.entries(seen)) TOTALS[what] = (TOTALS[what] ?? 0) + count;
}

Deno.test("the model refuses what a register may not answer", () => {
  const model = new Model(new Uint8Array(4 * 512));
  const other = new Uint8Array(512).fill(9);
  const old = model.beginRead(0, 512);
  const first = model.beginWrite(0, 1024, fillFor);
  model.endRead(old);
  model.checkRead(old, new Uint8Array(512)); // before the write, or it
  model.checkRead(old, first.bytes.subarray(0, 512));
  assertThrows(() => model.checkRead(old, other), ModelViolation);
  assertThrows(() => model.checkRead(old, first.bytes.subarray(512)), ModelViolation);

  const second = model.beginWrite(512, 1024, fillFor);
  model.endWrite(first, false);
  const during = model.beginRead(512, 512);
  model.endRead(during);
  model.checkRead(during, first.bytes.subarray(512)); // either may have come last
  model.checkRead(during, second.bytes.subarray(0, 512));
  assertThrows(() => model.checkRead(during, new Uint8Array(512)), ModelViolation); // both came later

  model.endWrite(second, false);
  assertEquals(model.contestedSectors(), [1]);
  const third = model.beginWrite(512 + 100, 50, fillFor);
  model.endWrite(third, false);
  const after = model.beginRead(512, 512);
  model.endRead(after);
  const mixed = second.bytes.slice(0, 512);
  assertThrows(() => model.checkRead(after, other), ModelViolation);
  mixed.set(third.bytes, 100);
  model.checkRead(after, mixed);
  assertEquals(model.contestedSectors(), []); // a quiet read has told
});

Deno.test("the model refuses what a crash may not leave", () => {
  const model = new Model(new Uint8Array(2 * 512));
  const flushed = model.beginWrite(0, 512, fillFor);
  model.endWrite(flushed, false);
  model.endFlush(model.beginFlush());
  const later = model.beginWrite(0, 512, fillFor);
  model.endWrite(later, false);
  const holding = (bytes: Uint8Array) => {
    const content = new Uint8Array(2 * 512);
    content.set(bytes);
    return content;
  };
  assertThrows(() => model.adoptAfterCrash(holding(new Uint8Array(512))), ModelViolation); // lost
  const torn = later.bytes.slice();
  torn.set(flushed.bytes.subarray(0, 256));
  assertThrows(() => model.adoptAfterCrash(holding(torn)), ModelViolation);
  model.adoptAfterCrash(holding(flushed.bytes));
  const lost = model.beginWrite(512, 512, fillFor);
  model.loseWrite(lost);
  const content = holding(flushed.bytes);
  content.set(lost.bytes, 512);
  assertThrows(() => model.adoptAfterCrash(content), ModelViolation); // never happened
});

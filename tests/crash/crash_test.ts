/**
 * The share of the crash suite that every test run has: tests/README.md says what it checks. `deno task crash` does more.
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";
import { seedOr } from "../random.ts";
import type { Job } from "./jobs.ts";
import { runJobs } from "./run.ts";
import { SCRIPTS } from "./script.ts";

const LIMIT_MS = 20 * 60_000;
const WANTED_STATES = 20_000;
const MOST = 48;
const RANDOM_SCRIPTS = 60;
const FORGED_IMAGES = 20_000;

function* jobs(seed: number): Generator<Job> {
  for (let index = 0; index < SCRIPTS.length; index++) {
    yield { kind: "script", index, seed, most: MOST };
  }
  for (let n = 1; n <= RANDOM_SCRIPTS; n++) yield { kind: "random", seed: seed + n, most: MOST };
  yield { kind: "faults", seed };
  for (let n = 0; n < 4; n++) {
    yield { kind: "forged", seed: seed + n, count: FORGED_IMAGES / 4 };
  }
}

Deno.test("crash states, faults and forged images: no violation", async () => {
  const seed = seedOr(1);
  const { states, counts, failures } = await runJobs(jobs(seed), Date.now() + LIMIT_MS);
  console.log(`seed ${seed}: ${states} distinct crash states, ${JSON.stringify(counts)}`);
  assertEquals(failures.map(({ name, job, failure }) => ({ name, job, failure })), []);
  assert(states >= WANTED_STATES, `only ${states} distinct crash states`);
  assert(counts.forged >= FORGED_IMAGES && counts.opened > FORGED_IMAGES / 10);
  assert(counts.faults > 100 && counts.kills > 500);
});

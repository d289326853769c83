/**
 * `deno task crash [--seed S] [--minutes M] [--forged N] [--canaries]`: explores crash states for M minutes (15), makes
 * requests fail, opens N forged images (1 000 000 in 15 minutes' share), and lets every canary be caught (only that with
 * `--canaries`). Exit status 1 when a check failed or a canary survived.
 *
 * @module
 */

import { parseArgs } from "@std/cli/parse-args";
import { CANARIES, releaseCanary } from "./canaries.ts";
import type { Job, Outcome } from "./jobs.ts";
import { type Report, runJobs } from "./run.ts";
import { SCRIPTS } from "./script.ts";

/** States at one moment, where there are more: what a run of 15 minutes takes. */
const MOST = 4096;
const FULL_MINUTES = 15;
const FULL_FORGED = 1_000_000;
const FORGED_PER_JOB = 10_000;
const RANDOM_MOST = 192;
const TELL_MS = 10_000;
const CANARY_MS = 240_000;

/** Scripts and random ones in turn; then random ones without end. */
function* crashJobs(seed: number, share: number): Generator<Job> {
  const most = Math.max(16, Math.min(MOST, Math.round(MOST * share)));
  yield { kind: "faults", seed };
  for (let index = 0; index < SCRIPTS.length; index++) {
    yield { kind: "script", index, seed, most };
    yield { kind: "random", seed: seed + index, most: RANDOM_MOST };
  }
  for (let n = SCRIPTS.length;; n++) {
    yield { kind: "random", seed: seed + n, most: RANDOM_MOST };
    if (n % 100 === 0) yield { kind: "faults", seed: seed + n };
  }
}

function* forgedJobs(seed: number, count: number): Generator<Job> {
  for (let done = 0; done < count; done += FORGED_PER_JOB) {
    const next = Math.min(FORGED_PER_JOB, count - done);
    yield { kind: "forged", seed: seed + done, count: next };
  }
}

/** Prints how far it is, now and then. */
function progress(begin_ms: number): (report: Report, outcome: Outcome) => void {
  let told_ms = begin_ms;
  return ({ states, counts }) => {
    const now_ms = Date.now();
    if (now_ms - told_ms < TELL_MS) return;
    told_ms = now_ms;
    const seconds = Math.round((now_ms - begin_ms) / 1000);
    console.log(
      `${seconds} s: ${states} crash states at ${counts.points} moments, ` +
        `${counts.operations} operations, ${counts.kills} kills, ${counts.faults} faults, ` +
        `${counts.forged} forged images`,
    );
  };
}

function tellFailures(failures: readonly Outcome[]): void {
  for (const { job, name, failure } of failures) {
    console.log(`\nVIOLATION of "${failure!.check}" in "${name}", ${JSON.stringify(job)}`);
    console.log(failure!.message);
    if (failure!.script !== "") console.log(`shortest script: ${failure!.script}`);
  }
}

/** Returns how many canaries survived. */
async function runCanaries(): Promise<number> {
  const waiting = [...CANARIES];
  let survivors = 0;
  const work = async () => {
    for (let canary = waiting.shift(); canary !== undefined; canary = waiting.shift()) {
      const begin_ms = Date.now();
      const caught = await releaseCanary(canary, CANARY_MS);
      const seconds = ((Date.now() - begin_ms) / 1000).toFixed(1);
      if (caught === null) survivors++;
      console.log(
        caught === null
          ? `canary SURVIVED after ${seconds} s: ${canary.name}`
          : `canary caught by "${caught.check}" in "${caught.script}" after ${seconds} s: ${canary.name}`,
      );
    }
  };
  await Promise.all(Array.from({ length: navigator.hardwareConcurrency }, work));
  return survivors;
}

async function main(): Promise<number> {
  const args = parseArgs(Deno.args, {
    string: ["seed", "minutes", "forged"],
    boolean: ["canaries"],
    unknown: (arg: string) => {
      console.error(
        `unknown argument ${arg}; wanted: [--seed S] [--minutes M] [--forged N] [--canaries]`,
      );
      Deno.exit(1);
    },
  });
  const minutes = Number(args.minutes ?? FULL_MINUTES);
  const seed = Number(args.seed ?? 1);
  const share = minutes / FULL_MINUTES;
  const forged = Number(args.forged ?? Math.round(FULL_FORGED * share));
  for (const [name, value] of [["minutes", minutes], ["seed", seed], ["forged", forged]] as const) {
    if (!Number.isFinite(value) || value < 0) {
      console.error(`--${name} ${args[name]}, wanted: a number, 0 or more`);
      return 1;
    }
  }
  if (args.canaries) return await runCanaries() === 0 ? 0 : 1;

  const begin_ms = Date.now();
  const crashes = await runJobs(
    crashJobs(seed, share),
    begin_ms + minutes * 60_000,
    progress(begin_ms),
  );
  tellFailures(crashes.failures);
  const { counts } = crashes;
  const scripts = SCRIPTS.filter(({ name }) => crashes.done.includes(name)).length;
  console.log(
    `\nseed ${seed}, ${
      ((Date.now() - begin_ms) / 1000).toFixed(0)
    } s: ${crashes.states} distinct crash ` +
      `states (${counts.repeated} met again) at ${counts.points} moments, at ${counts.exhausted} of them ` +
      `all there are; ${counts.operations} operations, ${scripts} of ${SCRIPTS.length} scripts whole, ` +
      `${counts.kills} kills, ${counts.faults} runs with faults; ${crashes.failures.length} violations`,
  );
  if (crashes.failures.length > 0) return 1;

  const forged_ms = Date.now();
  const images = await runJobs(forgedJobs(seed, forged), Infinity, progress(forged_ms));
  tellFailures(images.failures);
  console.log(
    `${((Date.now() - forged_ms) / 1000).toFixed(0)} s: ${images.counts.forged} forged images, ` +
      `${images.counts.opened} of them opened and read out, the others refused; ` +
      `${images.failures.length} escapes`,
  );
  return images.failures.length + await runCanaries() === 0 ? 0 : 1;
}

Deno.exit(await main());

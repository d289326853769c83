/**
 * Pieces of work that a worker does: explore one script, open some forged images, make things fail.
 *
 * @module
 */

import { Random } from "../random.ts";
import { Explorer, newTally, type Tally, Violation } from "./explorer.ts";
import { runFaults } from "./faults.ts";
import { openForged } from "./forged.ts";
import { randomScript, type Script, SCRIPTS } from "./script.ts";

export type Job =
  /** One of SCRIPTS, with `most` states at each moment. */
  | {
    readonly kind: "script";
    readonly index: number;
    readonly seed: number;
    readonly most: number;
  }
  | { readonly kind: "random"; readonly seed: number; readonly most: number }
  | { readonly kind: "forged"; readonly seed: number; readonly count: number }
  | { readonly kind: "faults"; readonly seed: number };

/** How a job ended. */
export interface Outcome {
  readonly job: Job;
  readonly name: string;
  /** Hashes of the states looked at; they are the worker's, and new to it. */
  readonly states: Float64Array<ArrayBuffer>;
  readonly counts: Counts;
  /** What failed, and the shortest script found for it. */
  readonly failure:
    | { readonly check: string; readonly message: string; readonly script: string }
    | null;
}

/** What is added up. */
export interface Counts {
  repeated: number;
  points: number;
  exhausted: number;
  operations: number;
  kills: number;
  forged: number;
  opened: number;
  faults: number;
}

export function noCounts(): Counts {
  return {
    repeated: 0,
    points: 0,
    exhausted: 0,
    operations: 0,
    kills: 0,
    forged: 0,
    opened: 0,
    faults: 0,
  };
}

/** Does a job, or as much of it as there is time for: `until` is asked now and then. */
export function doJob(
  job: Job,
  until: () => boolean = () => false,
  is_hunt = false,
): Outcome {
  const counts = noCounts();
  const tally = newTally();
  let name: string = job.kind;
  let failure: Outcome["failure"] = null;
  let script: Script | undefined;
  try {
    switch (job.kind) {
      case "script":
      case "random":
        script = scriptOf(job);
        name = script.name;
        new Explorer(script.shape, job.seed, tally, job.most, until).run(script);
        break;
      case "forged": {
        const { forged, opened } = openForged(new Random(job.seed), job.count, until);
        counts.forged = forged;
        counts.opened = opened;
        break;
      }
      case "faults":
        counts.faults = runFaults(new Random(job.seed), until);
    }
  } catch (error) {
    if (!(error instanceof Violation)) throw error;
    const shortest = script && !is_hunt ? shorten(script, job, error.check) : script;
    failure = { check: error.check, message: traceOf(error), script: show(shortest) };
  }
  const { repeated, points, exhausted, operations, kills } = tally;
  Object.assign(counts, { repeated, points, exhausted, operations, kills });
  return { job, name, states: Float64Array.from(tally.seen), counts, failure };
}

function scriptOf(job: Job & { kind: "script" | "random" }): Script {
  return job.kind === "script" ? SCRIPTS[job.index]! : randomScript(new Random(job.seed));
}

/** The message, and where it comes from. */
function traceOf(error: Error): string {
  let cause = error;
  while (cause.cause instanceof Error) cause = cause.cause;
  return `${error.message}\n${cause.stack}`;
}

function show(script: Script | undefined): string {
  if (script === undefined) return "";
  const lines = script.operations.map((operation) => `  ${JSON.stringify(operation)}`);
  return `${script.name}, ${JSON.stringify(script.shape)}:\n${lines.join("\n")}`;
}

/** How long a failing script is cut down. */
const SHORTEN_MS = 20_000;

/** Leaves out operations as long as the same check fails. */
function shorten(script: Script, job: Job, check: string): Script {
  if (job.kind !== "script" && job.kind !== "random") return script;
  const { seed, most } = job;
  const end_ms = Date.now() + SHORTEN_MS;
  const fails = (operations: Script["operations"]): number => {
    const tally: Tally = newTally();
    try {
      new Explorer(script.shape, seed, tally, most, () => Date.now() > end_ms)
        .run({ ...script, operations });
      return 0;
    } catch (error) {
      if (!(error instanceof Violation)) return 0;
      return error.check === check ? tally.operations + 1 : 0;
    }
  };
  let operations = script.operations;
  for (let size = Math.ceil(operations.length / 2); size >= 1; size = Math.floor(size / 2)) {
    for (let at = 0; at < operations.length;) {
      if (Date.now() > end_ms) return { ...script, operations };
      const shorter = operations.toSpliced(at, size);
      const needed = fails(shorter);
      if (needed === 0) at += size;
      else operations = shorter.slice(0, Math.max(needed, 1));
    }
  }
  return { ...script, operations };
}

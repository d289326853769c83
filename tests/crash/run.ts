/**
 * Hands jobs to workers, one a core, and adds up what they find.
 *
 * @module
 */

import { type Counts, type Job, noCounts, type Outcome } from "./jobs.ts";

/** What a run has found. */
export interface Report {
  /** Different crash states. */
  states: number;
  readonly counts: Counts;
  /** Jobs that failed. */
  readonly failures: Outcome[];
  /** Names of the scripts that came to their end. */
  readonly done: string[];
}

/** Does the jobs until there are none left, one has failed, or it is `end_ms`. `tell` is called after each. */
export async function runJobs(
  jobs: Iterator<Job>,
  end_ms: number,
  tell: (report: Report, outcome: Outcome) => void = () => {},
): Promise<Report> {
  const seen = new Set<number>();
  const report: Report = { states: 0, counts: noCounts(), failures: [], done: [] };
  const work = async () => {
    const worker = new Worker(new URL("./worker.ts", import.meta.url), { type: "module" });
    try {
      while (Date.now() < end_ms && report.failures.length === 0) {
        const next = jobs.next();
        if (next.done) break;
        const outcome = await ask(worker, next.value, end_ms);
        for (const hash of outcome.states) seen.add(hash);
        report.states = seen.size;
        for (const [what, count] of Object.entries(outcome.counts)) {
          report.counts[what as keyof Counts] += count;
        }
        if (outcome.failure !== null) report.failures.push(outcome);
        else if (Date.now() < end_ms) report.done.push(outcome.name);
        tell(report, outcome);
      }
    } finally {
      worker.terminate();
    }
  };
  await Promise.all(Array.from({ length: navigator.hardwareConcurrency }, work));
  return report;
}

function ask(worker: Worker, job: Job, end_ms: number): Promise<Outcome> {
  return new Promise((resolve, reject) => {
    worker.onmessage = (event: MessageEvent<Outcome>) => resolve(event.data);
    worker.onerror = (event) => {
      event.preventDefault();
      reject(new Error(`job ${JSON.stringify(job)}: ${event.message}`));
    };
    worker.postMessage({ job, end_ms });
  });
}

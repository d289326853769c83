/**
 * Does jobs for `main.ts`, one after another.
 *
 * @module
 */

import { doJob, type Job } from "./jobs.ts";

const scope = self as unknown as Worker;

scope.onmessage = (event: MessageEvent<{ job: Job; end_ms: number }>) => {
  const { job, end_ms } = event.data;
  const outcome = doJob(job, () => Date.now() > end_ms);
  scope.postMessage(outcome, [outcome.states.buffer]);
};

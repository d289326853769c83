/**
 * Looks for a canary: explores until something fails, and prints which check it was. Run by `canaries.ts`, in a copy of
 * the repository; the arguments are how long it may take, in ms, and where to look first (`Canary.by`).
 *
 * @module
 */

import { type Catch, huntJobs } from "./canaries.ts";
import { doJob } from "./jobs.ts";

function hunt(end_ms: number, by: string): Catch | null {
  for (const job of huntJobs(by)) {
    if (Date.now() > end_ms) return null;
    const { failure, name } = doJob(job, () => Date.now() > end_ms, true);
    if (failure !== null) return { check: failure.check, script: name };
  }
  return null;
}

console.log(JSON.stringify(hunt(Date.now() + Number(Deno.args[0]), Deno.args[1]!)));

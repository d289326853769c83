/**
 * Every canary is caught: the suite finds each of these bugs when it is put into the core.
 *
 * @module
 */

import { CANARIES, releaseCanary } from "./canaries.ts";

/** A canary that lives so long has survived. */
const LIMIT_MS = 4 * 60_000;

for (const canary of CANARIES) {
  Deno.test(`canary: ${canary.name}`, async () => {
    const caught = await releaseCanary(canary, LIMIT_MS);
    if (caught === null) throw new Error("it survived");
    console.log(`caught by "${caught.check}" in "${caught.script}"`);
  });
}

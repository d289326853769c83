/**
 * The device's process killed under the load of our clients and of fio, a few times on each medium; `deno task kill`
 * does 200 of them.
 *
 * @module
 */

import { assert } from "@std/assert";
import { killRounds } from "./kill_rounds.ts";
import { seedOr } from "./random.ts";

const ROUNDS = 5;

for (const [medium, parent] of [["a file", undefined], ["tmpfs", "/dev/shm"]] as const) {
  Deno.test(`killed under load ${ROUNDS} times on ${medium}: all that was flushed is there`, async () => {
    const counts = await killRounds(ROUNDS, seedOr(6), parent);
    console.log(counts);
    assert(counts.rounds === ROUNDS && counts.writes > 0 && counts.fio_flushed > 0);
  });
}

/**
 * `deno task kill [--rounds N] [--seed S]`: kills the device's process N times (200) under the load of our own clients
 * and of fio, half of them with the devices on a file, half on tmpfs, and checks after each that all flushed data is
 * there. It needs fio; `deno task test` installs it.
 *
 * @module
 */

import { parseArgs } from "@std/cli/parse-args";
import { killRounds } from "./kill_rounds.ts";

const args = parseArgs(Deno.args, { string: ["rounds", "seed"] });
const rounds = Number(args.rounds ?? 200);
const seed = Number(args.seed ?? 1);
if (!Number.isInteger(rounds) || rounds < 2 || !Number.isInteger(seed)) {
  console.error(
    `--rounds ${args.rounds} --seed ${args.seed}, wanted: whole numbers, 2 rounds at least`,
  );
  Deno.exit(1);
}
for (const [medium, parent] of [["a file", undefined], ["tmpfs", "/dev/shm"]] as const) {
  const counts = await killRounds(
    Math.floor(rounds / 2),
    seed,
    parent,
    (line) => console.log(line),
  );
  console.log(`${medium}: ${JSON.stringify(counts)}, no flushed sector lost`);
}

/**
 * `deno task fuzz [--seed S] [--conversations N]`: mutated conversations with the NBD server, 2 000 000 if not said otherwise.
 *
 * @module
 */

import { parseArgs } from "@std/cli/parse-args";
import { fuzz } from "./fuzzer.ts";
import { Resources } from "./resources.ts";
import { printTable } from "./table.ts";

const CONVERSATIONS = 2_000_000;
const TELL_EVERY = 100_000;

function numberOf(option: string, text: string): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 1) {
    console.error(`--${option} ${text}: a number from 1 is wanted`);
    Deno.exit(1);
  }
  return value;
}

const args = parseArgs(Deno.args, {
  string: ["seed", "conversations"],
  default: { seed: "1", conversations: String(CONVERSATIONS) },
  unknown: (arg: string) => {
    console.error(`${arg}: not known; --seed S and --conversations N are`);
    Deno.exit(1);
  },
});
const seed = numberOf("seed", args.seed);
const conversations = numberOf("conversations", args.conversations);
let told = 0;
const resources = new Resources();
const began_ms = performance.now();
const { reached, loops } = fuzz(seed, conversations, (tally) => {
  resources.look();
  if (tally.conversations < told + TELL_EVERY) return;
  told = tally.conversations;
  const seconds = Math.round((performance.now() - began_ms) / 1000);
  console.log(`${told} conversations, ${seconds} s, ${resources.now()}`);
});
printTable(reached);
console.log(resources.check());
const rings = Object.entries(loops).map(([loop, count]) => `${count} over ${loop}`).join(", ");
const seconds = Math.round((performance.now() - began_ms) / 1000);
console.log(
  `${conversations} conversations from seed ${seed} in ${seconds} s (${rings}): nothing found`,
);

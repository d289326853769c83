/** The share of the fuzzer that every test run has. */

import { assertEquals } from "@std/assert";
import { allStates } from "./conversations.ts";
import { fuzz } from "./fuzzer.ts";
import { Resources } from "./resources.ts";
import { printTable, timesIn } from "./table.ts";

const CONVERSATIONS = 40_000;
const SEED = 1;

Deno.test(`${CONVERSATIONS} mutated conversations with the NBD server, changed in every state, over every ring`, () => {
  const resources = new Resources();
  const { reached, loops } = fuzz(SEED, CONVERSATIONS, () => resources.look());
  assertEquals(allStates().filter((state) => timesIn(reached, state) === 0), []);
  assertEquals(loops, { fake: 36_000, io_uring: 2000, poll: 2000 });
  printTable(reached);
  console.log(resources.check());
});

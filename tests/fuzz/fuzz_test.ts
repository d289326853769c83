/** The share of the fuzzer that every test run has. */

import { assertEquals } from "@std/assert";
import { allStates } from "./conversations.ts";
import { fuzz } from "./fuzzer.ts";

const CONVERSATIONS = 20_000;
const SEED = 1;

Deno.test(`${CONVERSATIONS} mutated conversations with the NBD server, changed in every state`, () => {
  const { changed } = fuzz(SEED, CONVERSATIONS, () => {});
  assertEquals(allStates().filter((state) => !changed.has(state)), []);
  console.log(`${CONVERSATIONS} conversations, changed in ${changed.size} states`);
});

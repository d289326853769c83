/** The table of cells. */

import { assertEquals } from "@std/assert";
import { chosen, LOAD_CELLS, SKIPPED_CELLS, SPECIAL_CELLS } from "./cells.ts";
import { PEER_IDS } from "./contenders.ts";

const NAMES = [...LOAD_CELLS.map((cell) => cell.name), ...SPECIAL_CELLS];

Deno.test("names are different", () => {
  const all = [...NAMES, ...SKIPPED_CELLS.map((cell) => cell.name)];
  assertEquals(new Set(all).size, all.length);
});

Deno.test("what a ratio needs is measured in its cell", () => {
  for (const { contenders, wanted } of LOAD_CELLS) {
    for (const { of, to } of wanted) {
      assertEquals([of, ...to].filter((id) => !contenders.includes(id)), []);
    }
  }
});

Deno.test("cells are chosen by parts of their names", () => {
  assertEquals(chosen(NAMES, []), NAMES);
  assertEquals(chosen(NAMES, ["randread-d1-"]), ["randread-d1-c1", "randread-d1-c4"]);
  assertEquals(chosen(NAMES, ["flush", "idle"]), ["flush1", "flush32", "idle"]);
  assertEquals(chosen(NAMES, ["nothing"]), []);
});

Deno.test("peers are what others have made", () => {
  assertEquals(PEER_IDS, ["nbdkit_memory", "nbdkit_file", "nbdkit_cache", "qemu_nbd"]);
});

/** The table of cells. */

import { assertEquals } from "@std/assert";
import { CELL_NAMES, chosen, LOAD_CELLS, unknownParts } from "./cells.ts";
import { PEER_IDS } from "./contenders.ts";

Deno.test("names are different", () => {
  assertEquals(new Set(CELL_NAMES).size, CELL_NAMES.length);
});

Deno.test("what a ratio needs is measured in its cell", () => {
  for (const { contenders, wanted } of LOAD_CELLS) {
    for (const { of, to } of wanted) {
      assertEquals([of, ...to].filter((id) => !contenders.includes(id)), []);
    }
  }
});

Deno.test("cells are chosen by parts of their names", () => {
  assertEquals(chosen(CELL_NAMES, []), CELL_NAMES);
  assertEquals(chosen(CELL_NAMES, ["randread-d1-"]), ["randread-d1-c1", "randread-d1-c4"]);
  assertEquals(chosen(CELL_NAMES, ["flush", "idle"]), ["flush1", "flush32", "idle"]);
  assertEquals(chosen(CELL_NAMES, ["nothing"]), []);
  assertEquals(unknownParts(CELL_NAMES, ["seq", "nothing", "d32"]), ["nothing"]);
});

Deno.test("peers are what others have made", () => {
  assertEquals(PEER_IDS, ["nbdkit_memory", "nbdkit_file", "nbdkit_cache", "qemu_nbd"]);
});

import { assertEquals } from "@std/assert";
import { PageSetup } from "./page_setup.ts";

const PAGE = 4096;
const KIB = 1024;
const MIB = 1024 * KIB;
const NAMES = new Map([[3, "will need"], [4, "drop"], [23, "set up"]]);

/** A page setup, and what it asks for: in pages, from and to. */
function fixture(pages_stay: boolean): { pages: PageSetup; taken: () => string[] } {
  let notes: string[] = [];
  const pages = new PageSetup(
    (from, to, advice) => notes.push(`${NAMES.get(advice)} ${from / PAGE}..${to / PAGE}`),
    16 * MIB,
    PAGE,
    pages_stay,
  );
  return {
    pages,
    taken: () => {
      const taken = notes;
      notes = [];
      return taken;
    },
  };
}

Deno.test("where pages stay, each stretch is set up once", () => {
  const { pages, taken } = fixture(true);
  pages.aim(0, PAGE, MIB);
  assertEquals(taken(), ["set up 0..64", "set up 64..128"]);
  for (let page = 1; page < 128; page++) pages.aim(page * PAGE, (page + 1) * PAGE, MIB);
  assertEquals(taken(), []);
  pages.aim(512 * KIB, 512 * KIB + 1, MIB);
  assertEquals(taken(), ["set up 128..192", "set up 192..256"]);
  pages.aim(2 * MIB, 2 * MIB + 1, 3 * MIB);
  pages.aim(4 * MIB, 4 * MIB + 1, 5 * MIB);
  taken();
  pages.aim(0, PAGE, MIB);
  assertEquals(taken(), [], "a run that comes again finds its pages");
});

Deno.test("a stretch that two segments share is set up for each", () => {
  const { pages, taken } = fixture(true);
  const end = 256 * KIB + 5 * PAGE;
  pages.aim(0, PAGE, end);
  assertEquals(taken(), ["set up 0..64", "set up 64..69"]);
  pages.aim(end, end + PAGE, 2 * end);
  assertEquals(taken(), ["set up 69..128", "set up 128..138"]);
});

/** Pages on a disk whose segments, of a MiB, have been stored to once. */
function secondRound() {
  const { pages, taken } = fixture(false);
  for (let from = 0; from < 16 * MIB; from += MIB) pages.aim(from, from + MIB, from + MIB);
  pages.barrier();
  taken();
  return { pages, taken };
}

Deno.test("on a disk a stretch that is met first is set up whole, and the next one asked for", () => {
  const { pages, taken } = fixture(false);
  pages.aim(0, PAGE, 4 * MIB);
  assertEquals(taken(), ["set up 0..1", "set up 1..256", "set up 256..512", "will need 512..768"]);
});

Deno.test("on a disk twice as many pages are set up each time, as long as no barrier comes", () => {
  const { pages, taken } = secondRound();
  pages.aim(0, PAGE, MIB);
  const first = taken();
  for (let page = 1; page < 256; page++) pages.aim(page * PAGE, (page + 1) * PAGE, MIB);
  assertEquals([first, taken()], [["set up 0..256"], []], "as many as before the barrier");
  pages.barrier();
  taken();
  pages.aim(4 * MIB, 4 * MIB + PAGE, 5 * MIB);
  pages.barrier();
  taken();
  for (let page = 1; page < 8; page++) {
    pages.aim(4 * MIB + page * PAGE, 4 * MIB + (page + 1) * PAGE, 5 * MIB);
  }
  assertEquals(taken(), ["set up 1025..1026", "set up 1026..1028", "set up 1028..1032"]);
});

Deno.test("on a disk a barrier has what was stored to unmapped, and as much is set up behind it", () => {
  const { pages, taken } = secondRound();
  pages.aim(0, 3 * PAGE + 1, MIB);
  taken();
  pages.barrier();
  assertEquals(taken(), ["drop 0..256"], "what was set up for nothing, too");
  pages.barrier();
  assertEquals(taken(), [], "nothing was stored since");
  pages.aim(3 * PAGE + 1, 4 * PAGE, MIB);
  assertEquals(taken(), ["set up 3..7"]);
});

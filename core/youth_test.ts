/** Youth and ghosts. */

import { assert, assertEquals } from "@std/assert";
import { Random } from "../tests/random.ts";
import { Ghosts } from "./ghosts.ts";
import { Youth } from "./youth.ts";

const BLOCK_SECTORS = 8;

for (const blocks of [1_000, 20_000]) {
  Deno.test(`youth of a cache of ${blocks} blocks: long for what comes again late and once, short for a few that come often`, () => {
    const youth = new Youth(blocks * BLOCK_SECTORS);
    const random = new Random(1);
    let scanned = 10 * blocks;
    const readHotAndScan = (hot_ranges: number) => {
      for (let n = 0; n < blocks / 2; n++) {
        youth.access(random.below(hot_ranges) * 16 * BLOCK_SECTORS, 16 * BLOCK_SECTORS, true);
        youth.access(scanned++ * 16 * BLOCK_SECTORS, 16 * BLOCK_SECTORS, true);
      }
    };
    readHotAndScan(blocks / 20);
    assertEquals(youth.is_long, false);
    // Each range is read twice, the second time when nine tenths of the cache have gone by.
    for (let block = 0; block < 8 * blocks; block += 16) {
      youth.access(block * BLOCK_SECTORS, 16 * BLOCK_SECTORS, true);
      const again = block - Math.floor(blocks * 0.9 / 16) * 16;
      if (again >= 0) youth.access(again * BLOCK_SECTORS, 16 * BLOCK_SECTORS, true);
    }
    assertEquals(youth.is_long, true);
    readHotAndScan(blocks / 20);
    assertEquals(youth.is_long, false);
  });
}

Deno.test("ghosts: what has left is known, what has not is not, and it passes", () => {
  const ghosts = new Ghosts(1024 * BLOCK_SECTORS);
  ghosts.add(64, 32);
  for (let sector = 64; sector < 96; sector++) assert(ghosts.has(sector, 1), `${sector}`);
  assertEquals(ghosts.has(60, 16), true, "its middle");
  let known = 0;
  for (let block = 100; block < 10_100; block++) if (ghosts.has(block * BLOCK_SECTORS, 8)) known++;
  assert(known <= 2, `${known} are taken for others`);
  ghosts.add(1_000_000, 20_000 * BLOCK_SECTORS);
  assertEquals(ghosts.has(64, 8), false);
});

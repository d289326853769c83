import { assertEquals } from "@std/assert";
import { Random, seedOr } from "../tests/random.ts";
import { ExtentIndex, SUBTREE_SECTORS } from "./extent_index.ts";
import { KEY_WORDS, putKey } from "./format.ts";
import { KeyBatch } from "./key_batch.ts";

/** More subtrees than there are buckets. */
const SIZE_SECTORS = 4200 * SUBTREE_SECTORS;
const SEGMENTS = 1 << 12;

/** Adds a key; all but its generation and its checksum in sectors. */
function add(
  batch: KeyBatch,
  sector: number,
  sectors: number,
  seg: number,
  place: number,
  is_clean: boolean,
): void {
  const words = new Uint32Array(KEY_WORDS + 1);
  putKey(words, 1, sector * 512, sectors * 512, 0, seg, place * 512, 0, 0);
  batch.add(words, 1, is_clean);
}

function extents(index: ExtentIndex): number[][] {
  const list: number[][] = [];
  index.forEach((sector, extent) => {
    const place = [index.segment(extent), index.place(extent), index.isClean(extent) ? 1 : 0];
    list.push([sector, index.sectors(extent), ...place]);
  });
  return list;
}

Deno.test("an index that was filled in batches is as one that was filled key by key", () => {
  const random = new Random(seedOr(1));
  for (const most of [1, 2, 7, 1000]) {
    for (const reach of [64, 3 * SUBTREE_SECTORS, SIZE_SECTORS]) {
      const [alone, batched] = [1, 2].map(() => new ExtentIndex(SIZE_SECTORS, SEGMENTS));
      const batch = new KeyBatch(batched!, most);
      for (let n = 0; n < 2000; n++) {
        const sector = SIZE_SECTORS - 1 - random.below(reach);
        const in_subtree = SUBTREE_SECTORS - sector % SUBTREE_SECTORS;
        const sectors = 1 +
          random.below(Math.min(random.below(8) === 0 ? in_subtree : 16, in_subtree));
        const seg = random.below(SEGMENTS);
        const place = random.below(32768 - sectors);
        const is_clean = random.below(2) === 0;
        alone!.insertCached(sector, sectors, seg, place, is_clean);
        add(batch, sector, sectors, seg, place, is_clean);
      }
      batch.enter();
      assertEquals(extents(batched!), extents(alone!), `${most} keys a batch, over ${reach}`);
    }
  }
});

Deno.test("a batch may be entered and filled again, also when it is empty", () => {
  const index = new ExtentIndex(SUBTREE_SECTORS, 4);
  const batch = new KeyBatch(index, 8);
  batch.enter();
  add(batch, 8, 8, 1, 0, false);
  batch.enter();
  batch.enter();
  add(batch, 0, SUBTREE_SECTORS, 3, 100, true);
  batch.enter();
  assertEquals(extents(index), [[0, SUBTREE_SECTORS, 3, 100, 1]]);
});

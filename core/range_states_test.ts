import { assert, assertEquals } from "@std/assert";
import { ExtentIndex } from "./extent_index.ts";
import {
  CLEAN,
  DIRTY,
  HOLE,
  listRangeStates,
  MAX_RANGES,
  NOT_CACHED,
  RangeStates,
  WHETHER_CACHED,
  WHETHER_ZERO,
  ZERO,
} from "./range_states.ts";
import { DATA, ZEROES, ZEROES_TO_PUNCH } from "./zeroes.ts";

const SECTORS = 4 * 8192;

/** In segment 3 lies an area of 8 sectors of zeroes, and behind it one to be punched. */
const AREAS = {
  is_any_known: true,
  kindOf: (seg: number, place: number, sectors: number) =>
    seg !== 3 ? DATA : place + sectors <= 8 ? ZEROES : ZEROES_TO_PUNCH,
};

/** [end in bytes, state] of each range. */
function list(
  index: ExtentIndex,
  off_bytes: number,
  len_bytes: number,
  wanted = WHETHER_CACHED | WHETHER_ZERO,
  areas: Parameters<typeof listRangeStates>[1] = AREAS,
): [number, number][] {
  const states = new RangeStates();
  listRangeStates(index, areas, wanted, off_bytes, len_bytes, states);
  return Array.from(
    { length: states.count },
    (_, i): [number, number] => [states.end_bytes[i]!, states.state[i]!],
  );
}

Deno.test("an empty cache: one range, as asked, whatever subtrees it crosses", () => {
  const index = new ExtentIndex(SECTORS, 4);
  assertEquals(list(index, 0, SECTORS * 512), [[SECTORS * 512, NOT_CACHED]]);
  assertEquals(list(index, 1000, 1), [[1001, NOT_CACHED]]);
});

Deno.test("clean, dirty, read just now, freed: each sector is what it is, neighbours of a kind are one", () => {
  const index = new ExtentIndex(SECTORS, 4);
  index.insertCached(8, 8, 0, 0, true);
  index.insertCached(16, 8, 1, 0, true); // touches the one before
  index.insertCached(24, 8, 0, 8, false);
  index.insertPlaceholder(32, 8, 7);
  index.insertCached(40, 8, 2, 0, false);
  index.freeSegment(2);
  index.insertCached(48, 1, 0, 100, false);
  assertEquals(list(index, 0, 64 * 512), [
    [8 * 512, NOT_CACHED],
    [24 * 512, CLEAN],
    [32 * 512, DIRTY],
    [48 * 512, NOT_CACHED],
    [49 * 512, DIRTY],
    [64 * 512, NOT_CACHED],
  ]);
});

Deno.test("zeroes are told from data, and those that may be punched from others", () => {
  const index = new ExtentIndex(SECTORS, 4);
  index.insertCached(0, 4, 3, 0, false);
  index.insertCached(4, 4, 3, 4, true);
  index.insertCached(8, 4, 3, 8, true);
  index.insertCached(12, 4, 2, 8, true);
  assertEquals(list(index, 0, 16 * 512), [
    [4 * 512, DIRTY | ZERO],
    [8 * 512, CLEAN | ZERO],
    [12 * 512, CLEAN | ZERO | HOLE],
    [16 * 512, CLEAN],
  ]);
  assertEquals(list(index, 0, 16 * 512, WHETHER_CACHED), [[4 * 512, DIRTY], [16 * 512, CLEAN]]);
  assertEquals(list(index, 0, 16 * 512, WHETHER_ZERO), [
    [8 * 512, ZERO],
    [12 * 512, ZERO | HOLE],
    [16 * 512, 0],
  ]);
  // Where nothing is known to be zeroes nothing is looked up.
  const none = { is_any_known: false, kindOf: () => DATA };
  assertEquals(list(index, 0, SECTORS * 512, WHETHER_ZERO, none), [[SECTORS * 512, 0]]);
});

Deno.test("a range of bytes is cut to them", () => {
  const index = new ExtentIndex(SECTORS, 4);
  index.insertCached(8, 8, 0, 0, false);
  assertEquals(list(index, 8 * 512 + 7, 3), [[8 * 512 + 10, DIRTY]]);
  assertEquals(list(index, 15 * 512 + 500, 100), [[16 * 512, DIRTY], [
    15 * 512 + 600,
    NOT_CACHED,
  ]]);
});

Deno.test("the list is bounded, by ranges and by look-ups, and never empty", () => {
  const ranges = new ExtentIndex(SECTORS, 4);
  for (let i = 0; i < MAX_RANGES; i++) ranges.insertCached(2 * i, 1, 0, i, true);
  const found = list(ranges, 0, SECTORS * 512);
  assertEquals(found.length, MAX_RANGES);
  assertEquals(found.at(-1), [MAX_RANGES * 512, NOT_CACHED]);

  const lookups = new ExtentIndex(SECTORS, 4);
  for (let i = 0; i < 8000; i++) lookups.insertCached(i, 1, i % 2, i >> 1, true);
  const [only, ...others] = list(lookups, 0, SECTORS * 512);
  assertEquals(others, []);
  assert(only![0] < 8000 * 512 && only![0] > 0 && only![1] === CLEAN);
  assertEquals(list(lookups, only![0], 100 * 512), [[only![0] + 100 * 512, CLEAN]]);
});

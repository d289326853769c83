import { assert, assertEquals, assertThrows } from "@std/assert";
import { Random, seedOr } from "../tests/random.ts";
import { AssertionFailure } from "./assert.ts";
import { Buffers } from "./buffers.ts";

const ADDR = 1 << 20;
const SECTOR = 512;

/** Takes `sectors` in all, in as many parts as it needs. */
function takeAll(buffers: Buffers, sectors: number): { addr: number; sectors: number }[] {
  const parts = [];
  for (let left = sectors; left > 0; left -= buffers.taken_sectors) {
    const addr = buffers.take(left);
    parts.push({ addr, sectors: buffers.taken_sectors });
  }
  return parts;
}

Deno.test("empty buffers give one range as long as asked, or all there is", () => {
  const buffers = new Buffers(ADDR, 8 * SECTOR);
  assertEquals([buffers.total_sectors, buffers.free_sectors], [8, 8]);
  assertEquals(takeAll(buffers, 3), [{ addr: ADDR, sectors: 3 }]);
  assertEquals(buffers.free_sectors, 5);
  assertEquals([buffers.take(100), buffers.taken_sectors], [ADDR + 3 * SECTOR, 5]);
  assertEquals(buffers.free_sectors, 0);
  assertThrows(() => buffers.take(1), AssertionFailure);
});

Deno.test("what fits by its sum is given in parts when no range is long enough", () => {
  const buffers = new Buffers(ADDR, 8 * SECTOR);
  const singles = Array.from({ length: 8 }, () => buffers.take(1));
  for (const i of [1, 4, 5, 7]) buffers.put(singles[i]!, 1);
  const parts = takeAll(buffers, 4).toSorted((a, b) => a.addr - b.addr);
  assertEquals(parts, [
    { addr: singles[1]!, sectors: 1 },
    { addr: singles[4]!, sectors: 2 },
    { addr: singles[7]!, sectors: 1 },
  ]);
});

Deno.test("ranges in use never overlap, lie in the area, and free sectors are counted", () => {
  const random = new Random(seedOr(12));
  const sectors = 257;
  const buffers = new Buffers(ADDR, sectors * SECTOR + 100);
  const owner = new Uint8Array(sectors);
  const held: { addr: number; sectors: number }[] = [];
  for (let step = 0; step < 20_000; step++) {
    if (buffers.free_sectors > 0 && random.chance(0.55)) {
      const wanted = random.between(1, random.pick([1, 8, 300]));
      const addr = buffers.take(wanted);
      assert(buffers.taken_sectors >= 1 && buffers.taken_sectors <= wanted);
      const from = (addr - ADDR) / SECTOR;
      const to = from + buffers.taken_sectors;
      assert(Number.isInteger(from) && from >= 0 && to <= sectors, `${from}..${to}`);
      assert(owner.subarray(from, to).every((taken) => taken === 0), "the range was free");
      owner.fill(1, from, to);
      held.push({ addr, sectors: buffers.taken_sectors });
    } else if (held.length > 0) {
      const [gone] = held.splice(random.below(held.length), 1);
      buffers.put(gone!.addr, gone!.sectors);
      const from = (gone!.addr - ADDR) / SECTOR;
      owner.fill(0, from, from + gone!.sectors);
    }
    assertEquals(buffers.free_sectors, owner.filter((taken) => taken === 0).length);
  }
});

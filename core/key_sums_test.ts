import { assert, assertEquals } from "@std/assert";
import { Random, seedOr } from "../tests/random.ts";
import { KeySums } from "./key_sums.ts";

/** Largest data area, in sectors (FORMAT, "A segment"). */
const DATA_SECTORS = 16_764_928 / 512;

function found(sums: KeySums, seg: number, start: number, sectors: number): number[] | undefined {
  if (!sums.find(seg, start, sectors)) return undefined;
  return [sums.found_start, sums.found_sectors, sums.found_crc >>> 0];
}

Deno.test("a key is found by itself and by every part of it, and by nothing that sticks out", () => {
  const sums = new KeySums(4);
  sums.add(2, 100, 8, 0xffff_ffff);
  assertEquals(found(sums, 2, 100, 8), [100, 8, 0xffff_ffff]);
  assertEquals(found(sums, 2, 107, 1), [100, 8, 0xffff_ffff]);
  for (const [start, sectors] of [[99, 1], [99, 2], [108, 1], [107, 2], [100, 9], [0, 200]]) {
    assertEquals(found(sums, 2, start!, sectors!), undefined, `${start}+${sectors}`);
  }
  assertEquals(found(sums, 1, 100, 8), undefined);
});

Deno.test("the largest key at the largest place", () => {
  const sums = new KeySums(1);
  sums.add(0, DATA_SECTORS - 8192, 8192, 7);
  sums.add(0, 0, 8192, 8);
  assertEquals(found(sums, 0, DATA_SECTORS - 1, 1), [DATA_SECTORS - 8192, 8192, 7]);
  assertEquals(found(sums, 0, 8191, 1), [0, 8192, 8]);
});

Deno.test("the same key again replaces its checksum", () => {
  const sums = new KeySums(1);
  for (const crc of [1, 2, 3]) sums.add(0, 8, 8, crc);
  assertEquals(found(sums, 0, 8, 8), [8, 8, 3]);
});

Deno.test("a part that was logged again is found before the key it is a part of", () => {
  const sums = new KeySums(1);
  sums.add(0, 0, 64, 1);
  sums.add(0, 0, 8, 2);
  sums.add(0, 32, 8, 3);
  sums.add(0, 56, 8, 4);
  assertEquals(found(sums, 0, 0, 8), [0, 8, 2]);
  assertEquals(found(sums, 0, 36, 2), [32, 8, 3]);
  assertEquals(found(sums, 0, 60, 4), [56, 8, 4]);
  assertEquals(found(sums, 0, 8, 8), [0, 64, 1]);
  assertEquals(found(sums, 0, 30, 4), [0, 64, 1]);
});

Deno.test("a segment's keys are forgotten together, the others stay", () => {
  const sums = new KeySums(3);
  for (let seg = 0; seg < 3; seg++) for (let i = 0; i < 100; i++) sums.add(seg, i * 8, 8, seg);
  sums.clear(1);
  assertEquals([0, 1, 2].map((seg) => sums.find(seg, 80, 8)), [true, false, true]);
  sums.add(1, 80, 8, 9);
  assertEquals(found(sums, 1, 80, 8), [80, 8, 9]);
  assert(!sums.find(1, 88, 8));
});

Deno.test("what was fetched is found as ever, also before the first key, behind the last, where there is none", () => {
  const sums = new KeySums(4);
  for (let i = 0; i < 5000; i++) sums.add(1, 16 + i * 8, 8, i);
  sums.add(2, 64, 8, 7);
  sums.add(3, 64, 8, 8);
  sums.clear(3);
  for (const start of [0, 16, 40_008, DATA_SECTORS - 1]) sums.fetch(1, start);
  for (const seg of [0, 2, 3]) sums.fetch(seg, 64);
  assertEquals(found(sums, 1, 16, 8), [16, 8, 0]);
  assertEquals(found(sums, 1, 40_008, 8), [40_008, 8, 4999]);
  assertEquals(found(sums, 2, 64, 8), [64, 8, 7]);
  for (const [seg, start] of [[1, 0], [0, 64], [3, 64]]) {
    assertEquals(found(sums, seg!, start!, 8), undefined, `${seg}:${start}`);
  }
});

Deno.test("memory of forgotten segments is used again", () => {
  const sums = new KeySums(2);
  for (let i = 0; i < 5000; i++) sums.add(0, i, 1, i);
  const bytes = sums.run_bytes;
  for (let round = 0; round < 10; round++) {
    const seg = (round + 1) % 2;
    sums.clear(1 - seg);
    for (let i = 0; i < 5000; i++) sums.add(seg, i, 1, i);
  }
  assert(sums.run_bytes <= 2 * bytes, `${sums.run_bytes} bytes, ${bytes} for one segment`);
});

for (const order of ["in order", "nearly in order", "in any order"] as const) {
  Deno.test(`thousands of keys, ${order}, and parts of them, against a plain list`, () => {
    const random = new Random(seedOr(31));
    for (let round = 0; round < 5; round++) {
      const sums = new KeySums(2);
      const keys: [start: number, sectors: number, crc: number][] = [];
      for (let start = 0; start < DATA_SECTORS - 200;) {
        const sectors = random.between(1, random.pick([1, 8, 64]));
        if (random.chance(0.9)) keys.push([start, sectors, random.u32()]); // else: a payload that never came
        start += sectors;
      }
      const rank = new Map(keys.map((key, i) => {
        const noise = order === "in order" ? 0 : random.below(order === "in any order" ? 1e6 : 20);
        return [key, i + noise] as const;
      }));
      for (const key of keys.toSorted((a, b) => rank.get(a)! - rank.get(b)!)) sums.add(1, ...key);
      for (let i = 0; i < 2000; i++) {
        const [start, sectors, crc] = random.pick(keys);
        const skip = random.below(sectors);
        const part = random.between(1, sectors - skip);
        assertEquals(found(sums, 1, start + skip, part), [start, sectors, crc]);
        assert(!sums.find(1, start + skip, sectors - skip + 1), "over the key's end");
        if (sectors < 2 || random.chance(0.7)) continue;
        // Logged again: from now on it is a key of its own.
        sums.add(1, start + skip, part, ~crc >>> 0);
        assertEquals(found(sums, 1, start + skip, part), [start + skip, part, ~crc >>> 0]);
        sums.add(1, start + skip, part, crc);
        if (part < sectors) assertEquals(found(sums, 1, start, sectors), [start, sectors, crc]);
        keys.splice(keys.findIndex((key) => key[0] === start && key[1] === sectors), 1);
      }
    }
  });
}

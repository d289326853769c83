import { assert, assertEquals, assertThrows } from "@std/assert";
import { Random, seedOr } from "../tests/random.ts";
import { AssertionFailure } from "./assert.ts";
import { ExtentIndex, MAX_EPOCHS, SUBTREE_SECTORS } from "./extent_index.ts";

const SEGMENTS = 8;

/** What a sector of the cached device holds: where its bytes lie, or which fill reads it. */
interface Cell {
  readonly seg: number;
  readonly gen: number;
  readonly place: number;
  clean: boolean;
  /** -1: cached. */
  readonly fill: number;
}

/** The index beside a plain array of sectors that should say the same. */
class Twin {
  readonly generations: number[] = Array.from({ length: SEGMENTS }, () => 0);
  readonly index: ExtentIndex;
  readonly cells: (Cell | undefined)[];

  constructor(size_sectors: number, epochs?: number) {
    this.index = new ExtentIndex(size_sectors, SEGMENTS, epochs);
    this.cells = new Array(size_sectors);
  }

  insertCached(sector: number, sectors: number, seg: number, place: number, clean = false): void {
    this.index.insertCached(sector, sectors, seg, place, clean);
    const gen = this.generations[seg]!;
    for (let i = 0; i < sectors; i++) {
      this.cells[sector + i] = { seg, gen, place: place + i, clean, fill: -1 };
    }
  }

  insertPlaceholder(sector: number, sectors: number, fill: number): void {
    this.index.insertPlaceholder(sector, sectors, fill);
    for (let i = 0; i < sectors; i++) {
      this.cells[sector + i] = { seg: -1, gen: 0, place: 0, clean: false, fill };
    }
  }

  remove(sector: number, sectors: number): void {
    this.index.remove(sector, sectors);
    this.cells.fill(undefined, sector, sector + sectors);
  }

  /** Of a whole key: what is left of it is clean. */
  markClean(sector: number, sectors: number, seg: number, place: number): void {
    this.index.markClean(sector, sectors, seg, place);
    for (let i = 0; i < sectors; i++) {
      const cell = this.cells[sector + i];
      if (cell?.seg === seg && cell.place === place + i) cell.clean = true;
    }
  }

  /** The segment's bytes are dead from now on. */
  free(seg: number): void {
    this.generations[seg]!++;
    this.index.freeSegment(seg);
  }

  /** What should be found at the sector. */
  live(sector: number): Cell | undefined {
    const cell = this.cells[sector];
    const is_live = cell !== undefined &&
      (cell.fill >= 0 || cell.gen === this.generations[cell.seg]);
    return is_live ? cell : undefined;
  }

  isHole(sector: number, sectors: number): boolean {
    for (let i = 0; i < sectors; i++) if (this.live(sector + i) !== undefined) return false;
    return true;
  }

  /** Walks the index as a read does, and compares every sector. Returns how many extents there are, dead ones too. */
  check(what: string, from = 0, to = this.cells.length): number {
    const { index } = this;
    let extents = 0;
    let sector = from;
    const expectHole = (end: number) => {
      for (; sector < end; sector++) {
        if (this.live(sector) !== undefined) throw new Error(`${what}: sector ${sector} is lost`);
      }
    };
    while (sector < to) {
      const base = sector - (sector % SUBTREE_SECTORS);
      const limit = Math.min(to, base + SUBTREE_SECTORS);
      const extent = index.find(sector);
      if (extent < 0) {
        expectHole(limit);
        continue;
      }
      extents++;
      const start = base + index.start(extent);
      const end = Math.min(limit, start + index.sectors(extent));
      assert(end > sector, `${what}: an extent ends after the sector it was looked up with`);
      expectHole(Math.min(limit, start));
      if (start >= limit) continue;
      if (!index.isLive(extent)) {
        expectHole(end);
        continue;
      }
      for (; sector < end; sector++) this.#checkSector(what, sector, extent, sector - start);
    }
    return extents;
  }

  #checkSector(what: string, sector: number, extent: number, skip: number): void {
    const { index } = this;
    const cell = this.live(sector);
    const is_right = cell !== undefined &&
      (index.isPlaceholder(extent)
        ? cell.fill === index.fill(extent)
        : cell.fill < 0 && cell.seg === index.segment(extent) &&
          cell.place === index.place(extent) + skip && cell.clean === index.isClean(extent));
    if (!is_right) throw new Error(`${what}: sector ${sector}: wanted ${JSON.stringify(cell)}`);
  }
}

/** Where the exhaustive tests happen: in the middle, at the start and at the end of a subtree. */
const WINDOW = 9;
const BASES = [SUBTREE_SECTORS + 100, SUBTREE_SECTORS, 2 * SUBTREE_SECTORS - WINDOW];
/** What lies in the window before: [start, sectors] of cached extents ("c") or placeholders ("p"). */
const LAYOUTS: ["c" | "p", number, number][][] = [
  [],
  [["c", 0, 9]],
  [["p", 0, 9]],
  [["c", 2, 5]],
  [["p", 2, 5]],
  [["c", 0, 3], ["c", 3, 3], ["c", 6, 3]],
  [["p", 0, 3], ["c", 3, 3], ["p", 6, 3]],
  [["c", 1, 2], ["p", 4, 2], ["c", 7, 1]],
  [["p", 1, 1], ["p", 3, 1], ["p", 5, 1], ["p", 7, 1]],
];

/** A twin with the layout in it, and neighbours on both sides that must not change. */
function twinWith(layout: typeof LAYOUTS[number], base: number): Twin {
  const twin = new Twin(3 * SUBTREE_SECTORS);
  twin.insertCached(SUBTREE_SECTORS - 8, 8, 7, 0);
  twin.insertCached(2 * SUBTREE_SECTORS, 8, 7, 8);
  if (base % SUBTREE_SECTORS > 0) twin.insertCached(base - 4, 4, 6, 0);
  layout.forEach(([kind, start, sectors], i) => {
    if (kind === "c") twin.insertCached(base + start, sectors, i, 1000 * i, i % 2 === 0);
    else twin.insertPlaceholder(base + start, sectors, 50 + i);
  });
  return twin;
}

/** Calls `visit` for every layout, place, and range inside the window, and checks what it leaves. */
function forEachOverlap(
  visit: (twin: Twin, sector: number, sectors: number) => void,
): void {
  for (const layout of LAYOUTS) {
    for (const base of BASES) {
      for (let from = 0; from < WINDOW; from++) {
        for (let to = from + 1; to <= WINDOW; to++) {
          const what = `${JSON.stringify(layout)} at ${base}, ${from}..${to}`;
          const twin = twinWith(layout, base);
          visit(twin, base + from, to - from);
          twin.check(what, base - 16, base + WINDOW + 16);
        }
      }
    }
  }
}

Deno.test("cached bytes win over whatever they overlap, and leave the rest of it as it was", () => {
  forEachOverlap((twin, sector, sectors) => {
    twin.insertCached(sector, sectors, 5, 4000, true);
  });
});

Deno.test("what is removed is a hole, and the rest of what it overlapped stays", () => {
  forEachOverlap((twin, sector, sectors) => {
    twin.remove(sector, sectors);
    assert(twin.isHole(sector, sectors));
  });
});

Deno.test("a placeholder goes into a hole, over dead extents, too", () => {
  let entered = 0;
  forEachOverlap((twin, sector, sectors) => {
    for (let seg = 0; seg < 5; seg++) twin.free(seg); // the layout's cached extents
    if (!twin.isHole(sector, sectors)) return;
    twin.insertPlaceholder(sector, sectors, 77);
    entered++;
  });
  assert(entered > 100);
});

Deno.test("find: the first extent that ends after the sector, in its subtree only", () => {
  const { index } = twinWith([["c", 2, 3], ["p", 5, 1]], SUBTREE_SECTORS + 100);
  const startAt = (sector: number) => {
    const extent = index.find(sector);
    return extent < 0 ? -1 : index.start(extent);
  };
  const at = SUBTREE_SECTORS + 100;
  assertEquals([at - 1, at, at + 1, at + 2, at + 4, at + 5].map(startAt), [
    96,
    102,
    102,
    102,
    102,
    105,
  ]);
  assertEquals(startAt(at + 6), -1, "the next extent is in the next subtree");
  assertEquals([startAt(0), startAt(SUBTREE_SECTORS - 1)], [
    SUBTREE_SECTORS - 8,
    SUBTREE_SECTORS - 8,
  ]);
});

Deno.test("a range that crosses a subtree's end, or has no sector, is no extent", () => {
  const { index } = new Twin(2 * SUBTREE_SECTORS);
  assertThrows(() => index.insertCached(SUBTREE_SECTORS - 1, 2, 0, 0, false), AssertionFailure);
  assertThrows(() => index.remove(0, SUBTREE_SECTORS + 1), AssertionFailure);
  assertThrows(() => index.insertPlaceholder(0, 0, 0), AssertionFailure);
  assertThrows(() => index.insertCached(2 * SUBTREE_SECTORS, 1, 0, 0, false), AssertionFailure);
  index.insertCached(SUBTREE_SECTORS, SUBTREE_SECTORS, 0, 0, false);
  assertEquals(index.sectors(index.find(SUBTREE_SECTORS)), SUBTREE_SECTORS);
});

Deno.test("largest segment number and place", () => {
  const index = new ExtentIndex(SUBTREE_SECTORS, 1_048_576);
  for (let epoch = 0; epoch < MAX_EPOCHS; epoch++) {
    index.insertCached(8191, 1, 1_048_575, 32767, true);
    const extent = index.find(8191);
    assertEquals([index.segment(extent), index.place(extent)], [1_048_575, 32767]);
    assert(index.isLive(extent) && index.isClean(extent) && !index.isPlaceholder(extent));
    index.freeSegment(1_048_575);
    assertEquals(index.extents, 0, "the only subtree was swept");
  }
  assertThrows(() => index.insertCached(0, 2, 0, 32767, true), AssertionFailure);
  assertThrows(() => new ExtentIndex(SUBTREE_SECTORS, 1_048_577), AssertionFailure);
  assertThrows(() => new ExtentIndex(SUBTREE_SECTORS, 1, 2 * MAX_EPOCHS), AssertionFailure);
});

Deno.test("a freed segment's extents are dead at once, wherever they are", () => {
  const twin = new Twin(3 * SUBTREE_SECTORS);
  for (let i = 0; i < 300; i++) twin.insertCached(i * 64, 40, i % 3, i * 40);
  twin.free(1);
  twin.check("one of three segments freed");
  twin.insertCached(64, 20, 1, 0);
  twin.check("and used again");
  let live = 0;
  twin.index.forEach(() => live++);
  assertEquals(live, 201);
});

Deno.test("an extent between a full leaf and one whose first extents are dead", () => {
  const twin = new Twin(SUBTREE_SECTORS);
  // Ascending extents fill leaf after leaf, 32 each; every leaf but the first begins with dead ones.
  for (let i = 0; i < 256; i++) {
    const seg = i >= 32 && i % 32 < 4 ? 2 : 1;
    twin.insertCached(i * 4, 2, seg, i * 2);
  }
  twin.free(2);
  for (let leaf = 1; leaf < 8; leaf++) twin.insertCached(leaf * 128 + 6, 1, 3, leaf);
  twin.check("between full leaves");
  for (let sector = 0; sector < 1024; sector++) twin.insertCached(sector, 1, 4, sector);
  assertEquals(twin.check("every sector"), 1024);
});

Deno.test("sweeping every subtree drops the dead extents and nothing else", () => {
  const twin = new Twin(3 * SUBTREE_SECTORS);
  for (let i = 0; i < 3000; i++) twin.insertCached(i * 8, 4, i % 3, i * 4);
  twin.free(0); // sweeps a subtree, as its share
  assert(twin.index.extents < 3000 && twin.index.extents > 2000, "one of three subtrees");
  twin.index.sweep(2);
  assertEquals(twin.index.extents, 2000);
  twin.free(2);
  twin.index.sweep(3);
  assertEquals(twin.index.extents, 1000);
  assertEquals(twin.check("swept"), 1000);
  twin.free(1);
  twin.index.sweep(100);
  assertEquals([twin.index.extents, twin.check("empty")], [0, 0]);
});

Deno.test("memory of dropped extents is used again", () => {
  const twin = new Twin(4 * SUBTREE_SECTORS);
  const fill = (seg: number) => {
    for (let i = 0; i < 4 * SUBTREE_SECTORS; i += 2) {
      twin.index.insertCached(i, 1, seg, i % 4096, false);
    }
  };
  fill(0);
  const { used_bytes } = twin.index;
  for (let round = 0; round < 6; round++) {
    twin.free(round % 2);
    twin.index.sweep(4);
    fill((round + 1) % 2);
  }
  assert(
    twin.index.used_bytes <= 2 * used_bytes,
    `${twin.index.used_bytes}, at first ${used_bytes}`,
  );
});

Deno.test("mark clean: what is left of a key, in all its parts, and nothing that took its place", () => {
  const at = SUBTREE_SECTORS + 96;
  const twin = new Twin(2 * SUBTREE_SECTORS);
  twin.insertCached(at, 32, 1, 500);
  twin.insertCached(at + 4, 4, 1, 700); // newer, in the same segment
  twin.insertCached(at + 12, 4, 2, 512); // newer, elsewhere
  twin.remove(at + 20, 2);
  twin.insertPlaceholder(at + 20, 1, 9);
  twin.insertCached(at + 32, 8, 1, 532); // goes on where the key ends
  twin.insertCached(at - 8, 8, 1, 492); // and ends where it starts
  twin.markClean(at, 32, 1, 500);
  twin.check("marked");
  const clean: number[] = [];
  twin.index.forEach((sector, extent) => {
    if (twin.index.isClean(extent)) clean.push(sector - at, twin.index.sectors(extent));
  });
  assertEquals(clean, [0, 4, 8, 4, 16, 4, 22, 10]);
});

Deno.test("mark clean: what sticks out of the range is split off, and stays dirty", () => {
  const twin = new Twin(SUBTREE_SECTORS);
  for (const [skip, sectors] of [[0, 29], [1, 29], [10, 10], [0, 30]]) {
    twin.insertCached(100, 30, 1, 500);
    twin.markClean(100 + skip!, sectors!, 1, 500 + skip!);
    twin.check(`${skip}+${sectors}`);
  }
});

Deno.test("mark clean at the end of a subtree, and where nothing is left", () => {
  const twin = new Twin(2 * SUBTREE_SECTORS);
  twin.insertCached(SUBTREE_SECTORS - 8, 8, 1, 0);
  twin.insertCached(SUBTREE_SECTORS, 8, 1, 8);
  twin.markClean(SUBTREE_SECTORS - 8, 8, 1, 0);
  twin.markClean(100, 50, 1, 0);
  twin.check("marked");
  assert(!twin.index.isClean(twin.index.find(SUBTREE_SECTORS)));
  twin.markClean(2 * SUBTREE_SECTORS - 8, 8, 1, 0);
});

Deno.test("a subtree of 8192 one-sector extents, filled in any order, and emptied again", () => {
  for (const step of [1, 8191, 3, 4097]) {
    const twin = new Twin(SUBTREE_SECTORS);
    for (let i = 0; i < SUBTREE_SECTORS; i++) {
      const sector = (i * step) % SUBTREE_SECTORS;
      twin.insertCached(sector, 1, sector % SEGMENTS, i);
    }
    assertEquals(twin.check(`step ${step}`), SUBTREE_SECTORS);
    assertEquals(twin.index.extents, SUBTREE_SECTORS);
    twin.insertCached(1, SUBTREE_SECTORS - 2, 0, 0);
    assertEquals([twin.check("covered"), twin.index.extents], [3, 3]);
    twin.remove(0, SUBTREE_SECTORS);
    assertEquals([twin.index.find(0), twin.index.extents], [-1, 0]);
  }
});

/**
 * [seed, longest change in sectors, subtrees swept when a segment is freed, how often one is, sectors of the area, how long the
 * extents of one change are, epochs]
 */
const RANDOM = [
  [41, 4, 0, 0.01, 500, Infinity, MAX_EPOCHS],
  [42, 64, 1, 0.01, 16000, Infinity, MAX_EPOCHS],
  [43, 2000, 3, 0.01, 16000, Infinity, MAX_EPOCHS],
  [44, 8, 1, 0.01, 4000, Infinity, MAX_EPOCHS],
  // Runs of short extents in one segment, many of them dead.
  [45, 64, 0, 0.02, 400, 1, MAX_EPOCHS],
  [46, 40, 0, 0.01, 1500, 2, MAX_EPOCHS],
  [47, 100, 1, 0.02, 1000, 1, MAX_EPOCHS],
  // Epochs come round again and again.
  [48, 8, 0, 0.2, 16000, Infinity, 2],
  [49, 64, 0, 0.2, 16000, 3, 4],
  [50, 8, 1, 0.3, 16000, Infinity, 8],
] as const;
for (const [seed, most_sectors, swept, freed, area, size, epochs] of RANDOM) {
  Deno.test(`random changes of up to ${most_sectors} sectors in ${area}, extents of ${size}, ${epochs} epochs, against a plain array of sectors`, () => {
    const random = new Random(seedOr(seed));
    const twin = new Twin(2 * SUBTREE_SECTORS + 1000, epochs);
    let keys: [number, number, number, number][] = [];
    for (let step = 0; step < 12_000; step++) {
      const sectors = random.between(1, most_sectors);
      let sector = random.chance(0.05)
        ? random.below(twin.cells.length)
        : 4000 + random.below(area);
      sector = Math.min(sector, twin.cells.length - sectors);
      const count = Math.min(sectors, SUBTREE_SECTORS - (sector % SUBTREE_SECTORS));
      const choice = random.below(100);
      if (random.chance(freed)) {
        const seg = random.below(SEGMENTS);
        twin.free(seg);
        keys = keys.filter((key) => key[2] !== seg); // write-back never marks them then
        twin.index.sweep(swept);
      } else if (choice < 70) {
        const seg = random.below(SEGMENTS);
        const place = random.below(32768 - most_sectors);
        for (let at = 0; at < count; at += size) {
          const part = Math.min(size, count - at);
          twin.insertCached(sector + at, part, seg, place + at, random.chance(0.3));
          keys.push([sector + at, part, seg, place + at]);
        }
      } else if (choice < 80) {
        if (twin.isHole(sector, count)) twin.insertPlaceholder(sector, count, step);
      } else if (choice < 90) {
        twin.remove(sector, count);
      } else if (keys.length > 0) {
        keys = keys.slice(-200);
        twin.markClean(...random.pick(keys));
      }
      const near = Math.max(0, sector - 50);
      twin.check(`step ${step}`, near, Math.min(twin.cells.length, sector + count + 50));
      if (step % 500 === 0) assertEquals(twin.check(`step ${step}`), twin.index.extents);
    }
  });
}

/**
 * A restart with a million cached extents. How long `create` takes is printed, not judged: machines differ.
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";
import { GIB, Rig } from "./device.ts";
import { NbdClient } from "./nbd_client.ts";
import { fillFor, Random, seedOr } from "./random.ts";

const EXTENTS = 1_000_000;
const SPACING_BYTES = 4096;
const DEVICE_BYTES = 4 * GIB;
/** Holds all of it below gc_percent. */
const CACHE_BYTES = 3 * GIB;
const DEPTH = 256;
/** Longest extent in sectors: shorter than the spacing, so that none touches the next. */
const MOST_SECTORS = 4;

/** Offsets in a random order, and what each extent holds, from a seed. */
class Extents {
  readonly #order = new Uint32Array(EXTENTS);
  readonly #seed: number;

  constructor(seed: number) {
    this.#seed = seed;
    const random = new Random(seed);
    for (let i = 0; i < EXTENTS; i++) this.#order[i] = i;
    for (let i = EXTENTS - 1; i > 0; i--) {
      const other = random.below(i + 1);
      [this.#order[i], this.#order[other]] = [this.#order[other]!, this.#order[i]!];
    }
  }

  off(i: number): number {
    return this.#order[i]! * SPACING_BYTES;
  }

  bytes(i: number): Uint8Array<ArrayBuffer> {
    const bytes = new Uint8Array(512 * (1 + this.#order[i]! % MOST_SECTORS));
    fillFor(this.#seed + this.#order[i]!, bytes);
    return bytes;
  }
}

/** Calls `visit` for 0 .. EXTENTS-1, many at once. */
async function forAll(visit: (i: number) => Promise<void>): Promise<void> {
  let next = 0;
  const loop = async () => {
    while (next < EXTENTS) await visit(next++);
  };
  await Promise.all(Array.from({ length: DEPTH }, loop));
}

Deno.test("killed and created again with a million cached extents", async () => {
  await using rig = Rig.make();
  const cache = rig.file("cache", CACHE_BYTES);
  const backing = rig.file("backing", DEVICE_BYTES);
  const table = `pcache ${cache} ${backing} 2 data_crc true`;
  const extents = new Extents(seedOr(5));

  await rig.ok("create", "d", "--table", table);
  const writer = await NbdClient.connect(await rig.uri("d"));
  await forAll((i) => writer.write(extents.off(i), extents.bytes(i)));
  await writer.flush();
  const before = await rig.status("d");
  assertEquals(before.key_tail, [0, 0], "GC has dropped nothing: every extent is cached");
  await rig.kill("d");

  const begin_ms = performance.now();
  await rig.ok("create", "d", "--table", table);
  const took_s = (performance.now() - begin_ms) / 1000;
  console.log(
    `create with ${EXTENTS} cached extents took ${took_s.toFixed(2)} s (wanted: under 3 s)`,
  );

  const after = await rig.status("d");
  assertEquals(after.key_head, before.key_head);
  assertEquals(after.key_tail, before.key_tail);
  assert(after.segs_used <= before.segs_used);
  const reader = await NbdClient.connect(await rig.uri("d"));
  await forAll(async (i) => {
    const wanted = extents.bytes(i);
    const read = await reader.read(extents.off(i), wanted.length);
    if (!read.every((byte, at) => byte === wanted[at])) {
      throw new Error(
        `extent ${i}, ${wanted.length} bytes at ${extents.off(i)}, is not what was written`,
      );
    }
  });
  assertEquals(await reader.read(3 * SPACING_BYTES + 2048, 2048), new Uint8Array(2048));
  await reader.close();
});

/**
 * Every message, live growth and every offline tool on caches that a real kernel wrote.
 *
 * @module
 */

import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { Buffer } from "node:buffer";
import { createReadStream } from "node:fs";
import { MIB, Rig } from "./device.ts";
import { fillRuns, readExpected, unpackImage } from "./kernel_images.ts";
import { NbdClient } from "./nbd_client.ts";
import { fillFor } from "./random.ts";

const READ_BYTES = 4 * MIB;
const SEGMENT_BYTES = 16 * MIB;

function assertSame(bytes: Uint8Array, wanted: Uint8Array, off: number, what: string): void {
  const is_same = Buffer.compare(bytes, wanted.subarray(off, off + bytes.length)) === 0;
  assert(is_same, `${what}: something in the ${bytes.length} bytes at ${off} is wrong`);
}

async function assertFileHolds(path: string, wanted: Uint8Array, what: string): Promise<void> {
  let off = 0;
  for await (const chunk of createReadStream(path, { highWaterMark: READ_BYTES })) {
    assertSame(chunk, wanted, off, what);
    off += chunk.length;
  }
  assertEquals(off, wanted.length);
}

async function assertReads(client: NbdClient, wanted: Uint8Array, what: string): Promise<void> {
  for (let off = 0; off < wanted.length; off += READ_BYTES) {
    const len = Math.min(READ_BYTES, wanted.length - off);
    assertSame(await client.read(off, len), wanted, off, what);
  }
}

/** Dirty data with and without checksums, segments used again, a log that ends torn. */
const CASES = ["k2-dirty", "k3-nocrc", "k4-gc", "k6-torn"] as const;

for (const name of CASES) {
  Deno.test(`${name}: every message, live growth, and every tool`, async () => {
    const expected = readExpected(name);
    const { data_crc } = expected;
    await using rig = Rig.make({ parent: "/dev/shm" });
    const [cache, backing] = [rig.path("cache"), rig.path("backing")];
    await unpackImage(name, "cache", cache);
    await unpackImage(name, "backing", backing);
    let wanted = new Uint8Array(expected.backing_bytes);
    fillRuns(expected.content, expected.pattern.unit, wanted);

    const table = `pcache ${cache} ${backing} data_crc ${data_crc}`;
    await rig.ok("create", "d", "--table", table);
    const message = (...words: string[]) => rig.ok("message", "d", "0", ...words);
    {
      await using client = await NbdClient.connect(await rig.uri("d"));
      await message("writeback_rate", "pause");
      await message("sequential_cutoff", `${MIB}`);
      await message("gc_percent", "30");
      await message("flush");
      await assertFileHolds(backing, wanted, "what flush has written back");
      const scrub = await rig.pcache("message", "d", "0", "scrub");
      if (data_crc) assertStringIncludes(scrub.stdout, " healed 0 lost 0\n");
      else assertStringIncludes(scrub.stderr, "the cache was made with data_crc false");
      await message("invalidate", "0", `${wanted.length / 512}`);
      await assertReads(client, wanted, "what was forgotten");
      for (const [i, mode] of ["writethrough", "writearound", "writeonly", "writeback"].entries()) {
        await message("cache_mode", mode);
        const off = wanted.length / 2 + i * 3 * 4096 - 1000;
        const bytes = new Uint8Array(20_000);
        fillFor(i + 1, bytes);
        await client.write(off, bytes);
        wanted.set(bytes, off);
      }
      await client.flush();
      await message("drop_clean");
      await assertFileHolds(backing, wanted, "what drop_clean has written back");
      await message("writeback_rate", "max");

      Deno.truncateSync(backing, wanted.length + MIB);
      Deno.truncateSync(cache, expected.cache_bytes + 2 * SEGMENT_BYTES);
      wanted = Buffer.concat([wanted, new Uint8Array(MIB)]);
      const { cache_segs } = await rig.status("d");
      await rig.ok("load", "d", "--table", table);
      await rig.ok("resume", "d");
      assertEquals((await rig.status("d")).cache_segs, cache_segs + 2);
      const bytes = new Uint8Array(MIB);
      fillFor(9, bytes);
      await client.write(wanted.length - MIB, bytes, { fua: true });
      wanted.set(bytes, wanted.length - MIB);
      await assertReads(client, wanted, "what has grown");
    }
    await rig.kill("d");

    const check = ["check", cache, backing, ...(data_crc ? ["--data"] : [])];
    await rig.ok(...check);
    const dump = JSON.parse(await rig.ok("dump", cache, "--json"));
    assert(dump.ksets.length > 0);
    assertStringIncludes(await rig.ok("repair", cache, "--yes"), ": nothing to repair\n");
    Deno.truncateSync(cache, expected.cache_bytes + 3 * SEGMENT_BYTES);
    assertStringIncludes(await rig.ok("grow", cache), `: ${dump.segments.length + 1} segments`);
    await rig.ok("writeback", cache, backing);
    await assertFileHolds(backing, wanted, "what writeback has written");
    await rig.ok(...check);
    await rig.ok("format", cache, "data_crc", `${!data_crc}`, "--yes");
    await rig.ok("check", cache, backing);
  });
}

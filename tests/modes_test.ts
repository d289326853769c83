/**
 * Cache modes on real devices: the table line, the message, and a cache device that is thrown away.
 *
 * @module
 */

import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { KIB, MIB, Rig } from "./device.ts";
import { NbdClient } from "./nbd_client.ts";
import { fillFor } from "./random.ts";

const BACKING_BYTES = 16 * MIB;

function content(id: number, bytes: number): Uint8Array<ArrayBuffer> {
  const made = new Uint8Array(bytes);
  fillFor(id, made);
  return made;
}

async function counters(rig: Rig): Promise<Record<string, number>> {
  return JSON.parse(await rig.ok("stats", "--json"))[0].counters;
}

for (const mode of ["writethrough", "writearound"]) {
  for (const loop of ["io_uring", "poll"]) {
    Deno.test(`${mode}, ${loop}: the cache device is thrown away, and nothing that was flushed is lost`, async () => {
      await using rig = Rig.make({ env: { PCACHE_LOOP: loop } });
      const backing = rig.file("backing", BACKING_BYTES);
      const table = `pcache ${rig.file("cache", 512 * MIB)} ${backing} cache_mode ${mode}`;
      await rig.ok("create", "d", "--table", table);
      const wanted = new Uint8Array(BACKING_BYTES);
      {
        await using client = await NbdClient.connect(await rig.uri("d"));
        await client.read(1 * MIB, 64 * KIB); // what the cache holds then is logged
        const writes: [off: number, bytes: Uint8Array<ArrayBuffer>][] = [];
        for (let i = 0; i < 200; i++) {
          const len = 512 * (1 + (i * 37) % 100);
          writes.push([(i * 77_824) % (BACKING_BYTES - len), content(i, len)]);
        }
        writes.push([1 * MIB + 100, content(300, 5000)], [5 * MIB, content(301, 4 * MIB)]);
        for (const [off, bytes] of writes) {
          await client.write(off, bytes);
          wanted.set(bytes, off);
        }
        await client.flush();
        await client.write(12 * MIB, content(302, 4 * KIB), { fua: true });
        wanted.set(content(302, 4 * KIB), 12 * MIB);
      }
      const around = (await counters(rig)).around_bytes!;
      assertEquals(around > 0, mode === "writearound", `${around} bytes went around the cache`);
      await rig.kill("d");
      assertEquals(Deno.readFileSync(backing), wanted);
    });
  }
}

Deno.test("cache_mode: a table key and a message, kept in the cache device; each change is an event", async () => {
  await using rig = Rig.make();
  const table = `pcache ${rig.file("cache", 512 * MIB)} ${rig.file("backing", BACKING_BYTES)}`;
  await rig.ok("create", "d", "--table", table);
  const modeOf = async () => ((await rig.status("d")).cache_flags >>> 2) & 0xf;
  assertEquals(await modeOf(), 0);
  const event = async () => JSON.parse(await rig.ok("info", "d", "--json"))[0].event_nr as number;
  const before = await event();
  assertEquals(await rig.ok("message", "d", "0", "cache_mode", "writeonly"), "");
  assertEquals([await modeOf(), await event()], [3, before + 1]);
  assertStringIncludes(await rig.ok("table", "d"), " 4 cache_mode writeonly data_crc false\n");
  for (const value of ["through", "", "4", "WRITEBACK"]) {
    const { code, stderr } = await rig.pcache("message", "d", "0", "cache_mode", value);
    assertEquals(code, 1);
    assertStringIncludes(stderr, "pcache: message on d failed: Invalid argument: ");
  }
  assertEquals(await modeOf(), 3);

  await rig.kill("d");
  await rig.ok("create", "d", "--table", table);
  assertEquals(await modeOf(), 3, "the cache keeps it");
  await rig.ok("remove", "d");
  await rig.ok("create", "d", "--table", `${table} cache_mode writethrough`);
  assertStringIncludes(await rig.ok("table", "d"), " cache_mode writethrough ");
  assertEquals(await modeOf(), 1);

  await rig.ok("load", "d", "--table", `${table} cache_mode writeback`);
  assertStringIncludes(await rig.ok("table", "d", "--inactive"), " cache_mode writeback ");
  assertStringIncludes(await rig.ok("table", "d"), " cache_mode writethrough ");
  await rig.ok("resume", "d");
  assertEquals(await modeOf(), 0);
});

Deno.test("a change to writethrough: what is dirty stays until it is written back, and stats say so", async () => {
  await using rig = Rig.make();
  const backing = rig.file("backing", BACKING_BYTES);
  await rig.ok("create", "d", "--table", `pcache ${rig.file("cache", 512 * MIB)} ${backing}`);
  await using client = await NbdClient.connect(await rig.uri("d"));
  for (let i = 0; i < 256; i++) await client.write(i * 64 * KIB, content(i, 32 * KIB));
  await rig.ok("message", "d", "0", "cache_mode", "writethrough");
  await client.write(0, content(999, 4 * KIB));
  await client.flush();
  const stats = JSON.parse(await rig.ok("stats", "--json"))[0];
  assertEquals([stats.cache_mode, stats.is_mode_settled], ["writethrough", true]);
  assertStringIncludes(await rig.ok("stats", "d"), "Cache mode:        writethrough\n");
  const bytes = Deno.readFileSync(backing);
  assertEquals(bytes.subarray(0, 4 * KIB), content(999, 4 * KIB));
  for (let i = 1; i < 256; i++) {
    assertEquals(bytes.subarray(i * 64 * KIB, i * 64 * KIB + 32 * KIB), content(i, 32 * KIB));
  }
});

Deno.test("writeonly: what is read is not kept, what is written is", async () => {
  await using rig = Rig.make();
  const table = `pcache ${rig.file("cache", 512 * MIB)} ${rig.file("backing", BACKING_BYTES)}`;
  await rig.ok("create", "d", "--table", `${table} cache_mode writeonly`);
  await using client = await NbdClient.connect(await rig.uri("d"));
  await client.write(0, content(1, 4 * KIB));
  for (let i = 0; i < 3; i++) {
    assertEquals(await client.read(0, 4 * KIB), content(1, 4 * KIB));
    await client.read(1 * MIB, 4 * KIB);
  }
  const { read_hits, read_misses } = await counters(rig);
  assertEquals([read_hits, read_misses], [3, 3]);
  assert((await rig.status("d")).segs_used > 0);
});

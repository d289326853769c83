/**
 * `stats` of a real device: what is done is counted.
 *
 * @module
 */

import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { MIB, Rig, until } from "./device.ts";
import { NbdClient } from "./nbd_client.ts";

Deno.test("requests, hits, misses, bytes and latencies are counted", async () => {
  await using rig = Rig.make();
  const table = `pcache ${rig.file("cache", 512 * MIB)} ${rig.file("backing", 64 * MIB)}`;
  await rig.ok("create", "d", "--table", table);
  const stats = async () => JSON.parse(await rig.ok("stats", "--json", "d"))[0];
  {
    await using client = await NbdClient.connect(await rig.uri("d"));
    await client.write(0, new Uint8Array(8192).fill(1));
    await client.flush();
    await client.read(0, 8192); // a hit
    await client.read(4096, 8192); // half of it
    await client.read(MIB, 4096); // a miss
    await client.read(MIB, 4096); // a hit by then
    const now = await stats();
    const c = now.counters;
    assertEquals([c.reads, c.writes, c.flushes], [4, 1, 1]);
    assertEquals([c.read_hits, c.read_partial_hits, c.read_misses], [2, 1, 1]);
    assertEquals([c.read_bytes, c.written_bytes], [24576, 8192]);
    assertEquals([now.name, now.open_count, now.requests_waiting], ["d", 1, 0]);
    const counts = [now.latency.read.count, now.latency.write.count, now.latency.flush.count];
    assertEquals(counts, [4, 1, 1]);
    // The miss and the flush waited for the machine, so for more than a turn of the loop.
    assert(now.latency.read.sum_us > 0 && now.latency.flush.sum_us > 0);
  }
  await until("it is clean", async () => (await stats()).counters.dirty_bytes === 0);
  assertEquals((await stats()).dirty_age_ms, 0);
  assert((await stats()).counters.writeback_bytes >= 8192);
});

Deno.test("stats as a page, as metrics, and again and again", async () => {
  await using rig = Rig.make();
  assertEquals(await rig.ok("stats"), "No devices found\n");
  const table = `pcache ${rig.file("cache", 512 * MIB)} ${rig.file("backing", 64 * MIB)}`;
  await rig.ok("create", "d", "--table", table);
  await rig.ok("create", "bare", "-n");
  assertStringIncludes(await rig.ok("stats", "d"), "Requests:          0 reads (0 B)");
  assertStringIncludes(await rig.ok("stats", "--prometheus"), '\npcache_clients{device="d"} 0\n');
  assertMatch(
    await rig.ok("stats", "--watch", "--count", "2", "d"),
    /^d: reads=0 .*\nd: reads=0 .*\n$/,
  );
  const bare = await rig.pcache("stats", "bare");
  assertStringIncludes(bare.stderr, "pcache: stats on bare failed: Invalid argument: the device");
  const both = await rig.pcache("stats", "--json", "--prometheus");
  assertStringIncludes(both.stderr, "Two formats: --json and --prometheus, wanted one");
});

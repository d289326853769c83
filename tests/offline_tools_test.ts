/**
 * The verbs for cache devices that are not in use, on a cache that a kernel left dirty, as a user would call them.
 *
 * @module
 */

import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { createHash } from "node:crypto";
import type { TableConfig } from "../io/control_protocol.ts";
import { NodeRecord } from "../io/node_record.ts";
import { type Ended, MIB, Rig, until } from "./device.ts";
import { readExpected, unpackImage } from "./kernel_images.ts";
import { NbdClient } from "./nbd_client.ts";

const EXPECTED = readExpected("k2-dirty");

async function kernelRig(): Promise<{ rig: Rig; cache: string; backing: string }> {
  const rig = Rig.make();
  const cache = rig.path("cache");
  const backing = rig.path("backing");
  await unpackImage("k2-dirty", "cache", cache);
  await unpackImage("k2-dirty", "backing", backing);
  return { rig, cache, backing };
}

function sha256(path: string): string {
  return createHash("sha256").update(Deno.readFileSync(path)).digest("hex");
}

/** Overwrites bytes of a file. */
function overwrite(path: string, at: number, bytes: number[]): void {
  using file = Deno.openSync(path, { write: true });
  file.seekSync(at, Deno.SeekMode.Start);
  file.writeSync(Uint8Array.from(bytes));
}

function assertFailed(ended: Ended, ...lines: string[]): void {
  assertEquals(ended.code, 1);
  for (const line of lines) assertStringIncludes(ended.stdout + ended.stderr, line);
  assert(ended.stderr.endsWith("Command failed.\n"), ended.stderr);
}

Deno.test("a cache that a kernel left behind: checked, dumped, drained", async () => {
  const { rig, cache, backing } = await kernelRig();
  await using _ = rig;
  const checked = await rig.ok("check", cache, backing, "--data");
  assertMatch(checked, /: 31 segments, data_crc true; log from 0:0 to 0:\d+: \d+ ksets, \d+ keys/);
  assertMatch(checked, /of data verified, 0 B damaged\n.*: 0 errors, \d+ warnings?\n$/);

  const dumped = await rig.ok("dump", cache);
  const json = JSON.parse(await rig.ok("dump", cache, "--json"));
  const keys = json.ksets.flatMap((kset: { keys: unknown[] }) => kset.keys);
  assertEquals(
    dumped.split("\n").filter((line) => line.startsWith("kset ")).length,
    json.ksets.length,
  );
  assertEquals(dumped.split("\n").filter((line) => line.startsWith("  key ")).length, keys.length);
  assertEquals(JSON.parse(await rig.ok("check", cache, "--json")).keys, keys.length);
  const [first] = keys;
  assertStringIncludes(
    dumped,
    `\n  key ${first.off}+${first.len} at ${first.seg}:${first.seg_off} generation ${first.gen} crc 0x`,
  );
  assertEquals(sha256(cache), EXPECTED.cache_sha256, "nothing was written");

  const drained = await rig.ok("writeback", cache, backing);
  assertMatch(drained, / MiB were dirty, .* MiB written back; it is clean\n$/);
  assertEquals(sha256(backing), EXPECTED.sha256, "what the kernel reads from the pair");
  assertStringIncludes(await rig.ok("check", cache, backing, "--data"), " 0 B dirty\n");
  assertStringIncludes(await rig.ok("writeback", cache, backing), ": 0 B were dirty, 0 B written");
});

Deno.test("a cache that a killed process's block device waits for: looked at, but changed by nobody else", async () => {
  const { rig, cache, backing } = await kernelRig();
  await using _ = rig;
  const root = rig.path("run");
  Deno.mkdirSync(root, { recursive: true });
  const table = { cache_path: cache } as TableConfig;
  new NodeRecord({ name: "killed", run_dir: `${root}/killed` }, "ublk")
    .write({ dev_id: 7, cookie: [1, 2], table });
  const why = `${cache}: the block device of killed, whose process was killed, waits for it`;
  assertFailed(
    await rig.pcache("create", "d", "--table", `pcache ${cache} ${backing} data_crc true`),
    why,
  );
  assertFailed(await rig.pcache("writeback", cache, backing), why);
  assertFailed(await rig.pcache("format", cache, "--yes"), why);
  await rig.ok("check", cache, backing);
  assertEquals(sha256(cache), EXPECTED.cache_sha256, "nothing was written");
});

Deno.test("a damaged cache: refused, found, repaired when told to, and then whole", async () => {
  const { rig, cache, backing } = await kernelRig();
  await using _ = rig;
  const table = `pcache ${cache} ${backing} data_crc true`;
  overwrite(cache, 0x1000 + 8, [0]);
  overwrite(cache, 0x4000 + 8, [1, 2, 3]);
  overwrite(cache, 0x4010 + 8, [1, 2, 3]);
  const damaged = sha256(cache);
  assertFailed(await rig.pcache("create", "d", "--table", table), "superblock: magic");
  assertFailed(
    await rig.pcache("check", cache),
    "error: superblock: magic 0x",
    "error: key tail: no valid copy: slot 0 is damaged, slot 1 damaged",
    ": 2 errors, 0 warnings",
  );
  assertFailed(
    await rig.pcache("dump", cache),
    `pcache: dump on ${cache} failed: superblock: magic`,
  );
  assertFailed(await rig.pcache("writeback", cache, backing), "superblock: magic");
  assertFailed(
    await rig.pcache("repair", cache),
    "written anew, for 31 segments",
    "key tail: 0:0, as the dirty tail",
    "nothing was written: repair --yes does what is said above",
  );
  assertEquals(sha256(cache), damaged);
  assertStringIncludes(await rig.ok("repair", cache, "--yes"), ": repaired\n");
  assertStringIncludes(await rig.ok("repair", cache), ": nothing to repair\n");
  await rig.ok("check", cache, backing, "--data");
  await rig.ok("writeback", cache, backing);
  assertEquals(sha256(backing), EXPECTED.sha256);
});

Deno.test("damaged data is found by check --data alone, and keeps write-back from ending", async () => {
  const { rig, cache, backing } = await kernelRig();
  await using _ = rig;
  const { ksets } = JSON.parse(await rig.ok("dump", cache, "--json"));
  const key = ksets.at(-1).keys.at(-1);
  const data_addr = 0x5000 + key.seg * 16 * MIB + 12 * 1024 + key.seg_off;
  overwrite(cache, data_addr, [0xde, 0xad]);
  await rig.ok("check", cache);
  assertFailed(
    await rig.pcache("check", cache, "--data"),
    `error: data of sectors ${key.off / 512}+`,
    "it is dirty: nobody else has it",
  );
  const { findings, damaged_bytes } = JSON.parse(
    (await rig.pcache("check", cache, "--data", "--json")).stdout,
  );
  assertEquals(findings[0].part, "data");
  assert(damaged_bytes > 0 && damaged_bytes <= key.len);
  assertFailed(await rig.pcache("writeback", cache, backing), "cannot be written back and stay in");
});

Deno.test("eviction reinsert over a kernel's cache: what it carries is a cache as the format describes it", async () => {
  const { rig, cache, backing } = await kernelRig();
  await using _ = rig;
  const table = `pcache ${cache} ${backing}`;
  await rig.ok("create", "e", "--table", `${table} 4 data_crc true eviction reinsert`);
  assertStringIncludes(await rig.ok("table", "e"), " eviction reinsert");
  await rig.ok("message", "e", "0", "flush");
  {
    await using client = await NbdClient.connect(await rig.uri("e"));
    for (let times = 0; times < 3; times++) {
      for (let off = 0; off < client.size_bytes; off += 4 * MIB) await client.read(off, 4 * MIB);
    }
    await rig.ok("message", "e", "0", "gc_percent", "0");
    await until("something is carried", async () => await carriedBytes(rig) > 0);
    await client.write(0, await client.read(0, MIB));
    await client.flush();
  }
  await rig.ok("message", "e", "0", "eviction", "fifo");
  assert(!(await rig.ok("table", "e")).includes("eviction"), "the default is not shown");
  const refused = await rig.pcache("message", "e", "0", "eviction", "lru");
  assertFailed(refused, "eviction lru, but it must be fifo or reinsert");
  await rig.ok("remove", "e");
  assertStringIncludes(await rig.ok("check", cache, backing, "--data"), ": 0 errors");
  await rig.ok("create", "e", "--table", `${table} 2 data_crc true`);
  assert(!(await rig.ok("table", "e")).includes("eviction"), "it is the table's to say");
  await rig.ok("remove", "--flush", "e");
  await rig.ok("check", cache, backing, "--data");
  assertEquals(sha256(backing), EXPECTED.sha256);
});

/** How much GC has carried in device e. */
async function carriedBytes(rig: Rig): Promise<number> {
  return JSON.parse(await rig.ok("stats", "--json", "e"))[0].counters.carried_bytes;
}

Deno.test("grow: what the cache holds stays, and it has more segments", async () => {
  const { rig, cache, backing } = await kernelRig();
  await using _ = rig;
  assertFailed(
    await rig.pcache("grow", cache),
    "the device holds 31 segments, and the cache has all",
  );
  Deno.truncateSync(cache, 700 * MIB);
  assertStringIncludes(await rig.ok("grow", cache), ": 43 segments, it had 31\n");
  await rig.ok("check", cache, backing, "--data");
  await rig.ok("writeback", cache, backing);
  assertEquals(sha256(backing), EXPECTED.sha256);
  Deno.truncateSync(cache, 600 * MIB);
  assertFailed(await rig.pcache("check", cache), "seg_num 43, but the device holds at most 37");
  assertFailed(
    await rig.pcache("repair", cache),
    "the cache has 43 segments, but the device holds 37",
  );
});

Deno.test("format: a new device at once, anything else with --yes only", async () => {
  await using rig = Rig.make();
  const cache = rig.file("cache", 512 * MIB);
  const backing = rig.file("backing", 64 * MIB);
  assertFailed(await rig.pcache("check", cache), "error: superblock: magic 0: no cache is on this");
  assertFailed(await rig.pcache("repair", cache), "there is no cache on this device");
  assertFailed(await rig.pcache("dump", cache), "no cache is on this device, create or format");
  assertStringIncludes(
    await rig.ok("format", cache, "data_crc", "true"),
    ": formatted, 31 segments, data_crc true\n",
  );
  await rig.ok("check", cache, "--data");
  assertFailed(
    await rig.pcache("format", cache),
    "a cache is on it, nothing of it is dirty; format --yes does it all the same",
  );
  await rig.ok("format", cache, "--yes");
  assertFailed(
    await rig.pcache("check", cache, "--data"),
    "the cache was made with data_crc false: its data has no checksums",
  );
  assertFailed(
    await rig.pcache("format", cache, "data_crc", "maybe"),
    "Invalid data crc parameter",
  );
  await rig.ok("create", "d", "--table", `pcache ${cache} ${backing}`);

  const verbs = [["check"], ["dump"], ["repair", "--yes"], ["format", "--yes"]];
  for (const [verb, ...options] of verbs) {
    assertFailed(
      await rig.pcache(verb!, cache, ...options),
      `pcache: ${verb} on ${cache} failed: Error opening cache device: ${cache}: Device or resource busy`,
    );
  }
  assertFailed(await rig.pcache("writeback", cache, backing), "Device or resource busy");
  assertFailed(await rig.pcache("check", rig.path("none")), "No such file or directory");
  await rig.ok("remove", "d");

  overwrite(cache, 0x1000 + 8, [1, 2, 3]);
  assertFailed(await rig.pcache("format", cache), "superblock: magic 0x", "format --yes does it");
  const short = rig.file("short", 1 * MIB);
  assertFailed(await rig.pcache("format", short, "--yes"), "at least 536870912 bytes are needed");
});

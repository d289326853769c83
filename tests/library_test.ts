/**
 * pcache as a library: the examples of docs/library.md as they stand, and what they do not show.
 *
 * @module
 */

import {
  assert,
  assertEquals,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { Cache, CacheError, serve } from "../mod.ts";
import { KIB, MIB, Rig, run } from "./device.ts";
import { NbdClient } from "./nbd_client.ts";
import { fillFor } from "./random.ts";

const DOC = Deno.readTextFileSync(new URL("../docs/library.md", import.meta.url));
const MOD = new URL("../mod.ts", import.meta.url).href;
const CONFIG = new URL("../deno.json", import.meta.url).pathname;

/** What each example prints. */
const PRINTED = [
  /^hello\n$/,
  /^7 0 0 7\n$/,
  /^verified \d+ healed 0 lost 0\n0 31 \d+\n$/,
  /^nbd\+unix:\/\/\/\?socket=.*\/vol\/nbd\n$/,
];

function open(rig: Rig, data_crc?: boolean): Cache {
  const setting = data_crc === undefined ? {} : { data_crc };
  return Cache.open({
    cache_path: rig.path("cache"),
    backing_path: rig.path("backing"),
    ...setting,
  });
}

function makeRig(): Rig {
  const rig = Rig.make();
  rig.file("cache", 512 * MIB);
  rig.file("backing", 64 * MIB);
  return rig;
}

function bytesOf(id: number, bytes: number): Uint8Array<ArrayBuffer> {
  const made = new Uint8Array(bytes);
  fillFor(id, made);
  return made;
}

Deno.test("the examples of the document do what they say", async () => {
  const examples = [...DOC.matchAll(/^```ts\n(.*?)^```$/gms)].map((match) => match[1]!);
  assertEquals(examples.length, PRINTED.length);
  for (const [i, example] of examples.entries()) {
    await using rig = Rig.make();
    rig.file("cache.img", 512 * MIB);
    rig.file("backing.img", 64 * MIB);
    const program = rig.path("example.ts");
    const paths = example.replaceAll('"cache.img"', JSON.stringify(rig.path("cache.img")))
      .replaceAll('"backing.img"', JSON.stringify(rig.path("backing.img")));
    Deno.writeTextFileSync(program, paths.replaceAll('"pcache"', JSON.stringify(MOD)));
    const args = ["run", "-A", "--no-prompt", "--config", CONFIG, program];
    const ended = await run(Deno.execPath(), args, rig.env);
    assertEquals(ended.code, 0, ended.stderr);
    assert(PRINTED[i]!.test(ended.stdout), `example ${i}: ${ended.stdout}`);
  }
});

Deno.test("what was written is there in the next program's cache, of any alignment and length", async () => {
  await using rig = makeRig();
  const long = bytesOf(1, 40 * MIB);
  {
    await using cache = open(rig, true);
    assertEquals(cache.size_bytes, 64 * MIB);
    await cache.write(777, long);
    await cache.write(5, bytesOf(2, 3), { fua: true });
    assertEquals(await cache.read(777, long.length), long);
    assertThrows(() => open(rig), CacheError, "Device or resource busy");
  }
  await using cache = open(rig);
  assertEquals(await cache.read(777, long.length), long);
  assertEquals(await cache.read(5, 3), bytesOf(2, 3));
  assertEquals(await cache.read(0, 0), new Uint8Array());
  await cache.message("flush");
  assertEquals(cache.stats().counters.dirty_bytes, 0);
  assertEquals(Deno.readFileSync(rig.path("backing")).slice(777, 777 + long.length), long);
});

Deno.test("many requests at once are all answered, each with its own bytes", async () => {
  await using rig = makeRig();
  await using cache = open(rig, false);
  const count = 6000; // more than there are slots
  const pieces = Array.from({ length: count }, (_, i) => i);
  await Promise.all(pieces.map((i) => cache.write(i * 4 * KIB, bytesOf(i + 1, 512))));
  const read = await Promise.all(pieces.map((i) => cache.read(i * 4 * KIB, 512)));
  for (const i of pieces) assertEquals(read[i], bytesOf(i + 1, 512));
});

Deno.test("what cannot be is refused with a reason", async () => {
  await using rig = makeRig();
  assertThrows(() => open(rig), CacheError, "no cache is on this device");
  const cache = open(rig, false);
  await assertRejects(() => cache.read(64 * MIB - 1, 2), RangeError, "2 bytes at 67108863");
  await assertRejects(() => cache.write(-1, new Uint8Array(1)), RangeError);
  await assertRejects(() => cache.trim(0.5, 1), RangeError);
  await assertRejects(() => cache.message("scrub"), CacheError, "it has no checksums");
  await assertRejects(() => cache.message("dance"), CacheError, '"dance" is not known');
  await assertRejects(() => cache.message("gc_percent", "91"), CacheError, "0..90");
  assertEquals(await cache.message("gc_percent", "50"), "");
  assertEquals(await cache.message("cache_mode", "writethrough"), "");
  const reading = cache.read(0, 1 * MIB); // is waited for
  await cache.close();
  assertEquals(await reading, new Uint8Array(1 * MIB));
  await assertRejects(() => cache.read(0, 1), CacheError, "the cache has been closed");
  await cache.close();
  assertThrows(() => open(rig, true), CacheError, "made with data_crc false");
});

Deno.test("a program that has closed its cache, or forgets to, ends", async () => {
  await using rig = makeRig();
  const program = rig.path("forgets.ts");
  const options = {
    cache_path: rig.path("cache"),
    backing_path: rig.path("backing"),
    data_crc: true,
  };
  Deno.writeTextFileSync(
    program,
    `import { Cache } from ${JSON.stringify(MOD)};
const cache = Cache.open(${JSON.stringify(options)});
await cache.write(0, new Uint8Array(4096).fill(9), { fua: true });
`,
  );
  const args = ["run", "-A", "--no-prompt", "--config", CONFIG, program];
  const ended = await run(Deno.execPath(), args, rig.env);
  assertEquals(ended, { code: 0, stdout: "", stderr: ended.stderr });
  await using cache = open(rig);
  assertEquals((await cache.read(0, 4096))[4095], 9);
});

Deno.test("a served device is one that clients and commands know", async () => {
  await using rig = makeRig();
  const before = Deno.env.get("PCACHE_RUN_DIR");
  Deno.env.set("PCACHE_RUN_DIR", rig.path("run"));
  try {
    const options = {
      name: "vol",
      cache_path: rig.path("cache"),
      backing_path: rig.path("backing"),
      eviction: "reinsert",
    } as const;
    const device = await serve(options);
    assertStringIncludes(await rig.ok("table", "vol"), " eviction reinsert");
    assertEquals(await rig.uri("vol"), device.uri);
    assertEquals(await rig.pid("vol"), Deno.pid);
    const client = await NbdClient.connect(device.uri);
    await client.write(4096, bytesOf(3, 4096));
    await assertRejects(() => device.stop(), CacheError, "Device or resource busy");
    await assertRejects(() => serve(options), CacheError, "serving vol: Device or resource busy");
    await client.close();
    await device.stop({ flush: true });
    await device.gone;
    assertEquals(Deno.readFileSync(rig.path("backing")).slice(4096, 8192), bytesOf(3, 4096));
    assertStringIncludes(await rig.ok("ls"), "No devices found");
  } finally {
    if (before === undefined) Deno.env.delete("PCACHE_RUN_DIR");
    else Deno.env.set("PCACHE_RUN_DIR", before);
  }
});

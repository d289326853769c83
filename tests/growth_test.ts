/**
 * Devices that grow while they live: `load` and `resume` when the backing device or the cache device has become larger, beside
 * clients that verify every byte.
 *
 * @module
 */

import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { MIB, Rig, until } from "./device.ts";
import { CMD, NbdClient, NbdError } from "./nbd_client.ts";
import { fillFor, Random } from "./random.ts";

const CACHE_BYTES = 512 * MIB;
const BACKING_BYTES = 64 * MIB;
const SEGMENT_BYTES = 16 * MIB;
const EINVAL = 22;
/** What a load's client owns of the device; it moves from one such place to the next. */
const PLACE_BYTES = 4 * MIB;
const PAUSE_MS = 5;
/** How often a slow client sends 1 MiB. */
const FEED_MS = 5000;
const SIZES = [512, 4096, 4096, 65536, 700_160];

/** `assertEquals` takes its time with millions of bytes. */
function assertSame(bytes: Uint8Array, wanted: Uint8Array, what: string): void {
  assertEquals(bytes.length, wanted.length);
  assertEquals(
    bytes.findIndex((byte, i) => byte !== wanted[i]),
    -1,
    `${what}: the first wrong byte`,
  );
}

/** One client that writes and reads what it has written, in places of its own, until it is told to end. */
class VerifiedLoad {
  answered = 0;
  #is_over = false;
  readonly #places = new Map<number, Uint8Array<ArrayBuffer>>();
  readonly #random: Random;
  readonly #done: Promise<void>;

  constructor(readonly client: NbdClient, readonly first_place: number, seed: number) {
    this.#random = new Random(seed);
    this.use(first_place);
    this.#done = this.#run();
    this.#done.catch(() => {}); // `end` tells
  }

  /** One more place, which holds zeroes. */
  use(place: number): void {
    this.#places.set(place, new Uint8Array(PLACE_BYTES));
  }

  async #run(): Promise<void> {
    const random = this.#random;
    for (let id = 1; !this.#is_over; id++) {
      const [place, content] = random.pick([...this.#places]);
      const len = random.pick(SIZES);
      const off = 512 * random.below((PLACE_BYTES - len) / 512 + 1);
      if (random.chance(0.5)) {
        const bytes = new Uint8Array(len);
        fillFor(this.first_place * 1_000_000 + id, bytes);
        await this.client.write(place * PLACE_BYTES + off, bytes, { fua: random.chance(0.1) });
        content.set(bytes, off);
      } else {
        const bytes = await this.client.read(place * PLACE_BYTES + off, len);
        assertSame(bytes, content.subarray(off, off + len), `place ${place}, offset ${off}`);
      }
      this.answered++;
      await new Promise((wake) => setTimeout(wake, PAUSE_MS)); // the commands have to get on, too
    }
  }

  /** Ends it, and has another client read all of it. */
  async end(reader: NbdClient): Promise<void> {
    this.#is_over = true;
    await this.#done;
    for (const [place, content] of this.#places) {
      const bytes = await reader.read(place * PLACE_BYTES, PLACE_BYTES);
      assertSame(bytes, content, `place ${place}`);
    }
  }

  stop(): void {
    this.#is_over = true;
  }
}

/** The file has become larger. */
function extend(path: string, bytes: number): void {
  Deno.truncateSync(path, bytes);
}

for (const data_crc of [false, true]) {
  Deno.test(`both devices grow under verified load, again and again: data_crc ${data_crc}`, async () => {
    await using rig = Rig.make({ parent: "/dev/shm" });
    const cache = rig.file("cache", CACHE_BYTES);
    const backing = rig.file("backing", BACKING_BYTES);
    const table = `pcache ${cache} ${backing} data_crc ${data_crc}`;
    await rig.ok("create", "d", "--table", table);
    await rig.ok("message", "d", "0", "gc_percent", "10");
    await rig.ok("message", "d", "0", "sequential_cutoff", "1000000");
    const uri = await rig.uri("d");
    const clients = await Promise.all(Array.from({ length: 4 }, () => NbdClient.connect(uri)));
    const loads = clients.map((client, i) => new VerifiedLoad(client, 3 * i, i + 1));
    try {
      const before = await rig.status("d");
      for (let round = 1; round <= 4; round++) {
        const backing_bytes = BACKING_BYTES + round * PLACE_BYTES;
        const cache_bytes = CACHE_BYTES + Math.floor(round / 2) * 3 * SEGMENT_BYTES;
        extend(backing, backing_bytes);
        extend(cache, cache_bytes);
        if (round === 3) await rig.ok("suspend", "d");
        await rig.ok("load", "d", "--table", table);
        const sectors = backing_bytes / 512;
        assertStringIncludes(await rig.ok("table", "--inactive", "d"), `0 ${sectors} pcache `);
        await rig.ok("resume", "d");
        assertStringIncludes(await rig.ok("table", "d"), `0 ${sectors} pcache `);
        const status = await rig.status("d");
        const segments = before.cache_segs + 3 * Math.floor(round / 2);
        assertEquals([status.seg_total, status.cache_segs], [segments, segments]);
        assertEquals([status.length, status.gc_percent], [sectors, 10]);

        const answered = loads.map((load) => load.answered);
        await until(
          "everybody goes on",
          () => loads.every((load, i) => load.answered > answered[i]!),
        );
        await using late = await NbdClient.connect(uri);
        assertEquals(late.size_bytes, backing_bytes);
        // A client that was there before was told another size, and may use what there is all the same.
        loads[round - 1]!.use(backing_bytes / PLACE_BYTES - 1);
        const outside = () => late.read(backing_bytes - 512, 1024);
        assertEquals((await assertRejects(outside, NbdError)).errno, EINVAL);
      }
      const [stats] = JSON.parse(await rig.ok("stats", "d", "--json"));
      assertEquals(stats.sequential_cutoff, 1_000_000);
      assertEquals(stats.counters.checksum_failures, 0);
      assert(stats.counters.reads + stats.counters.writes >= loads.length, "it counts on");
      await using reader = await NbdClient.connect(uri);
      for (const load of loads) await load.end(reader);
      await reader.flush();
    } finally {
      for (const load of loads) load.stop();
      for (const client of clients) await client.close();
    }
    // What has grown is there for who opens it anew, and the format's.
    await rig.kill("d");
    assertEquals((await rig.pcache("check", cache, backing)).code, 0);
    await rig.ok("create", "d", "--table", table);
    await using again = await NbdClient.connect(await rig.uri("d"));
    for (const load of loads) await load.end(again);
  });
}

Deno.test("a device that lives does not shrink, and a cache grows only as far as there is room for it", async () => {
  await using rig = Rig.make({ parent: "/dev/shm" });
  const cache = rig.file("cache", CACHE_BYTES);
  const backing = rig.file("backing", BACKING_BYTES);
  const table = `pcache ${cache} ${backing}`;
  await rig.ok("create", "d", "--table", `0 65536 ${table} 0`);
  const refusals: [act: () => void, table: string, why: string][] = [
    [() => {}, `0 65535 ${table} 0`, "Invalid argument: length 65535, but it is 65536 and cannot"],
    [() => {}, `0 131073 ${table} 0`, "holds 131072 sectors, the table asks for 131073"],
    [() => extend(backing, 16 * MIB), table, "Invalid argument: length 32768, but it is 65536 and"],
    [() => extend(cache, 1025 * MIB), table, "1073741824 are the most that can be reached while"],
  ];
  for (const [act, wanted, why] of refusals) {
    act();
    const { code, stderr } = await rig.pcache("load", "d", "--table", wanted);
    assertEquals(code, 1);
    assertStringIncludes(stderr, `pcache: load on d failed: `);
    assertStringIncludes(stderr, why);
    extend(backing, BACKING_BYTES);
    extend(cache, CACHE_BYTES);
  }
  // Found out between load and resume: nothing changes, and the device goes on.
  await rig.ok("load", "d", "--table", table);
  extend(backing, 16 * MIB);
  const late = await rig.pcache("resume", "d");
  assertStringIncludes(late.stderr, "pcache: resume on d failed: Invalid argument: length 32768");
  extend(backing, BACKING_BYTES);
  await rig.ok("resume", "d");
  assertStringIncludes(await rig.ok("table", "d"), "0 131072 pcache ");
  extend(cache, 256 * MIB); // at last: what lay there is lost
  const shrunk = await rig.pcache("load", "d", "--table", table);
  assertStringIncludes(shrunk.stderr, "holds 15 segments, but its cache has 31");
});

Deno.test("a client that does not send its payload keeps a device from growing, and nothing else changes", async () => {
  await using rig = Rig.make({ parent: "/dev/shm" });
  const cache = rig.file("cache", CACHE_BYTES);
  const backing = rig.file("backing", BACKING_BYTES);
  const table = `pcache ${cache} ${backing}`;
  await rig.ok("create", "d", "--table", table);
  const uri = await rig.uri("d");
  await using client = await NbdClient.connect(uri);
  await using slow = await NbdClient.connect(uri);
  extend(backing, BACKING_BYTES + MIB);
  await rig.ok("load", "d", "--table", table);
  const bytes = new Uint8Array(32 * MIB);
  fillFor(1, bytes);
  let sent_bytes = 5000;
  const written = slow.request(CMD.WRITE, 0, bytes.length, 0, 0, bytes.subarray(0, sent_bytes));
  const send = (len_bytes: number) =>
    slow.raw.send(bytes.subarray(sent_bytes, sent_bytes += len_bytes));
  // It is slow, not silent: who sends less than 1 MiB in half a minute is dropped.
  const feed = setInterval(() => {
    if (bytes.length - sent_bytes > MIB) send(MIB);
  }, FEED_MS);
  try {
    await until("the write has begun", async () => {
      const [stats] = JSON.parse(await rig.ok("stats", "d", "--json"));
      return stats.requests_under_way === 1;
    });
    const { code, stderr } = await rig.pcache("resume", "d");
    assertEquals(code, 1);
    assertStringIncludes(
      stderr,
      "Device or resource busy: 1 requests have not ended: clients do not",
    );
    assertEquals((await rig.status("d")).length, BACKING_BYTES / 512);
    assertStringIncludes(await rig.ok("info", "d"), "Tables present:    LIVE & INACTIVE\n");
    assertEquals(await client.read(bytes.length, 512), new Uint8Array(512));
  } finally {
    clearInterval(feed);
  }

  // With the payload on its way while it waits, it grows.
  const resumed = rig.ok("resume", "d");
  await send(bytes.length - sent_bytes);
  await written;
  await resumed;
  assertEquals((await rig.status("d")).length, (BACKING_BYTES + MIB) / 512);
  assertSame(await client.read(0, bytes.length), bytes, "what was written");
});

/**
 * Much more data than the cache holds: 4 GiB of random writes through 512 MiB over a backing file of 1 GiB. Prints how
 * fast it went and the longest that a write waited.
 *
 * @module
 */

import { assert } from "@std/assert";
import { GIB, MIB, Rig } from "./device.ts";
import { NbdClient } from "./nbd_client.ts";
import { Random, seedOr } from "./random.ts";
import { BLOCK_BYTES, Stamps } from "./stamps.ts";

const CACHE_BYTES = 512 * MIB;
const DEVICE_BYTES = 1 * GIB;
const WRITTEN_BYTES = 4 * GIB;
const CONNECTIONS = 4;
const DEPTH = 32;
const MOST_BLOCKS = 32; // 128 KiB
const DEVICE_BLOCKS = DEVICE_BYTES / BLOCK_BYTES;

/** What the writers do together. */
class Load {
  readonly stamps = new Stamps(DEVICE_BYTES);
  readonly random: Random;
  written_bytes = 0;
  reads = 0;
  longest_ms = 0;
  #version = 0;
  readonly #busy = new Uint8Array(DEVICE_BLOCKS);

  constructor(seed: number) {
    this.random = new Random(seed);
  }

  /** A range of blocks that no request is using now. */
  #choose(): { first: number; count: number } {
    for (;;) {
      const count = this.random.between(1, MOST_BLOCKS);
      const first = this.random.below(DEVICE_BLOCKS - count + 1);
      if (this.#busy.subarray(first, first + count).every((busy) => busy === 0)) {
        this.#busy.fill(1, first, first + count);
        return { first, count };
      }
    }
  }

  /** One of many loops on one connection, until so much is written: writes, and now and then reads back. */
  async run(client: NbdClient, until_bytes: number): Promise<void> {
    while (this.written_bytes < until_bytes) {
      const { first, count } = this.#choose();
      const begin_ms = performance.now();
      if (this.random.chance(0.05)) {
        const bytes = await client.read(first * BLOCK_BYTES, count * BLOCK_BYTES);
        this.stamps.check("read meanwhile", first, bytes);
        this.reads++;
      } else {
        const bytes = new Uint8Array(count * BLOCK_BYTES);
        this.stamps.write(first, bytes, ++this.#version);
        this.written_bytes += bytes.length;
        await client.write(first * BLOCK_BYTES, bytes);
      }
      this.longest_ms = Math.max(this.longest_ms, performance.now() - begin_ms);
      this.#busy.fill(0, first, first + count);
    }
  }
}

Deno.test("4 GiB of random writes through 512 MiB over 1 GiB: no error, GC at work, content right", async () => {
  await using rig = Rig.make();
  const cache = rig.file("cache", CACHE_BYTES);
  const backing = rig.file("backing", DEVICE_BYTES);
  await rig.ok("create", "d", "--table", `pcache ${cache} ${backing} 2 data_crc true`);
  const uri = await rig.uri("d");
  const seed = seedOr(4);
  const load = new Load(seed);

  const begin_ms = performance.now();
  const clients = await Promise.all(
    Array.from({ length: CONNECTIONS }, () => NbdClient.connect(uri)),
  );
  // Looked at whenever as much was written as the cache holds, however fast that goes.
  const lines = [await rig.status("d")];
  while (load.written_bytes < WRITTEN_BYTES) {
    const until_bytes = load.written_bytes + CACHE_BYTES;
    await Promise.all(
      clients.flatMap((client) =>
        Array.from({ length: DEPTH }, () => load.run(client, until_bytes))
      ),
    );
    lines.push(await rig.status("d"));
  }
  await clients[0]!.flush();
  const took_s = (performance.now() - begin_ms) / 1000;
  console.log(
    `seed ${seed}: ${
      (load.written_bytes / GIB).toFixed(1)
    } GiB written and ${load.reads} reads in ` +
      `${took_s.toFixed(1)} s (${(load.written_bytes / MIB / took_s).toFixed(0)} MiB/s); ` +
      `the longest wait was ${load.longest_ms.toFixed(0)} ms`,
  );

  const tails = new Set(lines.map((line) => line.key_tail.join(":")));
  console.log(
    `key tail seen at ${tails.size} places; segments used at most ${
      Math.max(...lines.map((line) => line.segs_used))
    } of ${lines[0]!.cache_segs}`,
  );
  assert(tails.size >= 3, `GC moves the key tail; it was only seen at ${[...tails].join(" ")}`);
  assert(new Set(lines.map((line) => line.dirty_tail.join(":"))).size >= 3);

  for (let first = 0; first < DEVICE_BLOCKS; first += 256) {
    load.stamps.check("at the end", first, await clients[0]!.read(first * BLOCK_BYTES, 1 * MIB));
  }
  await Promise.all(clients.map((client) => client.close()));
  await rig.ok("remove", "--flush", "d");
  load.stamps.checkFile(backing);
});

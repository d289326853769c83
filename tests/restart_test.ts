/**
 * A restart with a million cached extents. How long `create` takes is printed, not judged: machines differ.
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";
import { GIB, MIB, Rig } from "./device.ts";
import { CMD, NbdClient, NbdNegotiation, OPT, requestMessage } from "./nbd_client.ts";
import { fillFor, Random, seedOr } from "./random.ts";

const EXTENTS = 1_000_000;
const SPACING_BYTES = 4096;
const DEVICE_BYTES = 4 * GIB;
/** Holds all of it below gc_percent. */
const CACHE_BYTES = 3 * GIB;
/** Requests sent at once. */
const BATCH = 500;
const REPLY_BYTES = 16;

/** Extent number `i` lies at `i * SPACING_BYTES`; it is shorter than that, so that none touches the next. */
function extentBytes(i: number): number {
  return 512 * (1 + i % 4);
}

/** The numbers of all extents, in a random order. */
function shuffled(random: Random): Uint32Array {
  const order = Uint32Array.from({ length: EXTENTS }, (_, i) => i);
  for (let i = EXTENTS - 1; i > 0; i--) {
    const other = random.below(i + 1);
    [order[i], order[other]] = [order[other]!, order[i]!];
  }
  return order;
}

/** Writes every extent, in random order, and flushes. */
async function writeExtents(uri: string, random: Random): Promise<void> {
  const order = shuffled(random);
  const negotiation = await NbdNegotiation.open(uri);
  await negotiation.ask(OPT.GO, "", []);
  const { raw } = negotiation;
  for (let at = 0; at < EXTENTS; at += BATCH) {
    const parts: Uint8Array[] = [];
    for (const i of order.subarray(at, at + BATCH)) {
      const bytes = new Uint8Array(extentBytes(i));
      fillFor(random.seed + i, bytes);
      parts.push(requestMessage(CMD.WRITE, i, i * SPACING_BYTES, bytes.length, 0), bytes);
    }
    const count = parts.length / 2;
    const [replies] = await Promise.all([raw.take(count * REPLY_BYTES), raw.send(...parts)]);
    const view = new DataView(replies.buffer, replies.byteOffset);
    for (let reply = 0; reply < count; reply++) {
      assertEquals(view.getUint32(reply * REPLY_BYTES + 4), 0, "a write ends without error");
    }
  }
  raw.close();
  const client = await NbdClient.connect(uri);
  await client.flush();
  await client.close();
}

/** Reads the whole device and compares it: extents, and zeros between them. */
async function checkDevice(uri: string, seed: number): Promise<void> {
  await using client = await NbdClient.connect(uri);
  const wanted = new Uint8Array(1 * MIB);
  const per_read = wanted.length / SPACING_BYTES;
  for (let first = 0; first < DEVICE_BYTES / SPACING_BYTES; first += per_read) {
    wanted.fill(0);
    for (let i = first; i < Math.min(first + per_read, EXTENTS); i++) {
      const at = (i - first) * SPACING_BYTES;
      fillFor(seed + i, wanted.subarray(at, at + extentBytes(i)));
    }
    const read = await client.read(first * SPACING_BYTES, wanted.length);
    const word = firstDifference(new Uint32Array(read.buffer), new Uint32Array(wanted.buffer));
    if (word >= 0) {
      throw new Error(`byte ${first * SPACING_BYTES + 4 * word} is not what was written`);
    }
  }
}

/** Where two arrays of the same length differ; -1: nowhere. */
function firstDifference(a: Uint32Array, b: Uint32Array): number {
  for (let i = 0; i < b.length; i++) if (a[i] !== b[i]) return i;
  return -1;
}

Deno.test("killed and created again with a million cached extents", async () => {
  await using rig = Rig.make();
  const cache = rig.file("cache", CACHE_BYTES);
  const backing = rig.file("backing", DEVICE_BYTES);
  const table = `pcache ${cache} ${backing} 2 data_crc true`;
  const seed = seedOr(5);

  await rig.ok("create", "d", "--table", table);
  await writeExtents(await rig.uri("d"), new Random(seed));
  const before = await rig.status("d");
  assertEquals(before.key_tail, [0, 0], "GC has dropped nothing: every extent is cached");
  await rig.kill("d");

  const begin_ms = performance.now();
  await rig.ok("create", "d", "--table", table);
  const took_s = (performance.now() - begin_ms) / 1000;
  const [load] = Deno.loadavg();
  console.log(
    `create with ${EXTENTS} cached extents took ${
      took_s.toFixed(2)
    } s (wanted: under 3 s on an idle ` +
      `machine; the load is ${load!.toFixed(1)})`,
  );

  const after = await rig.status("d");
  assertEquals(after.key_head, before.key_head);
  assertEquals(after.key_tail, before.key_tail);
  assert(after.segs_used <= before.segs_used);
  await checkDevice(await rig.uri("d"), seed);
});

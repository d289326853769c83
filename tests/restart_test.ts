/**
 * A restart with a million cached extents. How long `create` takes is printed, not judged: machines differ.
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";
import { GIB, MIB, Rig } from "./device.ts";
import { CMD, NbdClient, NbdNegotiation, OPT, REP, requestMessage } from "./nbd_client.ts";
import { fillFor, Random, seedOr } from "./random.ts";

const EXTENTS = 1_000_000;
const SPACING_BYTES = 2048;
const DEVICE_BYTES = 2 * GIB;
/** Holds all of it below gc_percent. */
const CACHE_BYTES = 3 * GIB;
/** What the backing file is made of. */
const BACKING_BYTE = 0x5a;
/** Requests sent at once. */
const BATCH = 500;
const REPLY_BYTES = 16;

/** Extent number `i` lies at `i * SPACING_BYTES`; it is shorter than that, so that none touches the next. */
function extentBytes(i: number): number {
  return 512 * (1 + i % 3);
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

/** A connection for requests made by hand. */
async function startTransmission(uri: string): Promise<NbdNegotiation> {
  const negotiation = await NbdNegotiation.open(uri);
  const outcome = await negotiation.ask(OPT.GO, "", []);
  assertEquals(outcome.type, REP.ACK);
  return negotiation;
}

/** Writes every extent, in random order, and flushes. */
async function writeExtents(uri: string, random: Random): Promise<void> {
  const order = shuffled(random);
  const { raw } = await startTransmission(uri);
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

/** Reads every extent and compares it. */
async function checkExtents(uri: string, seed: number): Promise<void> {
  const { raw } = await startTransmission(uri);
  const wanted = new Uint8Array(SPACING_BYTES);
  for (let first = 0; first < EXTENTS; first += BATCH) {
    const count = Math.min(BATCH, EXTENTS - first);
    const requests = Array.from({ length: count }, (_, k) => {
      const i = first + k;
      return requestMessage(CMD.READ, i, i * SPACING_BYTES, extentBytes(i), 0);
    });
    const sent = raw.send(...requests);
    for (let reply = 0; reply < count; reply++) {
      const head = await raw.take(REPLY_BYTES);
      const view = new DataView(head.buffer, head.byteOffset);
      assertEquals(view.getUint32(4), 0, "a read ends without error");
      const i = view.getUint32(12); // the cookie: replies come in any order
      const read = await raw.take(extentBytes(i));
      fillFor(seed + i, wanted.subarray(0, read.length));
      for (let at = 0; at < read.length; at++) {
        if (read[at] !== wanted[at]) {
          throw new Error(`extent ${i}: byte ${at} is not what was written`);
        }
      }
    }
    await sent;
  }
  raw.close();
}

/**
 * Makes the backing file, every byte written: a sparse one would end up in as many pieces as there are extents, and take
 * half a minute to remove.
 */
function makeBacking(rig: Rig, name: string): string {
  const path = rig.path(name);
  using file = Deno.openSync(path, { write: true, createNew: true });
  const chunk = new Uint8Array(1 * MIB).fill(BACKING_BYTE);
  for (let at = 0; at < DEVICE_BYTES;) at += file.writeSync(chunk);
  return path;
}

/** Reads some of what lies between extents, where nothing was ever written. */
async function checkGaps(uri: string, random: Random): Promise<void> {
  await using client = await NbdClient.connect(uri);
  for (let n = 0; n < 1000; n++) {
    const i = random.below(EXTENTS);
    const gap = await client.read(
      i * SPACING_BYTES + extentBytes(i),
      SPACING_BYTES - extentBytes(i),
    );
    assertEquals(gap.every((byte) => byte === BACKING_BYTE), true, `the gap behind extent ${i}`);
  }
}

Deno.test("killed and created again with a million cached extents", async () => {
  await using rig = Rig.make();
  const cache = rig.file("cache", CACHE_BYTES);
  const backing = makeBacking(rig, "backing");
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
  const uri = await rig.uri("d");
  await checkExtents(uri, seed);
  await checkGaps(uri, new Random(seed));
});

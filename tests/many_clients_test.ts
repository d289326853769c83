/**
 * Many clients of one device, and clients that are slow: everybody else is served, rightly, and the device's memory stays
 * bounded. What needs exact timing is tested with a fake machine in io/nbd/server_test.ts.
 *
 * @module
 */

import { assert, assertEquals, assertRejects } from "@std/assert";
import { Buffer } from "node:buffer";
import { MAX_CONNECTIONS } from "../io/nbd/server.ts";
import { GIB, KIB, MIB, Rig, until } from "./device.ts";
import {
  CMD,
  NbdClient,
  NbdNegotiation,
  RawConnection,
  requestMessage,
  type Style,
} from "./nbd_client.ts";
import { fillFor, Random } from "./random.ts";

const CLIENTS = 1000;
const STYLES: Style[] = ["simple", "structured", "extended"];
/** Each client's own part of the device. */
const PART_BYTES = MIB;
const LOOPS = ["io_uring", "poll"];
/** What a device may take for itself when nobody asks anything of it. */
const IDLE_BYTES = 90 * MIB;
/** What a thousand clients may add to it: 191 KiB for each of the first 64, 95 KiB for each other one, and what V8 keeps of them. */
const CLIENTS_BYTES = 110 * MIB;

async function makeDevice(rig: Rig, ...options: string[]): Promise<string> {
  const table = `pcache ${rig.file("cache", 512 * MIB)} ${rig.file("backing", GIB)}`;
  await rig.ok("create", "d", ...options, "--table", `${table} data_crc true`);
  return await rig.uri("d");
}

/** Memory of the device's process that is its own: the cache's pages are not. */
function ownBytes(pid: number): number {
  const status = Deno.readTextFileSync(`/proc/${pid}/status`);
  return Number(/^RssAnon:\s+(\d+) kB$/m.exec(status)![1]) * KIB;
}

/** Clients that connect one after another, so that they are all there at once. */
async function connectAll(uri: string, count: number): Promise<NbdClient[]> {
  const clients: NbdClient[] = [];
  for (let i = 0; i < count; i++) {
    clients.push(await NbdClient.connect(uri, STYLES[i % STYLES.length]!));
  }
  return clients;
}

/** Writes and reads of one client in a part of its own, every answer compared. */
async function use(client: NbdClient, index: number, rounds: number): Promise<void> {
  const random = new Random(1 + index);
  const base = index * PART_BYTES;
  for (let round = 0; round < rounds; round++) {
    const off = base + random.below(PART_BYTES / 2);
    const bytes = new Uint8Array(1 + random.below([600, 9000, 70_000][random.below(3)]!));
    fillFor(index * 1000 + round, bytes);
    await client.write(off, bytes, { fua: random.below(20) === 0 });
    const read = await client.read(off, bytes.length);
    assertEquals(
      Buffer.compare(read, bytes),
      0,
      `client ${index}, ${bytes.length} bytes at ${off}`,
    );
  }
}

for (const loop of LOOPS) {
  const env = { PCACHE_LOOP: loop };

  Deno.test(`${loop}: ${CLIENTS} clients at once, every answer compared; one too many is turned away`, async () => {
    await using rig = Rig.make({ env });
    const uri = await makeDevice(rig);
    const pid = await rig.pid("d");
    const idle_bytes = ownBytes(pid);
    assert(idle_bytes < IDLE_BYTES, `${idle_bytes / MIB} MiB`);
    const clients = await connectAll(uri, CLIENTS);
    await Promise.all(clients.map((client, index) => use(client, index, 8)));
    const used_bytes = ownBytes(pid);
    assert(used_bytes < idle_bytes + CLIENTS_BYTES, `${used_bytes / MIB} MiB`);

    clients.push(...await connectAll(uri, MAX_CONNECTIONS - CLIENTS));
    await assertRejects(() => NbdClient.connect(uri));
    await clients.pop()!.close();
    const open_count = String(MAX_CONNECTIONS - 1);
    await until("one has gone", async () => await rig.info("d", "Open count") === open_count);
    clients.push(await NbdClient.connect(uri));

    await Promise.all(clients.map((client) => client.close()));
    await until("all have gone", async () => await rig.info("d", "Open count") === "0");
    const left_bytes = ownBytes(pid);
    assert(left_bytes < IDLE_BYTES, `${left_bytes / MIB} MiB`);
    console.log(
      `${loop}, own memory in MiB: ${
        [idle_bytes, used_bytes, left_bytes].map((bytes) => (bytes / MIB).toFixed(0)).join(", ")
      } before, with and after ${CLIENTS} clients`,
    );
    await rig.ok("remove", "d");
  });
}

/** What the engine has for misses. */
const BUFFERS_BYTES = 64 * MIB;
const FLOODERS = 40;
const FLOOD_BYTES = 15 * MIB;
const FLOOD_STEP_BYTES = 256 * KIB;

Deno.test("clients that send faster than the device takes are held back, and no byte is lost", async () => {
  await using rig = Rig.make();
  const uri = await makeDevice(rig);
  const pid = await rig.pid("d");
  const idle_bytes = ownBytes(pid);
  const most = { bytes: 0 };
  const watch = setInterval(() => most.bytes = Math.max(most.bytes, ownBytes(pid)), 50);
  try {
    // More than the cache holds, all of it asked for at once.
    const clients = await connectAll(uri, FLOODERS);
    await Promise.all(clients.map((client, index) => flood(client, index)));
    await Promise.all(clients.map((client, index) => checkFlooded(client, index)));
    await Promise.all(clients.map((client) => client.close()));
  } finally {
    clearInterval(watch);
  }
  const added_bytes = most.bytes - idle_bytes;
  assert(
    added_bytes < BUFFERS_BYTES + FLOODERS * 200 * KIB + 20 * MIB,
    `${added_bytes / MIB} MiB`,
  );
  await rig.ok("remove", "d");
});

async function flood(client: NbdClient, index: number): Promise<void> {
  const writes: Promise<void>[] = [];
  for (let at = 0; at < FLOOD_BYTES; at += FLOOD_STEP_BYTES) {
    const off = index * FLOOD_BYTES + at;
    const bytes = new Uint8Array(FLOOD_STEP_BYTES);
    fillFor(off / FLOOD_STEP_BYTES, bytes);
    writes.push(client.write(off, bytes));
  }
  await Promise.all(writes);
}

async function checkFlooded(client: NbdClient, index: number): Promise<void> {
  const wanted = new Uint8Array(FLOOD_STEP_BYTES);
  for (let at = 0; at < FLOOD_BYTES; at += FLOOD_STEP_BYTES) {
    const off = index * FLOOD_BYTES + at;
    fillFor(off / FLOOD_STEP_BYTES, wanted);
    const read = await client.read(off, FLOOD_STEP_BYTES);
    assertEquals(Buffer.compare(read, wanted), 0, `what was written at ${off}`);
  }
}

const SLOW_READERS = 3;
const SLOW_SENDERS = 3;
const LONGEST_BYTES = 32 * MIB;

/** A client in the transmission phase that sends and reads what it likes, until the test ends. */
async function rawClient(rig: Rig, uri: string): Promise<RawConnection> {
  const negotiation = await NbdNegotiation.open(uri);
  await negotiation.exportName("");
  rig.defer("end a client", () => negotiation.raw.close());
  return negotiation.raw;
}

/** Asks for much that is not in the cache, and takes nothing. */
async function readSlowly(raw: RawConnection, index: number): Promise<void> {
  const off = (i: number) => (100 + index * 100) * MIB + (i % 100) * MIB;
  const reads = Array.from({ length: 500 }, (_, i) => requestMessage(CMD.READ, i, off(i), MIB, 0));
  await raw.send(...reads);
}

/** Announces a long payload and sends little of it at a time. */
function sendSlowly(rig: Rig, raw: RawConnection, index: number): void {
  const off = 500 * MIB + index * LONGEST_BYTES;
  const few = new Uint8Array(100);
  let has_ended = false;
  const send = async (...parts: Uint8Array[]) => {
    await raw.send(...parts).catch(() => has_ended = true);
  };
  send(requestMessage(CMD.WRITE, 1, off, LONGEST_BYTES, 0));
  const timer = setInterval(() => has_ended ? clearInterval(timer) : send(few), 100);
  rig.defer("end a slow sender", () => clearInterval(timer));
}

/** Work of one client beside the slow ones, as much as is said. */
async function work(witness: NbdClient, amount: number): Promise<void> {
  await use(witness, 0, amount);
  const bytes = new Uint8Array(MIB).fill(7);
  for (let i = 0; i < amount; i++) {
    const read = await witness.read((700 + i) * MIB, MIB);
    assertEquals(read.every((byte) => byte === 0), true, "what was never written");
    await witness.write((900 + i) * MIB, bytes, { fua: true });
  }
  await witness.flush();
}

async function beSlow(loop: string): Promise<void> {
  await using rig = Rig.make({ env: { PCACHE_LOOP: loop } });
  const uri = await makeDevice(rig);
  await using witness = await NbdClient.connect(uri);
  const countIs = async (count: number) => await rig.info("d", "Open count") === String(count);
  // On a machine that is busy with other things the slow clients may be dropped before the work is done: then with less of it.
  for (let amount = 16;; amount = Math.floor(amount / 2)) {
    assert(amount > 0, "nothing was done while the slow clients were there");
    for (let i = 0; i < SLOW_READERS; i++) await readSlowly(await rawClient(rig, uri), i);
    for (let i = 0; i < SLOW_SENDERS; i++) sendSlowly(rig, await rawClient(rig, uri), i);
    await work(witness, amount);
    const was_beside = await countIs(1 + SLOW_READERS + SLOW_SENDERS);
    await until("they are dropped", () => countIs(1));
    if (was_beside) break;
  }
  for (let i = 0; i < SLOW_SENDERS; i++) {
    const read = await witness.read(500 * MIB + i * LONGEST_BYTES, MIB);
    assertEquals(read.every((byte) => byte === 0), true, "half a write has not happened");
  }
  await witness.close();
  await rig.ok("remove", "--flush", "d");
}

Deno.test("clients that take no replies or trickle their payloads: others are served, and they are dropped", async () => {
  const outcomes = await Promise.allSettled(LOOPS.map(beSlow));
  for (const outcome of outcomes) if (outcome.status === "rejected") throw outcome.reason;
});

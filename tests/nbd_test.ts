/**
 * The NBD server of a real device, over real sockets and both event loops: negotiation, content, hostile clients. What
 * needs exact timing is tested with a fake machine in io/nbd/server_test.ts.
 */

import { assert, assertEquals, assertRejects } from "@std/assert";
import { Buffer } from "node:buffer";
import { MAX_CONNECTIONS } from "../io/nbd/server.ts";
import { GIB, KIB, MIB, Rig, until } from "./device.ts";
import {
  CMD,
  FUA,
  INFO,
  NbdBroken,
  NbdClient,
  NbdError,
  NbdNegotiation,
  NO_HOLE,
  OPT,
  optionMessage,
  RawConnection,
  REP,
  REQ_ONE,
  requestMessage,
  type Style,
} from "./nbd_client.ts";
import { Random } from "./random.ts";

const EPERM = 1;
const EINVAL = 22;
const ENOSPC = 28;
const UNSUP = 0x80000001;
const POLICY = 0x80000002;
const INVALID = 0x80000003;
const UNKNOWN = 0x80000006;
const MAX_BYTES = 32 * MIB;
const encoder = new TextEncoder();

interface Place {
  rig: Rig;
  uri: string;
}

/** A device "d" of 1 GiB. */
async function makeDevice(env: Record<string, string>, ...options: string[]): Promise<Place> {
  const rig = Rig.make({ env });
  try {
    const table = `pcache ${rig.file("cache", 512 * MIB)} ${rig.file("backing", GIB)}`;
    await rig.ok("create", "d", ...options, "--table", `${table} data_crc true`);
    return { rig, uri: await rig.uri("d") };
  } catch (error) {
    await rig[Symbol.asyncDispose]();
    throw error;
  }
}

function randomBytes(random: Random, len: number): Uint8Array<ArrayBuffer> {
  const words = new Uint32Array(Math.ceil(len / 4));
  for (let i = 0; i < words.length; i++) words[i] = random.below(2 ** 32);
  return new Uint8Array(words.buffer, 0, len);
}

/** Like `assertEquals`, but quick for megabytes, and without showing them. */
function assertSame(a: Uint8Array, b: Uint8Array, what: string): void {
  assertEquals(a.length, b.length, what);
  assertEquals(Buffer.compare(a, b), 0, what);
}

const STYLES: Style[] = ["simple", "structured", "extended"];
const LOOPS = ["io_uring", "poll"];

for (const loop of LOOPS) {
  const env = { PCACHE_LOOP: loop };

  Deno.test(`${loop}: negotiation, content, refused requests`, async (t) => {
    const { rig, uri } = await makeDevice(env);
    await using _ = rig;
    await t.step("the socket is the owner's alone", () => checkMode(uri));
    await t.step("options", () => checkOptions({ rig, uri }));
    for (const style of STYLES) {
      await t.step(
        `${style}: a reader and writer of any alignment`,
        () => checkContent(uri, 4, style),
      );
    }
    await t.step("metadata contexts and CACHE", () => checkStatus(uri));
    await t.step("refused requests", () => checkRefused(uri));
    await t.step("flush on one connection covers writes on another", () => checkFlush(uri));
    await rig.ok("remove", "d");
  });

  Deno.test(`${loop}: hostile clients harm nobody else`, async (t) => {
    const { rig, uri } = await makeDevice(env);
    await using _ = rig;
    await using witness = await NbdClient.connect(uri);
    const bytes = randomBytes(new Random(1), 100_000);
    await witness.write(777, bytes);
    const check = async () => {
      assertSame(await witness.read(777, bytes.length), bytes, "what the witness wrote");
      // Whoever misbehaved is gone: only the witness is left.
      await until("the others are gone", async () => await rig.info("d", "Open count") === "1");
    };
    for (const [what, misbehave] of HOSTILE) {
      await t.step(what, async () => {
        await misbehave(uri);
        await check();
      });
    }
    await witness.close();
    await rig.ok("remove", "d");
  });
}

Deno.test("a read-only device", async () => {
  const { rig, uri } = await makeDevice({}, "-r");
  await using _ = rig;
  await using client = await NbdClient.connect(uri);
  assert(client.is_read_only);
  const refused = await assertRejects(() => client.write(0, new Uint8Array(70_000)), NbdError);
  assertEquals(refused.errno, EPERM);
  assertEquals(await client.read(0, 512), new Uint8Array(512));
  await client.flush();
});

Deno.test("TCP, IPv4 and IPv6, with keep-alive", async () => {
  for (
    const [listen, start] of [["127.0.0.1:0", "nbd://127.0.0.1:"], ["[::1]:0", "nbd://[::1]:"]]
  ) {
    const { rig, uri } = await makeDevice({}, "--listen", listen!);
    await using _ = rig;
    assert(uri.startsWith(start!), uri);
    await checkContent(uri, 2);
    await using client = await NbdClient.connect(uri);
    const port = Number(new URL(uri).port);
    await until("it is asked after when it is silent", () => {
      return acceptedTimers(port).join() === KEEP_ALIVE_TIMER;
    });
    await client.close();
    await rig.ok("remove", "d");
  }
});

const ESTABLISHED = "01";
/** What /proc/net/tcp calls the timer of a connection that is asked after when it is silent. */
const KEEP_ALIVE_TIMER = "02";

/** Which timer runs for each connection that a listener on `port` has accepted (proc(5), /proc/net/tcp). */
function acceptedTimers(port: number): string[] {
  const suffix = `:${port.toString(16).toUpperCase().padStart(4, "0")}`;
  return ["tcp", "tcp6"].flatMap((file) => {
    const lines = Deno.readTextFileSync(`/proc/net/${file}`).trim().split("\n").slice(1);
    const rows = lines.map((line) => line.trim().split(/\s+/));
    return rows.filter((row) => row[1]!.endsWith(suffix) && row[3] === ESTABLISHED)
      .map((row) => row[5]!.slice(0, 2));
  });
}

function checkMode(uri: string): void {
  const path = new URL(uri).searchParams.get("socket")!;
  assertEquals(Deno.statSync(path).mode! & 0o777, 0o600);
}

/** Whether the disk that a file is on turns, as far as Linux knows. */
function isRotational(path: string): boolean {
  const { dev } = Deno.statSync(path);
  const number = `${(dev >> 8) & 0xfff}:${(dev & 0xff) | ((dev >> 12) & 0xfff00)}`;
  const queues = ["queue", "../queue"].map((queue) => `/sys/dev/block/${number}/${queue}`);
  for (const queue of queues) {
    try {
      return Deno.readTextFileSync(`${queue}/rotational`) === "1\n";
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    }
  }
  return false;
}

async function checkOptions({ rig, uri }: Place): Promise<void> {
  // HAS_FLAGS, SEND_FLUSH, SEND_FUA, SEND_TRIM, SEND_WRITE_ZEROES, CAN_MULTI_CONN, SEND_CACHE, SEND_FAST_ZERO; ROTATIONAL.
  const flags = 0xd6d + (isRotational(rig.path("backing")) ? 0x10 : 0);
  const negotiation = await NbdNegotiation.open(uri);
  for (const option of [4, 12345]) {
    assertEquals((await negotiation.option(option)).type, UNSUP);
  }
  assertEquals((await negotiation.option(OPT.STARTTLS)).type, POLICY);
  assertEquals((await negotiation.option(OPT.LIST, new Uint8Array(1))).type, INVALID);
  const list = await negotiation.option(OPT.LIST);
  assertEquals(list.data.map((d) => new TextDecoder().decode(d.data.subarray(4))), [
    "dpcache device d",
  ]);
  assertEquals((await negotiation.ask(OPT.INFO, "other", [])).type, UNKNOWN);
  const types = [INFO.NAME, INFO.DESCRIPTION, INFO.BLOCK_SIZE];
  for (const option of [OPT.INFO, OPT.GO]) {
    const outcome = await negotiation.ask(option, "d", types);
    assertEquals(outcome.type, REP.ACK);
    const infos = new Map(outcome.data.map(({ data }) => [data[1], data.subarray(2)]));
    assertEquals(
      infos.get(INFO.EXPORT)?.toHex(),
      "0000000040000000" + flags.toString(16).padStart(4, "0"),
    );
    assertEquals(new TextDecoder().decode(infos.get(INFO.NAME)), "d");
    assertEquals(infos.get(INFO.BLOCK_SIZE)?.toHex(), "00000200" + "00001000" + "02000000");
  }
  negotiation.raw.close();

  const aborting = await NbdNegotiation.open(uri);
  assertEquals((await aborting.option(OPT.ABORT)).type, REP.ACK);
  assertEquals((await aborting.raw.takeRest()).length, 0);
  aborting.raw.close();

  const old = await NbdNegotiation.open(uri);
  assertEquals(await old.exportName(""), { size_bytes: GIB, flags });
  await old.raw.send(requestMessage(CMD.READ, 5, 0, 512, 0));
  assertEquals((await old.raw.take(16 + 512))[15], 5);
  old.raw.close();
}

/** Random requests of several clients in parts of the device of their own, against plain arrays. */
async function checkContent(uri: string, clients: number, style: Style = "simple"): Promise<void> {
  const part_bytes = 48 * MIB;
  const work = async (index: number) => {
    const random = new Random(100 + index);
    const base = index * part_bytes + 12345;
    const model = new Uint8Array(part_bytes - 20_000);
    await using client = await NbdClient.connect(uri, style);
    // Another device test may have been here: the part begins as zeroes.
    for (let at = 0; at < model.length; at += MAX_BYTES) {
      await client.write(base + at, model.subarray(at, Math.min(at + MAX_BYTES, model.length)));
    }
    for (let i = 0; i < 60; i++) {
      const most = [600, 9000, 200_000, 5 * MIB][random.below(4)]!;
      const len = 1 + random.below(most);
      const off = random.below(model.length - len);
      if (random.below(2) === 0) {
        const bytes = randomBytes(random, len);
        model.set(bytes, off);
        await client.write(base + off, bytes, { fua: random.below(4) === 0 });
      } else {
        const read = await client.read(base + off, len);
        assertSame(read, model.subarray(off, off + len), `client ${index}: ${len} at ${off}`);
      }
    }
    const whole = await client.read(base, MAX_BYTES);
    assertSame(whole, model.subarray(0, MAX_BYTES), `client ${index}: everything`);
  };
  await Promise.all(Array.from({ length: clients }, (_, index) => work(index)));
}

/** Whatever was written or read before: this range was not. */
const FRESH = 512 * MIB;

async function checkStatus(uri: string): Promise<void> {
  const contexts = ["base:allocation", "pcache:dirty"];
  for (const [nth, style] of (["structured", "extended"] as const).entries()) {
    const at = FRESH + nth * 16 * MIB;
    await using client = await NbdClient.connect(uri, style, contexts);
    const dirty = async () => (await client.blockStatus(at, 8 * MIB)).get("pcache:dirty");
    assertEquals(await dirty(), [{ len_bytes: 8 * MIB, flags: 0 }]);
    await client.write(at + MIB, new Uint8Array(8192));
    await client.cache(at + 2 * MIB, 4096);
    const [before, written, between, prefetched, after] = (await dirty())!;
    assertEquals([before, between, prefetched, after], [
      { len_bytes: MIB, flags: 0 },
      { len_bytes: MIB - 8192, flags: 0 },
      { len_bytes: 4096, flags: 1 },
      { len_bytes: 6 * MIB - 4096, flags: 0 },
    ]);
    // Dirty until it has been written back, clean then.
    assert(written!.len_bytes === 8192 && (written!.flags === 3 || written!.flags === 1));
    const one = await client.blockStatus(at + MIB + 512, 8 * MIB, REQ_ONE);
    assertEquals(one.get("pcache:dirty")!.map((e) => e.len_bytes), [8192 - 512]);
    assertEquals(one.get("base:allocation"), [{ len_bytes: 8 * MIB, flags: 0 }]);
    const refused = await assertRejects(() => client.cache(GIB - 512, 513), NbdError);
    assertEquals([refused.errno, refused.text], [EINVAL, "past the end of the device"]);
  }
}

async function checkRefused(uri: string): Promise<void> {
  await using client = await NbdClient.connect(uri);
  const junk = new Uint8Array(40_000).fill(0x5a);
  const before = await client.read(0, 512);
  for (
    const [type, off, len, flags, payload, errno] of [
      [CMD.READ, GIB, 1, 0, 0, EINVAL],
      [CMD.READ, GIB - 1, 2, 0, 0, EINVAL],
      [CMD.READ, 0, 0, 0, 0, EINVAL],
      [CMD.READ, 0, MAX_BYTES + 1, 0, 0, EINVAL],
      [CMD.READ, 0, 512, 4, 0, EINVAL],
      [CMD.READ, 2 ** 52, 512, 0, 0, EINVAL],
      [CMD.WRITE, GIB - 39_999, 40_000, 0, 40_000, ENOSPC],
      [CMD.WRITE, 0, 512, 64, 512, EINVAL],
      [CMD.WRITE, 0, 0, 0, 0, EINVAL],
      [CMD.FLUSH, 0, 512, 0, 0, EINVAL],
      [CMD.TRIM, 0, 512, NO_HOLE, 0, EINVAL],
      [CMD.TRIM, GIB - 511, 512, 0, 0, EINVAL],
      [CMD.WRITE_ZEROES, GIB - 511, 512, 0, 0, ENOSPC],
      [99, 0, 0, 0, 0, EINVAL],
    ] as const
  ) {
    const what = `type ${type}, ${len} bytes at ${off}, flags ${flags}`;
    const request = () => client.request(type, off, len, 0, flags, junk.subarray(0, payload));
    assertEquals((await assertRejects(request, NbdError, undefined, what)).errno, errno, what);
  }
  const oversized = () =>
    client.request(CMD.WRITE, 0, MAX_BYTES + 1, 0, 0, new Uint8Array(MAX_BYTES + 1));
  assertEquals((await assertRejects(oversized, NbdError)).errno, EINVAL);
  assertEquals(await client.read(0, 512), before);
  await client.request(CMD.READ, 0, 512, 512, FUA);
}

async function checkFlush(uri: string): Promise<void> {
  await using writer = await NbdClient.connect(uri);
  await using flusher = await NbdClient.connect(uri);
  const bytes = randomBytes(new Random(3), 8192);
  await writer.write(900 * MIB, bytes);
  await flusher.flush();
  assertEquals(await flusher.read(900 * MIB, bytes.length), bytes);
}

async function inTransmission(uri: string): Promise<RawConnection> {
  const negotiation = await NbdNegotiation.open(uri);
  await negotiation.exportName("");
  return negotiation.raw;
}

/** The server must end the connection, with nothing more sent. */
async function assertDropped(raw: RawConnection): Promise<void> {
  assertEquals((await raw.takeRest()).length, 0);
  raw.close();
}

const HOSTILE: [string, (uri: string) => Promise<void>][] = [
  ["a client that says nothing and goes", async (uri) => (await RawConnection.open(uri)).close()],
  ["unknown client flags", async (uri) => {
    const raw = await RawConnection.open(uri);
    await raw.send(new Uint8Array([0, 0, 0, 0x13]));
    assertEquals((await raw.takeRest()).length, 18);
    raw.close();
  }],
  ["something else than NBD", async (uri) => {
    const raw = await RawConnection.open(uri);
    await raw.send(encoder.encode("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    assertEquals((await raw.takeRest()).length, 18);
    raw.close();
  }],
  ["an option that claims 4 GiB", async (uri) => {
    const { raw } = await NbdNegotiation.open(uri);
    await raw.send(optionMessage(OPT.INFO, new Uint8Array(0), 0xffffffff));
    await assertDropped(raw);
  }],
  ["options without end", async (uri) => {
    const { raw } = await NbdNegotiation.open(uri);
    const options = Array.from({ length: 10_000 }, () => optionMessage(99, new Uint8Array(9)));
    await raw.send(...options).catch(() => {}); // it is cut off in the middle
    await raw.takeRest();
    raw.close();
  }],
  ["an unknown export by EXPORT_NAME", async (uri) => {
    const negotiation = await NbdNegotiation.open(uri);
    await assertRejects(() => negotiation.exportName("other"), NbdBroken);
    negotiation.raw.close();
  }],
  ["a wrong request magic", async (uri) => {
    const raw = await inTransmission(uri);
    await raw.send(new Uint8Array(28).fill(0x25));
    await assertDropped(raw);
  }],
  ["a write that claims 4 GiB", async (uri) => {
    const raw = await inTransmission(uri);
    await raw.send(requestMessage(CMD.WRITE, 1, 0, 0xffffffff, 0), new Uint8Array(100_000))
      .catch(() => {});
    await raw.takeRest();
    raw.close();
  }],
  ["half a request header", async (uri) => {
    const raw = await inTransmission(uri);
    await raw.send(requestMessage(CMD.READ, 1, 0, 512, 0).subarray(0, 20));
    await raw.closeWrite();
    await assertDropped(raw);
  }],
  ["a client that vanishes in a short payload", (uri) => vanishInPayload(uri, 4096, 4000)],
  ["a client that vanishes in a long payload", (uri) => vanishInPayload(uri, 20 * MIB, 15 * MIB)],
  ["a client that vanishes in a skipped payload", async (uri) => {
    const raw = await inTransmission(uri);
    await raw.send(requestMessage(CMD.WRITE, 1, GIB, 5000, 0), new Uint8Array(100));
    raw.close();
  }],
  ["a client that vanishes with many requests under way", async (uri) => {
    const raw = await inTransmission(uri);
    const reads = Array.from({ length: 200 }, (_, i) => requestMessage(CMD.READ, i, i, 9999, 0));
    await raw.send(...reads);
    raw.close();
  }],
  ["a client that asks for much and reads nothing", async (uri) => {
    const raw = await inTransmission(uri);
    const reads = Array.from({ length: 100 }, () => requestMessage(CMD.READ, 1, 0, MAX_BYTES, 0));
    await raw.send(...reads);
    await using other = await NbdClient.connect(uri);
    for (let i = 0; i < 20; i++) await other.read(i * KIB, 64 * KIB);
    raw.close();
  }],
  ["a client that sends byte by byte", async (uri) => {
    const raw = await inTransmission(uri);
    const payload = new Uint8Array(100).fill(7);
    const messages = [requestMessage(CMD.WRITE, 1, 500 * MIB + 3, 100, 0), payload];
    for (const message of messages) {
      for (const byte of message) await raw.send(new Uint8Array([byte]));
    }
    assertEquals((await raw.take(16)).subarray(4, 16).toHex(), "00000000" + "0000000000000001");
    raw.close();
  }],
  ["more clients than places", async (uri) => {
    const clients: RawConnection[] = [];
    for (let i = 0; i < MAX_CONNECTIONS + 20; i++) clients.push(await RawConnection.open(uri));
    await (await NbdClient.connect(uri).catch(() => NbdClient.connect(uri))).close();
    for (const client of clients) client.close();
  }],
];

async function vanishInPayload(uri: string, len: number, sent: number): Promise<void> {
  await using other = await NbdClient.connect(uri);
  const off = 700 * MIB;
  const before = await other.read(off, len);
  const raw = await inTransmission(uri);
  await raw.send(requestMessage(CMD.WRITE, 1, off, len, 0), new Uint8Array(sent).fill(0xee));
  raw.close();
  // A write that was never whole has not happened.
  for (let i = 0; i < 3; i++) assertSame(await other.read(off, len), before, "the old content");
}

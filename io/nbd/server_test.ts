import { assert, assertEquals } from "@std/assert";
import { EINVAL, EIO, ENOSPC, OK } from "../../core/errors.ts";
import { KIND_SHIFT } from "../tokens.ts";
import { RECV_BYTES } from "./connection.ts";
import { FakeArena, FakeEngine, FakeRing, type FakeSocket, Random } from "./fakes.ts";
import { transmissionFlags } from "./handshake.ts";
import * as nbd from "./protocol.ts";
import { MAX_ACTIVE, MAX_CONNECTIONS, NbdServer } from "./server.ts";

const SIZE_BYTES = 1 << 20;
const WINDOW_BYTES = 160 * 1024;
const SLOTS = 24;
const LISTEN_FD = 3;
const KiB = 1024;

interface RigOptions {
  seed?: number;
  slots?: number;
  read_only?: boolean;
  receives_past_caches?: boolean;
}

/** A server with a fake machine under it. */
class Rig {
  readonly random: Random;
  readonly arena: FakeArena;
  readonly ring: FakeRing;
  readonly engine: FakeEngine;
  readonly server: NbdServer;
  now_ms = 0;

  constructor(o: RigOptions = {}) {
    const slots = o.slots ?? SLOTS;
    this.random = new Random(o.seed ?? 1);
    this.arena = new FakeArena(slots * WINDOW_BYTES, NbdServer.ARENA_BYTES);
    this.ring = new FakeRing(this.arena, this.random);
    this.engine = new FakeEngine(this.arena, this.random, SIZE_BYTES, slots, WINDOW_BYTES);
    for (let i = 0; i < SIZE_BYTES; i++) this.engine.content[i] = (i * 7 + (i >> 9)) & 255;
    this.server = new NbdServer({
      arena: this.arena,
      ring: this.ring,
      memory: {
        receive: (to, from, len) => void this.arena.bytes.copyWithin(to, from, from + len),
        receives_past_caches: o.receives_past_caches ?? false,
      },
      engine: this.engine,
      sockets: this.ring,
      served: {
        is_failing: false,
        name: "fast",
        description: "a test",
        size_bytes: SIZE_BYTES,
        max_request_bytes: nbd.MAX_REQUEST_BYTES,
        read_only: o.read_only ?? false,
      },
      listener: { fd: LISTEN_FD, tcp: false },
    });
    this.server.start();
  }

  /** One turn of a device's loop; false when nothing has moved. */
  turn(): boolean {
    let moved = false;
    for (let batch = 1 + this.random.next(8); batch > 0 && this.ring.next(); batch--) {
      this.server.handle(this.ring.user >>> KIND_SHIFT, this.ring.user, this.ring.result);
      moved = true;
    }
    do {
      this.engine.pump();
    } while (this.server.turn(this.now_ms));
    return moved;
  }

  /** Turns until nothing moves any more, the engine's slowness included. */
  settle(): void {
    for (let quiet = 0; quiet < 60; quiet++) if (this.turn()) quiet = 0;
  }

  /** A client in the transmission phase. */
  client(): Client {
    const client = new Client(this.ring.connect());
    client.send(u32(3), option(nbd.OPT_GO, [...u32(0), 0, 0]));
    this.settle();
    const reply = client.take(18 + 20 + 12 + 20);
    assertEquals(reply.slice(-4), [0, 0, 0, 0]);
    return client;
  }

  /** Everything the clients left behind is gone. */
  assertIdle(): void {
    assertEquals(this.server.open_count, 0);
    assertEquals(this.engine.requests_in_use, 0);
    for (const socket of this.ring.sockets.values()) assert(socket.closed, `socket ${socket.fd}`);
  }
}

function u32(...values: number[]): number[] {
  return values.flatMap((v) => [v >>> 24, (v >>> 16) & 255, (v >>> 8) & 255, v & 255]);
}
function option(number: number, data: number[]): number[] {
  return [...u32(nbd.OPTION_MAGIC_HI, nbd.OPTION_MAGIC_LO, number, data.length), ...data];
}

interface Reply {
  cookie: number;
  errno: number;
  data: number[];
}

class Client {
  readonly socket: FakeSocket;
  /** Length of the data that a good reply to a cookie carries. */
  readonly expected = new Map<number, number>();
  constructor(socket: FakeSocket) {
    this.socket = socket;
  }

  send(...parts: number[][]): void {
    for (const part of parts) this.socket.inbox.push(part);
  }

  take(count: number): number[] {
    return [...this.socket.outbox.take(count)];
  }

  request(cookie: number, type: number, off: number, len: number, flags = 0): void {
    const head = [flags >> 8, flags & 255, type >> 8, type & 255];
    this.expected.set(cookie, type === nbd.CMD_READ ? len : 0);
    const where = u32(Math.floor(off / 2 ** 32), off % 2 ** 32, len);
    this.send(u32(nbd.REQUEST_MAGIC), head, u32(0xabcdef01, cookie), where);
  }
  write(cookie: number, off: number, data: number[], flags = 0): void {
    this.request(cookie, nbd.CMD_WRITE, off, data.length, flags);
    this.send(data);
  }

  /** Takes all replies that are there, each complete. */
  replies(): Reply[] {
    const found: Reply[] = [];
    while (this.socket.outbox.length > 0) {
      const view = new DataView(new Uint8Array(this.take(16)).buffer);
      assertEquals(view.getUint32(0), nbd.SIMPLE_REPLY_MAGIC);
      assertEquals(view.getUint32(8), 0xabcdef01);
      const [errno, cookie] = [view.getUint32(4), view.getUint32(12)];
      const len = this.expected.get(cookie);
      if (len === undefined) throw new Error(`reply to an unknown request ${cookie}`);
      this.expected.delete(cookie);
      found.push({ cookie, errno, data: errno === OK ? this.take(len) : [] });
    }
    return found;
  }

  disconnect(): void {
    this.request(0, nbd.CMD_DISC, 0, 0);
    this.expected.delete(0);
  }
}

function bytesOf(seed: number, len: number): number[] {
  return Array.from({ length: len }, (_, i) => (i * 31 + seed * 17 + (i >> 8)) & 255);
}

/** [cookie, errno] of each reply, by cookie. */
function outcomes(replies: Reply[]): [number, number][] {
  return replies.map((r): [number, number] => [r.cookie, r.errno]).sort((a, b) => a[0] - b[0]);
}

Deno.test("read, write, FUA, flush and disconnect", () => {
  const rig = new Rig();
  const client = rig.client();
  client.write(1, 1000, bytesOf(1, 3000));
  rig.settle();
  client.request(2, nbd.CMD_READ, 900, 5000);
  client.write(3, 8192, bytesOf(3, 4096), nbd.CMD_FLAG_FUA);
  client.request(4, nbd.CMD_FLUSH, 0, 0);
  rig.settle();
  const replies = client.replies();
  assertEquals(outcomes(replies), [[1, OK], [2, OK], [3, OK], [4, OK]]);
  const read = replies.find((r) => r.cookie === 2)!.data;
  assertEquals(read, [...rig.engine.content.subarray(900, 5900)]);
  assertEquals(read.slice(100, 3100), bytesOf(1, 3000));
  assertEquals([rig.engine.fua_writes, rig.engine.flushes], [1, 1]);
  client.disconnect();
  rig.settle();
  assertEquals(client.socket.outbox.length, 0);
  rig.assertIdle();
});

Deno.test("EXPORT_NAME leads to the transmission phase, with requests right behind it", () => {
  const rig = new Rig();
  const client = new Client(rig.ring.connect());
  client.send(u32(3), option(nbd.OPT_EXPORT_NAME, []));
  client.request(1, nbd.CMD_READ, 0, 512);
  rig.settle();
  client.take(18);
  const flags = transmissionFlags(false);
  assertEquals(client.take(10), [...u32(0, SIZE_BYTES), flags >> 8, flags & 255]);
  assertEquals(outcomes(client.replies()), [[1, OK]]);
  client.disconnect();
  rig.settle();
  rig.assertIdle();
});

Deno.test("refused requests get their error, and the next request is served", () => {
  const rig = new Rig();
  const client = rig.client();
  client.request(1, nbd.CMD_READ, SIZE_BYTES - 100, 101);
  client.write(2, SIZE_BYTES - 100, bytesOf(2, 50_000));
  client.request(3, 4, 0, 4096);
  client.request(4, nbd.CMD_READ, 0, 0);
  client.write(5, 0, []);
  client.write(6, 0, bytesOf(6, 512), 0x10);
  client.request(7, nbd.CMD_READ, 2 ** 63, 512);
  client.request(8, nbd.CMD_READ, 0, nbd.MAX_REQUEST_BYTES + 1);
  client.request(9, nbd.CMD_READ, SIZE_BYTES - 10, 10);
  client.write(10, 77, bytesOf(10, 700));
  rig.settle();
  assertEquals(outcomes(client.replies()), [
    [1, EINVAL],
    [2, ENOSPC],
    [3, EINVAL],
    [4, EINVAL],
    [5, EINVAL],
    [6, EINVAL],
    [7, EINVAL],
    [8, EINVAL],
    [9, EIO],
    [10, OK],
  ]);
  assertEquals([...rig.engine.content.subarray(77, 777)], bytesOf(10, 700));
  client.disconnect();
  rig.settle();
  rig.assertIdle();
});

Deno.test("an oversized write is skipped, a monstrous one ends the connection", () => {
  const rig = new Rig();
  const client = rig.client();
  client.request(1, nbd.CMD_WRITE, 0, nbd.MAX_REQUEST_BYTES + 5);
  const junk = bytesOf(0, RECV_BYTES - 1);
  for (let left = nbd.MAX_REQUEST_BYTES + 5; left > 0; left -= junk.length) {
    client.send(left >= junk.length ? junk : junk.slice(0, left));
    rig.settle();
  }
  client.request(2, nbd.CMD_READ, 0, 512);
  rig.settle();
  assertEquals(outcomes(client.replies()), [[1, EINVAL], [2, OK]]);
  client.request(3, nbd.CMD_WRITE, 0, nbd.MAX_SKIPPED_BYTES + 1);
  rig.settle();
  assertEquals(client.socket.outbox.length, 0);
  rig.assertIdle();
});

Deno.test("a read-only device refuses writes and says so", () => {
  const rig = new Rig({ read_only: true });
  const before = rig.engine.content.slice();
  const client = rig.client();
  client.write(1, 0, bytesOf(1, 60_000));
  client.request(2, nbd.CMD_READ, 0, 600);
  client.request(3, nbd.CMD_FLUSH, 0, 0);
  rig.settle();
  assertEquals(outcomes(client.replies()), [[1, nbd.EPERM], [2, OK], [3, OK]]);
  assertEquals(rig.engine.content, before);
});

Deno.test("a wrong magic drops only that connection", () => {
  const rig = new Rig();
  const [bad, good] = [rig.client(), rig.client()];
  rig.engine.is_asleep = true;
  bad.request(1, nbd.CMD_READ, 0, 4096);
  bad.send(u32(0xdeadbeef), new Array(24).fill(0));
  rig.settle();
  assertEquals(rig.server.serving_count, 1);
  rig.engine.is_asleep = false;
  good.request(2, nbd.CMD_READ, 0, 4096);
  rig.settle();
  assertEquals(bad.socket.outbox.length, 0);
  assert(bad.socket.closed);
  assertEquals(outcomes(good.replies()), [[2, OK]]);
  assertEquals(rig.engine.requests_in_use, 0);
});

Deno.test("a client that sends and reads single bytes is served like any other", () => {
  const rig = new Rig();
  rig.ring.chop_bytes = 1;
  const client = rig.client();
  client.write(1, 5, bytesOf(1, 600));
  client.request(2, nbd.CMD_FLUSH, 0, 0);
  rig.settle();
  client.request(3, nbd.CMD_READ, 0, 1000);
  rig.settle();
  const replies = client.replies();
  assertEquals(outcomes(replies), [[1, OK], [2, OK], [3, OK]]);
  assertEquals(replies[2]!.data.slice(5, 605), bytesOf(1, 600));
});

Deno.test("one client's writes wait for space, others go on", () => {
  const rig = new Rig();
  const [writer, reader] = [rig.client(), rig.client()];
  rig.engine.is_full = true;
  writer.write(1, 0, bytesOf(1, 100_000));
  writer.request(2, nbd.CMD_READ, 0, 512);
  rig.settle();
  reader.request(3, nbd.CMD_READ, 0, 512);
  rig.settle();
  assertEquals(outcomes(writer.replies()), []);
  assertEquals(outcomes(reader.replies()), [[3, OK]]);
  rig.engine.is_full = false;
  rig.settle();
  assertEquals(outcomes(writer.replies()), [[1, OK], [2, OK]]);
  assertEquals([...rig.engine.content.subarray(0, 100_000)], bytesOf(1, 100_000));
});

Deno.test("a write that fails before it has a place: its payload is skipped", () => {
  const rig = new Rig();
  const client = rig.client();
  rig.engine.is_full = true;
  client.write(1, 0, bytesOf(1, 3000));
  client.write(2, 0, bytesOf(2, 150_000));
  client.request(3, nbd.CMD_READ, 0, 512);
  rig.settle();
  rig.engine.is_broken = true;
  rig.settle();
  assertEquals(outcomes(client.replies()), [[1, EIO], [2, EIO], [3, OK]]);
  client.disconnect();
  rig.settle();
  rig.assertIdle();
});

Deno.test("a client that reads nothing holds up nobody and cannot take all slots", () => {
  const rig = new Rig();
  const [stuck, other] = [rig.client(), rig.client()];
  stuck.socket.stuck = true;
  for (let i = 1; i <= 100; i++) stuck.request(i, nbd.CMD_READ, i * 512, 5000);
  rig.settle();
  assertEquals(rig.engine.requests_in_use, SLOTS / 2);
  for (let i = 1; i <= 100; i++) other.request(i, nbd.CMD_READ, i * 512, 500);
  rig.settle();
  assertEquals(other.replies().length, 100);
  stuck.socket.stuck = false;
  rig.settle();
  assertEquals(stuck.replies().length, 100);
  assertEquals(rig.engine.requests_in_use, 0);
});

Deno.test("error replies are limited as well", () => {
  const rig = new Rig({ slots: 2 * MAX_ACTIVE });
  const client = rig.client();
  client.socket.stuck = true;
  for (let i = 1; i <= 3 * MAX_ACTIVE; i++) client.request(i, 99, 0, 0);
  rig.settle();
  client.socket.stuck = false;
  rig.settle();
  assertEquals(client.replies().length, 3 * MAX_ACTIVE);
});

Deno.test("a reply of more pieces than a message takes leaves in several", () => {
  const rig = new Rig();
  rig.engine.piece_bytes = 9;
  const client = rig.client();
  client.request(1, nbd.CMD_READ, 0, 50_000);
  client.request(2, nbd.CMD_READ, 3, 50_000);
  rig.settle();
  const replies = client.replies();
  assertEquals(outcomes(replies), [[1, OK], [2, OK]]);
  for (const { cookie, data } of replies) {
    const off = cookie === 1 ? 0 : 3;
    assertEquals(data, [...rig.engine.content.subarray(off, off + 50_000)]);
  }
});

Deno.test("slots are shared among stalled connections", () => {
  const rig = new Rig({ slots: 4 });
  rig.engine.pace_percent = 30;
  const clients = Array.from({ length: 6 }, () => rig.client());
  for (const client of clients) {
    for (let i = 1; i <= 50; i++) client.request(i, nbd.CMD_READ, 0, 512);
  }
  rig.settle();
  for (const client of clients) assertEquals(client.replies().length, 50);
});

Deno.test("requests that were complete when the client closed its side are answered", () => {
  const rig = new Rig();
  const client = rig.client();
  rig.engine.is_full = true;
  client.write(1, 0, bytesOf(1, 5000));
  client.request(2, nbd.CMD_READ, 0, 512);
  client.socket.client_ended = true;
  rig.settle();
  rig.engine.is_full = false;
  rig.settle();
  assertEquals(outcomes(client.replies()), [[1, OK], [2, OK]]);
  rig.assertIdle();
});

type Trouble = "works" | "sleeps" | "is full" | "breaks";

// Where the client is when it vanishes: [what, sends, the engine then]
const VANISHING: [string, (client: Client) => void, Trouble][] = [
  ["in a header", (c) => c.send(u32(nbd.REQUEST_MAGIC)), "works"],
  ["with reads in the engine", (c) => readMany(c, 20), "sleeps"],
  ["in a short payload", (c) => partOfWrite(c, 4096, 4095), "works"],
  ["in a long payload", (c) => partOfWrite(c, 150 * KiB, 149 * KiB), "works"],
  ["before a payload", (c) => partOfWrite(c, 150 * KiB, 0), "works"],
  ["in a payload without a place", (c) => partOfWrite(c, 150 * KiB, 10), "is full"],
  ["with a whole payload without a place", (c) => partOfWrite(c, 9000, 9000), "is full"],
  ["in the payload of a write that fails", (c) => partOfWrite(c, 9000, 500), "breaks"],
  ["behind a full buffer", (c) => [1, 2, 3].map(() => partOfWrite(c, 9e4, 9e4)), "is full"],
  ["in a skipped payload", (c) => c.request(1, nbd.CMD_WRITE, SIZE_BYTES, 5000), "works"],
  ["with a reply half sent", (c) => readMany(c, 20), "works"],
];

function readMany(client: Client, count: number): void {
  for (let i = 1; i <= count; i++) client.request(i, nbd.CMD_READ, i, 3000);
}
function partOfWrite(client: Client, len: number, sent: number): void {
  client.request(1, nbd.CMD_WRITE, 0, len);
  client.send(bytesOf(1, sent));
}

Deno.test("a client may vanish anywhere: nothing of it stays, the others go on", () => {
  for (const [what, act, engine_then] of VANISHING) {
    for (const turns of [0, 1, 5, 1000]) {
      const rig = new Rig({ seed: turns + 1 });
      const [victim, other] = [rig.client(), rig.client()];
      rig.engine.is_asleep = engine_then === "sleeps";
      rig.engine.is_full = engine_then === "is full";
      rig.engine.is_broken = engine_then === "breaks";
      rig.ring.chop_bytes = 2000;
      act(victim);
      for (let i = 0; i < turns; i++) rig.turn();
      victim.socket.client_gone = true;
      victim.socket.client_ended = true;
      rig.settle();
      rig.engine.is_asleep = false;
      rig.engine.is_full = false;
      rig.settle();
      assert(victim.socket.closed, `${what}, ${turns} turns: closed`);
      assertEquals(rig.engine.requests_in_use, 0, `${what}, ${turns} turns: requests`);
      rig.engine.is_asleep = true; // so that every slot is taken once
      for (let i = 1; i <= SLOTS; i++) other.request(i, nbd.CMD_READ, 0, 512);
      rig.settle();
      rig.engine.is_asleep = false;
      rig.settle();
      assertEquals(other.replies().length, SLOTS, `${what}, ${turns} turns: the other`);
    }
  }
});

Deno.test("all places taken: a client is turned away, unless one that only negotiates can go", () => {
  const rig = new Rig();
  const clients = Array.from({ length: MAX_CONNECTIONS - 1 }, () => rig.client());
  const silent = rig.ring.connect();
  rig.settle();
  assertEquals(rig.server.open_count, MAX_CONNECTIONS);
  const late = rig.ring.connect();
  rig.settle();
  assert(late.closed && silent.closed, "the silent one made room for the next");
  clients.shift()!.disconnect();
  rig.settle();
  const older = rig.ring.connect();
  rig.settle();
  const newer = rig.ring.connect();
  rig.settle();
  rig.ring.connect();
  rig.settle();
  assert(older.closed && !newer.closed, "the older one goes first");
  clients.push(rig.client());
  newer.client_gone = true;
  rig.settle();
  clients.push(rig.client());
  const later = rig.ring.connect();
  rig.settle();
  assert(later.closed, "nobody can go");
  assertEquals(rig.server.serving_count, MAX_CONNECTIONS);
  for (const client of clients) client.disconnect();
  rig.settle();
  rig.assertIdle();
  rig.client();
});

Deno.test("a failed accept is tried again after a pause", () => {
  const rig = new Rig();
  rig.ring.failing_accepts = 1;
  const socket = rig.ring.connect();
  rig.settle();
  assertEquals(socket.outbox.length, 0);
  assert(rig.server.nextTimerMs(rig.now_ms) <= 1000);
  rig.now_ms += 1001;
  rig.settle();
  assertEquals(socket.outbox.length, 18);
  assertEquals(rig.server.nextTimerMs(rig.now_ms), Infinity);
});

Deno.test("refusing turns newcomers away; dropAll ends everybody", () => {
  const rig = new Rig();
  const client = rig.client();
  rig.server.refusing = true;
  const late = rig.ring.connect();
  rig.settle();
  assert(late.closed && !client.socket.closed);
  rig.engine.is_asleep = true;
  client.request(1, nbd.CMD_READ, 0, 512);
  rig.settle();
  rig.server.dropAll();
  rig.engine.is_asleep = false;
  rig.settle();
  rig.assertIdle();
});

/** Suspends the server until nothing moves, and lets it go on. */
function suspend(rig: Rig, with_answers: boolean): void {
  rig.server.hold(with_answers ? "requests and answers" : "requests");
  rig.settle();
  if (!with_answers) assertEquals(rig.server.unanswered_count, 0);
  const in_use = rig.engine.requests_in_use;
  rig.settle();
  assertEquals(rig.engine.requests_in_use, in_use);
  rig.server.hold(null);
}

Deno.test("held: what is under way is answered, what comes is not, until it goes on", () => {
  const rig = new Rig();
  const [client, leaving, gone] = [rig.client(), rig.client(), rig.client()];
  rig.engine.is_asleep = true;
  client.request(1, nbd.CMD_READ, 0, 512);
  client.request(2, nbd.CMD_WRITE, 4096, 4096); // its payload comes later
  rig.settle();
  rig.server.hold("requests");
  assertEquals(rig.server.unanswered_count, 1);
  rig.engine.is_asleep = false;
  rig.settle();
  assertEquals(rig.server.unanswered_count, 0);
  assertEquals(outcomes(client.replies()), [[1, OK]]);

  client.send(bytesOf(2, 4096));
  client.request(3, nbd.CMD_FLUSH, 0, 0);
  leaving.disconnect();
  gone.socket.client_ended = true;
  rig.settle();
  assertEquals(client.replies(), []);
  assertEquals(rig.server.serving_count, 1);
  rig.server.hold(null);
  rig.settle();
  assertEquals(outcomes(client.replies()), [[2, OK], [3, OK]]);
  assertEquals([...rig.engine.content.subarray(4096, 8192)], bytesOf(2, 4096));
  client.disconnect();
  rig.settle();
  rig.assertIdle();
});

Deno.test("held with its answers: nothing is answered, whatever ends", () => {
  const rig = new Rig();
  const client = rig.client();
  rig.engine.is_asleep = true;
  client.request(1, nbd.CMD_READ, 0, 512);
  rig.settle();
  rig.server.hold("requests and answers");
  rig.engine.is_asleep = false;
  rig.settle();
  assertEquals(client.replies(), []);
  rig.server.hold(null);
  rig.settle();
  assertEquals(outcomes(client.replies()), [[1, OK]]);
});

Deno.test("a write that was never completed can be dropped, and then everything fails", () => {
  const rig = new Rig();
  const [client, other] = [rig.client(), rig.client()];
  client.request(1, nbd.CMD_WRITE, 0, 4096);
  rig.settle();
  rig.server.dropUnfinished();
  rig.settle();
  assert(client.socket.closed && !other.socket.closed);
  assertEquals(rig.engine.requests_in_use, 0);
});

/** Random requests of several clients, each in its own part of the device, against what they wrote themselves. */
function storm(seed: number, rounds: number): void {
  const rig = new Rig({ seed, slots: 12, receives_past_caches: seed % 2 === 0 });
  const random = new Random(seed ^ 0x5eed);
  rig.engine.piece_bytes = [100, 3000, 1 << 20][random.next(3)]!;
  rig.engine.pace_percent = 20 + random.next(80);
  rig.ring.chop_bytes = [0, 700, 5000, 70_000][random.next(4)]!;
  const clients = Array.from({ length: 3 }, () => rig.client());
  const part_bytes = 300 * KiB;
  const content = rig.engine.content.slice();
  for (let round = 0; round < rounds; round++) {
    const checks: (() => void)[] = [];
    for (const [i, client] of clients.entries()) {
      client.socket.stuck = random.chance(20);
      let at = i * part_bytes;
      const wanted = new Map<number, [number, number]>();
      // Requests of one round do not overlap: their order is free.
      for (let cookie = 1; cookie <= 40; cookie++) {
        const len = 1 + random.next(random.chance(8) ? 100_000 : 6000);
        if (at + len > (i + 1) * part_bytes) break;
        if (random.chance(50)) {
          const data = bytesOf(random.next(1000), len);
          content.set(data, at);
          client.write(cookie, at, data, random.next(2));
        } else {
          client.request(cookie, nbd.CMD_READ, at, len);
          wanted.set(cookie, [at, len]);
        }
        at += len + random.next(3000);
      }
      if (random.chance(30)) client.request(99, nbd.CMD_FLUSH, 0, 0);
      checks.push(() => {
        const replies = client.replies();
        assertEquals(client.expected.size, 0, "every request is answered once");
        for (const { cookie, errno, data } of replies) {
          assertEquals(errno, OK);
          const [off, len] = wanted.get(cookie) ?? [0, 0];
          assert(data.every((byte, k) => byte === content[off + k]), `read ${off} ${len}`);
        }
      });
    }
    // Suspended in the middle of it, or not: it makes no difference in the end.
    for (let turn = random.next(30); turn > 0; turn--) rig.turn();
    if (random.chance(60)) suspend(rig, random.chance(50));
    rig.settle();
    for (const client of clients) client.socket.stuck = false;
    rig.settle();
    for (const check of checks) check();
  }
  assertEquals(rig.engine.content, content);
  for (const client of clients) client.disconnect();
  rig.settle();
  rig.assertIdle();
}

Deno.test("storms of requests, chopped and shuffled from seeds", () => {
  for (let seed = 1; seed <= 15; seed++) {
    try {
      storm(seed, 4);
    } catch (error) {
      throw new Error(`seed ${seed}`, { cause: error });
    }
  }
});

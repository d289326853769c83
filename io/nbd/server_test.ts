import { assert, assertEquals } from "@std/assert";
import { EINVAL, EIO, ENOSPC, OK } from "../../core/errors.ts";
import { PATIENCE_MS, RECV_BYTES } from "./connection.ts";
import { HELLO, Random, STATE_BYTES } from "./fakes.ts";
import { transmissionFlags } from "./handshake.ts";
import * as nbd from "./protocol.ts";
import {
  bytesOf,
  Client,
  KiB,
  option,
  outcomes,
  requestHeader,
  Rig,
  SERVED,
  SIZE_BYTES,
  SLOTS,
  STYLES,
  u32,
} from "./rig.ts";
import { MAX_ACTIVE, MAX_CONNECTIONS } from "./server.ts";
import { EXTENDED, SIMPLE, STRUCTURED } from "./session.ts";

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
  const flags = transmissionFlags(SERVED, SIMPLE);
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
  client.request(3, nbd.CMD_TRIM, SIZE_BYTES, 4096);
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
  rig.ring.chop_bytes = 2000;
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

Deno.test("a client has bytes of reads under way as far as a part of the buffers goes", () => {
  const MiB = 1024 * KiB;
  const options = { slots: 20, window_bytes: 5 * MiB, size_bytes: 8 * MiB };
  for (const type of [nbd.CMD_READ, nbd.CMD_CACHE]) {
    const rig = new Rig(options);
    const client = rig.client();
    rig.engine.is_asleep = true;
    for (let i = 1; i <= 10; i++) client.request(i, type, i, 5 * MiB);
    rig.settle();
    assertEquals(rig.engine.requests_in_use, 4);
    rig.engine.is_asleep = false;
    rig.settle();
    const reply_bytes = 16 + (type === nbd.CMD_READ ? 5 * MiB : 0);
    assertEquals(client.socket.outbox.length, 10 * reply_bytes);
    assertEquals(rig.engine.requests_in_use, 0);
  }
});

Deno.test("a client that is slow to take its replies has fewer reads under way, until it is faster", () => {
  const rig = new Rig({ slots: 1024, window_bytes: 512 });
  const client = rig.client();
  const ask = (count: number) => {
    for (let i = 0; i < count; i++) {
      client.socket.inbox.push(requestHeader(SIMPLE, 1, nbd.CMD_READ, 0, 512));
    }
    rig.settle();
  };
  client.socket.stuck = true;
  ask(2000);
  assertEquals(rig.engine.requests_in_use, 256);
  rig.pass(5000);
  // One message leaves: what comes after it is little.
  rig.ring.chop_bytes = 2000;
  client.socket.stuck = false;
  while (rig.engine.requests_in_use === 256) rig.turn();
  client.socket.stuck = true;
  rig.ring.chop_bytes = 0;
  rig.settle();
  assertEquals(rig.engine.requests_in_use, 4);
  client.socket.stuck = false;
  rig.settle();
  client.socket.stuck = true;
  ask(2000);
  assertEquals(rig.engine.requests_in_use, 256);
});

Deno.test("a client that takes no replies, or sends no payload, is dropped after a while", () => {
  const STALLS: [string, (client: Client) => void][] = [
    ["takes no replies", (client) => client.request(1, nbd.CMD_READ, 0, 512)],
    ["takes no replies and leaves", (client) => {
      client.request(1, nbd.CMD_READ, 0, 512);
      client.disconnect();
    }],
    ["sends no payload", (client) => client.request(1, nbd.CMD_WRITE, 0, 50_000)],
    ["sends part of a payload", (client) => {
      client.request(1, nbd.CMD_WRITE, 0, 100_000);
      client.send(bytesOf(1, 40_000));
    }],
  ];
  for (const [what, stall] of STALLS) {
    const rig = new Rig();
    const [client, other] = [rig.client(), rig.client()];
    client.socket.stuck = true;
    stall(client);
    rig.settle();
    assertEquals(rig.engine.requests_in_use, 1, what);
    rig.pass(PATIENCE_MS - 2000);
    assert(!client.socket.closed, what);
    rig.pass(4000);
    assert(client.socket.closed, what);
    assertEquals(rig.engine.requests_in_use, 0, what);
    assertEquals(rig.server.nextTimerMs(rig.now_ms), Infinity);
    other.request(1, nbd.CMD_READ, 0, 512);
    rig.settle();
    assertEquals(outcomes(other.replies()), [[1, OK]]);
  }
});

Deno.test("a client that is slow, silent or suspended is not dropped", () => {
  const rig = new Rig({ slots: 4, window_bytes: 4096 * KiB, size_bytes: 8192 * KiB });
  const client = rig.client();
  rig.pass(10 * PATIENCE_MS);
  client.request(1, nbd.CMD_WRITE, 5, 3 * 1024 * KiB + 9);
  for (let part = 0; part < 3; part++) {
    rig.pass(PATIENCE_MS * 0.6);
    client.send(bytesOf(part, 1024 * KiB));
  }
  rig.pass(PATIENCE_MS * 0.9);
  rig.server.hold("requests");
  rig.pass(10 * PATIENCE_MS);
  rig.server.hold(null);
  rig.pass(PATIENCE_MS * 0.9);
  client.send(bytesOf(3, 9));
  rig.settle();
  assertEquals(outcomes(client.replies()), [[1, OK]]);
  client.disconnect();
  rig.settle();
  rig.assertIdle();
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
  rig.pass(1000); // somebody was waited for to take the greeting
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

const TOLD: [string, (client: Client) => void, number, string][] = [
  ["read", (c) => c.request(1, nbd.CMD_READ, SIZE_BYTES, 1), EINVAL, "past the end of the device"],
  [
    "read that fails",
    (c) => c.request(1, nbd.CMD_READ, SIZE_BYTES - 1, 1),
    EIO,
    "read: the backing device failed, or the only copy does not have its checksum",
  ],
  ["write", (c) => c.write(1, SIZE_BYTES, [1]), ENOSPC, "write: past the end of the device"],
  ["command", (c) => c.request(1, 99, 0, 1), EINVAL, "the command is not known"],
  [
    "oversized read in one chunk",
    (c) => c.request(1, nbd.CMD_READ, 0, nbd.MAX_REQUEST_BYTES + 1, nbd.CMD_FLAG_DF),
    nbd.EOVERFLOW,
    "read: too long for one chunk",
  ],
];

Deno.test("errors come with a text where the client takes one", () => {
  for (const style of [STRUCTURED, EXTENDED]) {
    const rig = new Rig();
    const client = rig.client(style);
    for (const [what, act, errno, text] of TOLD) {
      act(client);
      client.request(2, nbd.CMD_FLUSH, 0, 0);
      rig.settle();
      const replies = client.replies().sort((a, b) => a.cookie - b.cookie);
      assertEquals(
        replies.map((r) => [r.cookie, r.errno, r.text]),
        [[1, errno, text], [2, OK, ""]],
        what,
      );
    }
  }
});

Deno.test("a read in one chunk is one, whatever it is made of; DF needs structured replies", () => {
  for (const style of STYLES) {
    const rig = new Rig();
    rig.engine.piece_bytes = 100;
    const client = rig.client(style);
    client.request(1, nbd.CMD_READ, 77, 70_000, nbd.CMD_FLAG_DF);
    rig.settle();
    const [reply] = client.replies();
    assertEquals(reply!.errno, style === SIMPLE ? EINVAL : OK);
    const wanted = style === SIMPLE ? [] : [...rig.engine.content.subarray(77, 70_077)];
    assertEquals(reply!.data, wanted);
  }
});

Deno.test("a read tells of zeroes that are known, and sends them only where it must be one chunk", () => {
  for (const style of STYLES) {
    const rig = new Rig();
    rig.engine.piece_bytes = 300;
    rig.ring.chop_bytes = 700;
    const client = rig.client(style);
    client.request(1, nbd.CMD_TRIM, 1000, 5000);
    client.request(2, nbd.CMD_TRIM, 9000, 2000);
    rig.settle();
    client.replies();
    const off = 500;
    const len = 10_000;
    client.request(20, nbd.CMD_READ, 2000, 1000);
    client.request(21, nbd.CMD_READ, 20_000, 1000);
    if (style !== SIMPLE) client.request(22, nbd.CMD_READ, off, len, nbd.CMD_FLAG_DF);
    rig.settle();
    for (let i = 10; i < 20; i++) client.request(i, nbd.CMD_READ, off, len);
    rig.settle();
    let splits = 0;
    for (const { cookie, data, chunks } of client.replies()) {
      const [from, count] = cookie < 20 || cookie === 22
        ? [off, len]
        : cookie === 20
        ? [2000, 1000]
        : [20_000, 1000];
      assertEquals(data, [...rig.engine.content.subarray(from, from + count)], `${cookie}`);
      if (style === SIMPLE) continue;
      const kinds = chunks.map(([kind]) => kind).join();
      if (kinds === "data,hole,data,hole,data" || kinds === "data,hole,data,hole") splits += 1;
      else if (cookie === 20) assertEquals(chunks, [["hole", 1000]]);
      else assertEquals(chunks, [["data", count]]);
    }
    // Several replies at a time, not all of them.
    assert(style === SIMPLE ? splits === 0 : splits >= 4, `${splits} replies with holes`);
    client.disconnect();
    rig.settle();
    rig.assertIdle();
  }
});

Deno.test("a read of too many parts is sent whole, zeroes and all", () => {
  const rig = new Rig();
  rig.engine.piece_bytes = 20;
  const client = rig.client(EXTENDED);
  for (let i = 0; i < 100; i++) client.request(i, nbd.CMD_WRITE_ZEROES, i * 1000, 500);
  rig.settle();
  client.replies();
  client.request(1000, nbd.CMD_READ, 0, 100_000);
  rig.settle();
  assertEquals(client.replies()[0]!.chunks, [["data", 100_000]]);
});

Deno.test("CACHE reads and tells nothing but that it did", () => {
  for (const style of STYLES) {
    const rig = new Rig();
    const client = rig.client(style);
    client.request(1, nbd.CMD_CACHE, 5, 5000);
    client.request(2, nbd.CMD_CACHE, SIZE_BYTES - 1, 1); // its read fails
    client.request(3, nbd.CMD_CACHE, SIZE_BYTES, 1);
    client.request(4, nbd.CMD_CACHE, 0, 512, nbd.CMD_FLAG_DF);
    rig.settle();
    const replies = client.replies();
    assertEquals(outcomes(replies), [[1, OK], [2, EIO], [3, EINVAL], [4, EINVAL]]);
    for (const { data } of replies) assertEquals(data, []);
    assertEquals(rig.engine.requests_in_use, 0);
  }
});

Deno.test("TRIM and WRITE_ZEROES zero, longer than any write, with FUA and NO_HOLE", () => {
  for (const style of STYLES) {
    const rig = new Rig({ max_request_bytes: 64 * KiB, window_bytes: 64 * KiB });
    const client = rig.client(style);
    client.request(1, nbd.CMD_TRIM, 1000, 300 * KiB, nbd.CMD_FLAG_FUA);
    rig.settle();
    const all = nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FAST_ZERO | nbd.CMD_FLAG_FUA;
    client.request(2, nbd.CMD_WRITE_ZEROES, 512 * KiB, 100 * KiB, all);
    client.request(3, nbd.CMD_WRITE_ZEROES, 800 * KiB, 512);
    client.request(4, nbd.CMD_TRIM, SIZE_BYTES - 511, 512);
    client.request(5, nbd.CMD_WRITE_ZEROES, SIZE_BYTES - 511, 512);
    rig.settle();
    assertEquals(outcomes(client.replies()), [[1, OK], [2, OK], [3, OK], [4, EINVAL], [5, ENOSPC]]);
    const { engine } = rig;
    assertEquals([engine.trims, engine.zeroes, engine.fua_writes], [2, 1, 2]);
    for (const [off, len] of [[1000, 300 * KiB], [512 * KiB, 100 * KiB], [800 * KiB, 512]]) {
      const range = engine.content.subarray(off, off! + len!);
      assertEquals(range.every((byte) => byte === 0), true);
      assertEquals(engine.content[off! - 1] !== 0 || engine.content[off! - 2] !== 0, true);
    }
    client.disconnect();
    rig.settle();
    rig.assertIdle();
  }
});

Deno.test("BLOCK_STATUS tells of each context, bounded, and with REQ_ONE the first range only", () => {
  const all_bytes = SIZE_BYTES;
  for (const style of [STRUCTURED, EXTENDED]) {
    const rig = new Rig();
    const client = rig.client(style);
    client.request(1, nbd.CMD_BLOCK_STATUS, 1000, 5500);
    client.request(2, nbd.CMD_BLOCK_STATUS, 1000, 5500, nbd.CMD_FLAG_REQ_ONE);
    client.request(3, nbd.CMD_BLOCK_STATUS, 0, all_bytes);
    rig.settle();
    const told = new Map(client.replies().map((r) => [r.cookie, r.extents]));
    assertEquals(told.get(1), [
      [1, 5500, 0],
      [2, STATE_BYTES - 1000, 0],
      [2, STATE_BYTES, 1],
      [2, 500, 3],
    ]);
    assertEquals(told.get(2), [[1, 5500, 0], [2, STATE_BYTES - 1000, 0]]);
    // Each fifth of the ranges is dirty, dirty zeroes come next and clean zeroes that may be a hole, then what is not cached, then clean.
    const [allocation, dirty] = [1, 2].map((id) => told.get(3)!.filter(([of]) => of === id));
    assertEquals(dirty!.slice(0, 5).map(([, , flags]) => flags), [0, 1, 3, 1, 0]);
    assertEquals(dirty![2]![1], 2 * STATE_BYTES);
    assertEquals(allocation!.slice(0, 4), [
      [1, 3 * STATE_BYTES, 0],
      [1, STATE_BYTES, 2],
      [1, STATE_BYTES, 3],
      [1, 3 * STATE_BYTES, 0],
    ]);
    for (const extents of [allocation!, dirty!]) {
      const end = extents.reduce((sum, [, len]) => sum + len, 0);
      assertEquals(end, Math.min(all_bytes, 256 * STATE_BYTES));
    }
  }
});

Deno.test("BLOCK_STATUS with one context: what the other would tell cuts nothing", () => {
  const rig = new Rig();
  const client = rig.client(STRUCTURED, ["base:allocation"]);
  client.request(1, nbd.CMD_BLOCK_STATUS, 0, 9 * STATE_BYTES, nbd.CMD_FLAG_REQ_ONE);
  rig.settle();
  assertEquals(client.replies()[0]!.extents, [[1, 3 * STATE_BYTES, 0]]);
});

Deno.test("BLOCK_STATUS waits for the client to read, and needs a context and a range on the device", () => {
  for (const style of STYLES) {
    const rig = new Rig();
    const client = rig.client(style);
    client.socket.stuck = true;
    for (let i = 1; i <= 100; i++) client.request(i, nbd.CMD_BLOCK_STATUS, 0, SIZE_BYTES);
    rig.settle();
    client.socket.stuck = false;
    client.request(101, nbd.CMD_BLOCK_STATUS, SIZE_BYTES - 1, 2);
    client.request(102, nbd.CMD_BLOCK_STATUS, 0, 0);
    client.request(103, nbd.CMD_BLOCK_STATUS, 0, 1, nbd.CMD_FLAG_DF);
    rig.settle();
    const replies = client.replies();
    assertEquals(replies.length, 103);
    for (const { cookie, errno, extents } of replies) {
      const is_good = cookie <= 100 && style !== SIMPLE;
      const told = extents.filter(([context]) => context === 2).length;
      assertEquals([errno, told], is_good ? [OK, 256 - 51] : [EINVAL, 0]);
    }
  }
});

Deno.test("extended headers: lengths of 64 bits, payloads where they are said to be", () => {
  const rig = new Rig({ max_request_bytes: 64 * KiB });
  const client = rig.client(EXTENDED);
  client.request(1, nbd.CMD_READ, 0, 2 ** 32 + 512); // not 512 bytes
  client.request(2, nbd.CMD_BLOCK_STATUS, 0, 2 ** 63);
  client.request(3, nbd.CMD_CACHE, 2 ** 63, 2 ** 63);
  client.request(4, nbd.CMD_READ, 0, 700, nbd.CMD_FLAG_PAYLOAD_LEN);
  client.send(bytesOf(4, 700));
  client.request(5, 99, 0, 64 * KiB, nbd.CMD_FLAG_PAYLOAD_LEN);
  client.send(bytesOf(5, 64 * KiB));
  client.write(6, 512, bytesOf(6, 512));
  rig.settle();
  assertEquals(outcomes(client.replies()), [
    [1, EINVAL],
    [2, EINVAL],
    [3, EINVAL],
    [4, EINVAL],
    [5, EINVAL],
    [6, OK],
  ]);
  assertEquals([...rig.engine.content.subarray(512, 1024)], bytesOf(6, 512));
});

Deno.test("extended headers: what breaks them ends that connection", () => {
  const other_magic = requestHeader(STRUCTURED, 1, nbd.CMD_FLUSH, 0, 0);
  const no_payload = requestHeader(EXTENDED, 1, nbd.CMD_WRITE, 0, 512);
  const long = requestHeader(EXTENDED, 1, nbd.CMD_READ, 0, 2 ** 32, nbd.CMD_FLAG_PAYLOAD_LEN);
  for (const bytes of [[...other_magic, 0, 0, 0, 0], no_payload, long]) {
    const rig = new Rig();
    const [bad, good] = [rig.client(EXTENDED), rig.client(EXTENDED)];
    bad.send(bytes);
    good.request(1, nbd.CMD_FLUSH, 0, 0);
    rig.settle();
    assert(bad.socket.closed && bad.socket.outbox.length === 0);
    assertEquals(outcomes(good.replies()), [[1, OK]]);
  }
});

/** Random requests of several clients, each in its own part of the device, against what they wrote themselves. */
function storm(seed: number, rounds: number): void {
  const rig = new Rig({ seed, slots: 12, receives_past_caches: seed % 2 === 0 });
  const random = new Random(seed ^ 0x5eed);
  rig.engine.piece_bytes = [100, 3000, 1 << 20][random.next(3)]!;
  rig.engine.pace_percent = 20 + random.next(80);
  rig.ring.chop_bytes = [0, 700, 5000, 70_000][random.next(4)]!;
  const clients = Array.from({ length: 3 }, (_, i) => rig.client(STYLES[(seed + i) % 3]));
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
        } else if (random.chance(20)) {
          const tells = random.chance(50) && client.style !== SIMPLE;
          client.request(cookie, tells ? nbd.CMD_BLOCK_STATUS : nbd.CMD_CACHE, at, len);
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

Deno.test("TLS: the same requests and answers, in every style", () => {
  for (const style of STYLES) {
    const rig = new Rig({ tls: "require", seed: style + 1 });
    const client = rig.client(style);
    client.write(1, 1000, bytesOf(1, 100_000));
    rig.settle();
    client.request(2, nbd.CMD_READ, 1000, 100_000);
    rig.settle();
    const replies = client.replies();
    assertEquals(outcomes(replies), [[1, OK], [2, OK]]);
    assertEquals(replies[1]!.data, bytesOf(1, 100_000));
    client.disconnect();
    rig.settle();
    rig.assertIdle();
    assertEquals(rig.tls!.bye_count, 1);
  }
});

Deno.test("TLS: what is sent in the clear behind STARTTLS ends the connection", () => {
  const injected = [...option(nbd.OPT_STARTTLS, []), ...option(nbd.OPT_GO, [...u32(0), 0, 0])];
  for (const tls of ["on", "require"] as const) {
    const rig = new Rig({ tls });
    const client = new Client(rig.ring.connect());
    client.send(u32(3), injected);
    rig.settle();
    assertEquals(client.take(client.socket.outbox.length).length, 18);
    rig.assertIdle();
    // Or later: it is no handshake.
    const late = new Client(rig.ring.connect());
    late.send(u32(3), option(nbd.OPT_STARTTLS, []));
    rig.settle();
    late.send(option(nbd.OPT_GO, [...u32(0), 0, 0]));
    rig.settle();
    assertEquals(late.take(late.socket.outbox.length).length, 18 + 20);
    rig.assertIdle();
  }
});

Deno.test("TLS: a handshake that does not end is given up, others go on", () => {
  const rig = new Rig({ tls: "require" });
  const witness = rig.client();
  const slow = new Client(rig.ring.connect());
  slow.send(u32(3), option(nbd.OPT_STARTTLS, []));
  rig.settle();
  assertEquals(rig.server.open_count, 2);
  rig.turn();
  const since_ms = rig.now_ms;
  while (rig.server.open_count === 2) {
    const wait_ms = rig.server.nextTimerMs(rig.now_ms);
    assert(wait_ms < Infinity, "the clock is not looked at");
    rig.now_ms += wait_ms;
    rig.settle();
  }
  const waited_ms = rig.now_ms - since_ms;
  assert(waited_ms >= 10_000 && waited_ms <= 12_000, `${waited_ms} ms`);
  assertEquals(rig.server.nextTimerMs(rig.now_ms), Infinity);
  witness.request(1, nbd.CMD_READ, 0, 512);
  rig.settle();
  assertEquals(outcomes(witness.replies()), [[1, OK]]);
  // Nobody who has shaken hands is concerned.
  rig.now_ms += 10 * waited_ms;
  rig.settle();
  assertEquals(rig.server.open_count, 1);
  witness.disconnect();
  rig.settle();
  rig.assertIdle();
});

Deno.test("TLS: clients that go in the middle of the handshake leave nothing behind", () => {
  const rig = new Rig({ tls: "on" });
  for (const bytes of [[], [HELLO], [1], [HELLO, ...option(nbd.OPT_LIST, []).slice(0, 7)]]) {
    const client = new Client(rig.ring.connect());
    client.send(u32(3), option(nbd.OPT_STARTTLS, []));
    rig.settle();
    client.send(bytes);
    client.socket.client_ended = true;
    rig.settle();
    rig.assertIdle();
  }
  // Without TLS it is served as well.
  const client = new Client(rig.ring.connect());
  client.send(u32(3), option(nbd.OPT_EXPORT_NAME, []));
  rig.settle();
  assertEquals(client.take(28).length, 28);
  rig.server.dropAll();
  rig.settle();
  rig.assertIdle();
});

Deno.test("attached: the kernel is served without a word before, in the clear, and does not count as a client", () => {
  const rig = new Rig({ tls: "require" });
  const kernel = rig.attached();
  kernel.write(1, 4096, bytesOf(1, 4096));
  kernel.request(2, nbd.CMD_FLUSH, 0, 0);
  rig.settle();
  assertEquals(outcomes(kernel.replies()), [[1, OK], [2, OK]]);
  assertEquals([rig.server.serving_count, rig.server.attached_count], [0, 1]);
  rig.server.dropAll();
  kernel.request(3, nbd.CMD_READ, 4096, 4096);
  rig.settle();
  assertEquals(kernel.replies()[0]!.data, bytesOf(1, 4096));
  kernel.disconnect();
  rig.settle();
  assertEquals([rig.server.has_taken_leave, rig.server.attached_count], [true, 0]);
  rig.assertIdle();
});

Deno.test("attached: a connection that breaks is no leave; all of them can be dropped", () => {
  const rig = new Rig();
  const [one, two] = [rig.attached(), rig.attached()];
  const client = rig.client();
  one.socket.client_gone = true;
  rig.settle();
  assertEquals([rig.server.has_taken_leave, rig.server.attached_count], [false, 1]);
  rig.server.dropAttached();
  rig.settle();
  assert(two.socket.shut && !client.socket.shut);
  assertEquals(rig.server.attached_count, 0);
});

/** Writes that wait in the server: the engine has no slot for them, and more than the receive buffer is there; or it is suspended. */
function waitingWrites(rig: Rig, kernel: Client, is_held: boolean): number[] {
  const cookies = Array.from({ length: is_held ? 1 : 40 }, (_, i) => i + 3);
  rig.engine.is_asleep = true;
  if (is_held) rig.server.hold("requests");
  else for (const cookie of [1, 2]) kernel.request(cookie, nbd.CMD_READ, 0, 512);
  rig.settle();
  for (const cookie of cookies) kernel.write(cookie, 4096, bytesOf(3, 4096));
  rig.settle();
  return cookies;
}

Deno.test("attached: what the kernel has asked again elsewhere is not done a second time, later", () => {
  for (const is_held of [false, true]) {
    const rig = new Rig({ slots: 4 }); // at most two requests of one connection
    const kernel = rig.attached();
    waitingWrites(rig, kernel, is_held);
    kernel.socket.client_ended = true;
    rig.settle();
    assertEquals(rig.server.attached_count, 1, "nothing is received that would tell");
    const before = rig.engine.content.slice(4096, 8192);
    rig.engine.is_asleep = false;
    if (is_held) rig.server.hold(null);
    rig.settle();
    assertEquals(rig.engine.content.slice(4096, 8192), before);
    rig.assertIdle();
  }
});

Deno.test("attached: what was not given up is done after a stall and after a suspension", () => {
  for (const is_held of [false, true]) {
    const rig = new Rig({ slots: 4 });
    const kernel = rig.attached();
    const cookies = waitingWrites(rig, kernel, is_held);
    rig.engine.is_asleep = false;
    if (is_held) rig.server.hold(null);
    rig.settle();
    const done = kernel.replies().filter(({ cookie }) => cookie > 2);
    assertEquals(outcomes(done), cookies.map((cookie): [number, number] => [cookie, OK]));
    assertEquals([...rig.engine.content.slice(4096, 8192)], bytesOf(3, 4096));
  }
});

import { assert, assertEquals, assertThrows } from "@std/assert";
import { CacheError } from "../core/errors.ts";
import { ControlServer, MAX_CONTROL_CONNECTIONS, parseRequest } from "./control.ts";
import { type ControlReply, type ControlRequest, MAX_LINE_BYTES } from "./control_protocol.ts";
import { FakeArena, FakeRing, type FakeSocket, Random } from "./nbd/fakes.ts";
import { KIND_SHIFT } from "./tokens.ts";

const encoder = new TextEncoder();
const TABLE: ControlReply = { ok: true, table: "0 8 pcache a b" };

/** A control server whose handler answers `table` at once and `remove` when the test says so. */
class Rig {
  readonly ring: FakeRing;
  readonly server: ControlServer;
  readonly requests: ControlRequest[] = [];
  readonly removers: number[] = [];
  readonly gone: number[] = [];
  /** What `table` answers. */
  table: ControlReply = TABLE;
  now_ms = 0;

  constructor(seed = 1, chop_bytes = 0) {
    const arena = new FakeArena(0, ControlServer.ARENA_BYTES);
    this.ring = new FakeRing(arena, new Random(seed));
    this.ring.chop_bytes = chop_bytes;
    this.server = new ControlServer({
      arena,
      ring: this.ring,
      sockets: this.ring,
      listen_fd: 3,
      handler: {
        request: (request, client) => {
          this.requests.push(request);
          if (request.verb !== "remove") return this.table;
          this.removers.push(client);
          return null;
        },
        gone: (client) => void this.gone.push(client),
      },
    });
    this.server.start();
  }

  settle(): void {
    do {
      while (this.ring.next()) {
        this.server.handle(this.ring.user >>> KIND_SHIFT, this.ring.user, this.ring.result);
      }
      this.server.turn(this.now_ms);
    } while (this.ring.knocking.length > 0 && this.server.nextTimerMs(this.now_ms) === Infinity);
  }

  client(...lines: string[]): FakeSocket {
    const socket = this.ring.connect();
    for (const line of lines) socket.inbox.push(encoder.encode(line + "\n"));
    this.settle();
    return socket;
  }
}

/** The replies that are there. */
function repliesOf(socket: FakeSocket): unknown[] {
  const text = new TextDecoder().decode(socket.outbox.take(socket.outbox.length));
  if (text === "") return [];
  assert(text.endsWith("\n"));
  return text.slice(0, -1).split("\n").map((line) => JSON.parse(line));
}

const GET_TABLE = '{"verb":"table"}';
const REMOVE = '{"verb":"remove","flush":true}';

Deno.test("requests are answered in order, however they are cut", () => {
  for (const chop_bytes of [0, 1, 7]) {
    const rig = new Rig(chop_bytes + 1, chop_bytes);
    const client = rig.client(GET_TABLE, '{"verb":"message","args":["gc_percent","5"]}', GET_TABLE);
    assertEquals(repliesOf(client), [TABLE, TABLE, TABLE]);
    assertEquals(rig.requests.map((r) => r.verb), ["table", "message", "table"]);
    client.client_gone = true;
    rig.settle();
    assert(client.closed);
  }
});

Deno.test("a late answer: the next request waits for it, other clients do not", () => {
  const rig = new Rig();
  const remover = rig.client(REMOVE, GET_TABLE);
  assertEquals(repliesOf(remover), []);
  assertEquals(repliesOf(rig.client(GET_TABLE)), [TABLE]);
  rig.server.reply(rig.removers[0]!, { ok: true });
  rig.settle();
  assertEquals(repliesOf(remover), [{ ok: true }, TABLE]);
});

Deno.test("a client that goes before its late answer is reported", () => {
  const rig = new Rig();
  const remover = rig.client(REMOVE);
  remover.client_gone = true;
  rig.settle();
  assertEquals(rig.gone, rig.removers);
  assert(remover.closed);
  rig.server.reply(rig.removers[0]!, { ok: true });
  rig.settle();
  assertEquals(repliesOf(remover), []);
});

Deno.test("a client that ends its side gets the answer that is on its way", () => {
  const rig = new Rig(2, 5);
  const client = rig.ring.connect();
  client.inbox.push(encoder.encode(GET_TABLE + "\n"));
  client.client_ended = true;
  rig.settle();
  assertEquals(repliesOf(client), [TABLE]);
  assert(client.closed);
});

Deno.test("what is no request is answered with an error, and the connection ends", () => {
  for (
    const [line, error] of [
      ["", "a line of JSON"],
      ["{", "a line of JSON"],
      ["\xff\xfe", "a line of JSON"],
      ["[]", "a JSON object"],
      ["null", "a JSON object"],
      ['{"verb":"format"}', 'verb "format"'],
      ['{"verb":["status"]}', 'verb ["status"]'],
      ["{}", "verb undefined"],
      ["x".repeat(MAX_LINE_BYTES), "request over 65536 bytes"],
    ] as const
  ) {
    const rig = new Rig();
    const client = rig.client(line, GET_TABLE);
    const replies = repliesOf(client) as { ok: boolean; error: string }[];
    assertEquals(replies.length, 1, line);
    assert(!replies[0]!.ok && replies[0]!.error.includes(error), JSON.stringify(replies));
    assert(client.closed, line);
    assertEquals(rig.requests, []);
  }
});

Deno.test("invalid UTF-8 is no request", () => {
  assertThrows(() => parseRequest(new Uint8Array([0x22, 0xff, 0x22])), CacheError, "JSON");
});

Deno.test("the parts of requests are checked", () => {
  const parse = (request: unknown) => parseRequest(encoder.encode(JSON.stringify(request)));
  assertEquals(parse({ verb: "status", more: 1 }), { verb: "status", inactive: false });
  assertEquals(parse({ verb: "remove", flush: false }), {
    verb: "remove",
    flush: false,
    force: false,
    deferred: false,
  });
  for (const flush of [undefined, 1, "true", null]) {
    assertThrows(() => parse({ verb: "remove", flush }), CacheError, "true or false is wanted");
  }
  const table = {
    cache_path: "/c",
    backing_path: "/b",
    data_crc: true,
    cache_mode: null,
    eviction: "fifo",
    length_sectors: 8,
    read_only: false,
  };
  for (const verb of ["load", "hand_over"]) {
    assertEquals<unknown>(parse({ verb, table, more: 1 }), { verb, table });
    assertThrows(() => parse({ verb }), CacheError, "table: a JSON object is wanted");
    const wrong = { ...table, read_only: "no" };
    assertThrows(() => parse({ verb, table: wrong }), CacheError, "read_only");
  }
  const words = ["gc_percent", "7"];
  assertEquals(parse({ verb: "message", args: words }), { verb: "message", args: words });
  for (const args of [undefined, "gc_percent 7", [7], new Array(65).fill(""), ["x".repeat(4097)]]) {
    assertThrows(() => parse({ verb: "message", args }), CacheError, "a list of at most 64 words");
  }
});

Deno.test("a reply that is too long becomes an error", () => {
  const rig = new Rig();
  rig.table = { ok: true, table: "x".repeat(MAX_LINE_BYTES) };
  const [reply] = repliesOf(rig.client(GET_TABLE)) as { ok: boolean; error: string }[];
  assertEquals(reply!.ok, false);
});

Deno.test("silent clients make room for new ones, busy ones stay", () => {
  const rig = new Rig();
  const remover = rig.client(REMOVE);
  const silent = Array.from({ length: MAX_CONTROL_CONNECTIONS - 1 }, () => rig.client());
  const late = rig.client(GET_TABLE);
  assert(late.closed && silent[0]!.closed && !silent[1]!.closed && !remover.closed);
  assertEquals(repliesOf(rig.client(GET_TABLE)), [TABLE]);
});

Deno.test("a failed accept is tried again after a pause", () => {
  const rig = new Rig();
  rig.ring.failing_accepts = 1;
  const client = rig.client(GET_TABLE);
  assertEquals(repliesOf(client), []);
  rig.now_ms += 1001;
  rig.settle();
  assertEquals(repliesOf(client), [TABLE]);
});

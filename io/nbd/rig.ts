/**
 * A server with a fake machine under it, and clients that speak every style of the protocol: for tests and the fuzzer.
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";
import { OK } from "../../core/errors.ts";
import { KIND_SHIFT } from "../tokens.ts";
import {
  FakeArena,
  FakeEngine,
  FakeRing,
  type FakeSocket,
  FakeTls,
  HELLO,
  Random,
} from "./fakes.ts";
import type { Export, TlsPolicy } from "./handshake.ts";
import * as nbd from "./protocol.ts";
import { NbdServer } from "./server.ts";
import { EXTENDED, requestMagic, SIMPLE, STRUCTURED } from "./session.ts";

export const SIZE_BYTES = 1 << 20;
export const SLOTS = 24;
export const KiB = 1024;
export const STYLES = [SIMPLE, STRUCTURED, EXTENDED];
const CONTEXTS = ["base:allocation", "pcache:dirty"];
const WINDOW_BYTES = 160 * KiB;
const LISTEN_FD = 3;
/** High word of the clients' cookies. */
const COOKIE_HI = 0xabcdef01;

/** What a rig serves. */
export const SERVED: Export = {
  name: "fast",
  description: "a test",
  size_bytes: SIZE_BYTES,
  max_request_bytes: nbd.MAX_REQUEST_BYTES,
  read_only: false,
  is_rotational: false,
  is_failing: false,
};

export interface RigOptions {
  seed?: number;
  slots?: number;
  /** Longest request that the engine takes. */
  window_bytes?: number;
  size_bytes?: number;
  max_request_bytes?: number;
  read_only?: boolean;
  receives_past_caches?: boolean;
  tls?: TlsPolicy;
}

export class Rig {
  readonly random: Random;
  readonly arena: FakeArena;
  readonly ring: FakeRing;
  readonly engine: FakeEngine;
  readonly server: NbdServer;
  readonly served: Export;
  readonly tls: FakeTls | null;
  now_ms = 0;

  constructor(o: RigOptions = {}) {
    const slots = o.slots ?? SLOTS;
    const window_bytes = o.window_bytes ?? WINDOW_BYTES;
    const size_bytes = o.size_bytes ?? SIZE_BYTES;
    const max_request_bytes = o.max_request_bytes ?? nbd.MAX_REQUEST_BYTES;
    this.served = { ...SERVED, size_bytes, max_request_bytes, read_only: o.read_only ?? false };
    this.random = new Random(o.seed ?? 1);
    this.arena = new FakeArena(slots * window_bytes, NbdServer.ARENA_BYTES);
    this.ring = new FakeRing(this.arena, this.random);
    this.engine = new FakeEngine(this.arena.bytes, this.random, size_bytes, slots, window_bytes);
    for (let i = 0; i < size_bytes; i++) this.engine.content[i] = (i * 7 + (i >> 9)) & 255;
    const policy = o.tls ?? "off";
    this.tls = policy === "off" ? null : new FakeTls(this.arena, this.ring, policy === "require");
    this.server = new NbdServer({
      arena: this.arena,
      ring: this.ring,
      memory: {
        receive: (piece, done, from, len) =>
          void this.arena.bytes.copyWithin(piece + done, from, from + len),
        receives_past_caches: o.receives_past_caches ?? false,
      },
      engine: this.engine,
      sockets: this.ring,
      served: this.served,
      tls: this.tls,
      listeners: [{ fd: LISTEN_FD, tcp: false }],
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

  /** Turns until nothing moves any more for `quiet_turns`, the engine's slowness included. */
  settle(quiet_turns = 60): void {
    for (let quiet = 0; quiet < quiet_turns; quiet++) if (this.turn()) quiet = 0;
  }

  /** Time goes by, a second at a time. */
  pass(ms: number): void {
    for (const end_ms = this.now_ms + ms; this.now_ms < end_ms;) {
      this.now_ms += Math.min(1000, end_ms - this.now_ms);
      this.settle();
    }
  }

  /** A client in the transmission phase, with all metadata contexts where the style has any. */
  client(style = SIMPLE, contexts = CONTEXTS): Client {
    const startTls = this.tls === null ? null : (client: Client) => this.startTls(client);
    return clientOn(this.ring.connect(), style, () => this.settle(), startTls, contexts);
  }

  /** The kernel, at the other end of a pair of sockets. */
  attached(): Client {
    const client = new Client(this.ring.pair());
    this.server.adopt(client.socket.fd);
    return client;
  }

  /** STARTTLS and a handshake, of a client that has sent its flags. */
  startTls(client: Client): void {
    client.send(option(nbd.OPT_STARTTLS, []));
    this.settle();
    assertEquals(client.take(18 + 20).slice(-8), u32(nbd.REP_ACK, 0));
    client.send([HELLO]);
  }

  /** Everything the clients left behind is gone. */
  assertIdle(): void {
    assertEquals(this.server.open_count, 0);
    assertEquals(this.engine.requests_in_use, 0);
    assertEquals(this.tls?.open_count ?? 0, 0);
    for (const socket of this.ring.sockets.values()) assert(socket.closed, `socket ${socket.fd}`);
  }
}

/** Negotiates on a socket. `settle` lets the server do all it can. */
export function clientOn<S extends ClientSocket>(
  socket: S,
  style: number,
  settle: () => void,
  startTls: ((client: Client<S>) => void) | null,
  contexts = CONTEXTS,
): Client<S> {
  const client = new Client(socket, style);
  client.send(u32(3));
  let reply_bytes = 18;
  if (startTls !== null) {
    startTls(client);
    reply_bytes = 0;
  }
  if (style !== SIMPLE) {
    const agree = style === EXTENDED ? nbd.OPT_EXTENDED_HEADERS : nbd.OPT_STRUCTURED_REPLY;
    client.send(option(agree, []));
    client.send(option(nbd.OPT_SET_META_CONTEXT, contextQuery(...contexts)));
    reply_bytes += 20 + 20;
    for (const context of contexts) reply_bytes += 20 + 4 + context.length;
  }
  client.send(option(nbd.OPT_GO, [...u32(0), 0, 0]));
  settle();
  const reply = client.take(reply_bytes + 20 + 12 + 20);
  assertEquals(reply.slice(-4), [0, 0, 0, 0]);
  return client;
}

export function u32(...values: number[]): number[] {
  return values.flatMap((v) => [v >>> 24, (v >>> 16) & 255, (v >>> 8) & 255, v & 255]);
}

export function u64(value: number): number[] {
  return u32(Math.floor(value / 2 ** 32), value % 2 ** 32);
}

/** An option of the negotiation. */
export function option(number: number, data: number[]): number[] {
  return [...u32(nbd.OPTION_MAGIC_HI, nbd.OPTION_MAGIC_LO, number, data.length), ...data];
}

/** Data of the meta context options, for the default export. */
export function contextQuery(...queries: string[]): number[] {
  const texts = queries.map((query) => [...new TextEncoder().encode(query)]);
  return [...u32(0, queries.length), ...texts.flatMap((text) => [...u32(text.length), ...text])];
}

/** Header of a request in a style. */
export function requestHeader(
  style: number,
  cookie: number,
  type: number,
  off: number,
  len: number,
  flags = 0,
): number[] {
  const head = [flags >> 8, flags & 255, type >> 8, type & 255];
  const where = [...u64(off), ...(style === EXTENDED ? u64(len) : u32(len))];
  return [...u32(requestMagic(style)), ...head, ...u32(COOKIE_HI, cookie), ...where];
}

export interface Reply {
  cookie: number;
  errno: number;
  /** What the server says of an error. */
  text: string;
  data: number[];
  /** What the data came in, and how long each was, in the styles with chunks. */
  chunks: ["data" | "hole", number][];
  /** [context, length, flags] of each extent. */
  extents: [number, number, number][];
}

interface Expected {
  off: number;
  /** Length of the data that a good reply carries. */
  len: number;
  is_status: boolean;
  reply: Reply;
}

/** A client's end of a socket. */
export type ClientSocket = Pick<FakeSocket, "inbox" | "outbox">;

export class Client<S extends ClientSocket = FakeSocket> {
  readonly socket: S;
  readonly style: number;
  /** By cookie: what is not answered yet. */
  readonly expected = new Map<number, Expected>();
  constructor(socket: S, style = SIMPLE) {
    this.socket = socket;
    this.style = style;
  }

  send(...parts: number[][]): void {
    for (const part of parts) this.socket.inbox.push(part);
  }

  take(count: number): number[] {
    return [...this.socket.outbox.take(count)];
  }

  request(cookie: number, type: number, off: number, len: number, flags = 0): void {
    const data_len = type === nbd.CMD_READ ? len : 0;
    const reply = { cookie, errno: OK, text: "", data: [], chunks: [], extents: [] };
    const is_status = type === nbd.CMD_BLOCK_STATUS;
    this.expected.set(cookie, { off, len: data_len, is_status, reply });
    const is_write = type === nbd.CMD_WRITE && this.style === EXTENDED;
    const all_flags = is_write ? flags | nbd.CMD_FLAG_PAYLOAD_LEN : flags;
    this.send(requestHeader(this.style, cookie, type, off, len, all_flags));
  }
  write(cookie: number, off: number, data: number[], flags = 0): void {
    this.request(cookie, nbd.CMD_WRITE, off, data.length, flags);
    this.send(data);
  }

  /** Takes all replies that are there, each complete. */
  replies(): Reply[] {
    const found: Reply[] = [];
    while (this.socket.outbox.length > 0) {
      const magic = viewOf(this.take(4)).getUint32(0);
      const reply = magic === nbd.SIMPLE_REPLY_MAGIC ? this.#simple() : this.#chunk(magic);
      if (reply !== null) found.push(reply);
    }
    return found;
  }

  #expect(view: DataView, at: number): Expected {
    assertEquals(view.getUint32(at), COOKIE_HI);
    const expected = this.expected.get(view.getUint32(at + 4));
    if (expected === undefined) throw new Error("reply to an unknown request");
    return expected;
  }

  #simple(): Reply {
    const view = viewOf(this.take(12));
    const expected = this.#expect(view, 4);
    assert(this.style !== EXTENDED, "a simple reply among extended ones");
    assert(this.style === SIMPLE || expected.len === 0, "a simple reply to a read");
    expected.reply.errno = view.getUint32(0);
    const tells = !expected.is_status || expected.reply.errno !== OK;
    assert(tells, "a simple reply to a block status request");
    assert(this.style === SIMPLE || expected.reply.errno === OK, "an error without a text");
    if (expected.reply.errno === OK) expected.reply.data = this.take(expected.len);
    return this.#end(expected);
  }

  /** One chunk; null: others follow. */
  #chunk(magic: number): Reply | null {
    const is_extended = this.style === EXTENDED;
    assertEquals(magic, is_extended ? nbd.EXTENDED_REPLY_MAGIC : nbd.STRUCTURED_REPLY_MAGIC);
    const view = viewOf(this.take(is_extended ? 28 : 16));
    const [flags, type] = [view.getUint16(0), view.getUint16(2)];
    const expected = this.#expect(view, 4);
    if (is_extended) {
      assertEquals([view.getUint32(12), view.getUint32(16)], u64Words(expected.off));
      assertEquals(view.getUint32(20), 0);
    }
    const payload = this.take(view.getUint32(is_extended ? 24 : 12));
    this.#payload(expected, type, payload);
    if ((flags & nbd.REPLY_FLAG_DONE) !== 0) return this.#end(expected);
    assert(flags === 0 && type !== nbd.REPLY_TYPE_NONE, "flags of a chunk");
    return null;
  }

  #payload(expected: Expected, type: number, payload: number[]): void {
    const { reply, off, len, is_status } = expected;
    const view = viewOf(payload);
    if (type === nbd.REPLY_TYPE_OFFSET_DATA || type === nbd.REPLY_TYPE_OFFSET_HOLE) {
      const is_hole = type === nbd.REPLY_TYPE_OFFSET_HOLE;
      const part = is_hole ? new Array(view.getUint32(8)).fill(0) : payload.slice(8);
      // In order, without a gap, though the protocol asks for neither.
      assertEquals([view.getUint32(0), view.getUint32(4)], u64Words(off + reply.data.length));
      assert(part.length > 0 && reply.data.length + part.length <= len, "a chunk past the end");
      assert(!is_hole || payload.length === 12, "a hole has an offset and a length");
      reply.chunks.push([is_hole ? "hole" : "data", part.length]);
      reply.data = reply.data.length === 0 ? part : reply.data.concat(part);
    } else if (type === nbd.REPLY_TYPE_ERROR) {
      reply.errno = view.getUint32(0);
      const text = payload.slice(6);
      assert(reply.errno !== OK && text.length > 0, "an error explains itself");
      assertEquals(view.getUint16(4), text.length);
      reply.text = new TextDecoder().decode(new Uint8Array(text));
    } else if (type === nbd.REPLY_TYPE_NONE) {
      assert(len === 0 && !is_status && payload.length === 0, "nothing where something was asked");
    } else {
      const is_extended = this.style === EXTENDED;
      const wanted = is_extended ? nbd.REPLY_TYPE_BLOCK_STATUS_EXT : nbd.REPLY_TYPE_BLOCK_STATUS;
      assertEquals(type, wanted);
      assert(is_status, "a block status nobody asked for");
      reply.extents.push(...(is_extended ? wideExtents(view) : narrowExtents(view)));
    }
  }

  #end(expected: Expected): Reply {
    const { reply, len } = expected;
    assert(reply.errno !== OK || reply.data.length === len, "bytes are missing");
    this.expected.delete(expected.reply.cookie);
    return expected.reply;
  }

  disconnect(): void {
    this.request(0, nbd.CMD_DISC, 0, 0);
    this.expected.delete(0);
  }
}

function narrowExtents(view: DataView): Reply["extents"] {
  const found: Reply["extents"] = [];
  for (let at = 4; at < view.byteLength; at += 8) {
    found.push([view.getUint32(0), view.getUint32(at), view.getUint32(at + 4)]);
  }
  return found;
}

function wideExtents(view: DataView): Reply["extents"] {
  const found: Reply["extents"] = [];
  for (let at = 8; at < view.byteLength; at += 16) {
    const len = view.getUint32(at) * 2 ** 32 + view.getUint32(at + 4);
    assertEquals(view.getUint32(at + 8), 0);
    found.push([view.getUint32(0), len, view.getUint32(at + 12)]);
  }
  assertEquals(view.getUint32(4), found.length);
  return found;
}

function viewOf(bytes: number[]): DataView {
  return new DataView(new Uint8Array(bytes).buffer);
}

function u64Words(value: number): number[] {
  return [Math.floor(value / 2 ** 32), value % 2 ** 32];
}

export function bytesOf(seed: number, len: number): number[] {
  return Array.from({ length: len }, (_, i) => (i * 31 + seed * 17 + (i >> 8)) & 255);
}

/** [cookie, errno] of each reply, by cookie. */
export function outcomes(replies: Reply[]): [number, number][] {
  return replies.map((r): [number, number] => [r.cookie, r.errno]).sort((a, b) => a[0] - b[0]);
}

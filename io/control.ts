/**
 * The device's side of the control socket, in the same loop as everything else: JSON lines in, JSON lines out
 * (control_protocol.ts). Not a hot path; it never waits.
 *
 * Invariants:
 * - A connection has at most one receive and one send under way, and one request that is not answered.
 * - What is not a request is answered with an error, and the connection ends.
 *
 * @module
 */

import { assert } from "../core/assert.ts";
import { Acceptor } from "./acceptor.ts";
import { CACHE_MODES, type CacheMode, isCacheMode } from "../core/cache_mode.ts";
import { type Eviction, EVICTIONS, isEviction } from "../core/eviction.ts";
import { CacheError } from "../core/errors.ts";
import {
  type ControlReply,
  type ControlRequest,
  MAX_LINE_BYTES,
  type TableConfig,
} from "./control_protocol.ts";
import { Iovecs } from "./nbd/iovecs.ts";
import type { NbdArena, NbdRing, NbdSockets } from "./nbd/ports.ts";
import {
  INDEX_MASK,
  KIND_CONTROL_ACCEPT,
  KIND_CONTROL_RECV,
  KIND_CONTROL_SEND,
  tokenOf,
} from "./tokens.ts";

/** Most connections at once. A further one takes the place of the one that has been silent for longest. */
export const MAX_CONTROL_CONNECTIONS = 64;

const NEWLINE = 10;
const NONE = -1;
const EINTR = 4;
const EAGAIN = 11;
const PAGE_BYTES = 4096;
/** Receive buffer, send buffer, message header with one range. */
const CLIENT_BYTES = 2 * MAX_LINE_BYTES + PAGE_BYTES;
/** Longest list of words in a message, and longest word in characters. */
const MAX_MESSAGE_WORDS = 64;
const MAX_WORD_CHARS = 4096;

const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { fatal: true });

/** What answers requests. */
export interface ControlHandler {
  /** Answers, or returns null and calls `ControlServer.reply` with the same `client` later. */
  request(request: ControlRequest, client: number): ControlReply | null;
  /** A client has gone before it got the answer that was to come later. */
  gone(client: number): void;
}

/** A client on its way from one server to another. */
export interface ControlClient {
  readonly fd: number;
  readonly serial: number;
  /** A request is to be answered later. */
  readonly is_waiting: boolean;
}

export interface ControlServerOptions {
  arena: NbdArena;
  ring: NbdRing;
  sockets: Pick<NbdSockets, "shutdown" | "close">;
  /** The listening socket; it stays the caller's. */
  listen_fd: number;
  handler: ControlHandler;
}

/** Serves the control socket of one device. */
export class ControlServer {
  readonly #o: ControlServerOptions;
  readonly #clients: Client[] = [];
  readonly #acceptor: Acceptor;
  #serial = 0;

  /** Bytes of arena memory that the server needs. */
  static readonly ARENA_BYTES = MAX_CONTROL_CONNECTIONS * CLIENT_BYTES + PAGE_BYTES;

  constructor(o: ControlServerOptions) {
    this.#o = o;
    this.#acceptor = new Acceptor(o.ring, tokenOf(KIND_CONTROL_ACCEPT), o.listen_fd);
    const addr = o.arena.alloc(MAX_CONTROL_CONNECTIONS * CLIENT_BYTES, PAGE_BYTES);
    for (let i = 0; i < MAX_CONTROL_CONNECTIONS; i++) {
      this.#clients.push(new Client(o, i, addr + i * CLIENT_BYTES));
    }
  }

  /** Lets clients in. */
  start(): void {
    this.#acceptor.start();
  }

  /** Handles a completion of one of the three control kinds of tokens.ts. */
  handle(kind: number, user: number, result: number): void {
    const client = this.#clients[user & INDEX_MASK]!;
    if (kind === KIND_CONTROL_RECV) client.received(result);
    else if (kind === KIND_CONTROL_SEND) client.sent(result);
    else this.#admit(this.#acceptor.ended(result));
  }

  /** Goes on after a pause that a failed accept made necessary. */
  turn(now_ms: number): void {
    this.#acceptor.turn(now_ms);
  }

  /** When `turn` has to be called at the latest, in ms from now. */
  nextTimerMs(now_ms: number): number {
    return this.#acceptor.nextTimerMs(now_ms);
  }

  /** Answers a request that was to be answered later. A client that has gone gets nothing. */
  reply(client: number, reply: ControlReply): void {
    this.#clients.find((c) => c.serial === client)?.reply(reply);
  }

  /** Hands its clients on to the server of the same device that takes its place; it serves none from then on. */
  takeClients(): ControlClient[] {
    return this.#clients.filter((c) => !c.is_free).map((c) => c.take());
  }

  /** Takes the clients of the server before this one. */
  adopt(clients: readonly ControlClient[]): void {
    for (const [at, client] of clients.entries()) this.#clients[at]!.adopt(client);
    this.#serial = Math.max(this.#serial, ...clients.map((client) => client.serial));
  }

  /** True while an answer is on its way. */
  get is_sending(): boolean {
    return this.#clients.some((c) => c.is_sending);
  }

  #admit(fd: number): void {
    if (fd < 0) return;
    const place = this.#clients.find((c) => c.is_free);
    if (place === undefined) {
      this.#dropSilent();
      this.#o.sockets.close(fd);
      return;
    }
    this.#serial += 1;
    place.open(fd, this.#serial);
  }

  #dropSilent(): void {
    const silent = this.#clients.filter((c) => c.is_silent).sort((a, b) => a.serial - b.serial);
    silent[0]?.kill();
  }
}

/** One client of the control socket. */
class Client {
  readonly #o: ControlServerOptions;
  readonly #index: number;
  readonly #recv_addr: number;
  readonly #recv: Uint8Array;
  readonly #send_addr: number;
  readonly #send: Uint8Array;
  readonly #iovecs: Iovecs;
  serial = 0;
  #fd = NONE;
  #filled = 0;
  #receiving = false;
  #sending = false;
  /** A request is to be answered later. */
  #waiting = false;
  /** Nothing more is read; closed when the last answer has left. */
  #ending = false;
  #dead = false;

  constructor(o: ControlServerOptions, index: number, addr: number) {
    this.#o = o;
    this.#index = index;
    this.#recv_addr = addr;
    this.#send_addr = addr + MAX_LINE_BYTES;
    this.#recv = new Uint8Array(o.arena.bytes.buffer, this.#recv_addr, MAX_LINE_BYTES);
    this.#send = new Uint8Array(o.arena.bytes.buffer, this.#send_addr, MAX_LINE_BYTES);
    this.#iovecs = new Iovecs(o.arena, addr + 2 * MAX_LINE_BYTES, 1);
  }

  get is_free(): boolean {
    return this.#fd === NONE;
  }
  get is_silent(): boolean {
    return !this.is_free && !this.#waiting && !this.#sending;
  }
  get is_sending(): boolean {
    return this.#sending;
  }

  open(fd: number, serial: number): void {
    this.serial = serial;
    this.#fd = fd;
    this.#filled = 0;
    this.#waiting = false;
    this.#ending = false;
    this.#dead = false;
    this.#receive();
  }

  /** Lets go of the socket. The ring that served it must have nothing under way in the kernel (`PollRing`). */
  take(): ControlClient {
    const client = { fd: this.#fd, serial: this.serial, is_waiting: this.#waiting };
    this.#fd = NONE;
    return client;
  }

  adopt(client: ControlClient): void {
    this.open(client.fd, client.serial);
    this.#waiting = client.is_waiting;
  }

  received(result: number): void {
    this.#receiving = false;
    if (this.#dead) return this.#bury();
    if (result === -EINTR || result === -EAGAIN) return this.#receive();
    if (result > 0) {
      this.#filled += result;
      this.#takeLines();
    } else if (this.#sending && result === 0) {
      this.#ending = true;
    } else this.kill();
  }

  sent(result: number): void {
    this.#sending = false;
    if (this.#dead) return this.#bury();
    if (result === -EINTR || result === -EAGAIN) return this.#sendRest();
    if (result <= 0) return this.kill();
    this.#iovecs.advance(result);
    if (this.#iovecs.left_bytes > 0) this.#sendRest();
    else if (this.#ending) this.kill();
    else this.#takeLines();
  }

  reply(reply: ControlReply): void {
    if (this.#dead) return;
    assert(!this.#sending, "control: two answers at once");
    this.#waiting = false;
    let line = encoder.encode(JSON.stringify(reply) + "\n");
    if (line.length > MAX_LINE_BYTES) {
      const error = `reply of ${line.length} bytes: at most ${MAX_LINE_BYTES} can be sent`;
      line = encoder.encode(JSON.stringify({ ok: false, error }) + "\n");
    }
    this.#send.set(line);
    this.#iovecs.clear();
    this.#iovecs.add(this.#send_addr, line.length);
    this.#iovecs.seal();
    this.#sendRest();
  }

  kill(): void {
    if (!this.#dead) {
      this.#dead = true;
      this.#o.sockets.shutdown(this.#fd);
      if (this.#waiting) this.#o.handler.gone(this.serial);
      this.#waiting = false;
    }
    this.#bury();
  }

  /** Handles the first line that is there, if it is its turn. */
  #takeLines(): void {
    if (!this.#sending && !this.#waiting && !this.#ending) {
      const end = this.#recv.subarray(0, this.#filled).indexOf(NEWLINE);
      if (end >= 0) this.#takeLine(end);
      else if (this.#filled === MAX_LINE_BYTES) {
        this.#refuse(`request over ${MAX_LINE_BYTES} bytes`);
      }
    }
    this.#receive();
  }

  #takeLine(end: number): void {
    const line = this.#recv.slice(0, end);
    this.#recv.copyWithin(0, end + 1, this.#filled);
    this.#filled -= end + 1;
    let request: ControlRequest;
    try {
      request = parseRequest(line);
    } catch (error) {
      if (!(error instanceof CacheError)) throw error;
      return this.#refuse(error.message);
    }
    this.#waiting = true;
    const reply = this.#o.handler.request(request, this.serial);
    if (reply !== null) this.reply(reply);
  }

  #refuse(error: string): void {
    this.#ending = true;
    this.reply({ ok: false, error });
  }

  #receive(): void {
    const room_bytes = MAX_LINE_BYTES - this.#filled;
    if (this.#receiving || this.#ending || this.#dead || room_bytes === 0) return;
    const user = tokenOf(KIND_CONTROL_RECV) + this.#index;
    this.#o.ring.recv(user, this.#fd, this.#recv_addr + this.#filled, room_bytes);
    this.#receiving = true;
  }

  #sendRest(): void {
    const user = tokenOf(KIND_CONTROL_SEND) + this.#index;
    this.#o.ring.sendmsg(user, this.#fd, this.#iovecs.msghdr_addr);
    this.#sending = true;
  }

  #bury(): void {
    if (this.#sending || this.#receiving || this.#fd === NONE) return;
    this.#o.sockets.close(this.#fd);
    this.#fd = NONE;
  }
}

/**
 * Checks a request line.
 *
 * @throws {CacheError} What is wrong with it.
 */
export function parseRequest(line: Uint8Array): ControlRequest {
  const request = parseJson(line);
  switch (request.verb) {
    case "info":
    case "stats":
    case "progress":
    case "resume":
    case "clear":
    case "wipe":
      return { verb: request.verb };
    case "status":
    case "table":
      return { verb: request.verb, inactive: bool(request, "inactive", false) };
    case "message":
      return { verb: "message", args: messageArgs(request.args) };
    case "remove":
      return {
        verb: "remove",
        flush: bool(request, "flush"),
        force: bool(request, "force", false),
        deferred: bool(request, "deferred", false),
      };
    case "suspend":
      return { verb: "suspend", noflush: bool(request, "noflush") };
    case "load":
      return { verb: "load", table: tableConfig(request.table) };
    case "hand_over":
      return { verb: "hand_over", table: tableConfig(request.table) };
    case "rename":
      return { verb: "rename", from: text(request, "from"), to: text(request, "to") };
    case "set_uuid":
      return { verb: "set_uuid", uuid: text(request, "uuid") };
    case "wait":
      return { verb: "wait", event_nr: whole(request, "event_nr") };
    default:
      throw new CacheError(`verb ${JSON.stringify(request.verb)}: not known to this device`);
  }
}

function tableConfig(value: unknown): TableConfig {
  const table = value as Record<string, unknown>;
  if (typeof table !== "object" || table === null) {
    throw new CacheError("table: a JSON object is wanted");
  }
  return {
    cache_path: text(table, "cache_path"),
    backing_path: text(table, "backing_path"),
    data_crc: bool(table, "data_crc"),
    cache_mode: cacheMode(table.cache_mode),
    eviction: eviction(table.eviction),
    length_sectors: table.length_sectors === null ? null : whole(table, "length_sectors"),
    read_only: bool(table, "read_only"),
  };
}

function cacheMode(value: unknown): CacheMode | null {
  if (value === null) return null;
  if (typeof value === "string" && isCacheMode(value)) return value;
  throw new CacheError(
    `cache_mode ${JSON.stringify(value)}: null or ${CACHE_MODES.join(", ")} is wanted`,
  );
}

function eviction(value: unknown): Eviction {
  if (typeof value === "string" && isEviction(value)) return value;
  throw new CacheError(
    `eviction ${JSON.stringify(value)}: ${EVICTIONS.join(" or ")} is wanted`,
  );
}

function bool(from: Record<string, unknown>, key: string, missing?: boolean): boolean {
  const value = from[key] ?? missing;
  if (typeof value === "boolean") return value;
  throw new CacheError(`${key} ${JSON.stringify(value)}: true or false is wanted`);
}

function text(from: Record<string, unknown>, key: string): string {
  const value = from[key];
  if (typeof value === "string" && value.length <= MAX_WORD_CHARS) return value;
  throw new CacheError(`${key}: a text of at most ${MAX_WORD_CHARS} characters is wanted`);
}

function whole(from: Record<string, unknown>, key: string): number {
  const value = from[key];
  if (Number.isSafeInteger(value) && (value as number) >= 0) return value as number;
  throw new CacheError(`${key} ${JSON.stringify(value)}: a number from 0 on is wanted`);
}

function parseJson(line: Uint8Array): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(decoder.decode(line));
  } catch {
    throw new CacheError("request: a line of JSON is wanted");
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new CacheError("request: a JSON object is wanted");
  }
  return value as Record<string, unknown>;
}

function messageArgs(args: unknown): string[] {
  const is_list = Array.isArray(args) && args.length <= MAX_MESSAGE_WORDS &&
    args.every((word) => typeof word === "string" && word.length <= MAX_WORD_CHARS);
  if (is_list) return args as string[];
  throw new CacheError(`args: a list of at most ${MAX_MESSAGE_WORDS} words is wanted`);
}

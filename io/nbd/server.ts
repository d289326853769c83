/**
 * The NBD server of one device: its listening socket, its connections, and the way between them and the engine. It
 * sleeps nowhere: the device's loop feeds it completions (`handle`) and gives it a `turn` after the engine's.
 *
 * Limits: `MAX_CONNECTIONS` at once. A client above that is turned away, unless somebody who has not finished the
 * negotiation can go instead. A connection has at most `MAX_ACTIVE` requests under way and reads no further until
 * some have been answered and their answers taken.
 *
 * @module
 */

import { assert } from "../../core/assert.ts";
import { Acceptor } from "../acceptor.ts";
import type { Held } from "../frontend.ts";
import { INDEX_MASK, KIND_NBD_ACCEPT, KIND_NBD_RECV, KIND_NBD_SEND, tokenOf } from "../tokens.ts";
import { Connection, NARROW_RECV_BYTES, RECV_BYTES, State } from "./connection.ts";
import { FailurePayloads } from "./failures.ts";
import type { Export } from "./handshake.ts";
import { Hub } from "./hub.ts";
import type { NbdArena, NbdEngine, NbdMemory, NbdRing, NbdSockets, NbdTls } from "./ports.ts";

/** Most connections at once. */
export const MAX_CONNECTIONS = 1024;
/** So many of them have a large receive buffer: whoever comes while there are no more than that. */
const WIDE_CONNECTIONS = 64;
/** Most requests under way in one connection. */
export const MAX_ACTIVE = 256;

/** So often is looked after clients that are waited for. */
const LOOK_MS = 1000;

const PAGE_BYTES = 4096;
const WIDE_BYTES = wholePages(Connection.sizeBytes(RECV_BYTES));
const NARROW_BYTES = wholePages(Connection.sizeBytes(NARROW_RECV_BYTES));
const CONNECTIONS_BYTES = WIDE_CONNECTIONS * WIDE_BYTES +
  (MAX_CONNECTIONS - WIDE_CONNECTIONS) * NARROW_BYTES;

export interface NbdServerOptions {
  arena: NbdArena;
  ring: NbdRing;
  memory: NbdMemory;
  engine: NbdEngine;
  sockets: NbdSockets;
  /** Null: there is no TLS. */
  tls: NbdTls | null;
  served: Export;
  /** The listening sockets; they stay the caller's. */
  listeners: readonly Listener[];
}

/** A listening socket. Connections of a `tcp` one get TCP_NODELAY and keep-alive. */
export interface Listener {
  readonly fd: number;
  readonly tcp: boolean;
}

export class NbdServer {
  /** Turns new clients away; the ones that are there go on. */
  refusing = false;
  readonly #hub: Hub;
  readonly #listeners: readonly Listener[];
  readonly #acceptors: readonly Acceptor[];
  /** Where the connections' buffers lie. */
  readonly #connections_addr: number;
  readonly #max_active: number;
  /** Places that were ever taken. Those after the first `WIDE_CONNECTIONS` give their memory back when they are free. */
  readonly #connections: Connection[] = [];
  #holds_answers = false;
  #serial = 0;
  /** Where the round of stalled connections begins. */
  #first = 0;
  /** When to look after clients that are waited for. */
  #look_ms = 0;

  /** Bytes of arena memory that the server needs, touched only as far as clients connect. */
  static readonly ARENA_BYTES = CONNECTIONS_BYTES + PAGE_BYTES +
    wholePages(FailurePayloads.SIZE_BYTES);

  constructor(o: NbdServerOptions) {
    const users = { recv_user: tokenOf(KIND_NBD_RECV), send_user: tokenOf(KIND_NBD_SEND) };
    this.#hub = new Hub({ ...o, ...users }, () => this.#collectPlaced());
    this.#listeners = o.listeners;
    this.#acceptors = o.listeners.map(({ fd }, i) =>
      new Acceptor(o.ring, tokenOf(KIND_NBD_ACCEPT) + i, fd)
    );
    // One client leaves slots for others.
    this.#max_active = Math.max(1, Math.min(MAX_ACTIVE, o.engine.max_requests >> 1));
    this.#connections_addr = o.arena.alloc(CONNECTIONS_BYTES, PAGE_BYTES);
  }

  /** Lets clients in. */
  start(): void {
    for (const acceptor of this.#acceptors) acceptor.start();
  }

  /** Connections in the transmission phase: while there are any, the device is in use. The kernel's do not count. */
  get serving_count(): number {
    let count = 0;
    for (const connection of this.#connections) {
      if (connection.isServing && !connection.is_attached) count += 1;
    }
    return count;
  }

  /** Connections of the kernel's that are not closed. */
  get attached_count(): number {
    return this.#hub.attached_count;
  }

  /** The kernel has said that it goes; what it asked before is still answered. */
  get has_taken_leave(): boolean {
    return this.#hub.has_taken_leave;
  }

  /** Connections of any kind that are not yet closed. */
  get open_count(): number {
    let count = 0;
    for (const connection of this.#connections) if (connection.state !== State.FREE) count += 1;
    return count;
  }

  /** Drops every client. Their requests end by themselves: go on until `open_count` is 0. The kernel's connections stay. */
  dropAll(): void {
    for (const connection of this.#connections) if (!connection.is_attached) connection.kill();
  }

  /** Drops the kernel's connections. */
  dropAttached(): void {
    for (const connection of this.#connections) if (connection.is_attached) connection.kill();
  }

  /** Takes a socket whose other end the kernel has, or is given; there is room for it before there is for clients. */
  adopt(fd: number): void {
    const place = this.#freePlace();
    if (place === null) return this.#hub.sockets.close(fd);
    this.#hub.has_taken_leave = false;
    this.#serial += 1;
    place.openAttached(fd, this.#serial);
  }

  /** Takes less from its clients from now on; or goes on with what waits. */
  hold(what: Held): void {
    this.#hub.is_holding = what !== null;
    this.#hub.takes_payloads = what === "new requests";
    this.#holds_answers = what === "requests and answers";
    if (what !== null && what !== "new requests") return;
    for (const connection of this.#connections) connection.goOn();
  }

  /** Requests that the engine is to answer, but for writes whose payload has not come. */
  get unanswered_count(): number {
    let count = 0;
    for (const connection of this.#connections) count += connection.unanswered_count;
    return count;
  }

  /** Drops the connections whose last write is not complete. */
  dropUnfinished(): void {
    for (const connection of this.#connections) if (connection.has_unfinished) connection.kill();
  }

  /** Handles a completion of one of the three NBD kinds of tokens.ts. */
  handle(kind: number, user: number, result: number): void {
    const index = user & INDEX_MASK;
    if (kind === KIND_NBD_RECV) this.#connections[index]!.received(result);
    else if (kind === KIND_NBD_SEND) this.#connections[index]!.sent(result);
    else this.#admit(this.#acceptors[index]!.ended(result), this.#listeners[index]!);
  }

  /**
   * Hands on what the engine has placed and answered, and goes on with connections that waited; to be called before the engine is
   * pumped, so that what is answered leaves first, and right after. True: the engine has got more to do, so pump it again before the
   * loop sleeps.
   */
  turn(now_ms: number): boolean {
    const hub = this.#hub;
    hub.fed = false;
    // By their indices: an iterator would be an object for each turn.
    for (let i = 0; i < this.#acceptors.length; i++) this.#acceptors[i]!.turn(now_ms);
    this.#collectPlaced();
    if (!this.#holds_answers) this.#collectAnswered();
    const ended = hub.ended;
    hub.ended = false;
    this.#goOn(ended);
    if (now_ms >= this.#look_ms) this.#look(now_ms);
    return hub.fed;
  }

  /** How long the loop may sleep before the next turn. */
  nextTimerMs(now_ms: number): number {
    let until_ms = this.#hub.waits_for_clients ? Math.max(0, this.#look_ms - now_ms) : Infinity;
    for (let i = 0; i < this.#acceptors.length; i++) {
      until_ms = Math.min(until_ms, this.#acceptors[i]!.nextTimerMs(now_ms));
    }
    return until_ms;
  }

  /** A client that keeps others waiting is waited for only so long. */
  #look(now_ms: number): void {
    this.#look_ms = now_ms + LOOK_MS;
    const hub = this.#hub;
    hub.waits_for_clients = false;
    for (const connection of this.#connections) {
      if (connection.look(now_ms)) hub.waits_for_clients = true;
    }
  }

  #collectPlaced(): void {
    const hub = this.#hub;
    for (let slot = hub.engine.takePlaced(); slot >= 0; slot = hub.engine.takePlaced()) {
      this.#connections[hub.slot_owner[slot]!]!.placed(slot);
    }
  }

  #collectAnswered(): void {
    const hub = this.#hub;
    for (let slot = hub.engine.takeAnswered(); slot >= 0; slot = hub.engine.takeAnswered()) {
      this.#connections[hub.slot_owner[slot]!]!.answered(slot);
    }
  }

  /** Looks after the marked connections, and if requests have ended after the stalled ones, in turn. */
  #goOn(ended: boolean): void {
    const connections = this.#connections;
    let stalled = false;
    const count = connections.length;
    for (let i = 0; i < count; i++) {
      const connection = connections[(this.#first + i) % count]!;
      if (connection.marked || (ended && connection.stalled)) connection.advance();
      if (connection.stalled) stalled = true;
    }
    // Whoever came first this time comes last next time.
    if (stalled) this.#first = (this.#first + 1) % count;
  }

  #admit(fd: number, from: Listener): void {
    if (fd < 0) return;
    const place = this.refusing ? null : this.#freePlace();
    if (place === null) {
      this.#hub.sockets.close(fd);
      return;
    }
    if (from.tcp) this.#hub.sockets.keepAlive(fd);
    this.#serial += 1;
    place.open(fd, this.#serial);
  }

  /** A free place. If there is none, the oldest client that still negotiates is dropped for the next one. */
  #freePlace(): Connection | null {
    let oldest: Connection | null = null;
    for (const connection of this.#connections) {
      if (connection.state === State.FREE) {
        assert(connection.active === 0, "a free connection has requests");
        return connection;
      }
      if (connection.state !== State.NEGOTIATE) continue;
      if (oldest === null || connection.serial < oldest.serial) oldest = connection;
    }
    if (this.#connections.length < MAX_CONNECTIONS) return this.#newPlace();
    oldest?.kill();
    return null;
  }

  #newPlace(): Connection {
    const index = this.#connections.length;
    const is_wide = index < WIDE_CONNECTIONS;
    const addr = this.#connections_addr + Math.min(index, WIDE_CONNECTIONS) * WIDE_BYTES +
      Math.max(0, index - WIDE_CONNECTIONS) * NARROW_BYTES;
    const place = new Connection(this.#hub, index, addr, {
      recv_bytes: is_wide ? RECV_BYTES : NARROW_RECV_BYTES,
      max_active: this.#max_active,
      keeps_memory: is_wide,
    });
    this.#connections.push(place);
    return place;
  }
}

function wholePages(len_bytes: number): number {
  return Math.ceil(len_bytes / PAGE_BYTES) * PAGE_BYTES;
}

/**
 * The server with a fake engine over a real ring and real sockets, in this process: what io/nbd/rig.ts has with a fake machine.
 *
 * @module
 */

import { Arena } from "../../io/arena.ts";
import {
  EAGAIN,
  ERRNO,
  libc,
  MSG_DONTWAIT,
  MSG_NOSIGNAL,
  result,
  SHUT_WR,
  Word,
} from "../../io/libc.ts";
import { ByteQueue, FakeEngine, Random } from "../../io/nbd/fakes.ts";
import { type Client, clientOn, type RigOptions, SERVED } from "../../io/nbd/rig.ts";
import { NbdServer } from "../../io/nbd/server.ts";
import { PollRing } from "../../io/poll_ring.ts";
import type { Ring } from "../../io/ring.ts";
import * as sockets from "../../io/sockets.ts";
import { KIND_SHIFT } from "../../io/tokens.ts";
import { UringRing } from "../../io/uring.ts";

const RING_ENTRIES = 64;
const RING_BYTES = 1 << 20;
const CHUNK_BYTES = 16 * 1024;
const SETTLE_TURNS = 20;

const c = Deno.dlopen("libc.so.6", {
  send: { parameters: ["i32", "buffer", "u64", "i32"], result: "i32" },
  recv: { parameters: ["i32", "buffer", "u64", "i32"], result: "i32" },
}).symbols;

/** A client's end of a connection. */
export class RealSocket {
  readonly inbox = new ByteQueue();
  readonly outbox = new ByteQueue();
  client_ended = false;
  client_gone = false;
  stuck = false;
  /** The server has ended the connection, or nobody can tell any more. */
  closed = false;
  #has_said_so = false;
  readonly #len = new Word();
  readonly #chunk: Uint8Array<ArrayBuffer>;

  constructor(readonly fd: number, chunk: Uint8Array<ArrayBuffer>) {
    this.#chunk = chunk;
  }

  /** Sends and receives what goes now. True: something did. */
  turn(): boolean {
    if (this.closed) return false;
    if (this.client_gone) {
      libc.close(this.fd);
      return this.closed = true;
    }
    const has_sent = this.#send();
    return this.#receive() || has_sent;
  }

  #send(): boolean {
    const { inbox } = this;
    if (inbox.length === 0) {
      if (!this.client_ended || this.#has_said_so) return false;
      this.#has_said_so = true;
      libc.shutdown(this.fd, SHUT_WR);
      return true;
    }
    const count = Math.min(inbox.length, CHUNK_BYTES);
    this.#chunk.set(inbox.peek(count));
    const len = this.#len.set(count);
    const sent = result(
      c.send(this.fd, this.#chunk, len, MSG_DONTWAIT | MSG_NOSIGNAL),
      ERRNO[0],
    );
    // Nobody reads any more: whatever else is said is lost.
    inbox.drop(sent > 0 ? sent : sent === -EAGAIN ? 0 : inbox.length);
    return sent > 0;
  }

  #receive(): boolean {
    if (this.stuck) return false;
    const got = result(
      c.recv(this.fd, this.#chunk, this.#len.set(CHUNK_BYTES), MSG_DONTWAIT),
      ERRNO[0],
    );
    if (got === -EAGAIN) return false;
    if (got > 0) {
      this.outbox.push(this.#chunk.subarray(0, got));
      return true;
    }
    libc.close(this.fd);
    return this.closed = true;
  }
}

/** What a `Rig` is, over a ring of the kernel's. */
export class RealRig {
  readonly random: Random;
  readonly engine: FakeEngine;
  readonly server: NbdServer;
  readonly #arena: Arena;
  readonly #ring: Ring;
  readonly #listen_fd: number;
  readonly #path: string;
  readonly #address: Uint8Array<ArrayBuffer>;
  readonly #sockets = new Set<RealSocket>();
  readonly #chunk = new Uint8Array(CHUNK_BYTES);

  /** `path`: where the server listens meanwhile. */
  constructor(loop: "io_uring" | "poll", path: string, o: Required<RigOptions>) {
    this.random = new Random(o.seed);
    this.#arena = new Arena({
      cache_bytes: 0,
      buffer_bytes: o.slots * o.window_bytes,
      io_bytes: NbdServer.ARENA_BYTES + RING_BYTES,
    });
    this.#ring = openRing(loop, this.#arena);
    const { bytes } = this.#arena;
    this.engine = new FakeEngine(bytes, this.random, o.size_bytes, o.slots, o.window_bytes);
    this.#listen_fd = sockets.listenUnix(path);
    this.#path = path;
    this.#address = sockets.unixAddress(path);
    this.server = new NbdServer({
      arena: this.#arena,
      ring: this.#ring,
      memory: {
        receive: (piece, done, from, len) => void bytes.copyWithin(piece + done, from, from + len),
        receives_past_caches: o.receives_past_caches,
      },
      engine: this.engine,
      sockets,
      served: {
        ...SERVED,
        size_bytes: o.size_bytes,
        max_request_bytes: o.max_request_bytes,
        read_only: o.read_only,
      },
      tls: null,
      listeners: [{ fd: this.#listen_fd, tcp: false }],
    });
    this.server.start();
  }

  connect(): RealSocket {
    const fd = sockets.startConnect(this.#address);
    if (fd < 0) throw new Error(`connect: error ${-fd}`);
    const socket = new RealSocket(fd, this.#chunk);
    this.#sockets.add(socket);
    return socket;
  }

  /** The client is over. */
  forget(socket: RealSocket): void {
    this.#sockets.delete(socket);
  }

  turn(): boolean {
    let moved = false;
    for (const socket of this.#sockets) if (socket.turn()) moved = true;
    this.#ring.wait(0);
    while (this.#ring.next()) {
      this.server.handle(this.#ring.user >>> KIND_SHIFT, this.#ring.user, this.#ring.result);
      moved = true;
    }
    do this.engine.pump(); while (this.server.turn(0));
    return moved;
  }

  settle(): void {
    for (let quiet = 0; quiet < SETTLE_TURNS; quiet++) if (this.turn()) quiet = 0;
  }

  client(style: number): Client<RealSocket> {
    return clientOn(this.connect(), style, () => this.settle(), null);
  }

  /** Nobody is left: gives everything back. */
  end(): void {
    sockets.shutdown(this.#listen_fd);
    this.settle();
    this.#ring.close();
    sockets.close(this.#listen_fd);
    Deno.removeSync(this.#path);
    this.#arena.close();
  }
}

function openRing(loop: "io_uring" | "poll", arena: Arena): Ring {
  if (loop === "poll") return new PollRing(arena, RING_ENTRIES);
  const ring = UringRing.open(arena, RING_ENTRIES);
  if (ring instanceof UringRing) return ring;
  throw new Error(`io_uring: error ${ring}`);
}

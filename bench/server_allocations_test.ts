/** A request costs the NBD server no object, in whatever style of replies: reads, writes and flushes, and refused ones. */

import { assertEquals } from "@std/assert";
import type { NbdArena, NbdRing, NbdSockets } from "../io/nbd/ports.ts";
import * as nbd from "../io/nbd/protocol.ts";
import { option, requestHeader, SERVED, STYLES, u32 } from "../io/nbd/rig.ts";
import { NbdServer } from "../io/nbd/server.ts";
import { EXTENDED, SIMPLE } from "../io/nbd/session.ts";
import { KIND_SHIFT } from "../io/tokens.ts";
import { allocatedWhenCompiled } from "./allocations.ts";
import { BareEngine } from "./bare_engine.ts";

const DEVICE_BYTES = 1 << 20;
const ROUNDS = 2000;
/** V8 puts a sample's whole page on one function now and then. */
const NOISE_BYTES_PER_REQUEST = 2;

/** A server whose only client sends what `feed` is given, and whose sockets take everything at once. */
class Loop {
  readonly #server: NbdServer;
  readonly #bytes = new Uint8Array(DEVICE_BYTES + NbdServer.ARENA_BYTES + 4096);
  readonly #view = new DataView(this.#bytes.buffer);
  #recv_user = 0;
  #recv_addr = 0;
  #recv_bytes = 0;
  #send_user = -1;
  #send_bytes = 0;
  replied_bytes = 0;

  constructor() {
    let next = DEVICE_BYTES;
    const bytes = this.#bytes;
    const arena: NbdArena = {
      bytes,
      alloc: (len, align = 1) => {
        const addr = Math.ceil(next / align) * align;
        next = addr + len;
        return addr;
      },
      discard: () => {},
      absolute: (addr) => BigInt(addr),
      putAddress: (words, index, addr) => {
        words[index] = addr;
        words[index + 1] = 0;
      },
    };
    let accept_user = 0;
    const ring: NbdRing = {
      accept: (user) => void (accept_user = user),
      recv: (user, _fd, addr, len_bytes) => {
        this.#recv_user = user;
        this.#recv_addr = addr;
        this.#recv_bytes = len_bytes;
      },
      recvmsg: () => {
        throw new Error("no payload is that long");
      },
      sendmsg: (user, _fd, addr) => {
        this.#send_user = user;
        this.#send_bytes = this.#taken(addr);
      },
    };
    const sockets: NbdSockets = {
      sendNow: (_fd, msghdr) => this.#taken(Number(msghdr)),
      shutdown: () => 0,
      close: () => 0,
      keepAlive: () => 0,
      hasHungUp: () => false,
    };
    this.#server = new NbdServer({
      arena,
      ring,
      memory: {
        receive: (piece, done, from, len) => void bytes.copyWithin(piece + done, from, from + len),
        receives_past_caches: false,
      },
      engine: new BareEngine(0),
      sockets,
      served: { ...SERVED, size_bytes: DEVICE_BYTES },
      tls: null,
      listeners: [{ fd: 3, tcp: false }],
    });
    this.#server.start();
    this.#server.handle(accept_user >>> KIND_SHIFT, accept_user, 4);
    this.#goOn();
  }

  /** Bytes of a message. */
  #taken(msghdr_addr: number): number {
    const iov_addr = this.#view.getUint32(msghdr_addr + 16, true);
    const count = this.#view.getUint32(msghdr_addr + 24, true);
    let sum = 0;
    for (let i = 0; i < count; i++) sum += this.#view.getUint32(iov_addr + 16 * i + 8, true);
    this.replied_bytes += sum;
    return sum;
  }

  feed(bytes: Uint8Array): void {
    if (bytes.length > this.#recv_bytes) throw new Error("the server has no room for so much");
    this.#bytes.set(bytes, this.#recv_addr);
    this.#server.handle(this.#recv_user >>> KIND_SHIFT, this.#recv_user, bytes.length);
    this.#goOn();
  }

  #goOn(): void {
    do {
      const user = this.#send_user;
      this.#send_user = -1;
      if (user >= 0) this.#server.handle(user >>> KIND_SHIFT, user, this.#send_bytes);
    } while (this.#server.turn(0) || this.#send_user >= 0);
  }
}

/** 64 requests: 28 reads, 28 writes, 4 flushes, 4 reads past the end. */
function batchOf(style: number): Uint8Array {
  const bytes: number[] = [];
  for (let i = 0; i < 64; i++) {
    const off = i * 4096;
    if (i % 16 === 14) bytes.push(...requestHeader(style, i, nbd.CMD_FLUSH, 0, 0));
    else if (i % 16 === 15) bytes.push(...requestHeader(style, i, nbd.CMD_READ, 2 ** 40, 512));
    else if (i % 2 === 0) bytes.push(...requestHeader(style, i, nbd.CMD_READ, off, 4096));
    else {
      const flags = style === EXTENDED ? nbd.CMD_FLAG_PAYLOAD_LEN : 0;
      bytes.push(...requestHeader(style, i, nbd.CMD_WRITE, off, 512, flags));
      bytes.push(...new Array(512).fill(i));
    }
  }
  return new Uint8Array(bytes);
}

for (const style of STYLES) {
  Deno.test(`requests cost no objects, replies of style ${style}`, async () => {
    const loop = new Loop();
    loop.feed(new Uint8Array(u32(3)));
    const agree = style === EXTENDED ? nbd.OPT_EXTENDED_HEADERS : nbd.OPT_STRUCTURED_REPLY;
    if (style !== SIMPLE) loop.feed(new Uint8Array(option(agree, [])));
    loop.feed(new Uint8Array(option(nbd.OPT_GO, [...u32(0), 0, 0])));
    const batch = batchOf(style);
    const work = () => {
      for (let i = 0; i < ROUNDS; i++) loop.feed(batch);
    };
    loop.replied_bytes = 0;
    work();
    assertEquals(loop.replied_bytes > ROUNDS * 28 * 4096, true);
    const noise_bytes = NOISE_BYTES_PER_REQUEST * ROUNDS * 64;
    const found = await allocatedWhenCompiled("/io/nbd/", noise_bytes, work);
    for (const [name, bytes] of found) {
      const each = bytes / (ROUNDS * 64);
      assertEquals(bytes < noise_bytes, true, `${name}: ${each} bytes a request`);
    }
  });
}

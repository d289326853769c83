import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { Arena } from "../arena.ts";
import { AF_UNIX, EAGAIN, EPROTO, libc, SHUT_WR, SOCK_STREAM } from "../libc.ts";
import { Iovecs } from "../nbd/iovecs.ts";
import { PollRing } from "../poll_ring.ts";
import type { Ring } from "../ring.ts";
import { UringRing } from "../uring.ts";
import { TlsClient, type TlsClientConfig, TlsServer, type TlsServerConfig } from "./credentials.ts";
import type { TlsStream } from "./stream.ts";
import { makeProofs, type Proofs } from "./testing.ts";

const KiB = 1024;
const RECV = 1;
const SEND = 2;
/** Added to a server's tokens. */
const SERVER = 10;
const FROM_BYTES = 4 * KiB * KiB;

let made: Proofs | null = null;

/** Made once for all tests here. */
function proofs(): Proofs {
  if (made === null) {
    const dir = Deno.makeTempDirSync();
    globalThis.addEventListener("unload", () => Deno.removeSync(dir, { recursive: true }));
    made = makeProofs(dir);
  }
  return made;
}

/** Two ends of a socket pair that speak TLS. */
class Pair implements Disposable {
  readonly arena = new Arena({
    cache_bytes: 0,
    buffer_bytes: 0,
    io_bytes: 2 * FROM_BYTES + 4096 * KiB,
  });
  readonly ring: Ring;
  readonly fds: [number, number];
  readonly client: TlsStream;
  readonly server: TlsStream;
  readonly from_addr = this.arena.alloc(FROM_BYTES, 4096);
  readonly to_addr = this.arena.alloc(FROM_BYTES, 4096);

  constructor(
    open: (arena: Arena) => Ring,
    server: TlsServerConfig["proof"],
    client: TlsClientConfig["proof"],
  ) {
    this.ring = open(this.arena);
    const fds = new Int32Array(2);
    assertEquals(libc.socketpair(AF_UNIX, SOCK_STREAM, 0, new Uint8Array(fds.buffer)), 0);
    this.fds = [fds[0]!, fds[1]!];
    const { arena, ring } = this;
    const place = { arena, ring, recv_user: RECV, send_user: SEND };
    this.client = new TlsClient({ proof: client }).open(this.fds[0], place);
    this.server = new TlsServer({ is_required: true, proof: server }).open(this.fds[1], {
      ...place,
      recv_user: SERVER + RECV,
      send_user: SERVER + SEND,
    });
  }

  [Symbol.dispose](): void {
    this.client.close();
    this.server.close();
    for (const fd of this.fds) libc.close(fd);
    this.ring.close();
    this.arena.close();
  }

  iovecs(addr: number, lens: number[]): Iovecs {
    const iovecs = new Iovecs(this.arena, this.arena.alloc(Iovecs.sizeBytes(64)), 64);
    let at = addr;
    for (const len of lens) {
      // A gap, so that they do not become one.
      iovecs.add(at, len);
      at += len + 8;
    }
    iovecs.seal();
    return iovecs;
  }

  /** Both shake hands; returns what each of them heard: -EAGAIN when all is well. */
  shake(): { client: number; server: number } {
    const heard = { client: 0, server: 0 };
    this.client.recv(this.to_addr, 1);
    this.server.recv(this.to_addr, 1);
    const is_decided = (stream: TlsStream) => stream.is_established || stream.reason !== "";
    for (let quiet = 0; quiet < 3;) {
      this.ring.wait(20);
      if (is_decided(this.client) && is_decided(this.server)) quiet += 1;
      while (this.ring.next()) {
        const is_server = this.ring.user >= SERVER;
        const stream = is_server ? this.server : this.client;
        heard[is_server ? "server" : "client"] = stream.received(this.ring.result);
        const outcome = is_server ? heard.server : heard.client;
        if (outcome === -EAGAIN) stream.recv(this.to_addr, 1);
      }
    }
    return heard;
  }
}

const RINGS: [string, (arena: Arena) => Ring][] = [
  ["io_uring", (arena) => UringRing.open(arena, 8) as UringRing],
  ["poll", (arena) => new PollRing(arena, 8)],
];

const certificates = () => ({ certificates_dir: proofs().dir, verifies_peer: false });
const localhost = () => ({ hostname: "localhost", certificates_dir: proofs().dir });

for (const [name, open] of RINGS) {
  Deno.test(`${name}: bytes go both ways, whole, whatever the ranges and records`, () => {
    using pair = new Pair(open, certificates(), localhost());
    pair.shake();
    assert(pair.client.is_established && pair.server.is_established);
    const lens = [1, 16, 20_000, 4096, 300_000, 7, 1_500_000];
    const { bytes } = pair.arena;
    for (let i = 0; i < FROM_BYTES; i++) bytes[pair.from_addr + i] = (i * 31 + (i >> 8)) & 255;
    const wanted: number[] = [];
    let at = pair.from_addr;
    for (const len of lens) {
      for (let i = 0; i < len; i++) wanted.push(bytes[at + i]!);
      at += len + 8;
    }
    const message = pair.iovecs(pair.from_addr, lens);
    const total_bytes = message.left_bytes;
    // What `shake` left: a receive of one byte for each side.
    const got: number[] = [];
    let into: Iovecs | null = null;
    let turn = 0;
    pair.server.send(message);
    while (got.length < total_bytes) {
      pair.ring.wait(1000);
      while (pair.ring.next()) {
        const { user, result } = pair.ring;
        if (user === SERVER + SEND) {
          const sent = pair.server.sent(result);
          assert(sent > 0 || sent === -EAGAIN, `sent: ${sent}`);
          if (sent > 0) message.advance(sent);
          if (message.left_bytes > 0) pair.server.send(message);
        } else if (user === RECV) {
          const received = pair.client.received(result);
          assert(received > 0 || received === -EAGAIN, `received: ${received}`);
          let addr = pair.to_addr;
          let left = Math.max(0, received);
          for (let i = 0; left > 0; i++) {
            const len = into === null ? left : Math.min(into.len(i), left);
            for (let j = 0; j < len; j++) got.push(bytes[addr + j]!);
            addr += len + 8;
            left -= len;
          }
          // Odd lengths, so that records are cut; one place and many.
          turn += 1;
          if (turn % 3 === 0) {
            pair.client.recv(pair.to_addr, 50_001);
            into = null;
          } else {
            into = pair.iovecs(pair.to_addr, [333, 40_000, 5]);
            pair.client.recvmsg(into);
          }
        }
      }
    }
    assertEquals(got.length, wanted.length);
    assert(got.every((byte, i) => byte === wanted[i]), "bytes differ");
  });

  Deno.test(`${name}: the end of the stream, with and without a word`, () => {
    for (const has_word of [true, false]) {
      using pair = new Pair(open, certificates(), localhost());
      pair.shake();
      if (has_word) pair.server.bye();
      libc.shutdown(pair.fds[1], SHUT_WR);
      pair.ring.wait(1000);
      assert(pair.ring.next());
      assertEquals(pair.ring.user, RECV);
      assertEquals(pair.client.received(pair.ring.result), 0);
    }
  });
}

const poll = RINGS[1]![1];

Deno.test("a server's certificate has to be of the authority and for the name", () => {
  const cases = [
    [{ ...localhost(), certificates_dir: proofs().foreign_dir }, "issuer is unknown"],
    [{ ...localhost(), hostname: "elsewhere" }, "name in the certificate does not match"],
    [{ ...localhost(), hostname: "127.0.0.2" }, "name in the certificate does not match"],
  ] as const;
  for (const [client, why] of cases) {
    using pair = new Pair(poll, certificates(), client);
    assertEquals(pair.shake(), { client: -EPROTO, server: -EPROTO });
    assertStringIncludes(pair.client.reason, why);
    assertStringIncludes(pair.server.reason, "alert");
    assert(!pair.client.is_established && !pair.server.is_established);
  }
  for (const hostname of ["127.0.0.1", "::1"]) {
    using pair = new Pair(poll, certificates(), { ...localhost(), hostname });
    assertEquals(pair.shake(), { client: -EAGAIN, server: -EAGAIN });
  }
});

Deno.test("a client's certificate is asked for when it was said so", () => {
  const server = { ...certificates(), verifies_peer: true };
  {
    using pair = new Pair(poll, server, localhost());
    assertEquals(pair.shake(), { client: -EAGAIN, server: -EAGAIN });
  }
  using without = new Pair(poll, server, {
    ...localhost(),
    certificates_dir: proofs().anonymous_dir,
  });
  assertEquals(without.shake().server, -EPROTO);
  // It trusts the server, and has a certificate of somebody whom the server does not.
  const dir = `${proofs().dir}-mixed`;
  Deno.mkdirSync(dir);
  Deno.copyFileSync(`${proofs().dir}/ca-cert.pem`, `${dir}/ca-cert.pem`);
  for (const file of ["client-cert.pem", "client-key.pem"]) {
    Deno.copyFileSync(`${proofs().foreign_dir}/${file}`, `${dir}/${file}`);
  }
  using foreign = new Pair(poll, server, { ...localhost(), certificates_dir: dir });
  assertEquals(foreign.shake().server, -EPROTO);
});

Deno.test("keys that both have", () => {
  const { psk_path, wrong_psk_path } = proofs();
  {
    using pair = new Pair(poll, { psk_path }, { user: "alice", psk_path });
    assertEquals(pair.shake(), { client: -EAGAIN, server: -EAGAIN });
  }
  using wrong = new Pair(poll, { psk_path }, { user: "alice", psk_path: wrong_psk_path });
  assertEquals(wrong.shake().server, -EPROTO);
  assert(!wrong.client.is_established && !wrong.server.is_established);
  using unknown = new Pair(poll, { psk_path: wrong_psk_path }, { user: "bob", psk_path });
  assertEquals(unknown.shake().server, -EPROTO);
  using other_kind = new Pair(poll, { psk_path }, localhost());
  assertEquals(other_kind.shake().server, -EPROTO);
});

Deno.test("what is no TLS is refused", () => {
  using pair = new Pair(poll, certificates(), localhost());
  pair.server.recv(pair.to_addr, 1);
  pair.arena.bytes.set(new TextEncoder().encode("GET / HTTP/1.1\r\n\r\n"), pair.from_addr);
  const sent = pair.iovecs(pair.from_addr, [18]);
  pair.ring.sendmsg(SEND, pair.fds[0], sent.msghdr_addr);
  for (let ended = 0; ended < 2;) {
    pair.ring.wait(1000);
    while (pair.ring.next()) {
      ended += 1;
      if (pair.ring.user === SERVER + RECV) {
        assertEquals(pair.server.received(pair.ring.result), -EPROTO);
      }
    }
  }
});

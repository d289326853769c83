import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { Arena } from "../arena.ts";
import { AF_UNIX, EAGAIN, EPROTO, libc, SHUT_WR, SOCK_STREAM } from "../libc.ts";
import { Iovecs } from "../nbd/iovecs.ts";
import { PollRing } from "../poll_ring.ts";
import type { Ring } from "../ring.ts";
import { UringRing } from "../uring.ts";
import { TlsClient, type TlsClientConfig, TlsServer, type TlsServerConfig } from "./credentials.ts";
import {
  cText,
  GNUTLS_CLIENT,
  GNUTLS_CRD_CERTIFICATE,
  GNUTLS_NONBLOCK,
  GNUTLS_SERVER,
  GNUTLS_X509_FMT_PEM,
  loadGnutls,
  PointerOut,
} from "./gnutls.ts";
import { RECORD_BYTES, type StreamPlace, TlsStream } from "./stream.ts";
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

/** Makes the client's stream of a socket, or the server's. */
type Maker = (fd: number, place: StreamPlace, is_client: boolean) => TlsStream;

/** Streams that prove themselves. */
function proving(server: TlsServerConfig["proof"], client: TlsClientConfig["proof"]): Maker {
  return (fd, place, is_client) =>
    is_client
      ? new TlsClient({ proof: client }).open(fd, place)
      : new TlsServer({ is_required: true, proof: server }).open(fd, place);
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

  constructor(open: (arena: Arena) => Ring, make: Maker) {
    this.ring = open(this.arena);
    const fds = new Int32Array(2);
    assertEquals(libc.socketpair(AF_UNIX, SOCK_STREAM, 0, new Uint8Array(fds.buffer)), 0);
    this.fds = [fds[0]!, fds[1]!];
    const { arena, ring } = this;
    const scratch_addr = arena.alloc(RECORD_BYTES);
    const place = { arena, ring, scratch_addr, recv_user: RECV, send_user: SEND };
    this.client = make(this.fds[0], place, true);
    const server_users = { recv_user: SERVER + RECV, send_user: SERVER + SEND };
    this.server = make(this.fds[1], { ...place, ...server_users }, false);
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
    using pair = new Pair(open, proving(certificates(), localhost()));
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
      using pair = new Pair(open, proving(certificates(), localhost()));
      pair.shake();
      if (has_word) pair.server.bye();
      libc.shutdown(pair.fds[1], SHUT_WR);
      while (!pair.ring.next()) pair.ring.wait(1000);
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
    using pair = new Pair(poll, proving(certificates(), client));
    assertEquals(pair.shake(), { client: -EPROTO, server: -EPROTO });
    assertStringIncludes(pair.client.reason, why);
    assertStringIncludes(pair.server.reason, "alert");
    assert(!pair.client.is_established && !pair.server.is_established);
  }
  for (const hostname of ["127.0.0.1", "::1"]) {
    using pair = new Pair(poll, proving(certificates(), { ...localhost(), hostname }));
    assertEquals(pair.shake(), { client: -EAGAIN, server: -EAGAIN });
  }
});

Deno.test("a client's certificate is asked for when it was said so", () => {
  const server = { ...certificates(), verifies_peer: true };
  {
    using pair = new Pair(poll, proving(server, localhost()));
    assertEquals(pair.shake(), { client: -EAGAIN, server: -EAGAIN });
  }
  using without = new Pair(
    poll,
    proving(server, {
      ...localhost(),
      certificates_dir: proofs().anonymous_dir,
    }),
  );
  assertEquals(without.shake().server, -EPROTO);
  // It trusts the server, and has a certificate of somebody whom the server does not.
  const dir = `${proofs().dir}-mixed`;
  Deno.mkdirSync(dir);
  Deno.copyFileSync(`${proofs().dir}/ca-cert.pem`, `${dir}/ca-cert.pem`);
  for (const file of ["client-cert.pem", "client-key.pem"]) {
    Deno.copyFileSync(`${proofs().foreign_dir}/${file}`, `${dir}/${file}`);
  }
  using foreign = new Pair(poll, proving(server, { ...localhost(), certificates_dir: dir }));
  assertEquals(foreign.shake().server, -EPROTO);
});

Deno.test("keys that both have", () => {
  const { psk_path, wrong_psk_path } = proofs();
  {
    using pair = new Pair(poll, proving({ psk_path }, { user: "alice", psk_path }));
    assertEquals(pair.shake(), { client: -EAGAIN, server: -EAGAIN });
  }
  using wrong = new Pair(poll, proving({ psk_path }, { user: "alice", psk_path: wrong_psk_path }));
  assertEquals(wrong.shake().server, -EPROTO);
  assert(!wrong.client.is_established && !wrong.server.is_established);
  using unknown = new Pair(poll, proving({ psk_path: wrong_psk_path }, { user: "bob", psk_path }));
  assertEquals(unknown.shake().server, -EPROTO);
  using other_kind = new Pair(poll, proving({ psk_path }, localhost()));
  assertEquals(other_kind.shake().server, -EPROTO);
});

Deno.test("what is no TLS is refused", () => {
  using pair = new Pair(poll, proving(certificates(), localhost()));
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

/** What no side asks for by itself, within a test's time: a new key. */
function updateKey(session: Deno.PointerObject): number {
  const library = Deno.dlopen("libgnutls.so.30", {
    gnutls_session_key_update: { parameters: ["pointer", "u32"], result: "i32" },
  });
  const KU_PEER = 1;
  const outcome = library.symbols.gnutls_session_key_update(session, KU_PEER);
  library.close();
  return outcome;
}

/** A stream whose session is known, and that believes whoever answers. */
function knownStream(fd: number, place: StreamPlace, is_client: boolean) {
  const gnutls = loadGnutls();
  const [credentials, session, priority] = [new PointerOut(), new PointerOut(), new PointerOut()];
  const { dir } = proofs();
  const [cert, key] = [cText(`${dir}/server-cert.pem`), cText(`${dir}/server-key.pem`)];
  const outcomes = [
    gnutls.gnutls_certificate_allocate_credentials(credentials.bytes),
    gnutls.gnutls_certificate_set_x509_key_file(
      credentials.pointer,
      cert,
      key,
      GNUTLS_X509_FMT_PEM,
    ),
    gnutls.gnutls_init(
      session.bytes,
      GNUTLS_NONBLOCK | (is_client ? GNUTLS_CLIENT : GNUTLS_SERVER),
    ),
    gnutls.gnutls_priority_init(
      priority.bytes,
      cText("NORMAL:-VERS-ALL:+VERS-TLS1.3"),
      new PointerOut().bytes,
    ),
    gnutls.gnutls_priority_set(session.pointer, priority.pointer),
    gnutls.gnutls_credentials_set(session.pointer, GNUTLS_CRD_CERTIFICATE, credentials.pointer),
  ];
  assertEquals(outcomes, [0, 0, 0, 0, 0, 0]);
  const stream = new TlsStream(gnutls, session.pointer, fd, place, { is_client, kept: null });
  return { stream, session: session.pointer };
}

for (const [name, open] of RINGS) {
  Deno.test(`${name}: new keys in the middle of a message and of its answer`, () => {
    const sessions = new Map<TlsStream, Deno.PointerObject>();
    const known: Maker = (fd, place, is_client) => {
      const { stream, session } = knownStream(fd, place, is_client);
      sessions.set(stream, session);
      return stream;
    };
    using pair = new Pair(open, known);
    pair.shake();
    const { bytes } = pair.arena;
    const lens = [100_000];
    for (let i = 0; i < 100_000; i++) bytes[pair.from_addr + i] = (i * 13) & 255;
    const to_server = [pair.client, pair.server, SERVER + RECV] as const;
    const to_client = [pair.server, pair.client, RECV] as const;
    // Whoever asks for the peer's new key, too, gets it with the answer.
    const turns = [[to_server, true], [to_client, false], [to_client, true], [to_server, false]];
    for (let round = 0; round < 3; round++) {
      for (const [[from, to, recv_user], asks] of turns as [typeof to_server, boolean][]) {
        if (asks) assertEquals(updateKey(sessions.get(from)!), 0);
        const message = pair.iovecs(pair.from_addr, lens);
        const send_user = recv_user === RECV ? SERVER + SEND : SEND;
        from.send(message);
        let got_bytes = 0;
        while (got_bytes < 100_000) {
          pair.ring.wait(1000);
          while (pair.ring.next()) {
            const { user, result } = pair.ring;
            if (user === send_user) {
              const sent = from.sent(result);
              assert(sent > 0 || sent === -EAGAIN, `sent: ${sent}`);
              if (sent > 0) message.advance(sent);
              if (message.left_bytes > 0) from.send(message);
            } else if (user === recv_user) {
              const received = to.received(result);
              assert(received > 0 || received === -EAGAIN, `received: ${received}`);
              if (received > 0) got_bytes += received;
              if (got_bytes < 100_000) to.recv(pair.to_addr + got_bytes, 100_000 - got_bytes);
            }
          }
        }
        assertEquals(got_bytes, 100_000);
        to.recv(pair.to_addr, 100_000);
        const at = (addr: number) => bytes.subarray(addr, addr + 100_000);
        assert(at(pair.to_addr).every((byte, i) => byte === at(pair.from_addr)[i]), "bytes differ");
        bytes.fill(0, pair.to_addr, pair.to_addr + 100_000);
      }
    }
  });
}

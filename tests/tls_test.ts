/**
 * TLS on the NBD socket, by clients that nobody here wrote (libnbd's, QEMU's, fio), on both loops: certificates and keys, who is
 * let in and who is not, and clients that break off wherever they can.
 *
 * @module
 */

import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { makeProofs, type Proofs } from "../io/tls/testing.ts";
import { Random } from "../io/nbd/fakes.ts";
import { type Ended, GIB, MIB, must, Rig, run, until } from "./device.ts";
import { NbdNegotiation, OPT, REP } from "./nbd_client.ts";

/** Debian's, whatever else is on the PATH: nbdsh is a module of it. */
const PYTHON = "/usr/bin/python3";
const MAIN = new URL("../cli/main.ts", import.meta.url).pathname;
const TLS_REQD = 0x80000005;
const PATTERN_BYTES = 24 * MIB;

/** A device whose clients come by TCP, or by its Unix socket. */
class Place implements AsyncDisposable {
  private constructor(readonly rig: Rig, readonly proofs: Proofs, readonly uri: string) {}

  static async make(
    options: (proofs: Proofs) => string[],
    { is_tcp = true, env = {} } = {},
  ): Promise<Place> {
    const rig = Rig.make({ env });
    const proofs = makeProofs(rig.dir);
    const table = `pcache ${rig.file("cache", 512 * MIB)} ${rig.file("backing", GIB)}`;
    const listen = is_tcp ? ["--listen", "127.0.0.1:0"] : [];
    await rig.ok("create", "d", "--table", table, ...listen, ...options(proofs));
    return new Place(rig, proofs, await rig.uri("d"));
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.rig[Symbol.asyncDispose]();
  }

  get port(): number {
    return Number(new URL(this.uri.replace("nbds:", "http:").replace("nbd:", "http:")).port);
  }

  /** For libnbd's clients; `user` with keys. */
  uriWith(parameters: string, user = ""): string {
    const at = user === "" ? "" : `${user}@`;
    return `nbds://${at}localhost:${this.port}/?${parameters}`;
  }

  get certificates(): string {
    return this.uriWith(`tls-certificates=${this.proofs.dir}`);
  }

  get keys(): string {
    return this.uriWith(`tls-psk-file=${this.proofs.psk_path}`, "alice");
  }

  /** Copies a pattern to the device and back, with several connections and many requests under way. */
  async checkCopies(uri: string): Promise<void> {
    const { rig } = this;
    const [from, to] = [rig.path("from"), rig.path("to")];
    const bytes = new Uint8Array(PATTERN_BYTES);
    for (let at = 0; at < bytes.length; at += 65536) {
      crypto.getRandomValues(bytes.subarray(at, at + 65536));
    }
    Deno.writeFileSync(from, bytes);
    Deno.truncateSync(from, GIB);
    await must("nbdcopy", "--connections=4", "--requests=32", from, uri);
    await must("nbdcopy", "--connections=4", "--requests=32", uri, to);
    await must("cmp", from, to);
    Deno.removeSync(to);
    Deno.removeSync(from);
  }

  /** How many descriptors the device has open. */
  async descriptors(): Promise<number> {
    return [...Deno.readDirSync(`/proc/${await this.rig.pid("d")}/fd`)].length;
  }
}

/** Runs a script for nbdsh, which lets nobody name files in a URI unless it is told to. */
function nbdsh(uri: string, script: string): Promise<Ended> {
  const connect = `h.set_uri_allow_local_file(True); h.connect_uri("${uri}")`;
  return run(PYTHON, ["-m", "nbd", "-c", connect, "-c", script]);
}

async function refused(uri: string): Promise<string> {
  const { code, stdout, stderr } = await run("nbdinfo", ["--size", uri]);
  assertEquals([code, stdout], [1, ""], `${uri} was let in`);
  return stderr;
}

const certificates = ({ dir }: Proofs) => ["--tls-certificates", dir];
const keys = ({ psk_path }: Proofs) => ["--tls-psk", psk_path];

for (const loop of ["io_uring", "poll"]) {
  const env = { PCACHE_LOOP: loop };

  Deno.test(`${loop}: TLS with certificates: bytes there and back`, async () => {
    await using place = await Place.make(
      (proofs) => [...certificates(proofs), "--tls-verify-peer"],
      {
        env,
      },
    );
    assert(place.uri.startsWith("nbds://127.0.0.1:"), place.uri);
    await place.checkCopies(place.certificates);
    await place.rig.ok("remove", "d");
  });

  Deno.test(`${loop}: TLS with keys on a Unix socket: bytes there and back`, async () => {
    await using place = await Place.make(keys, { is_tcp: false, env });
    const path = new URL(place.uri).searchParams.get("socket");
    assertEquals(place.uri, `nbds+unix:///?socket=${path}`);
    const uri = `nbds+unix://alice@/?socket=${path}&tls-psk-file=${place.proofs.psk_path}`;
    await place.checkCopies(uri);
    await place.rig.ok("remove", "d");
  });

  Deno.test(`${loop}: clients that break off at any byte of TLS harm nobody`, async () => {
    await using place = await Place.make(certificates, { env });
    const before = await place.descriptors();
    const random = new Random(5);
    for (let i = 0; i < 24; i++) {
      // Inside the handshake, around its end, and in the middle of records.
      const limit = i < 12 ? 1 + random.next(2500) : 3000 + random.next(400_000);
      await brokenOff(place, limit);
      await must("nbdinfo", "--size", place.certificates);
    }
    // Before, the device may not have closed the connection of the last command yet.
    const settled = async () => await place.descriptors() <= before;
    await until("their descriptors are closed", settled);
    await place.checkCopies(place.certificates);
    await place.rig.ok("remove", "d");
  });
}

/** A client whose connection is cut when so many bytes have gone to the server. */
async function brokenOff(place: Place, limit_bytes: number): Promise<void> {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const uri = place.certificates.replace(`:${place.port}/`, `:${listener.addr.port}/`);
  const client = nbdsh(
    uri,
    'h.pwrite(b"x" * 300000, 0); h.pread(300000, 0); h.pwrite(b"y" * 300000, 4096)',
  );
  const first = await Promise.race([listener.accept(), client]);
  if ("code" in first) throw new Error(`the client did not even connect: ${first.stderr}`);
  using outer = first;
  // Not before the client is there: the server does not wait for ever for what it has to say.
  using inner = await Deno.connect({ hostname: "127.0.0.1", port: place.port });
  const back = inner.readable.pipeTo(outer.writable, { preventClose: true }).catch(() => {});
  let left_bytes = limit_bytes;
  const chunk = new Uint8Array(4096);
  while (left_bytes > 0) {
    const got = await outer.read(chunk.subarray(0, Math.min(left_bytes, chunk.length)));
    if (got === null) break;
    for (let at = 0; at < got;) at += await inner.write(chunk.subarray(at, got));
    left_bytes -= got;
  }
  await endSending(inner);
  await back;
  await endSending(outer);
  await client;
}

/** Unless the other side has cut the connection off already. */
async function endSending(socket: Deno.Conn): Promise<void> {
  try {
    await socket.closeWrite();
  } catch (error) {
    if (!(error instanceof Deno.errors.NotConnected)) throw error;
  }
}

Deno.test("the features of the protocol are there under TLS", async () => {
  await using place = await Place.make(certificates);
  const script = `
assert h.get_tls_negotiated()
assert h.get_structured_replies_negotiated()
h.set_strict_mode(0)
h.pwrite(b"a" * 5000, 777)
h.flush()
assert h.pread(5000, 777) == b"a" * 5000
h.trim(4096, 0)
h.zero(100000, 4096)
assert h.pread(200000, 0) == b"\\0" * 200000
for size in (1, 16383, 16384, 16385, 1 << 20, (1 << 25) - 1):
    data = bytes(i * 7 & 255 for i in range(256)) * (size // 256 + 1)
    h.pwrite(data[:size], 513)
    assert h.pread(size, 513) == data[:size], size
cookies = [h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray([i]) * 4096), i * 4096) for i in range(200)]
while h.aio_in_flight() > 0: h.poll(-1)
for i in range(200): assert h.pread(4096, i * 4096) == bytes([i]) * 4096
h.shutdown()
`;
  const { code, stderr } = await nbdsh(place.certificates, script);
  assertEquals([code, stderr], [0, ""]);
  await place.rig.ok("remove", "d");
});

Deno.test("who has no certificate or key, or a wrong one, is not let in", async () => {
  await using place = await Place.make((proofs) => [...certificates(proofs), "--tls-verify-peer"]);
  const { dir, foreign_dir, anonymous_dir, psk_path } = place.proofs;
  await refused(place.uriWith(`tls-certificates=${anonymous_dir}`));
  await refused(place.uriWith(`tls-psk-file=${psk_path}`, "alice"));
  const text = await refused(place.uriWith(`tls-certificates=${foreign_dir}`));
  assertStringIncludes(text, "certificate");
  await refused(`nbd://localhost:${place.port}/`);
  await must("nbdinfo", "--size", place.uriWith(`tls-certificates=${dir}`));
  await place.rig.ok("remove", "d");
});

Deno.test("keys: a wrong one and an unknown user; a key that is added counts at once", async () => {
  await using place = await Place.make(keys);
  const { psk_path, wrong_psk_path } = place.proofs;
  await refused(place.uriWith(`tls-psk-file=${wrong_psk_path}`, "alice"));
  const carol = `carol:${"44".repeat(32)}\n`;
  const carols_path = place.rig.path("carol.psk");
  Deno.writeTextFileSync(carols_path, carol);
  await refused(place.uriWith(`tls-psk-file=${carols_path}`, "carol"));
  Deno.writeTextFileSync(psk_path, carol, { append: true });
  for (const uri of [place.keys, place.uriWith(`tls-psk-file=${carols_path}`, "carol")]) {
    assertEquals(await must("nbdinfo", "--size", uri), `${GIB}\n`);
  }
  await place.rig.ok("remove", "d");
});

Deno.test("TLS on: clients choose; require: nothing without it but STARTTLS and ABORT", async () => {
  await using place = await Place.make((proofs) => [...certificates(proofs), "--tls", "on"]);
  assert(place.uri.startsWith("nbd://"), place.uri);
  for (const uri of [place.certificates, `nbd://localhost:${place.port}/`]) {
    assertEquals(await must("nbdinfo", "--size", uri), `${GIB}\n`);
  }
  await using forced = await Place.make(certificates);
  const negotiation = await NbdNegotiation.open(`nbd://127.0.0.1:${forced.port}`);
  for (const option of [OPT.LIST, OPT.INFO, OPT.GO, OPT.STRUCTURED_REPLY, 12345]) {
    assertEquals((await negotiation.option(option)).type, TLS_REQD);
  }
  assertEquals((await negotiation.option(OPT.ABORT)).type, REP.ACK);
  await forced.rig.ok("remove", "d");
  await place.rig.ok("remove", "d");
});

Deno.test("what is no TLS, or sent in the clear behind STARTTLS, loses the connection", async () => {
  await using place = await Place.make(certificates);
  const before = await place.descriptors();
  const starttls = new Uint8Array([
    ...[0, 0, 0, 3, 0x49, 0x48, 0x41, 0x56, 0x45, 0x4f, 0x50, 0x54],
    ...[0, 0, 0, 5, 0, 0, 0, 0],
  ]);
  const list = starttls.slice(4);
  list[11] = 3;
  const random = new Random(3);
  const garbage = (len: number) => Uint8Array.from({ length: len }, () => random.next(256));
  // The second one comes together with STARTTLS, the others after its answer.
  const cases = [list, list, garbage(5), garbage(10_000), new Uint8Array([0x16, 3, 1, 0xff, 0xff])];
  for (const [i, bytes] of cases.entries()) {
    using socket = await Deno.connect({ hostname: "127.0.0.1", port: place.port });
    const all = i === 1 ? new Uint8Array([...starttls, ...bytes]) : starttls;
    await socket.write(all);
    if (i !== 1) {
      await readExactly(socket, 18 + 20);
      await socket.write(bytes);
    }
    if (i === cases.length - 1) continue; // an unfinished record: it just goes
    const rest = await readToEnd(socket);
    // An alert at most: nothing of the negotiation.
    assert(rest.length <= (i === 1 ? 18 : 7), `case ${i}: ${rest.length} bytes came back`);
  }
  await until("they are gone", async () => await place.descriptors() <= before);
  await must("nbdinfo", "--size", place.certificates);
  await place.rig.ok("remove", "d");
});

async function readExactly(socket: Deno.Conn, len_bytes: number): Promise<void> {
  const bytes = new Uint8Array(len_bytes);
  for (let at = 0; at < len_bytes;) {
    const got = await socket.read(bytes.subarray(at));
    if (got === null) throw new Error("the server has gone");
    at += got;
  }
}

async function readToEnd(socket: Deno.Conn): Promise<Uint8Array> {
  const all: number[] = [];
  const chunk = new Uint8Array(4096);
  try {
    for (let got; (got = await socket.read(chunk)) !== null;) all.push(...chunk.subarray(0, got));
  } catch (error) {
    if (!(error instanceof Deno.errors.ConnectionReset)) throw error;
  }
  return new Uint8Array(all);
}

Deno.test("qemu-io and qemu-img, with certificates and with keys", async () => {
  const credentials: [(proofs: Proofs) => string[], (dir: string) => string][] = [
    [certificates, (dir) => `tls-creds-x509,id=t,endpoint=client,dir=${dir}/pki,verify-peer=yes`],
    [keys, (dir) => `tls-creds-psk,id=t,endpoint=client,dir=${dir}/qemu,username=alice`],
  ];
  for (const [options, object] of credentials) {
    await using place = await Place.make(options);
    // QEMU looks for keys.psk in a directory.
    Deno.mkdirSync(place.rig.path("qemu"));
    Deno.copyFileSync(place.proofs.psk_path, place.rig.path("qemu/keys.psk"));
    const image = "driver=nbd,server.type=inet,server.host=localhost," +
      `server.port=${place.port},tls-creds=t`;
    const with_tls = ["--object", object(place.rig.dir), "--image-opts", image];
    const shown = await must(
      "qemu-io",
      ...with_tls,
      ...["-c", "write -P 0x5a 4096 3M", "-c", "flush", "-c", "read -P 0x5a 4096 3M"],
      ...["-c", "write -z 64k 1M", "-c", "read -P 0 64k 1M", "-c", "discard 0 4M"],
    );
    assert(!shown.includes("failed"), shown);
    const json = JSON.parse(await must("qemu-img", "info", "--output=json", ...with_tls));
    assertEquals(json["virtual-size"], GIB);
    await place.rig.ok("remove", "d");
  }
});

Deno.test("fio writes and verifies under TLS", async () => {
  await using place = await Place.make(certificates);
  // Where libnbd looks for certificates that the URI does not name: fio gives it no leave to.
  Deno.mkdirSync(place.rig.path(".pki/libnbd"), { recursive: true });
  Deno.copyFileSync(
    `${place.proofs.dir}/ca-cert.pem`,
    place.rig.path(".pki/libnbd/ca-cert.pem"),
  );
  const { code, stdout, stderr } = await run("fio", [
    ...["--name=verify", "--ioengine=nbd", `--uri=nbds://localhost:${place.port}/`],
    ...["--rw=randwrite", "--size=16M", "--bsrange=512-128k", "--blockalign=512"],
    ...["--bs_unaligned=0", "--iodepth=16", "--numjobs=2", "--offset_increment=32M"],
    ...["--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0", "--group_reporting"],
  ], { HOME: place.rig.dir });
  assertEquals(code, 0, stdout + stderr);
  await place.rig.ok("remove", "d");
});

Deno.test("an address that others reach is served with TLS, or when it was said so", async () => {
  await using rig = Rig.make();
  const proofs = makeProofs(rig.dir);
  const table = `pcache ${rig.file("cache", 512 * MIB)} ${rig.file("backing", GIB)}`;
  const psk = ["--tls-psk", proofs.psk_path];
  for (const address of ["0.0.0.0:0", "[::]:0"]) {
    for (const options of [[], [...psk, "--tls", "on"]]) {
      const create = ["create", "d", "--table", table, "--listen", address, ...options];
      const { code, stderr } = await rig.pcache(...create);
      assertEquals(code, 1);
      assertStringIncludes(stderr, `listening on ${address}: whoever reaches it`);
      assertStringIncludes(stderr, "--insecure");
    }
    for (const options of [psk, ["--insecure"]]) {
      await rig.ok("create", "d", "--table", table, "--listen", address, ...options);
      await rig.ok("remove", "d");
    }
  }
});

Deno.test("create says what is wrong with certificates, keys and the library", async () => {
  await using rig = Rig.make();
  const proofs = makeProofs(rig.dir);
  const table = `pcache ${rig.file("cache", 512 * MIB)} ${rig.file("backing", GIB)}`;
  Deno.writeTextFileSync(rig.path("empty.psk"), "");
  Deno.writeTextFileSync(rig.path("bad.psk"), "alice:zz\n");
  Deno.mkdirSync(rig.path("mixed"));
  Deno.copyFileSync(`${proofs.dir}/server-cert.pem`, rig.path("mixed/server-cert.pem"));
  Deno.copyFileSync(`${proofs.dir}/client-key.pem`, rig.path("mixed/server-key.pem"));
  const cases = [
    [["--tls-certificates", rig.path("none")], "none/server-cert.pem: No such file or directory"],
    [["--tls-certificates", rig.path("mixed")], "mixed/server-key.pem: "],
    [["--tls-psk", rig.path("none")], "none: No such file or directory"],
    [["--tls-psk", rig.path("empty.psk")], "empty.psk: it holds no key"],
    [["--tls-psk", rig.path("bad.psk")], "bad.psk: line 1: USER:KEY is wanted"],
    [["--tls", "require"], "--tls-certificates or --tls-psk is wanted"],
  ] as const;
  for (const [options, why] of cases) {
    const { code, stderr } = await rig.pcache("create", "d", "--table", table, ...options);
    assertEquals(code, 1, stderr);
    assertStringIncludes(stderr, why);
  }
  // A library that is there and cannot be loaded: an empty file, in a name space of its own.
  const libraries = await must("ldconfig", "-p");
  const library = /libgnutls\.so\.30 .*=> (\S+)/.exec(libraries)![1]!;
  const hidden = 'mount --bind /dev/null "$0"; exec "$@"';
  const create = ["create", "d", "--table", table, "--tls-psk", proofs.psk_path];
  const pcache = [Deno.execPath(), "run", "-A", "--no-prompt", MAIN, ...create];
  const command = ["-m", "sh", "-c", hidden, await Deno.realPath(library), ...pcache];
  const { code, stderr } = await run("unshare", command, rig.env);
  assertEquals(code, 1, stderr);
  assertStringIncludes(stderr, "TLS: libgnutls.so.30 cannot be loaded");
  assertStringIncludes(stderr, "apt-get install libgnutls30");
  assertEquals(await rig.ok("ls"), "No devices found\n");
});

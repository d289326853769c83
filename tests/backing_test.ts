/**
 * Devices whose backing device is an export of somebody else's NBD server: nbdkit with filters that fail and delay, qemu-nbd,
 * another device of ours; servers that are killed under load and come back, with and without what they had not yet made durable.
 *
 * @module
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { Buffer } from "node:buffer";
import { callControl } from "../io/control_client.ts";
import { makeProofs, type Proofs } from "../io/tls/testing.ts";
import { MIB, must, Rig, run, until } from "./device.ts";
import { NbdClient, NbdError } from "./nbd_client.ts";
import { heldPort } from "./ports.ts";
import { fillFor, Random } from "./random.ts";

const CACHE_BYTES = 512 * MIB;
const DEVICE_BYTES = 32 * MIB;
const BLOCK_BYTES = 4096;
const BLOCKS = DEVICE_BYTES / BLOCK_BYTES;
/** Requests that a test has under way at once. */
const WORKERS = 16;
const EIO = 5;

const LOOPS = [
  { loop: "io_uring", env: {} },
  { loop: "poll", env: { PCACHE_LOOP: "poll" } },
];

/** What every block of the device must hold: version 0 is what the backing device held at first. */
class Content {
  readonly version = new Uint32Array(BLOCKS);
  readonly #bytes = new Uint8Array(BLOCK_BYTES);

  /** Valid until the next call. */
  of(block: number, version = this.version[block]!): Uint8Array<ArrayBuffer> {
    fillFor(1 + block + version * BLOCKS, this.#bytes);
    return this.#bytes;
  }

  check(block: number, bytes: Uint8Array, where: string): void {
    if (Buffer.compare(bytes, this.of(block)) === 0) return;
    const version = this.version[block]!;
    throw new Error(`${where}: block ${block} does not hold version ${version}`);
  }

  checkAll(bytes: Uint8Array, where: string): void {
    assertEquals(bytes.length, DEVICE_BYTES);
    for (let block = 0; block < BLOCKS; block++) {
      const at = block * BLOCK_BYTES;
      this.check(block, bytes.subarray(at, at + BLOCK_BYTES), where);
    }
  }

  /** Writes all of it. */
  async writeAll(client: NbdClient): Promise<void> {
    for (let block = 0; block < BLOCKS; block++) {
      await client.write(block * BLOCK_BYTES, this.of(block));
    }
  }

  /** Makes a file that holds all of it. */
  file(rig: Rig, name: string): string {
    const path = rig.file(name, 0);
    using file = Deno.openSync(path, { write: true });
    for (let block = 0; block < BLOCKS; block++) file.writeSync(this.of(block));
    return path;
  }
}

/** Reads and writes at random, every answer checked, until told to stop. */
class Load {
  /** Read errors are part of the test. */
  may_fail = false;
  failed_reads = 0;
  requests = 0;
  #is_ending = false;
  readonly #workers: Promise<void[]>;

  constructor(readonly client: NbdClient, readonly content: Content, seed: number) {
    const workers = Array.from({ length: WORKERS }, (_, i) => this.#work(i, new Random(seed + i)));
    this.#workers = Promise.all(workers);
    this.#workers.catch(() => {}); // `end` reports it
  }

  /** No two workers use a block. */
  async #work(worker: number, random: Random): Promise<void> {
    while (!this.#is_ending) {
      const block = worker + WORKERS * random.below(BLOCKS / WORKERS);
      if (random.below(2) === 0) {
        await this.client.write(
          block * BLOCK_BYTES,
          this.content.of(block, this.content.version[block]! + 1).slice(),
        );
        this.content.version[block]!++;
      } else await this.#read(block);
      this.requests++;
      // A device that answers at once must not keep the timers of the test from running.
      if (this.requests % 64 === 0) await new Promise((wake) => setTimeout(wake, 1));
    }
  }

  async #read(block: number): Promise<void> {
    try {
      const bytes = await this.client.read(block * BLOCK_BYTES, BLOCK_BYTES);
      this.content.check(block, bytes, "the device");
    } catch (error) {
      if (!this.may_fail || !(error instanceof NbdError) || error.errno !== EIO) throw error;
      this.failed_reads++;
    }
  }

  async more(count: number): Promise<void> {
    const enough = this.requests + count;
    await Promise.race([
      until(`${count} more requests`, () => this.requests >= enough),
      this.#workers,
    ]);
  }

  async end(): Promise<void> {
    this.#is_ending = true;
    await this.#workers;
  }
}

/** A server of somebody else's, which can be killed and started again. */
class Server {
  #child: Deno.ChildProcess | null = null;

  /** `socket`: where it listens, when it is a path. */
  constructor(
    readonly rig: Rig,
    readonly uri: string,
    readonly command: string[],
    readonly socket: string | null = null,
  ) {}

  async start(): Promise<this> {
    const [program, ...args] = this.command;
    this.#child = this.rig.start(program!, args);
    await until(`${program} serves ${this.uri}`, async () => {
      // Our own client has no TLS.
      if (this.uri.startsWith("nbds")) return (await run("nbdinfo", [this.uri])).code === 0;
      try {
        await (await NbdClient.connect(this.uri)).close();
        return true;
      } catch {
        return false;
      }
    });
    return this;
  }

  async kill(): Promise<void> {
    this.#child!.kill("SIGKILL");
    await this.#child!.status;
    if (this.socket !== null) await Deno.remove(this.socket);
  }

  /** How many sockets it has open. */
  sockets(): number {
    const folder = `/proc/${this.#child!.pid}/fd`;
    return [...Deno.readDirSync(folder)].filter(({ name }) => {
      try {
        return Deno.readLinkSync(`${folder}/${name}`).startsWith("socket:");
      } catch {
        return false; // closed meanwhile
      }
    }).length;
  }

  /** Stops it, as a machine that hangs would. */
  stop(): void {
    this.#child!.kill("SIGSTOP");
  }

  goOn(): void {
    this.#child!.kill("SIGCONT");
  }
}

/** nbdkit on a Unix socket. */
function nbdkit(rig: Rig, filters: string[], ...plugin: string[]): Promise<Server> {
  const socket = rig.path("server");
  const options = ["--foreground", "--unix", socket];
  const command = ["nbdkit", ...options, ...filters.map((name) => `--filter=${name}`), ...plugin];
  return new Server(rig, `nbd+unix:///?socket=${socket}`, command, socket).start();
}

/** The same under TLS: on a TCP port with certificates, which clients have to have, too; or on a Unix socket with keys. */
function securedNbdkit(
  rig: Rig,
  kind: "certificates" | "keys",
  proofs: Proofs,
  ...plugin: string[]
): Promise<Server> {
  if (kind === "keys") {
    const socket = rig.path("server");
    const options = ["--foreground", "--unix", socket, "--tls=require"];
    const command = ["nbdkit", ...options, `--tls-psk=${proofs.psk_path}`, ...plugin];
    const uri = `nbds+unix://alice@/?socket=${socket}&tls-psk-file=${proofs.psk_path}`;
    return new Server(rig, uri, command, socket).start();
  }
  const port = heldPort(rig);
  const options = ["--foreground", "--ipaddr=127.0.0.1", `--port=${port}`, "--tls=require"];
  const tls = [`--tls-certificates=${proofs.dir}`, "--tls-verify-peer"];
  const uri = `nbds://localhost:${port}/?tls-certificates=${proofs.dir}`;
  return new Server(rig, uri, ["nbdkit", ...options, ...tls, ...plugin]).start();
}

/** Whether nbdkit's log filter has seen a write answered that no flush covers. */
function hasUnflushed(log: string): boolean {
  const text = Deno.readTextFileSync(log);
  return / \.\.\.Write .* return=0/.test(text.slice(text.lastIndexOf(" Flush ") + 1));
}

/** Creates device `d` over an export. */
async function create(rig: Rig, uri: string): Promise<NbdClient> {
  const cache = rig.path("cache");
  try {
    rig.file("cache", CACHE_BYTES);
  } catch (error) {
    if (!(error instanceof Deno.errors.AlreadyExists)) throw error; // the device is created again
  }
  await rig.ok("create", "d", "--table", `pcache ${cache} ${uri} data_crc true`);
  return await connect(rig, await rig.uri("d"));
}

/** A client that ends with the rig. */
async function connect(rig: Rig, uri: string): Promise<NbdClient> {
  const client = await NbdClient.connect(uri);
  rig.defer("end a client", () => client.vanish());
  return client;
}

async function info(rig: Rig) {
  const reply = await callControl(rig.path("run/d/control"), { verb: "info" });
  if (!reply.ok) throw new Error(reply.error);
  return reply;
}

async function counters(rig: Rig): Promise<Record<string, number>> {
  const reply = await callControl(rig.path("run/d/control"), { verb: "status" });
  if (!reply.ok) throw new Error(reply.error);
  if (!("counters" in reply)) throw new Error("the device has no table");
  return reply.counters;
}

async function isConnected(rig: Rig): Promise<boolean> {
  return (await info(rig)).backing_trouble === "";
}

/** The whole device, read in requests of 1 MiB. */
async function readAll(client: NbdClient): Promise<Uint8Array> {
  const all = new Uint8Array(DEVICE_BYTES);
  for (let at = 0; at < DEVICE_BYTES; at += MIB) all.set(await client.read(at, MIB), at);
  return all;
}

interface Kind {
  readonly name: string;
  start(rig: Rig, backing: string): Promise<Server>;
}

const KINDS: Kind[] = [
  { name: "nbdkit file", start: (rig, path) => nbdkit(rig, [], "file", path) },
  {
    name: "nbdkit over TCP, 4 threads, requests of at most 64 KiB",
    start: (rig, path) => {
      const port = heldPort(rig);
      const options = ["--foreground", "--threads=4", "--ipaddr=127.0.0.1", `--port=${port}`];
      const filter = ["--filter=blocksize-policy", "blocksize-maximum=65536"];
      const policy = [
        "blocksize-error-policy=error",
        "blocksize-minimum=512",
        "blocksize-preferred=4096",
      ];
      const command = ["nbdkit", ...options, filter[0]!, "file", path, filter[1]!, ...policy];
      return new Server(rig, `nbd://localhost:${port}`, command).start();
    },
  },
  {
    name: "nbdkit under TLS with certificates",
    start: (rig, path) => securedNbdkit(rig, "certificates", makeProofs(rig.dir), "file", path),
  },
  {
    name: "nbdkit under TLS with keys",
    start: (rig, path) => securedNbdkit(rig, "keys", makeProofs(rig.dir), "file", path),
  },
  {
    name: "qemu-nbd, an export with a name",
    start: (rig, path) => {
      const socket = rig.path("server");
      const options = ["--persistent", "--shared=8", "--format=raw", "--cache=writeback"];
      const name = "an export/with a name";
      const command = ["qemu-nbd", ...options, "--export-name", name, "--socket", socket, path];
      const uri = `nbd+unix:///${encodeURIComponent(name)}?socket=${socket}`;
      return new Server(rig, uri, command, socket).start();
    },
  },
];

for (const { loop, env } of LOOPS) {
  for (const kind of KINDS) {
    Deno.test(`${kind.name}: misses, hits, write-back, another cache (${loop})`, async () => {
      await using rig = Rig.make({ env });
      const content = new Content();
      const backing = content.file(rig, "backing");
      const server = await kind.start(rig, backing);
      const client = await create(rig, server.uri);
      assertEquals((await info(rig)).loop, loop);
      const load = new Load(client, content, 1);
      await load.more(5000);
      await load.end();
      content.checkAll(await readAll(client), "the device");
      await client.close();
      await rig.ok("remove", "--flush", "d");
      content.checkAll(await Deno.readFile(backing), "the backing device");

      // An empty cache reads it all from the server.
      await rig.ok(
        "create",
        "d",
        "--format",
        "--table",
        `pcache ${rig.path("cache")} ${server.uri}`,
      );
      const other = await connect(rig, await rig.uri("d"));
      content.checkAll(await readAll(other), "the device with another cache");
    });
  }

  for (const plugin of [["file", "backing"], ["memory", "32M"]]) {
    Deno.test(`nbdkit ${plugin[0]} that fails and delays one request in ten, under load (${loop})`, async () => {
      await using rig = Rig.make({ env });
      const content = new Content();
      const [name, argument] = plugin;
      const own = name === "file" ? rig.file(argument!, DEVICE_BYTES) : argument!;
      const trigger = rig.path("failing");
      const errors = ["error=EIO", "error-pread-rate=10%", "error-pwrite-rate=10%"];
      const options = [...errors, `error-file=${trigger}`, "delay-read=2ms", "delay-write=2ms"];
      const server = await nbdkit(rig, ["error", "delay"], name!, own, ...options);
      const direct = await connect(rig, server.uri);
      await content.writeAll(direct);
      const client = await create(rig, server.uri);
      rig.file("failing", 0);
      const load = new Load(client, content, 2);
      load.may_fail = true;
      await load.more(5000);
      await until("the server has failed writes", async () => {
        await load.more(100);
        return (await counters(rig)).backing_write_errors! > 0;
      });
      await Deno.remove(trigger);
      await load.end();
      assert(load.failed_reads > 0, "no read failed");
      content.checkAll(await readAll(client), "the device");
      await client.close();
      await rig.ok("remove", "--flush", "d");
      content.checkAll(await readAll(direct), "the backing device");
    });
  }

  Deno.test(`a device over a device (${loop})`, async () => {
    await using rig = Rig.make({ env });
    const content = new Content();
    const backing = content.file(rig, "backing");
    const lower_cache = rig.file("lower-cache", CACHE_BYTES);
    await rig.ok("create", "lower", "--table", `pcache ${lower_cache} ${backing} data_crc true`);
    const client = await create(rig, await rig.uri("lower"));
    const load = new Load(client, content, 3);
    await load.more(5000);
    // The lower one is killed and comes back; it keeps what it has flushed, and the upper one knows what that is.
    for (let i = 0; i < 3; i++) {
      await rig.kill("lower");
      await until("the loss is seen", async () => !await isConnected(rig));
      await rig.ok("create", "lower", "--table", `pcache ${lower_cache} ${backing} data_crc true`);
      await until("they are connected again", () => isConnected(rig));
      await load.more(1000);
    }
    await load.end();
    content.checkAll(await readAll(client), "the device");
    await client.close();
    assertMatch((await rig.pcache("remove", "lower")).stderr, /Device or resource busy/);
    await rig.ok("remove", "--flush", "d");
    await rig.ok("remove", "--flush", "lower");
    content.checkAll(await Deno.readFile(backing), "the backing device");
  });

  Deno.test(`a server that is killed under load and comes back, with half of what it had answered (${loop})`, async () => {
    await using rig = Rig.make({ env });
    const content = new Content();
    const backing = content.file(rig, "backing");
    // The cache filter keeps writes until they are flushed, in a file that dies with it.
    const filters = ["log", "delay", "cache"];
    const log = rig.path("requests");
    const options = [`logfile=${log}`, "cache=writeback", "delay-write=1ms", "delay-read=1ms"];
    const server = await nbdkit(rig, filters, "file", backing, ...options);
    const client = await create(rig, server.uri);
    const load = new Load(client, content, 4);
    const random = new Random(4);
    let kills = 0;
    for (; kills < 5 || (await counters(rig)).backing_flush_errors === 0; kills++) {
      assert(kills < 60, "no kill ever came between a write and its flush");
      await load.more(500 + random.below(1500));
      if (kills >= 5) await until("there is a write to lose", () => hasUnflushed(log));
      await server.kill();
      await until("the loss is seen", async () => !await isConnected(rig));
      await server.start();
      await until("they are connected again", () => isConnected(rig));
    }
    await load.more(500);
    await load.end();
    assertEquals((await info(rig)).backing_outages, kills);
    content.checkAll(await readAll(client), "the device");
    await client.close();
    await rig.ok("remove", "--flush", "d");
    content.checkAll(await Deno.readFile(backing), "the backing device");
  });

  Deno.test(`while the server is away hits and writes go on and misses wait for it (${loop})`, async () => {
    await using rig = Rig.make({ env });
    const content = new Content();
    const backing = content.file(rig, "backing");
    const server = await nbdkit(rig, [], "file", backing);
    const client = await create(rig, server.uri);
    content.check(0, await client.read(0, BLOCK_BYTES), "the device");
    await server.kill();
    await until("the loss is seen", async () => !await isConnected(rig));
    assertMatch(await rig.info("d", "Backing"), /^not connected \(.+\)$/);

    const miss = client.read(BLOCK_BYTES, BLOCK_BYTES);
    let has_come = false;
    miss.then(() => has_come = true, () => has_come = true);
    for (let i = 0; i < 200; i++) {
      content.check(0, await client.read(0, BLOCK_BYTES), "the device");
      const block = 2 + i;
      content.version[block]!++;
      await client.write(block * BLOCK_BYTES, content.of(block).slice());
      content.check(block, await client.read(block * BLOCK_BYTES, BLOCK_BYTES), "the device");
    }
    await client.flush();
    assertEquals(has_come, false);
    await server.start();
    content.check(1, await miss, "the device");
    assertEquals(await rig.info("d", "Backing"), "connected");
    await client.close();
    await rig.ok("remove", "--flush", "d");
    content.checkAll(await Deno.readFile(backing), "the backing device");
  });

  Deno.test(`a server that hangs for a while: the connection and all requests go on (${loop})`, async () => {
    await using rig = Rig.make({ env });
    const content = new Content();
    const server = await nbdkit(rig, [], "file", content.file(rig, "backing"));
    const client = await create(rig, server.uri);
    const load = new Load(client, content, 5);
    await load.more(1000);
    server.stop();
    await new Promise((wake) => setTimeout(wake, 1500));
    server.goOn();
    await load.more(1000);
    await load.end();
    assertEquals((await info(rig)).backing_outages, 0);
    content.checkAll(await readAll(client), "the device");
  });

  Deno.test(`removal while the server is away: with --flush refused, else done, nothing lost (${loop})`, async () => {
    await using rig = Rig.make({ env });
    const content = new Content();
    const backing = content.file(rig, "backing");
    const server = await nbdkit(rig, [], "file", backing);
    const client = await create(rig, server.uri);
    await server.kill();
    for (let block = 0; block < 100; block++) {
      content.version[block]!++;
      await client.write(block * BLOCK_BYTES, content.of(block).slice());
    }
    await client.close();
    const { code, stderr } = await rig.pcache("remove", "--flush", "d");
    assertEquals(code, 1);
    assertMatch(stderr, /the backing device is away \(.+\): \d+ bytes cannot be written back/);
    assertEquals((await info(rig)).name, "d");
    await rig.ok("remove", "d");
    const refused = await rig.pcache(
      "create",
      "d",
      "--table",
      `pcache ${rig.path("cache")} ${server.uri}`,
    );
    assertMatch(
      refused.stderr,
      /Error opening backing device: nbd\+unix:.*: No such file or directory/,
    );
    await server.start();
    const again = await create(rig, server.uri);
    content.checkAll(await readAll(again), "the device");
    await again.close();
    await rig.ok("remove", "--flush", "d");
    content.checkAll(await Deno.readFile(backing), "the backing device");
  });
}

Deno.test("a server under TLS that is killed under load and comes back", async () => {
  await using rig = Rig.make();
  const content = new Content();
  const backing = content.file(rig, "backing");
  const server = await securedNbdkit(rig, "certificates", makeProofs(rig.dir), "file", backing);
  const client = await create(rig, server.uri);
  const load = new Load(client, content, 6);
  for (let kills = 0; kills < 3; kills++) {
    await load.more(500);
    // No request is waited for before the server is back: all workers may wait for it.
    await server.kill();
    await until("the loss is seen", async () => !await isConnected(rig));
    await server.start();
    await until("the device is connected again", () => isConnected(rig));
  }
  await load.end();
  content.checkAll(await readAll(client), "the device");
  await client.close();
  await rig.ok("remove", "--flush", "d");
  content.checkAll(await Deno.readFile(backing), "the backing device");
});

Deno.test("servers whose TLS is not what the URI says are refused with a reason", async () => {
  await using rig = Rig.make();
  const cache = rig.file("cache", CACHE_BYTES);
  const proofs = makeProofs(rig.dir);
  const refused = async (uri: string, why: RegExp) => {
    const { code, stderr } = await rig.pcache("create", "d", "--table", `pcache ${cache} ${uri}`);
    assertEquals(code, 1, stderr);
    assertMatch(stderr, why);
    assertMatch(stderr, /Error opening backing device: nbds?/);
  };
  const clear = await nbdkit(rig, [], "memory", "64M");
  await refused(
    `nbds+unix://alice@/?socket=${clear.socket}&tls-psk-file=${proofs.psk_path}`,
    /the server has no TLS/,
  );
  await clear.kill();
  const keys = await securedNbdkit(rig, "keys", proofs, "memory", "64M");
  await refused(`nbd+unix:///?socket=${keys.socket}`, /the server wants TLS: nbds/);
  const unix = (user: string, path: string) =>
    `nbds+unix://${user}@/?socket=${keys.socket}&tls-psk-file=${path}`;
  await refused(unix("carol", proofs.psk_path), /it has no key for the user "carol"/);
  await refused(unix("alice", rig.path("none")), /TLS: .*none: No such file or directory/);
  await refused(unix("alice", proofs.wrong_psk_path), /: TLS: /);
  const { uri } = await securedNbdkit(rig, "certificates", proofs, "memory", "64M");
  const with_dir = (dir: string) => uri.replace(proofs.dir, dir);
  await refused(with_dir(proofs.foreign_dir), /: TLS: .*issuer is unknown/);
  await refused(with_dir(proofs.anonymous_dir), /: (TLS: |the server closed|Connection reset)/);
  await refused(`${uri}&tls-hostname=elsewhere`, /: TLS: .*does not match/);
  await refused(uri.replace(/\?.*/, ""), /: TLS: .*issuer is unknown/);
});

Deno.test("what the server says of its disk, the device says: it turns, or not", async () => {
  for (const turns of [true, false]) {
    await using rig = Rig.make();
    const server = await nbdkit(
      rig,
      [],
      ...["eval", "get_size=echo 64M", "pwrite=cat >/dev/null", "can_write=exit 0"],
      ...["pread=head -c $3 /dev/zero", `is_rotational=exit ${turns ? 0 : 3}`],
    );
    const cache = rig.file("cache", CACHE_BYTES);
    await rig.ok("create", "d", "--table", `pcache ${cache} ${server.uri}`);
    const { code } = await run("nbdinfo", ["--is", "rotational", await rig.uri("d")]);
    assertEquals(code, turns ? 0 : 2);
    await rig.ok("remove", "d");
  }
});

Deno.test("table, deps and info show the URI; a second device on it is refused", async () => {
  await using rig = Rig.make();
  const server = await nbdkit(rig, [], "memory", `${DEVICE_BYTES + 700}`);
  await (await create(rig, `${server.uri}`)).close();
  const sectors = DEVICE_BYTES / 512 + 1;
  const params = `${rig.path("cache")} ${server.uri} 4 cache_mode writeback data_crc true`;
  assertEquals(await rig.ok("table", "d"), `0 ${sectors} pcache ${params}\n`);
  assertMatch(await rig.ok("deps", "d"), /^2 dependencies\t: \(\d+, \d+\) \(nbd\)\n$/);
  const names = `2 dependencies\t: (${rig.path("cache")}) (${server.uri})\n`;
  assertEquals(await rig.ok("deps", "-o", "devname", "d"), names);
  const [{ backing_path, backing_dev }] = JSON.parse(await rig.ok("info", "--json", "d"));
  assertEquals([backing_path, backing_dev], [server.uri, null]);
  assertEquals(await rig.info("d", "Backing"), "connected");

  const other = rig.file("other", CACHE_BYTES);
  const second = await rig.pcache("create", "e", "--table", `pcache ${other} ${server.uri}`);
  assertEquals(second.code, 1);
  assertMatch(second.stderr, /Device or resource busy: it belongs to device d/);
  assertEquals((await rig.ok("ls")).split("\n").length, 2);

  // The table that is shown makes the device again.
  const table = await rig.ok("table", "d");
  await rig.ok("remove", "d");
  await rig.ok("create", "d", "--table", table);
});

Deno.test("what is no backing device is refused with a reason, and nothing is left", async () => {
  await using rig = Rig.make();
  const cache = rig.file("cache", CACHE_BYTES);
  const socket = rig.path("server");
  const uri = `nbd+unix:///?socket=${socket}`;
  const refused = async (table: string, why: RegExp) => {
    const { code, stderr } = await rig.pcache("create", "d", "--table", table);
    assertEquals(code, 1, stderr);
    assertMatch(stderr, why);
    assertMatch(stderr, /Command failed\.\n$/);
    const { stdout } = await run("ls", [rig.path("run")]); // it may not even be there
    assertEquals(stdout.replace("~lock\n", ""), "");
  };
  await refused(`pcache ${cache} nbds+unix:///?socket=/s`, /tls-hostname is wanted/);
  await refused(`pcache ${cache} ${uri}&x=1`, /unknown parameter "x=1"/);
  await refused(`pcache ${cache} ${uri}`, /server: No such file or directory/);
  await refused(`pcache ${cache} nbd://localhost:${heldPort(rig)}`, /Connection refused/);
  await refused(`pcache ${cache} nbd://no-such-host.invalid/`, /host no-such-host\.invalid: /);
  await refused(`pcache ${uri} ${cache}`, /only a backing device may be an NBD URI/);

  using listener = Deno.listen({ transport: "unix", path: rig.path("mute") });
  const accept = (async () => {
    for await (const connection of listener) {
      await connection.write(new TextEncoder().encode("220 mail.example ESMTP\r\n"));
      connection.close();
    }
  })();
  const mute = `nbd+unix:///?socket=${rig.path("mute")}`;
  await refused(`pcache ${cache} ${mute}`, /it does not answer as an NBD server/);
  listener.close();
  await accept;

  const SERVERS: [why: RegExp, filters: string[], plugin: string[]][] = [
    [/the export is read-only/, [], ["-r", "memory", "32M"]],
    [/holds 65536 sectors, the table asks for 65537/, [], ["memory", "32M"]],
    [
      /its requests have 4096 to/,
      ["blocksize-policy"],
      ["memory", "32M", "blocksize-minimum=4096", "blocksize-error-policy=error"],
    ],
    [/the server has no export of that name|Connection|closed/, ["exportname"], [
      "memory",
      "32M",
      "exportname=only",
      "exportname-strict=true",
    ]],
  ];
  for (const [why, filters, plugin] of SERVERS) {
    const options = ["--foreground", "--unix", socket];
    const child = rig.start("nbdkit", [
      ...options,
      ...filters.map((name) => `--filter=${name}`),
      ...plugin,
    ]);
    await until("nbdkit listens", async () => {
      try {
        (await Deno.connect({ transport: "unix", path: socket })).close();
        return true;
      } catch {
        return false; // the socket is not there yet, or is bound only
      }
    });
    await refused(`0 65537 pcache ${cache} ${uri}`, why);
    child.kill("SIGKILL");
    await child.status;
    await Deno.remove(socket);
  }
  // It was only looked at.
  assertEquals(await must("sh", "-c", `tr -d '\\0' < ${cache} | wc -c`), "0\n");
});

for (const { loop, env } of LOOPS) {
  Deno.test(`a table that is wiped lets go of its server, and one that is loaded takes it (${loop})`, async () => {
    await using rig = Rig.make({ env });
    const content = new Content();
    const server = await nbdkit(rig, [], "file", content.file(rig, "backing"));
    await (await create(rig, server.uri)).close();
    // The one that listens, and one for each client.
    await until("the device is the only client", () => server.sockets() === 2);
    await rig.ok("wipe_table", "d");
    await until("there is none", () => server.sockets() === 1);
    await rig.ok("remove", "d");

    const table = `pcache ${rig.path("cache")} ${server.uri} data_crc true`;
    await rig.ok("create", "--notable", "d");
    await rig.ok("load", "d", "--table", table);
    await rig.ok("resume", "d");
    const client = await connect(rig, await rig.uri("d"));
    content.checkAll(await readAll(client), "the device");
  });
}

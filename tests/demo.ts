/**
 * The main job, shown: a cache is created, written to, killed in the middle of writing, created again, and
 * trusted. `deno task demo`; needs no package, takes less than half a minute, leaves nothing behind.
 *
 * @module
 */

import { isRunning } from "./device.ts";
import { NbdBroken, NbdClient } from "./nbd_client.ts";

const MIB = 1 << 20;
const CACHE_BYTES = 512 * MIB;
const BACKING_BYTES = 1024 * MIB;
const BLOCK_BYTES = 4096;
const SECTOR_BYTES = 512;
const BLOCK_COUNT = BACKING_BYTES / BLOCK_BYTES;
/** Blocks that one write covers at most. */
const MAX_RUN_BLOCKS = 32;
const CONNECTIONS = 4;
/** Writes that each connection has under way at once. */
const DEPTH = 16;
/** Writes in the first part, and blocks that are answered in the second part before the kill. */
const WRITES = 3000;
/** How often the writes of the second part are flushed while they go on. */
const FLUSH_PERIOD_MS = 200;
const SEED = Number(Deno.env.get("PCACHE_SEED") ?? 1);
const MAIN = new URL("../cli/main.ts", import.meta.url).pathname;

/** xorshift32: the same numbers from the same seed, everywhere. */
class Random {
  #state: number;
  constructor(seed: number) {
    this.#state = seed | 0 || 1;
  }
  next(): number {
    let x = this.#state;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.#state = x;
    return x >>> 0;
  }
  below(limit: number): number {
    return this.next() % limit;
  }
}

/**
 * What the device must hold. A block's content follows from its number and from how often it was written, so
 * the model is three numbers a block. Between the flush and the kill a sector may hold any version from the
 * flushed one to the last one sent.
 */
class Model {
  readonly sent = new Uint32Array(BLOCK_COUNT);
  readonly answered = new Uint32Array(BLOCK_COUNT);
  readonly flushed = new Uint32Array(BLOCK_COUNT);
  /** Blocks of all the writes that were answered. */
  answer_count = 0;
  /** Blocks that the kill left between two versions, as they were found. */
  readonly found = new Map<number, Uint8Array>();
  #scratch = new Uint8Array(BLOCK_BYTES);

  /** The content of a block after its `version`-th write; before the first one it is zero. */
  fill(into: Uint8Array, block: number, version: number): void {
    if (version === 0) {
      into.fill(0, 0, BLOCK_BYTES);
      return;
    }
    const words = new Uint32Array(into.buffer, into.byteOffset, BLOCK_BYTES / 4);
    const random = new Random(Math.imul(block + 1, 0x9e3779b1) ^ Math.imul(version, 0x85ebca6b));
    for (let i = 0; i < words.length; i++) words[i] = random.next();
  }

  /** Takes the next version of `count` blocks and returns their bytes. */
  write(block: number, count: number): Uint8Array<ArrayBuffer> {
    const bytes = new Uint8Array(count * BLOCK_BYTES);
    for (let i = 0; i < count; i++) {
      const version = ++this.sent[block + i]!;
      this.found.delete(block + i);
      this.fill(bytes.subarray(i * BLOCK_BYTES), block + i, version);
    }
    return bytes;
  }

  /** Checks a block that was never in doubt. */
  isExact(block: number, bytes: Uint8Array): boolean {
    let wanted = this.found.get(block);
    if (wanted === undefined) {
      wanted = this.#scratch;
      this.fill(wanted, block, this.sent[block]!);
    }
    return isEqual(bytes, wanted);
  }

  /** Checks a block after the kill, sector by sector, and settles what it holds from now on. */
  settle(block: number, bytes: Uint8Array): "flushed" | "later" | "mixed" | "lost" {
    const first = this.flushed[block]!;
    const last = this.sent[block]!;
    const sectors = BLOCK_BYTES / SECTOR_BYTES;
    const versions = new Int32Array(sectors).fill(-1);
    for (let version = first; version <= last; version++) {
      this.fill(this.#scratch, block, version);
      for (let sector = 0; sector < sectors; sector++) {
        const from = sector * SECTOR_BYTES;
        const to = from + SECTOR_BYTES;
        if (isEqual(bytes.subarray(from, to), this.#scratch.subarray(from, to))) {
          versions[sector] = version;
        }
      }
    }
    if (versions.includes(-1)) return "lost";
    const is_whole = versions.every((version) => version === versions[0]);
    if (!is_whole || versions[0] !== last) this.found.set(block, bytes.slice());
    if (!is_whole) return "mixed";
    return versions[0] === first ? "flushed" : "later";
  }
}

function isEqual(a: Uint8Array, b: Uint8Array): boolean {
  const left = new Uint32Array(a.buffer, a.byteOffset, a.length / 4);
  const right = new Uint32Array(b.buffer, b.byteOffset, b.length / 4);
  for (let i = 0; i < left.length; i++) if (left[i] !== right[i]) return false;
  return true;
}

/** The demo's folder, its two files, and the program. */
class Stage {
  readonly dir = Deno.makeTempDirSync({ prefix: "pcache-demo-" });
  readonly cache = `${this.dir}/cache.img`;
  readonly backing = `${this.dir}/backing.img`;
  readonly table = `pcache ${this.cache} ${this.backing} data_crc true`;

  /** Runs a command, shows it and what it prints; ends the demo if it fails. */
  async pcache(...args: string[]): Promise<string> {
    const shown = args.map((arg) => arg.includes(" ") ? `"${arg}"` : arg).join(" ");
    say(`    $ pcache ${shown.replaceAll(`${this.dir}/`, "")}`);
    const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "--no-prompt", "--quiet", MAIN, ...args],
      env: { PCACHE_RUN_DIR: `${this.dir}/run` },
      cwd: this.dir,
    }).output();
    const text = new TextDecoder().decode(stdout);
    for (const line of (text + new TextDecoder().decode(stderr)).trimEnd().split("\n")) {
      if (line !== "") say(`      ${line.replaceAll(`${this.dir}/`, "")}`);
    }
    if (code !== 0) throw new Error(`pcache ${args[0]} ended with status ${code}`);
    return text;
  }

  /** One of the lines of `info`, without showing it. */
  async info(field: string): Promise<string> {
    const { stdout } = await new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "--no-prompt", "--quiet", MAIN, "info", "demo"],
      env: { PCACHE_RUN_DIR: `${this.dir}/run` },
    }).output();
    const line = new TextDecoder().decode(stdout).split("\n").find((l) => l.startsWith(field));
    if (line === undefined) throw new Error(`info demo has no line ${field}`);
    return line.slice(line.indexOf(":") + 1).trim();
  }

  /** Ends the device if it still runs, and removes the folder. */
  async clear(): Promise<void> {
    try {
      const pid = Number(Deno.readTextFileSync(`${this.dir}/run/demo/pid`));
      if (isDevice(pid, this.dir)) await killAndWait(pid);
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    } finally {
      Deno.removeSync(this.dir, { recursive: true });
    }
  }
}

/** Whether that process is still the one that this demo started, by what it inherited. */
function isDevice(pid: number, dir: string): boolean {
  try {
    return Deno.readTextFileSync(`/proc/${pid}/environ`).includes(`PCACHE_RUN_DIR=${dir}/run`);
  } catch {
    return false;
  }
}

async function killAndWait(pid: number): Promise<void> {
  Deno.kill(pid, "SIGKILL");
  while (isRunning(pid)) await new Promise((wake) => setTimeout(wake, 5));
}

const begun_ms = performance.now();

function say(text: string): void {
  console.log(text);
}

function step(text: string): void {
  const seconds = ((performance.now() - begun_ms) / 1000).toFixed(1).padStart(4);
  say(`\n[${seconds} s] ${text}`);
}

/** Picks where the next write goes: half of them in a small part, so that blocks are written again. */
function pickRun(random: Random): [block: number, count: number] {
  const count = 1 + random.below(random.below(4) === 0 ? MAX_RUN_BLOCKS : 4);
  const span = random.below(2) === 0 ? BLOCK_COUNT : BLOCK_COUNT >> 5;
  return [random.below(span - count), count];
}

/** Writes over several connections at once until `count` writes are answered; a flush now and then. */
async function writeMany(uri: string, model: Model, random: Random, count: number): Promise<void> {
  const clients = await connectAll(uri);
  let left = count;
  // Two writes to one block must not be under way at once: nobody could say which one wins.
  const busy = new Set<number>();
  const work = async (client: NbdClient) => {
    while (left > 0) {
      left--;
      const [block, blocks] = takeFreeRun(random, busy);
      await client.write(block * BLOCK_BYTES, model.write(block, blocks));
      for (let i = 0; i < blocks; i++) {
        model.answered[block + i] = model.sent[block + i]!;
        model.answer_count++;
        busy.delete(block + i);
      }
    }
  };
  const workers = clients.flatMap((client) => Array.from({ length: DEPTH }, () => work(client)));
  // All of them come to their end before anybody looks at the model, also when the connections break.
  const ends = await Promise.allSettled(workers);
  for (const end of ends) if (end.status === "rejected") throw end.reason;
  for (const client of clients) await client.close();
}

async function connectAll(uri: string): Promise<NbdClient[]> {
  const clients: NbdClient[] = [];
  for (let i = 0; i < CONNECTIONS; i++) clients.push(await NbdClient.connect(uri));
  return clients;
}

function takeFreeRun(random: Random, busy: Set<number>): [block: number, count: number] {
  for (;;) {
    const [block, count] = pickRun(random);
    const run = Array.from({ length: count }, (_, i) => block + i);
    if (run.some((b) => busy.has(b))) continue;
    for (const b of run) busy.add(b);
    return [block, count];
  }
}

async function flush(client: NbdClient, model: Model): Promise<void> {
  // What was answered before the flush was sent is what the flush promises.
  const promised = model.answered.slice();
  await client.flush();
  model.flushed.set(promised);
}

async function flushOnce(uri: string, model: Model): Promise<void> {
  await using client = await NbdClient.connect(uri);
  await flush(client, model);
}

/** Writes and flushes, and kills the device's process while writes are under way on every connection. */
async function writeUntilKilled(uri: string, model: Model, random: Random, pid: number) {
  const answers_before = model.answer_count;
  let flushes = 0;
  const writing = expectCutOff(writeMany(uri, model, random, Infinity));
  const client = await NbdClient.connect(uri);
  const flushing = expectCutOff((async () => {
    for (;;) {
      await flush(client, model);
      flushes++;
      await new Promise((wake) => setTimeout(wake, FLUSH_PERIOD_MS));
    }
  })());
  while (model.answer_count < answers_before + WRITES || flushes < 2) {
    await new Promise((wake) => setTimeout(wake, 5));
  }
  await new Promise((wake) => setTimeout(wake, FLUSH_PERIOD_MS / 2));
  await killAndWait(pid);
  await Promise.all([writing, flushing]);
  return { answers: model.answer_count - answers_before, flushes };
}

/** Work that must end because its connection breaks. */
async function expectCutOff(work: Promise<void>): Promise<void> {
  try {
    await work;
  } catch (error) {
    const is_cut_off = error instanceof NbdBroken || error instanceof Deno.errors.BrokenPipe ||
      error instanceof Deno.errors.ConnectionReset;
    if (is_cut_off) return;
    throw error;
  }
  throw new Error("a client ended in peace although its device was killed");
}

/** Reads every block that was ever written. */
async function checkAfterKill(uri: string, model: Model) {
  const seen = { flushed: 0, later: 0, mixed: 0, lost: 0 };
  const clients = await connectAll(uri);
  let next = 0;
  const work = async (client: NbdClient) => {
    for (let block = next++; block < BLOCK_COUNT; block = next++) {
      if (model.sent[block] === 0) continue;
      const bytes = await client.read(block * BLOCK_BYTES, BLOCK_BYTES);
      seen[model.settle(block, bytes)]++;
    }
  };
  const workers = clients.flatMap((client) => Array.from({ length: DEPTH }, () => work(client)));
  await Promise.all(workers);
  for (const client of clients) await client.close();
  return seen;
}

/** Compares the backing file with the model, every byte. */
function checkBacking(path: string, model: Model): void {
  using file = Deno.openSync(path);
  const bytes = new Uint8Array(MIB);
  for (let at = 0; at < BACKING_BYTES; at += bytes.length) {
    for (let filled = 0; filled < bytes.length;) {
      const got = file.readSync(bytes.subarray(filled));
      if (got === null) throw new Error(`the backing file ends at byte ${at + filled}`);
      filled += got;
    }
    for (let off = 0; off < bytes.length; off += BLOCK_BYTES) {
      const block = (at + off) / BLOCK_BYTES;
      if (!model.isExact(block, bytes.subarray(off, off + BLOCK_BYTES))) {
        throw new Error(`the backing file is wrong in the 4 KiB at byte ${block * BLOCK_BYTES}`);
      }
    }
  }
}

function makeSparse(path: string, bytes: number): void {
  using file = Deno.openSync(path, { write: true, createNew: true });
  file.truncateSync(bytes);
}

async function demo(stage: Stage): Promise<void> {
  const model = new Model();
  const random = new Random(SEED);
  const show = (n: number) => n.toLocaleString("en");

  say(`pcache keeps the writes to a slow block device in a fast, persistent cache device: an answer
means "in the cache", a flush means "safe", and the data goes to the slow device later. This demo
makes such a device out of two files, writes to it as an NBD client, kills it without warning, and
then looks for every byte. Folder: ${stage.dir}, seed ${SEED}.`);

  step("Two sparse files: the cache device, 512 MiB, and the backing device, 1 GiB.");
  makeSparse(stage.cache, CACHE_BYTES);
  makeSparse(stage.backing, BACKING_BYTES);

  step("Create the device from a table line. The command returns when the device answers.");
  await stage.pcache("create", "demo", "--table", stage.table);
  await stage.pcache("info", "demo");
  const uri = await stage.info("URI");

  step(`Write at random over ${CONNECTIONS} NBD connections, ${DEPTH} requests deep, then flush.`);
  await writeMany(uri, model, random, WRITES);
  await flushOnce(uri, model);
  const written = model.flushed.reduce((sum, version) => sum + (version > 0 ? 1 : 0), 0);
  say(`    flushed: ${show(written)} blocks of 4 KiB are promised from now on`);

  step("The kernel's status fields: flags, segments in all / of the cache / in use, gc_percent,");
  say("         flags, then where the log grows, is written back to, and is reclaimed to.");
  await stage.pcache("status", "demo");

  step(
    "Write on, with a flush now and then, and kill the device with SIGKILL in the middle of it.",
  );
  const pid = Number(await stage.info("PID"));
  const { answers, flushes } = await writeUntilKilled(uri, model, random, pid);
  say(
    `    killed after ${show(answers)} more blocks and ${flushes} more flushes had been answered`,
  );
  await stage.pcache("ls");

  step("Create it again from the same line: the log is replayed.");
  await stage.pcache("create", "demo", "--table", stage.table);
  await stage.pcache("status", "demo");

  step(
    "Read every block that was ever written. Flushed data must be there; what was written later",
  );
  say("         must be old or new, sector by sector, and never anything else.");
  const seen = await checkAfterKill(await stage.info("URI"), model);
  say(
    `    as flushed: ${show(seen.flushed)} blocks; later version: ${show(seen.later)}; ` +
      `partly later: ${show(seen.mixed)}; wrong: ${show(seen.lost)}`,
  );
  if (seen.lost > 0) throw new Error(`${seen.lost} blocks hold what was never written there`);

  step("Write some more, then write everything back and remove the device.");
  await writeMany(await stage.info("URI"), model, random, WRITES / 4);
  await stage.pcache("remove", "--retry", "--flush", "demo");

  step("Compare the backing file, every byte of it, with what it must hold.");
  checkBacking(stage.backing, model);
  say("    all of 1 GiB is as it must be");
}

const stage = new Stage();
try {
  await demo(stage);
  step("Done: nothing that was promised was lost.");
} catch (error) {
  say(`\nThe demo failed: ${error instanceof Error ? error.message : error}`);
  Deno.exitCode = 1;
} finally {
  await stage.clear();
}

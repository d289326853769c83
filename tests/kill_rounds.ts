/**
 * Real kills: the device's process is killed with SIGKILL at a random moment under load, created again, and every sector
 * read: it must hold its last flushed version or a later one. Our own clients and fio load it at once, each on a half of
 * the device.
 *
 * @module
 */

import { callControl } from "../io/control_client.ts";
import { isRunning, MIB, Rig, until } from "./device.ts";
import { FioRun, FioSectors } from "./fio_load.ts";
import { NbdBroken, NbdClient } from "./nbd_client.ts";
import { Random } from "./random.ts";

const SECTOR = 512;
const SECTOR_WORDS = SECTOR / 4;
/** What our clients write to, then what fio writes to. */
const HALF_BYTES = 8 * MIB;
const DEVICE_BYTES = 2 * HALF_BYTES;
const SECTORS = HALF_BYTES / SECTOR;
const CACHE_BYTES = 512 * MIB;
const CONNECTIONS = 3;
const DEPTH = 8;
const MOST_SECTORS = 64;
const READ_BYTES = 1 * MIB;
const MOST_FIO_WRITES_A_FLUSH = 4;
/** The longest that a process lives under load. */
const MOST_LIFE_MS = 400;

/** What the rounds have seen. */
export interface KillCounts {
  rounds: number;
  /** Answered writes of our clients. */
  writes: number;
  flushes: number;
  /** fio's writes; all but the last one of a round were answered. */
  fio_writes: number;
  /** Those of them that an answered flush of fio covers. */
  fio_flushed: number;
  /** Sectors that held a version that had not been flushed when the process was killed. */
  later: number;
}

/** What each sector of our clients' half holds, or may hold. */
class Sectors {
  /** The version that the last answered flush covers, or that was seen after a kill. */
  readonly flushed = new Uint32Array(SECTORS);
  /** The newest version that was answered. */
  readonly answered = new Uint32Array(SECTORS);
  /** The newest version that was sent. */
  readonly sent = new Uint32Array(SECTORS);
  /** True while a request uses the sector, so that versions come in order. */
  readonly busy = new Uint8Array(SECTORS);
  version = 0;

  /** Takes a range that no request uses, for a new version. */
  take(random: Random): { first: number; bytes: Uint8Array<ArrayBuffer>; version: number } {
    for (;;) {
      const count = random.between(1, MOST_SECTORS);
      const first = random.below(SECTORS - count + 1);
      if (this.busy.subarray(first, first + count).some((busy) => busy !== 0)) continue;
      this.busy.fill(1, first, first + count);
      const version = ++this.version;
      this.sent.fill(version, first, first + count);
      const bytes = new Uint8Array(count * SECTOR);
      for (let i = 0; i < count; i++) {
        stamp(bytes.subarray(i * SECTOR, (i + 1) * SECTOR), first + i, version);
      }
      return { first, bytes, version };
    }
  }

  /** Throws unless the bytes, read after a kill from sector `first` on, are allowed. Takes them over. Returns how many were later. */
  adopt(first: number, bytes: Uint8Array<ArrayBuffer>, what: string): number {
    const wanted = new Uint8Array(SECTOR);
    let later = 0;
    for (let i = 0; i < bytes.length / SECTOR; i++) {
      const sector = first + i;
      const seen = bytes.subarray(i * SECTOR, (i + 1) * SECTOR);
      const version = new Uint32Array(seen.buffer, seen.byteOffset, SECTOR_WORDS)[1]!;
      stamp(wanted, sector, version);
      const flushed = this.flushed[sector]!;
      // No two requests use a sector at once, so later versions are newer numbers, and each was sent.
      const is_whole = seen.every((byte, at) => byte === wanted[at]);
      if (!is_whole || version < flushed || version > this.sent[sector]!) {
        throw new Error(
          `${what}: sector ${sector} holds version ${version}${is_whole ? "" : ", torn"}, but ` +
            `${flushed} was flushed and ${this.sent[sector]} is the last one that was sent`,
        );
      }
      if (version > flushed) later++;
      this.flushed[sector] = this.answered[sector] = this.sent[sector] = version;
    }
    return later;
  }
}

/** What a sector of a version holds; version 0 is zeros. */
function stamp(bytes: Uint8Array, sector: number, version: number): void {
  if (version === 0) {
    bytes.fill(0);
    return;
  }
  const words = new Uint32Array(bytes.buffer, bytes.byteOffset, SECTOR_WORDS);
  const mixed = Math.imul(sector ^ Math.imul(version, 0x85ebca6b), 0x9e3779b1);
  for (let i = 0; i < SECTOR_WORDS; i++) words[i] = Math.imul(mixed + i, 0xc2b2ae35);
  words[0] = sector;
  words[1] = version;
}

/** Kills a device `rounds` times; its files lie in the folder `parent`, or where temporary files go. */
export async function killRounds(
  rounds: number,
  seed: number,
  parent: string | undefined,
  tell: (line: string) => void = () => {},
): Promise<KillCounts> {
  await using rig = Rig.make(parent === undefined ? {} : { parent });
  const table = `pcache ${rig.file("cache", CACHE_BYTES)} ${rig.file("backing", DEVICE_BYTES)}`;
  const random = new Random(seed);
  const halves = { ours: new Sectors(), fio: new FioSectors(HALF_BYTES, HALF_BYTES) };
  const counts: KillCounts = {
    rounds: 0,
    writes: 0,
    flushes: 0,
    fio_writes: 0,
    fio_flushed: 0,
    later: 0,
  };
  for (; counts.rounds < rounds; counts.rounds++) {
    const what = `seed ${seed}, round ${counts.rounds}`;
    await rig.ok("create", "d", "--table", table);
    const uri = await rig.uri("d");
    await verify(uri, halves, counts, what);
    await killUnderLoad(rig, uri, random, halves, counts);
    if (counts.rounds % 10 === 9) tell(`${what}: ${JSON.stringify(counts)}`);
  }
  await rig.ok("create", "d", "--table", table);
  await verify(await rig.uri("d"), halves, counts, `seed ${seed}, at the end`);
  await rig.ok("remove", "--flush", "d");
  return counts;
}

/** How many flushes the device's process has begun, of all clients. */
async function flushesOf(rig: Rig): Promise<number> {
  const reply = await callControl(rig.path("run/d/control"), { verb: "status" });
  if (!reply.ok || !("counters" in reply)) throw new Error(`no status: ${JSON.stringify(reply)}`);
  return reply.counters.flushes!;
}

interface Halves {
  ours: Sectors;
  fio: FioSectors;
}

/** Reads the whole device, and flushes it: what was seen must stay. */
async function verify(
  uri: string,
  { ours, fio }: Halves,
  counts: KillCounts,
  what: string,
): Promise<void> {
  const client = await NbdClient.connect(uri);
  for (let off = 0; off < DEVICE_BYTES; off += READ_BYTES) {
    const bytes = await client.read(off, READ_BYTES);
    counts.later += off < HALF_BYTES
      ? ours.adopt(off / SECTOR, bytes, what)
      : fio.adopt(off, bytes, what);
  }
  await client.flush();
  await client.close();
}

async function killUnderLoad(
  rig: Rig,
  uri: string,
  random: Random,
  { ours, fio }: Halves,
  counts: KillCounts,
): Promise<void> {
  const pid = await rig.pid("d");
  const round = counts.rounds + 1;
  const flushes_before = await flushesOf(rig);
  const ours_sent = { flushes: 0 };
  await using fio_run = await FioRun.start({
    uri,
    dir: rig.dir,
    off_bytes: HALF_BYTES,
    len_bytes: HALF_BYTES,
    round,
    seed: random.u32(),
    writes_a_flush: random.between(1, MOST_FIO_WRITES_A_FLUSH),
  });
  const clients: NbdClient[] = [];
  for (let i = 0; i < CONNECTIONS; i++) clients.push(await NbdClient.connect(uri));
  const loops = clients.flatMap((client) =>
    Array.from({ length: DEPTH }, () => load(client, random, ours, counts, ours_sent))
  );
  await new Promise((wake) => setTimeout(wake, random.below(MOST_LIFE_MS)));
  if (counts.fio_flushed === 0) {
    // However slow this machine is, in some round something has to come of it: of fio's flushes, one at a time, the second one has
    // begun, so that the first is known to have ended.
    await until("there are writes of ours and flushes of fio", async () => {
      const flushes = await flushesOf(rig) - flushes_before;
      return counts.writes > 0 && flushes - ours_sent.flushes >= 2;
    });
  }
  await fio_run.mustRun();
  Deno.kill(pid, "SIGKILL");
  await Promise.all(loops);
  await until(`process ${pid} is gone`, () => !isRunning(pid));
  ours.busy.fill(0);
  const writes = await fio_run.broken();
  fio.note(round, writes);
  counts.fio_writes += writes.flushed.length + writes.unflushed.length;
  counts.fio_flushed += writes.flushed.length;
}

/** Writes and flushes until the connection breaks. */
async function load(
  client: NbdClient,
  random: Random,
  sectors: Sectors,
  counts: KillCounts,
  sent: { flushes: number },
): Promise<void> {
  try {
    for (;;) {
      if (random.chance(0.05)) {
        const covered = sectors.answered.slice();
        sent.flushes++;
        await client.flush();
        counts.flushes++;
        for (let i = 0; i < SECTORS; i++) {
          if (covered[i]! > sectors.flushed[i]!) sectors.flushed[i] = covered[i]!;
        }
        continue;
      }
      const { first, bytes, version } = sectors.take(random);
      const count = bytes.length / SECTOR;
      const fua = random.chance(0.05);
      await client.write(first * SECTOR, bytes, { fua });
      counts.writes++;
      sectors.answered.fill(version, first, first + count);
      if (fua) sectors.flushed.fill(version, first, first + count);
      sectors.busy.fill(0, first, first + count);
    }
  } catch (error) {
    const { BrokenPipe, ConnectionReset } = Deno.errors;
    const is_broken = [NbdBroken, BrokenPipe, ConnectionReset].some((of) => error instanceof of);
    if (!is_broken) throw error;
  }
}

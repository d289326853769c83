/**
 * fio as a client beside ours while the device's process is killed: its blocks name their round and offset, it flushes
 * after every few of them, and its own log says which requests had been answered.
 *
 * @module
 */

import { isRunning, until } from "./device.ts";

const SECTOR = 512;
/** What fio writes at once, at a multiple of it. */
export const FIO_BLOCK_BYTES = 4096;
const BLOCK_SECTORS = FIO_BLOCK_BYTES / SECTOR;
/** Digits of the round in a block. */
const ROUND_DIGITS = 6;
/**
 * What fio says of a connection that broke: libnbd refuses to send the next request or to wait for an answer, or fails
 * the request under way. An error that the device answers reads `func=io_u error`, too, with another name.
 */
const BROKEN =
  /func=(td_io_queue|get_events|io_u error, error=Transport endpoint is not connected)/;

/** Where fio writes, and how. */
export interface FioJob {
  uri: string;
  /** A folder for its log. */
  dir: string;
  off_bytes: number;
  len_bytes: number;
  /** What its blocks name; 0 is for zeros. */
  round: number;
  seed: number;
  /** Writes between two flushes. */
  writes_a_flush: number;
}

/** The writes of a run by their offsets, in order. */
export interface FioWrites {
  /** Those that an answered flush covers. */
  flushed: number[];
  /** Those after them: the last one may have been under way. */
  unflushed: number[];
}

/** fio, writing to random blocks until its connection breaks. */
export class FioRun implements AsyncDisposable {
  readonly #child: Deno.ChildProcess;
  readonly #output: Promise<Deno.CommandOutput>;
  readonly #log: string;

  private constructor(child: Deno.ChildProcess, log: string) {
    this.#child = child;
    this.#output = child.output();
    this.#log = log;
  }

  /** Starts fio and waits until it is about to write. */
  static async start(job: FioJob): Promise<FioRun> {
    const log = `${job.dir}/fio-${job.round}.log`;
    const args = [
      ...["--name=load", "--thread", "--ioengine=nbd", `--uri=${job.uri}`, "--eta=never"],
      ...["--rw=randwrite", "--norandommap", `--bs=${FIO_BLOCK_BYTES}`, `--randseed=${job.seed}`],
      ...[`--offset=${job.off_bytes}`, `--size=${job.len_bytes}`, "--io_size=1t"],
      // One request at a time, so that the log says which ones had been answered.
      ...["--iodepth=1", `--fsync=${job.writes_a_flush}`, `--write_iolog=${log}`],
      ...["--verify=pattern", `--verify_pattern="${roundName(job.round)}"%o`, "--do_verify=0"],
      "--verify_state_save=0",
    ];
    const child = new Deno.Command("fio", {
      args,
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    const run = new FioRun(child, log);
    try {
      await until("fio has begun its log, or ended", () => exists(log) || !isRunning(child.pid));
      await run.mustRun();
    } catch (error) {
      await run[Symbol.asyncDispose]();
      throw error;
    }
    return run;
  }

  /** Throws, with what fio said, when it has ended by itself. */
  async mustRun(): Promise<void> {
    if (!isRunning(this.#child.pid)) {
      throw await this.#failure("ended before the device was killed");
    }
  }

  /** Waits for fio's end, which a broken connection must have brought; returns what it had written. */
  async broken(): Promise<FioWrites> {
    const { success, stdout, stderr } = await this.#output;
    const text = new TextDecoder();
    if (success || !BROKEN.test(text.decode(stdout) + text.decode(stderr))) {
      throw await this.#failure("did not end by a broken connection");
    }
    const log = await Deno.readTextFile(this.#log);
    await Deno.remove(this.#log);
    return parseLog(log);
  }

  async #failure(what: string): Promise<Error> {
    const { code, stdout, stderr } = await this.#output;
    const text = new TextDecoder();
    return new Error(`fio ${what}: status ${code}\n${text.decode(stdout)}${text.decode(stderr)}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      this.#child.kill("SIGKILL");
    } catch (error) {
      if (!(error instanceof TypeError)) throw error; // it has ended
    }
    await this.#output;
  }
}

/**
 * What a log of fio (`--write_iolog`, version 3) says of a run with one request at a time. A line is written before its
 * request is sent, and `close` at the end.
 *
 * fio ends when a write fails, but goes on after a flush that failed: one that a broken connection failed is followed by
 * one more line, a request that is refused. So a flush was answered when two lines follow.
 */
export function parseLog(text: string): FioWrites {
  const lines = text.split("\n");
  if (lines.shift() !== "fio version 3 iolog" || !/ close\n$/.test(text)) {
    throw new Error(`fio's log is not whole: ${text.length} characters, end "${text.slice(-80)}"`);
  }
  const requests: { action: string; off_bytes: number }[] = [];
  for (const line of lines) {
    if (/^$|^\d+ \S+ (add|open|close)$/.test(line)) continue;
    const [, action, off] = /^\d+ \S+ (write|sync) (\d+) \d+$/.exec(line) ?? [];
    if (action === undefined) throw new Error(`fio's log has the line "${line}"`);
    requests.push({ action, off_bytes: Number(off) });
  }
  const flushes = requests.slice(0, -2).map(({ action }) => action === "sync");
  const last_flush = Math.max(flushes.lastIndexOf(true), 0);
  const writes = (from: number, to?: number) =>
    requests.slice(from, to).filter(({ action }) => action === "write").map((r) => r.off_bytes);
  return { flushed: writes(0, last_flush), unflushed: writes(last_flush) };
}

/** What the sectors of fio's part of the device hold, or may hold. */
export class FioSectors {
  /** The round that each sector belongs to by what was flushed, or seen after a kill; 0: zeros. */
  readonly #round: Uint32Array;
  /** The round that each sector may belong to instead. */
  readonly #perhaps: Uint32Array;

  constructor(readonly off_bytes: number, readonly len_bytes: number) {
    this.#round = new Uint32Array(len_bytes / SECTOR);
    this.#perhaps = new Uint32Array(len_bytes / SECTOR);
  }

  /** Takes over what a run wrote. */
  note(round: number, { flushed, unflushed }: FioWrites): void {
    for (const off of unflushed) this.#fill(this.#perhaps, off, round);
    for (const off of flushed) {
      this.#fill(this.#round, off, round);
      this.#fill(this.#perhaps, off, round); // again, unflushed: the same bytes
    }
  }

  #fill(rounds: Uint32Array, off_bytes: number, round: number): void {
    const at = off_bytes - this.off_bytes;
    if (at < 0 || at + FIO_BLOCK_BYTES > this.len_bytes || at % FIO_BLOCK_BYTES !== 0) {
      throw new Error(`fio wrote to ${off_bytes}, where it has no block`);
    }
    rounds.fill(round, at / SECTOR, at / SECTOR + BLOCK_SECTORS);
  }

  /**
   * Throws unless the bytes, whole blocks read from `off_bytes` on after a kill, are allowed. Takes them over. Returns
   * how many sectors were written later than what was flushed.
   */
  adopt(off_bytes: number, bytes: Uint8Array, what: string): number {
    let later = 0;
    for (let at = 0; at < bytes.length; at += SECTOR) {
      const sector = (off_bytes - this.off_bytes + at) / SECTOR;
      const [flushed, perhaps] = [this.#round[sector]!, this.#perhaps[sector]!];
      const seen = bytes.subarray(at, at + SECTOR);
      const is = (round: number) => {
        const wanted = fioSector(round, off_bytes + at);
        return seen.every((byte, i) => byte === wanted[i]);
      };
      if (!is(flushed)) {
        if (!is(perhaps)) {
          throw new Error(
            `${what}: the sector at ${off_bytes + at} begins with "${printable(seen)}", but fio ` +
              `flushed round ${flushed} and sent round ${perhaps} at the latest`,
          );
        }
        this.#round[sector] = perhaps;
        later++;
      }
      this.#perhaps[sector] = this.#round[sector]!;
    }
    return later;
  }
}

/**
 * What fio's pattern makes of the sector at an offset. The pattern repeats every 19 bytes from the start of its block:
 * that does not divide a sector, so that no two sectors of a block are alike.
 */
export function fioSector(round: number, off_bytes: number): Uint8Array {
  const bytes = new Uint8Array(SECTOR);
  if (round === 0) return bytes;
  const in_block = off_bytes % FIO_BLOCK_BYTES;
  const name = new TextEncoder().encode(roundName(round));
  const pattern = new Uint8Array(name.length + 8);
  pattern.set(name);
  new DataView(pattern.buffer).setBigUint64(name.length, BigInt(off_bytes - in_block), true);
  for (let i = 0; i < SECTOR; i++) bytes[i] = pattern[(in_block + i) % pattern.length]!;
  return bytes;
}

function roundName(round: number): string {
  return "round" + String(round).padStart(ROUND_DIGITS, "0");
}

function printable(bytes: Uint8Array): string {
  return new TextDecoder("latin1").decode(bytes.subarray(0, 24)).replace(/[^ -~]/g, ".");
}

function exists(path: string): boolean {
  try {
    Deno.statSync(path);
    return true;
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    return false;
  }
}

/**
 * `create` of a cache with a long log, at a terminal: a bar while the log is read, and Ctrl-C at that moment.
 *
 * @module
 */

import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import {
  DATA_OFF_BYTES,
  dataBytes,
  KERNEL_GEOMETRY,
  KEY_CLEAN,
  KEY_WORDS,
  KSET_HEADER_BYTES,
  KSET_HEADER_WORDS,
  KSET_MAX_KEYS,
  ksetBytes,
  putKey,
  putLastKset,
  sealKset,
  SECTOR_BYTES,
  segmentAddr,
} from "../core/format.ts";
import { GIB, isRunning, MIB, Rig, until } from "./device.ts";
import { Random } from "./random.ts";

const DEVICE_BYTES = 1 * GIB;
/** Two million keys: reading them takes longer than stopping a process that has been found, unless the machine is busy elsewhere. */
const LOG_SEGMENTS = 5;
/** So often is a log to be found half read. */
const TRIES = 20;
/** The segment that the keys name; the log stays below it. */
const DATA_SEGMENT = 20;
/** SIGTERM is signal 15. */
const SIGTERM_BIT = 1n << 14n;
/** From here on progress is shown. */
const FIRST_MS = 1000;

/** A new cache whose log fills segments; each key is one clean sector. */
async function makeLongLog(rig: Rig): Promise<string> {
  const cache = rig.file("cache", 512 * MIB);
  const table = `pcache ${cache} ${rig.file("backing", DEVICE_BYTES)}`;
  await rig.ok("create", "d", "--table", table);
  await rig.ok("remove", "d");
  await until("that device process has ended", async () => await findDeviceProcess(rig) === 0);
  const random = new Random(7);
  using file = Deno.openSync(cache, { write: true });
  for (let seg = 0; seg < LOG_SEGMENTS; seg++) {
    const bytes = logSegment(seg + 1 < LOG_SEGMENTS ? seg + 1 : -1, random);
    file.seekSync(segmentAddr(KERNEL_GEOMETRY, seg) + DATA_OFF_BYTES, Deno.SeekMode.Start);
    for (let at = 0; at < bytes.length;) at += file.writeSync(bytes.subarray(at));
  }
  return table;
}

/** A data area full of ksets, and the last kset that names `next_seg`; -1: the log ends here. */
function logSegment(next_seg: number, random: Random): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(dataBytes(KERNEL_GEOMETRY));
  const words = new Uint32Array(bytes.buffer, 0, bytes.length >>> 2);
  const most_off = bytes.length - ksetBytes(KSET_MAX_KEYS) - KSET_HEADER_BYTES;
  let off = 0;
  for (; off <= most_off; off += ksetBytes(KSET_MAX_KEYS)) {
    for (let i = 0; i < KSET_MAX_KEYS; i++) {
      const at = off / 4 + KSET_HEADER_WORDS + i * KEY_WORDS;
      const sector = random.below(DEVICE_BYTES / SECTOR_BYTES);
      const place = random.below(bytes.length / SECTOR_BYTES);
      const seg_off = place * SECTOR_BYTES;
      putKey(
        words,
        at,
        sector * SECTOR_BYTES,
        SECTOR_BYTES,
        KEY_CLEAN,
        DATA_SEGMENT,
        seg_off,
        0,
        0,
      );
    }
    sealKset(bytes, off, KSET_MAX_KEYS);
  }
  if (next_seg >= 0) putLastKset(bytes, off, next_seg);
  return bytes;
}

/** pcache at a terminal of its own: script(1) makes one. */
class Terminal {
  output = "";
  readonly #child: Deno.ChildProcess;
  readonly #reader: Promise<void>;

  constructor(rig: Rig, ...args: string[]) {
    const main = new URL("../cli/main.ts", import.meta.url).pathname;
    const words = [Deno.execPath(), "run", "-A", "--no-prompt", main, ...args];
    // exec: script's shell, which is another one on every machine, does not stay in between and end by the key itself.
    const command = `exec ${words.map((word) => `'${word}'`).join(" ")}`;
    this.#child = new Deno.Command("script", {
      args: ["--quiet", "--return", "--command", command, "/dev/null"],
      env: rig.env,
      stdin: "piped",
      stdout: "piped",
    }).spawn();
    rig.defer("end script", async () => {
      if (isRunning(this.#child.pid)) this.#child.kill("SIGKILL");
      await this.#reader;
    });
    this.#reader = this.#read();
  }

  async #read(): Promise<void> {
    const text = new TextDecoder();
    for await (const chunk of this.#child.stdout) this.output += text.decode(chunk);
  }

  async press(keys: string): Promise<void> {
    const writer = this.#child.stdin.getWriter();
    await writer.write(new TextEncoder().encode(keys));
    writer.releaseLock();
  }

  async end(): Promise<number> {
    const { code } = await this.#child.status;
    await this.#reader;
    await this.#child.stdin.close();
    return code;
  }
}

/** A `create` at a terminal whose device process is stopped while it reads its log: half of that at least is still to come. */
async function createAndStop(
  rig: Rig,
  table: string,
): Promise<{ terminal: Terminal; pid: number }> {
  for (let tried = 0; tried < TRIES; tried++) {
    const terminal = new Terminal(rig, "create", "d", "--table", table);
    let pid = 0;
    await until("a device process is there", async () => {
      pid = await findDeviceProcess(rig);
      return pid !== 0;
    });
    await until("the log is being read", () => terminal.output.includes("reading the log"));
    Deno.kill(pid, "SIGSTOP");
    await until("all its threads stand still", () => isStopped(pid));
    if (readBytes(pid) < LOG_SEGMENTS * KERNEL_GEOMETRY.segment_bytes / 2) {
      return { terminal, pid };
    }
    // This process came too late.
    Deno.kill(pid, "SIGCONT");
    assertEquals(await terminal.end(), 0, terminal.output);
    await rig.ok("remove", "d");
  }
  throw new Error(`${TRIES} times the log was read before the device process could be stopped`);
}

/** Whether all threads of a process are stopped (proc(5), /proc/PID/stat). */
function isStopped(pid: number): boolean {
  try {
    return [...Deno.readDirSync(`/proc/${pid}/task`)].every(({ name }) =>
      /^\d+ \(.*\) T /s.test(Deno.readTextFileSync(`/proc/${pid}/task/${name}/stat`))
    );
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false; // a thread has ended meanwhile
    throw error;
  }
}

/** How much a process has read (proc(5), /proc/PID/io): next to nothing but the log. */
function readBytes(pid: number): number {
  return Number(/^rchar: (\d+)$/m.exec(Deno.readTextFileSync(`/proc/${pid}/io`))![1]);
}

/** The device process of the rig; 0: none is there. */
async function findDeviceProcess(rig: Rig): Promise<number> {
  for (const { name } of Deno.readDirSync("/proc")) {
    if (/^[0-9]+$/.test(name) && await isDeviceProcess(name, rig)) return Number(name);
  }
  return 0;
}

/** True while a signal waits for a process that is stopped (proc(5), `ShdPnd`). */
function isPending(pid: number, signal_bit: bigint): boolean {
  try {
    const status = Deno.readTextFileSync(`/proc/${pid}/status`);
    return (BigInt(`0x${/^ShdPnd:\s*([0-9a-f]+)$/m.exec(status)![1]}`) & signal_bit) !== 0n;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false; // it has ended meanwhile
    throw error;
  }
}

async function isDeviceProcess(pid: string, rig: Rig): Promise<boolean> {
  try {
    const command = await Deno.readTextFile(`/proc/${pid}/cmdline`);
    const env = await Deno.readTextFile(`/proc/${pid}/environ`);
    return command.includes("\0device-process\0") && env.includes(rig.dir);
  } catch {
    return false; // it has ended, or is not ours to look at
  }
}

Deno.test("opening a long log shows at a terminal how far it is", async () => {
  await using rig = Rig.make();
  const table = await makeLongLog(rig);
  const { terminal, pid } = await createAndStop(rig, table);
  // However fast this machine reads: more than a second passes meanwhile.
  await new Promise((wake) => setTimeout(wake, FIRST_MS));
  Deno.kill(pid, "SIGCONT");
  assertEquals(await terminal.end(), 0, terminal.output);
  assertMatch(terminal.output, /\[Kd: \[#*\.+\] \d+%, \d[\d.]* MiB left/);
  assertStringIncludes(terminal.output, "\r\x1b[Kd: log read\r\n");
  await rig.ok("remove", "d");

  const piped = await rig.pcache("create", "d", "--table", table);
  assertEquals(piped, { code: 0, stdout: "", stderr: "" });
});

Deno.test("Ctrl-C while a long log is read leaves no device behind", async () => {
  await using rig = Rig.make();
  const table = await makeLongLog(rig);
  const { terminal, pid } = await createAndStop(rig, table);
  await terminal.press("\x03");
  // The key takes its way through script and the terminal; a log that has been read cannot be interrupted.
  // A thread that had not stopped yet takes the whole process along at once.
  await until(
    "create has told the device to end",
    () => !isRunning(pid) || isPending(pid, SIGTERM_BIT),
  );
  if (isRunning(pid)) Deno.kill(pid, "SIGCONT");
  assertEquals(await terminal.end(), 1);
  assertStringIncludes(
    terminal.output,
    "pcache: create on d failed: interrupted; nothing is left behind\r\nCommand failed.\r\n",
  );
  assertEquals(isRunning(pid), false);
  assertEquals(await rig.ok("ls"), "No devices found\n");
  const left = [...Deno.readDirSync(rig.path("run"))].map((entry) => entry.name);
  assertEquals(left.filter((name) => name === "d"), []);

  await rig.ok("create", "d", "--table", table);
});

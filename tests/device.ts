/**
 * Devices for tests, made by the real program in a folder of their own, and the programs of others that use them.
 * Everything a test makes is removed when it ends, also when it fails.
 *
 * ```ts ignore
 * await using rig = Rig.make();
 * const cache = rig.file("cache", 512 * MIB);
 * await rig.ok("create", "d", "--table", `pcache ${cache} ${backing}`);
 * ```
 *
 * @module
 */

export const KIB = 1024;
export const MIB = 1024 * KIB;
export const GIB = 1024 * MIB;

const MAIN = new URL("../cli/main.ts", import.meta.url).pathname;
/** The program as one file (pack/), where a test is to use that: in a guest, where reading sources takes long. */
const PROGRAM = Deno.env.get("PCACHE_PROGRAM");

/** How a program ended. */
export interface Ended {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a program to its end. */
export async function run(program: string, args: string[], env = {}): Promise<Ended> {
  const { code, stdout, stderr } = await new Deno.Command(program, {
    args,
    env: { NO_COLOR: "1", ...env },
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).output();
  const text = new TextDecoder();
  return { code, stdout: text.decode(stdout), stderr: text.decode(stderr) };
}

/** Runs a program that must end with status 0; returns what it wrote to its standard output. */
export async function must(program: string, ...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await run(program, args);
  if (code !== 0) {
    throw new Error(`${program} ${args.join(" ")}: status ${code}\n${stdout}${stderr}`);
  }
  return stdout;
}

/** What hangs is given up after this long; a guest is slow, and its owner ends it. */
const LIMIT_S = PROGRAM === undefined ? 60 : 600;

/** Waits until `done` holds. The limit only ends a test that hangs. */
export async function until(what: string, done: () => boolean | Promise<boolean>): Promise<void> {
  const limit_ms = Date.now() + LIMIT_S * 1000;
  while (!await done()) {
    if (Date.now() > limit_ms) throw new Error(`still not so after ${LIMIT_S} s: ${what}`);
    await new Promise((wake) => setTimeout(wake, 20));
  }
}

/**
 * True while any thread of the process with this id runs; one that ended and was not collected does not. The first thread may have
 * ended before others, which hold the process's files and locks: one of io_uring's in an fdatasync, as long as the disk takes for it.
 */
export function isRunning(pid: number): boolean {
  try {
    return [...Deno.readDirSync(`/proc/${pid}/task`)].some(({ name }) =>
      isThreadRunning(`/proc/${pid}/task/${name}`)
    );
  } catch {
    return false;
  }
}

function isThreadRunning(path: string): boolean {
  try {
    return !/^State:\s+[ZX]/m.test(Deno.readTextFileSync(`${path}/status`));
  } catch {
    return false;
  }
}

/** The fields of a status line, in the kernel's order. */
export interface StatusLine {
  start: number;
  length: number;
  sb_flags: number;
  seg_total: number;
  cache_segs: number;
  segs_used: number;
  gc_percent: number;
  cache_flags: number;
  key_head: [number, number];
  dirty_tail: [number, number];
  key_tail: [number, number];
}

/** Takes a status line apart; throws when it does not have the kernel's form. */
export function parseStatus(line: string): StatusLine {
  const form =
    /^(\d+) (\d+) pcache ([0-9a-f]+) (\d+) (\d+) (\d+) (\d+) ([0-9a-f]+) (\d+):(\d+) (\d+):(\d+) (\d+):(\d+)\n?$/;
  const match = form.exec(line);
  if (match === null) throw new Error(`not a status line: "${line}"`);
  const number = (index: number, base = 10) => parseInt(match[index]!, base);
  return {
    start: number(1),
    length: number(2),
    sb_flags: number(3, 16),
    seg_total: number(4),
    cache_segs: number(5),
    segs_used: number(6),
    gc_percent: number(7),
    cache_flags: number(8, 16),
    key_head: [number(9), number(10)],
    dirty_tail: [number(11), number(12)],
    key_tail: [number(13), number(14)],
  };
}

/** A folder with a run directory and devices in it. */
export class Rig implements AsyncDisposable {
  readonly #steps: { what: string; undo: () => unknown }[] = [];
  readonly #names = new Set<string>();

  private constructor(readonly dir: string, readonly env: Record<string, string>) {}

  /** In the folder `parent`, else where temporary files go; `env` is added to the environment of pcache. */
  static make({ parent, env = {} }: { parent?: string; env?: Record<string, string> } = {}): Rig {
    const options = parent === undefined ? {} : { dir: parent };
    const dir = Deno.makeTempDirSync({ prefix: "rig-", ...options });
    const rig = new Rig(dir, { PCACHE_RUN_DIR: `${dir}/run`, ...env });
    rig.defer(`remove ${dir}`, () => Deno.remove(dir, { recursive: true }));
    rig.defer("end the devices", () => rig.#endDevices());
    return rig;
  }

  /** Something to undo at the end; what came last is undone first. */
  defer(what: string, undo: () => unknown): void {
    this.#steps.push({ what, undo });
  }

  /** A path in the folder. */
  path(name: string): string {
    return `${this.dir}/${name}`;
  }

  /** Makes a sparse file. */
  file(name: string, bytes: number): string {
    const path = this.path(name);
    using file = Deno.openSync(path, { write: true, createNew: true });
    file.truncateSync(bytes);
    return path;
  }

  /** Runs pcache. */
  pcache(...args: string[]): Promise<Ended> {
    if (args[0] === "create") { for (const arg of args.slice(1, 2)) this.#names.add(arg); }
    if (PROGRAM !== undefined) return run(PROGRAM, args, this.env);
    return run(Deno.execPath(), ["run", "-A", "--no-prompt", MAIN, ...args], this.env);
  }

  /** Runs pcache, which must succeed; returns what it printed. */
  async ok(...args: string[]): Promise<string> {
    const { code, stdout, stderr } = await this.pcache(...args);
    if (code !== 0) {
      throw new Error(
        `pcache ${args.join(" ")}: status ${code}\n${stdout}${stderr}${this.#logs()}`,
      );
    }
    return stdout;
  }

  #logs(): string {
    let text = "";
    for (const name of this.#names) {
      try {
        for (const entry of Deno.readDirSync(this.path(`run/${name}`))) {
          if (!entry.name.endsWith("log")) continue;
          text += `--- ${name}/${entry.name}\n` +
            Deno.readTextFileSync(this.path(`run/${name}/${entry.name}`));
        }
      } catch (error) {
        if (!(error instanceof Deno.errors.NotFound)) throw error;
      }
    }
    return text;
  }

  /** One of `info`'s own fields, such as "URI" or "PID". */
  async info(name: string, field: string): Promise<string> {
    const text = await this.ok("info", name);
    const line = text.split("\n").find((line) => line.startsWith(`${field}:`));
    if (line === undefined) throw new Error(`info ${name} has no ${field}:\n${text}`);
    return line.slice(field.length + 1).trim();
  }

  /** What `info` names as the device's NBD URI. */
  uri(name: string): Promise<string> {
    return this.info(name, "URI");
  }

  async pid(name: string): Promise<number> {
    return Number(await this.info(name, "PID"));
  }

  async status(name: string): Promise<StatusLine> {
    return parseStatus(await this.ok("status", name));
  }

  /** Kills a device's process with SIGKILL and waits for its end. */
  async kill(name: string): Promise<void> {
    const pid = await this.pid(name);
    Deno.kill(pid, "SIGKILL");
    await until(`process ${pid} is gone`, () => !isRunning(pid));
  }

  /** Starts a program that is ended with the rig. */
  start(program: string, args: string[]): Deno.ChildProcess {
    const child = new Deno.Command(program, {
      args,
      stdin: "null",
      stdout: "null",
      stderr: "inherit",
    }).spawn();
    this.defer(`end ${program}`, async () => {
      try {
        child.kill("SIGKILL");
      } catch (error) {
        if (!(error instanceof TypeError)) throw error; // it has ended
      }
      await child.status;
    });
    return child;
  }

  async #endDevices(): Promise<void> {
    const listed = await this.pcache("ls");
    for (const line of listed.stdout.split("\n")) {
      const name = line.split("\t")[0]!;
      if (line.includes("\t(")) await this.kill(name);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const failures: unknown[] = [];
    for (const { what, undo } of this.#steps.reverse()) {
      try {
        await undo();
      } catch (error) {
        failures.push(new Error(`could not ${what}`, { cause: error }));
      }
    }
    if (failures.length > 0) throw new AggregateError(failures, "the test left something behind");
  }
}

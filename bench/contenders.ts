/**
 * The servers that are compared, each serving one device of the same size over a Unix socket.
 *
 * @module
 */

import { basename } from "node:path";
import { CONTROL_SOCKET } from "../io/device_config.ts";
import { callControl } from "../io/control_client.ts";
import { V8_FLAGS } from "../io/runtime.ts";
import { must, run, until } from "../tests/device.ts";

const MAIN = new URL("../cli/main.ts", import.meta.url).pathname;
const BARE_C = new URL("bare_server.c", import.meta.url).pathname;
const BARE = new URL("bare_server.ts", import.meta.url).pathname;

/** Who can be compared. Peers are what a user could take instead. */
export const CONTENDERS = {
  pcache: { title: "pcache", is_peer: false, does: "cache on tmpfs, persistence forced" },
  pcache_crc: { title: "pcache, data_crc", is_peer: false, does: "the same, with checksums" },
  pcache_file: { title: "pcache, file", is_peer: false, does: "cache on an ordinary file" },
  pcache_file_crc: {
    title: "pcache, file, data_crc",
    is_peer: false,
    does: "the same, with checksums",
  },
  bare: { title: "bare server", is_peer: false, does: "our NBD loop, no cache behind it" },
  bare_c: { title: "server in C", is_peer: false, does: "receives and answers, over memory" },
  nbdkit_memory: { title: "nbdkit memory", is_peer: true, does: "memory plugin" },
  nbdkit_file: { title: "nbdkit file", is_peer: true, does: "file plugin, ordinary file" },
  nbdkit_cache: { title: "nbdkit cache", is_peer: true, does: "cache filter over the file plugin" },
  qemu_nbd: { title: "qemu-nbd", is_peer: true, does: "ordinary file, cache=writeback" },
} as const;

export type ContenderId = keyof typeof CONTENDERS;

export const PCACHE_IDS: readonly ContenderId[] = [
  "pcache",
  "pcache_crc",
  "pcache_file",
  "pcache_file_crc",
];
export const ALL_IDS = Object.keys(CONTENDERS) as ContenderId[];
export const PEER_IDS: readonly ContenderId[] = ALL_IDS.filter((id) => CONTENDERS[id].is_peer);

/** A running server. */
export interface Contender {
  readonly id: ContenderId;
  readonly uri: string;
  readonly pid: number;
  readonly size_bytes: number;
  /** Waits until it has nothing more to do in the background. */
  settle(): Promise<void>;
  /** Has everything written back that is dirty now, requests or not; ends with it. */
  flush(): Promise<void>;
  /** Bytes that are not yet on the backing device; 0 where there is no such thing. */
  dirtyBytes(): Promise<number>;
}

/** Where a bench keeps its files, and what marks its processes. */
export interface Place {
  /** On an ordinary file system. */
  readonly disk_dir: string;
  /** On tmpfs. */
  readonly memory_dir: string;
  /** Environment of every process that is started. */
  readonly env: Record<string, string>;
}

/** How large the devices are. `set` keeps several sets of contenders apart. */
export interface Sizes {
  readonly set: string;
  readonly device_bytes: number;
  readonly cache_bytes: number;
  /** A backing device in the place of a file of its own, of `device_bytes`: pcache only. */
  readonly backing_uri?: string;
}

function sparse(path: string, size_bytes: number): string {
  using file = Deno.openSync(path, { write: true, createNew: true });
  file.truncateSync(size_bytes);
  return path;
}

/** All blocks are there from the start: on persistent memory they would be, too. */
function allocated(path: string, size_bytes: number): string {
  const { code, stderr } = new Deno.Command("fallocate", {
    args: ["--length", `${size_bytes}`, path],
  }).outputSync();
  if (code === 0) return path;
  throw new Error(`fallocate ${path}: ${new TextDecoder().decode(stderr)}`);
}

/** The program that a C file makes. */
async function built(source: string, place: Place): Promise<string> {
  const program = `${place.disk_dir}/${basename(source, ".c")}`;
  await must("gcc", "-O2", "-pthread", "-o", program, source);
  return program;
}

/** Starts one contender; it runs until the bench ends its processes. */
export async function startContender(
  id: ContenderId,
  place: Place,
  sizes: Sizes,
): Promise<Contender> {
  const name = `${sizes.set}-${id}`;
  const socket = `${place.disk_dir}/${name}.sock`;
  const diskFile = () => sparse(`${place.disk_dir}/${name}`, sizes.device_bytes);
  const memoryFile = () => sparse(`${place.memory_dir}/${name}`, sizes.device_bytes);
  const nbdkit = ["nbdkit", "--foreground", "--unix", socket];
  const serve = (...command: string[]) => startServer(id, command, socket, place, sizes);
  switch (id) {
    case "pcache":
    case "pcache_crc":
    case "pcache_file":
    case "pcache_file_crc":
      return startPcache(id, name, place, sizes);
    case "bare":
      return serve(
        Deno.execPath(),
        "run",
        "-A",
        "--no-prompt",
        V8_FLAGS,
        BARE,
        socket,
        memoryFile(),
      );
    case "bare_c":
      return serve(await built(BARE_C, place), socket, `${sizes.device_bytes}`);
    case "nbdkit_memory":
      return serve(...nbdkit, "memory", `${sizes.device_bytes}`);
    case "nbdkit_file":
      return serve(...nbdkit, "file", diskFile());
    case "nbdkit_cache":
      return serve(...nbdkit, "--filter=cache", "file", diskFile());
    case "qemu_nbd":
      return serve(
        ...["qemu-nbd", "--persistent", "--shared=16", "--format=raw", "--cache=writeback"],
        ...["--socket", socket, diskFile()],
      );
  }
}

/** Starts a server; returns when it accepts clients at `socket`. */
export async function startServer(
  id: ContenderId,
  command: string[],
  socket: string,
  place: Place,
  sizes: Sizes,
): Promise<Contender> {
  const child = new Deno.Command(command[0]!, {
    args: command.slice(1),
    // nbdkit's cache filter keeps its cache there.
    env: { ...place.env, NO_COLOR: "1", TMPDIR: place.disk_dir },
    stdin: "null",
    stdout: "null",
    stderr: "null",
  }).spawn();
  let ended = false;
  child.status.then(() => ended = true);
  child.unref();
  await until(`${command.join(" ")} accepts clients`, () => {
    if (ended) throw new Error(`${command.join(" ")}: ended before it accepted a client`);
    return canConnect(socket);
  });
  const uri = `nbd+unix:///?socket=${socket}`;
  const nothing = {
    settle: () => Promise.resolve(),
    flush: () => Promise.resolve(),
    dirtyBytes: () => Promise.resolve(0),
  };
  return { id, uri, pid: child.pid, size_bytes: sizes.device_bytes, ...nothing };
}

async function canConnect(path: string): Promise<boolean> {
  try {
    (await Deno.connect({ transport: "unix", path })).close();
    return true;
  } catch {
    return false;
  }
}

async function startPcache(
  id: ContenderId,
  name: string,
  place: Place,
  sizes: Sizes,
): Promise<Contender> {
  const in_memory = id === "pcache" || id === "pcache_crc";
  const data_crc = id === "pcache_crc" || id === "pcache_file_crc";
  const cache_dir = in_memory ? place.memory_dir : place.disk_dir;
  const cache = allocated(`${cache_dir}/${name}-cache`, sizes.cache_bytes);
  const backing = sizes.backing_uri ??
    sparse(`${place.disk_dir}/${name}-backing`, sizes.device_bytes);
  const run_dir = `${place.disk_dir}/run`;
  const table = `pcache ${cache} ${backing} data_crc ${data_crc}`;
  const args = ["run", "-A", "--no-prompt", MAIN, "create", name, "--table", table];
  const force = in_memory ? { PMEM_IS_PMEM_FORCE: "1" } : {};
  const env = { ...place.env, PCACHE_RUN_DIR: run_dir, ...force };
  const { code, stdout, stderr } = await run(Deno.execPath(), args, env);
  if (code !== 0) throw new Error(`pcache create ${name}: status ${code}\n${stdout}${stderr}`);
  const control = `${run_dir}/${name}/${CONTROL_SOCKET}`;
  const info = await callControl(control, { verb: "info" });
  if (!info.ok) throw new Error(`pcache info ${name}: ${info.error}`);
  const dirtyBytes = async () => {
    const progress = await callControl(control, { verb: "progress" });
    if (!progress.ok) throw new Error(`pcache progress ${name}: ${progress.error}`);
    return progress.dirty_bytes;
  };
  return {
    id,
    uri: info.uri,
    pid: info.pid,
    size_bytes: sizes.device_bytes,
    settle: () =>
      until(`${name} has written everything back`, async () => await dirtyBytes() === 0),
    flush: async () => {
      const reply = await callControl(control, { verb: "message", args: ["flush"] });
      if (!reply.ok) throw new Error(`pcache message ${name} flush: ${reply.error}`);
    },
    dirtyBytes,
  };
}

/**
 * A device: one process, one loop. `runDevice` opens the cache device and the backing device, serves the
 * cached device until it is removed, and returns.
 *
 * A turn of the loop: sleep until something has ended; hand every completion to whom it belongs; let the engine do
 * all it can; let the servers take what it has answered. Nothing in it waits for anything else.
 *
 * @module
 */

import { Engine } from "../core/engine.ts";
import { CacheError } from "../core/errors.ts";
import { inspectCache, prepareCache } from "../core/media.ts";
import { SECTOR_BYTES } from "../core/format.ts";
import { isNbdUri } from "../core/nbd_uri.ts";
import { deviceSectors, formatTable, type Table } from "../core/table.ts";
import { Arena } from "./arena.ts";
import type { LoopBacking } from "./backing.ts";
import { ControlServer } from "./control.ts";
import {
  BUSY,
  type ControlReply,
  type ControlRequest,
  INVALID,
  type StatusReply,
} from "./control_protocol.ts";
import {
  CONTROL_SOCKET,
  type DeviceConfig,
  type DeviceEvent,
  NBD_SOCKET,
} from "./device_config.ts";
import { closeDevice, type DeviceFile, openDevice } from "./files.ts";
import { Medium } from "./medium.ts";
import { NbdServer } from "./nbd/server.ts";
import { openBacking, type OpenedBacking } from "./open_backing.ts";
import { Removal } from "./removal.ts";
import { openRing, type Ring } from "./ring.ts";
import * as sockets from "./sockets.ts";
import {
  INDEX_MASK,
  KIND_BACKING,
  KIND_BARRIER,
  KIND_CONTROL_ACCEPT,
  KIND_CONTROL_RECV,
  KIND_CONTROL_SEND,
  KIND_SHIFT,
  tokenOf,
} from "./tokens.ts";

export type { DeviceConfig, DeviceEvent };

/** Transfer buffers: twice the longest request, so that requests of every length can be served. */
const BUFFER_BYTES = 64 * 1024 * 1024;
/** What the ring and the backing device take of the arena, generously: it costs nothing until it is touched. */
const RING_BYTES = 16 * 1024 * 1024;
/** How long the last answers may take to leave. */
const GOODBYE_MS = 1000;
/** Requests handed to the kernel at once. */
const RING_ENTRIES = 256;

/**
 * Opens and serves a device; returns when it has been removed. `tell` is called while it starts, until and
 * including `ready`.
 *
 * Throws `CacheError` when it cannot be opened, in the words of DMSETUP ("a bad table"): nothing is left behind
 * then, and neither device was changed. Sending `failed` is the caller's part.
 */
export function runDevice(config: DeviceConfig, tell: (event: DeviceEvent) => void): void {
  using cleanup = new DisposableStack();
  const device = openAll(config, cleanup, tell);
  tell(device.ready());
  device.serve();
}

/** Opens everything a device needs. What has to be undone in the end is put on `cleanup`. */
function openAll(
  config: DeviceConfig,
  cleanup: DisposableStack,
  tell: (event: DeviceEvent) => void,
): Device {
  const cache_file = openDevice("cache", config.cache_path);
  cleanup.defer(() => closeDevice(cache_file));
  const arena = new Arena({
    cache_bytes: cache_file.size_bytes,
    buffer_bytes: BUFFER_BYTES,
    io_bytes: NbdServer.ARENA_BYTES + ControlServer.ARENA_BYTES + RING_BYTES,
  });
  cleanup.defer(() => arena.close());
  const ring = openRing(arena, RING_ENTRIES);
  cleanup.defer(() => ring.close());
  const memory = new Medium(arena, cache_file, ring, tokenOf(KIND_BARRIER));
  const { backing_path } = config;
  const table = tableOf(config);
  if (isNbdUri(backing_path)) tell({ event: "progress", text: `connecting to ${backing_path}` });
  const sectorsOf = (bytes: number) => deviceSectors(table, bytes);
  const place = { arena, ring, user_kind: KIND_BACKING, cache_file, cleanup };
  const backing = openBacking(backing_path, sectorsOf, place);

  // Nothing has been written yet. All that can be refused is refused before something is.
  const inspection = naming("cache dev", config, () => inspectCache(memory, config));
  const listeners = listen(config, cleanup);
  tell({ event: "progress", text: `setting aside ${cache_file.size_bytes} bytes for the cache` });
  memory.allocate();
  const cache = naming("cache dev", config, () => prepareCache(memory, inspection));
  tell({ event: "progress", text: inspection.fresh ? "new cache" : "reading the log" });
  const now_ms = performance.now();
  const engine_parts = { memory, backing: backing.device, cache, now_ms };
  const engine = naming("pcache", config, () => Engine.open(engine_parts));
  const table_line = formatTable(table, backing.length_sectors);
  return new Device(config, {
    ...{ arena, ring, memory, cache_file, backing, engine, listeners, table_line },
  });
}

function tableOf(config: DeviceConfig): Table {
  return {
    length_sectors: config.length_sectors,
    cache_dev: config.cache_path,
    backing_dev: config.backing_path,
    cache_mode: "writeback",
    data_crc: config.data_crc,
  };
}

/** Puts the target's words before the reason why a cache is refused (DMSETUP, "a bad table"). */
function naming<T>(what: "cache dev" | "pcache", config: DeviceConfig, act: () => T): T {
  try {
    return act();
  } catch (error) {
    if (!(error instanceof CacheError)) throw error;
    throw new CacheError(`Failed to start ${what}: ${config.cache_path}: ${error.message}`);
  }
}

interface Listeners {
  readonly control_fd: number;
  readonly nbd_fd: number;
  readonly uri: string;
  /** Removes the sockets from the device's folder. */
  remove(): void;
}

function listen(config: DeviceConfig, cleanup: DisposableStack): Listeners {
  const control_path = `${config.run_dir}/${CONTROL_SOCKET}`;
  const control_fd = listenUnix(control_path, cleanup);
  if (config.listen === null) {
    const path = `${config.run_dir}/${NBD_SOCKET}`;
    const nbd_fd = listenUnix(path, cleanup);
    const uri = `nbd+unix:///?socket=${encodeURIComponent(path).replaceAll("%2F", "/")}`;
    return { control_fd, nbd_fd, uri, remove: () => [control_path, path].forEach(removeFile) };
  }
  const tcp = sockets.listenTcp(config.listen.host, config.listen.port);
  cleanup.defer(() => sockets.close(tcp.fd));
  const host = tcp.host.includes(":") ? `[${tcp.host}]` : tcp.host;
  const uri = `nbd://${host}:${tcp.port}`;
  return { control_fd, nbd_fd: tcp.fd, uri, remove: () => removeFile(control_path) };
}

function listenUnix(path: string, cleanup: DisposableStack): number {
  const fd = sockets.listenUnix(path);
  cleanup.defer(() => {
    sockets.close(fd);
    removeFile(path);
  });
  return fd;
}

function removeFile(path: string): void {
  try {
    Deno.removeSync(path);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
}

/** What a device is made of. */
interface Parts {
  readonly arena: Arena;
  readonly ring: Ring;
  readonly memory: Medium;
  readonly cache_file: DeviceFile;
  readonly backing: OpenedBacking;
  readonly engine: Engine;
  readonly listeners: Listeners;
  readonly table_line: string;
}

/** A running device. */
class Device {
  readonly #config: DeviceConfig;
  readonly #parts: Parts;
  readonly #ring: Ring;
  readonly #engine: Engine;
  readonly #backing: LoopBacking;
  readonly #nbd: NbdServer;
  readonly #control: ControlServer;
  readonly #removal: Removal;
  #since_ms = 0;

  constructor(config: DeviceConfig, parts: Parts) {
    const { arena, ring, engine, listeners } = parts;
    this.#config = config;
    this.#parts = parts;
    this.#ring = ring;
    this.#engine = engine;
    this.#backing = parts.backing.device;
    this.#nbd = new NbdServer({
      arena,
      ring,
      engine,
      sockets,
      served: {
        name: config.name,
        description: `pcache device ${config.name}`,
        size_bytes: engine.size_bytes,
        max_request_bytes: engine.max_request_bytes,
        read_only: config.read_only,
      },
      listener: { fd: listeners.nbd_fd, tcp: config.listen !== null },
    });
    this.#control = new ControlServer({
      arena,
      ring,
      sockets,
      listen_fd: listeners.control_fd,
      handler: {
        request: (request, client) => this.#answer(request, client),
        gone: (client) => this.#removal.clientGone(client),
      },
    });
    this.#removal = new Removal({
      engine,
      clientCount: () => this.#nbd.serving_count,
      admit: (on) => this.#admit(on),
      backingTrouble: () => this.#backing.trouble,
    });
  }

  /** Lets clients in. */
  ready(): DeviceEvent {
    this.#since_ms = Date.now();
    this.#nbd.start();
    this.#control.start();
    this.#ring.wait(0);
    const notes = this.#parts.memory.kind === "tmpfs"
      ? [
        `cache device ${this.#config.cache_path} is on tmpfs: ` +
        "it survives a crash of the process, not of the machine",
      ]
      : [];
    return { event: "ready", uri: this.#parts.listeners.uri, notes };
  }

  /** Serves until the device has been removed. */
  serve(): void {
    while (!this.#removal.is_done) {
      this.#ring.wait(this.#sleepMs());
      this.#turn();
    }
    this.#parts.listeners.remove();
    this.#sayGoodbye();
  }

  /** Tells the one who asked for the removal. Whoever does not read its answers is not waited for. */
  #sayGoodbye(): void {
    this.#control.reply(this.#removal.client, this.#removal.outcome());
    const deadline_ms = performance.now() + GOODBYE_MS;
    while (this.#control.is_sending && performance.now() < deadline_ms) {
      this.#ring.wait(GOODBYE_MS);
      while (this.#ring.next()) this.#handle(this.#ring.user, this.#ring.result);
    }
  }

  /** Lets new NBD clients in, or turns them away, those that still negotiate included. */
  #admit(on: boolean): void {
    this.#nbd.refusing = !on;
    if (!on) this.#nbd.dropAll();
  }

  #turn(): void {
    const ring = this.#ring;
    while (ring.next()) this.#handle(ring.user, ring.result);
    const now_ms = performance.now();
    do this.#engine.pump(now_ms); while (
      this.#nbd.turn(now_ms) || this.#backing.turn(now_ms, this.#engine)
    );
    this.#control.turn(now_ms);
    if (this.#removal.is_under_way) this.#removeOn(now_ms);
  }

  #handle(user: number, result: number): void {
    const kind = user >>> KIND_SHIFT;
    switch (kind) {
      case KIND_BACKING:
        return this.#backing.handle(user & INDEX_MASK, result, this.#engine);
      case KIND_BARRIER:
        return this.#engine.barrierDone(result < 0 ? -result : 0);
      case KIND_CONTROL_ACCEPT:
      case KIND_CONTROL_RECV:
      case KIND_CONTROL_SEND:
        return this.#control.handle(kind, user, result);
      default:
        return this.#nbd.handle(kind, user, result);
    }
  }

  #sleepMs(): number {
    const now_ms = performance.now();
    return Math.min(
      this.#engine.nextTimerMs(now_ms),
      this.#backing.nextTimerMs(now_ms),
      this.#nbd.nextTimerMs(now_ms),
      this.#control.nextTimerMs(now_ms),
      this.#removal.nextTimerMs(),
    );
  }

  #removeOn(now_ms: number): void {
    const refusal = this.#removal.step(now_ms);
    if (refusal !== null) this.#control.reply(this.#removal.client, refusal);
    if (this.#removal.is_closing) this.#backing.stopWaiting(now_ms);
    this.#engine.pump(now_ms);
  }

  #answer(request: ControlRequest, client: number): ControlReply | null {
    switch (request.verb) {
      case "status":
        return this.#status();
      case "table":
        return { ok: true, table: this.#parts.table_line };
      case "info":
        return this.#info();
      case "message":
        return this.#message(request.args);
      case "progress":
        return this.#progress();
      case "remove":
        if (this.#removal.is_under_way) return { ok: false, error: BUSY };
        this.#removal.ask(client, request.flush, performance.now());
        return null;
    }
  }

  #status(): StatusReply {
    return {
      ok: true,
      start: 0,
      length_sectors: this.#engine.size_bytes / SECTOR_BYTES,
      ...this.#engine.status(),
      counters: { ...this.#engine.counters },
    };
  }

  #info(): ControlReply {
    const { cache_file, backing, listeners, memory } = this.#parts;
    const { name, uuid, minor, read_only, cache_path, backing_path } = this.#config;
    return {
      ok: true,
      name,
      uuid,
      minor,
      read_only,
      is_suspended: false,
      is_deferred: false,
      live_target: "pcache",
      has_inactive_table: false,
      event_nr: 0,
      open_count: this.#nbd.serving_count,
      frontend: "nbd",
      uri: listeners.uri,
      pid: Deno.pid,
      since_ms: this.#since_ms,
      length_sectors: this.#engine.size_bytes / SECTOR_BYTES,
      cache_path,
      backing_path,
      cache_dev: { major: cache_file.major, minor: cache_file.minor },
      backing_dev: backing.number,
      backing_trouble: backing.device.trouble,
      backing_outages: backing.device.outage_count,
      cache_kind: memory.kind,
      loop: this.#ring.name,
    };
  }

  #message(args: string[]): ControlReply {
    const [word, value] = args;
    if (word !== "gc_percent" || value === undefined || args.length !== 2) {
      return { ok: false, error: `${INVALID}: message "${args.join(" ")}" is not known` };
    }
    if (!/^[0-9]{1,3}$/.test(value)) {
      return { ok: false, error: `${INVALID}: gc_percent ${value}, but it must be 0..90` };
    }
    try {
      this.#engine.setGcPercent(Number(value));
    } catch (error) {
      if (!(error instanceof CacheError)) throw error;
      return { ok: false, error: `${INVALID}: ${error.message}` };
    }
    return { ok: true, text: "" };
  }

  #progress(): ControlReply {
    const { dirty_bytes, backing_write_errors, backing_flush_errors } = this.#engine.counters;
    const writeback_errors = backing_write_errors + backing_flush_errors;
    return { ok: true, removing: this.#removal.is_under_way, dirty_bytes, writeback_errors };
  }
}

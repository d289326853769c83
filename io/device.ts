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
import { measureLog } from "../core/log_length.ts";
import { inspectCache, prepareCache } from "../core/media.ts";
import { SECTOR_BYTES } from "../core/format.ts";
import { isNbdUri } from "../core/nbd_uri.ts";
import { deviceSectors, formatTable, TARGET_TYPE } from "../core/table.ts";
import type { Arena } from "./arena.ts";
import type { LoopBacking } from "./backing.ts";
import { checkNotAwaited } from "./awaited_cache.ts";
import { BareDevice } from "./bare_device.ts";
import { type ControlClient, ControlServer } from "./control.ts";
import {
  BUSY,
  type ControlReply,
  type ControlRequest,
  type InfoReply,
  INVALID,
  type StatsReply,
  type TableConfig,
} from "./control_protocol.ts";
import { CONTROL_SOCKET, type DeviceConfig, type DeviceEvent } from "./device_config.ts";
import { Watch } from "./events.ts";
import type { DeviceFile } from "./files.ts";
import type { Frontend } from "./frontend.ts";
import { goneBacking } from "./gone_backing.ts";
import { applyGrowth, findGrowth, type GrowingParts, type Growth } from "./live_growth.ts";
import { type Entrance, listenUnix, prepareEntrance, removeFile } from "./listening.ts";
import { Jobs } from "./jobs.ts";
import type { Medium } from "./medium.ts";
import { readingTeller } from "./reading.ts";
import type { Export } from "./nbd/handshake.ts";
import { rootOf } from "./node_record.ts";
import { openBacking, type OpenedBacking } from "./open_backing.ts";
import { naming, openCacheDevice } from "./opened_cache.ts";
import { FRONTEND_ARENA_BYTES, type OpenedFrontend, openFrontend } from "./open_frontend.ts";
import { Pace } from "./pace.ts";
import { Removal } from "./removal.ts";
import type { Ring } from "./ring.ts";
import type { Reservation } from "./run_dir.ts";
import { answering, DONE, Shell } from "./shell.ts";
import { applySetting } from "./settings.ts";
import * as sockets from "./sockets.ts";
import { Suspension } from "./suspension.ts";
import { tableOf } from "./table_line.ts";
import {
  INDEX_MASK,
  KIND_BACKING,
  KIND_BARRIER,
  KIND_CONTROL_ACCEPT,
  KIND_CONTROL_RECV,
  KIND_CONTROL_SEND,
  KIND_SHIFT,
} from "./tokens.ts";

export type { DeviceConfig, DeviceEvent };

/** How long the last answers may take to leave. */
const GOODBYE_MS = 1000;
/** What is answered while the device is being left to another process, or is about to grow. */
const ASKS_ONLY: ReadonlySet<string> = new Set<ControlRequest["verb"]>(
  ["status", "table", "info", "stats", "progress", "wait"],
);
/** How often it is looked whether a device that goes when its last client does can go. */
const DEFERRED_LOOK_MS = 500;
/** How long a device that is to grow waits for nothing but its clients: payloads that they have not sent, replies that they do not take. */
const GROW_PATIENCE_MS = 20_000;

/**
 * Opens and serves a device; returns when it has been removed. `home` is its name and folder, mode 0700, made by the caller.
 * `tell` is called while it starts, until and including `ready`.
 *
 * Throws `CacheError` when it cannot be opened, in the words of DMSETUP ("a bad table"): nothing is left behind
 * then, and neither device was changed. Sending `failed` is the caller's part.
 */
export function runDevice(
  home: Reservation,
  config: DeviceConfig,
  tell: (event: DeviceEvent) => void,
): void {
  using cleanup = new DisposableStack();
  const shell = new Shell(home, config);
  const place: Place = {
    shell,
    format: config.format,
    entrance: prepareEntrance(config),
    control_fd: listenUnix(() => `${home.run_dir}/${CONTROL_SOCKET}`, cleanup),
    cleanup,
  };
  if (config.table !== null) {
    const device = openAll(place, config.table, tell);
    tell(device.ready());
    return device.serve();
  }
  // What the start has to tell is told to nobody once it is over: the creator has gone.
  const bare = new BareDevice(shell, place.control_fd, (table) => openAll(place, table, () => {}));
  tell({ event: "ready", uri: "", notes: [] });
  const end = bare.serve();
  if (end === null) return removeFile(`${home.run_dir}/${CONTROL_SOCKET}`);
  end.device.takeOver(end.clients, end.resumed);
  end.device.serve();
}

/** Where a device is opened. What has to be undone in the end is put on `cleanup`. */
interface Place {
  readonly shell: Shell;
  readonly format: boolean;
  readonly entrance: Entrance;
  readonly control_fd: number;
  readonly cleanup: DisposableStack;
}

/** Opens everything a device needs. If that fails, all of it is undone. */
function openAll(place: Place, config: TableConfig, tell: (event: DeviceEvent) => void): Device {
  using steps = new DisposableStack();
  const device = openSteps(place, config, tell, steps);
  place.cleanup.use(steps.move());
  return device;
}

function openSteps(
  place: Place,
  config: TableConfig,
  tell: (event: DeviceEvent) => void,
  cleanup: DisposableStack,
): Device {
  const front_bytes = FRONTEND_ARENA_BYTES + ControlServer.ARENA_BYTES;
  const opened = openCacheDevice(config.cache_path, front_bytes, cleanup, true);
  const { home } = place.shell;
  checkNotAwaited(rootOf(home), config.cache_path, home.name);
  const { arena, ring, memory, cache_file, devices, late_cleanup } = opened;
  const { backing_path } = config;
  const table = tableOf(config);
  if (isNbdUri(backing_path)) tell({ event: "progress", text: `connecting to ${backing_path}` });
  const sectorsOf = (bytes: number) => deviceSectors(table, bytes);
  const backing_place = { arena, ring, user_kind: KIND_BACKING, cache_file, cleanup: devices };
  const backing = openBacking(backing_path, sectorsOf, backing_place);

  // Nothing has been written yet. All that can be refused is refused before something is.
  const { format, control_fd, shell, entrance } = place;
  // What the table does not say a new cache gets, and an existing one keeps.
  const cache_mode = config.cache_mode === null ? {} : { cache_mode: config.cache_mode };
  const options = { data_crc: config.data_crc, format, ...cache_mode };
  const inspection = naming("cache dev", config.cache_path, () => inspectCache(memory, options));
  const { is_rotational, length_sectors } = backing;
  const frontend = openFrontend({
    ...{ shell, config, arena, ring, memory, cleanup, late_cleanup, is_rotational, entrance },
    size_bytes: length_sectors * SECTOR_BYTES,
  });
  tell({ event: "progress", text: `setting aside ${cache_file.size_bytes} bytes for the cache` });
  memory.prepare();
  const cache = naming("cache dev", config.cache_path, () => prepareCache(memory, inspection));
  memory.sums_received = cache.data_crc;
  tell({ event: "progress", text: inspection.fresh ? "new cache" : "reading the log" });
  const now_ms = performance.now();
  const onRead = readingTeller(() => measureLog(cache, memory), tell);
  const { eviction } = config;
  const parts = { memory, backing: backing.device, cache, now_ms, onRead, ...cache_mode };
  const engine_parts = { ...parts, ...frontend.staged, eviction };
  const engine = naming("pcache", config.cache_path, () => Engine.open(engine_parts));
  return new Device(shell, config, {
    ...{ arena, ring, memory, cache_file, backing, engine, control_fd, frontend, devices },
  });
}

/** What a device is made of. */
interface Parts {
  readonly arena: Arena;
  readonly ring: Ring;
  readonly memory: Medium;
  readonly cache_file: DeviceFile;
  readonly backing: OpenedBacking;
  readonly engine: Engine;
  readonly control_fd: number;
  readonly frontend: OpenedFrontend;
  /** Lets go of both devices. */
  readonly devices: DisposableStack;
}

/** Who has asked for a table under which the device grows. */
interface Grower {
  readonly client: number;
  readonly growth: Growth;
  /** Until when its clients are waited for. */
  deadline_ms: number;
  /** The device was suspended; it stays so if it cannot grow. */
  readonly was_suspended: boolean;
}

/** A running device. */
class Device {
  readonly #shell: Shell;
  readonly #config: TableConfig;
  readonly #parts: Parts;
  readonly #ring: Ring;
  readonly #engine: Engine;
  #backing: LoopBacking;
  readonly #served: Export;
  readonly #frontend: Frontend;
  readonly #control: ControlServer;
  readonly #removal: Removal;
  readonly #suspension: Suspension;
  readonly #jobs: Jobs;
  readonly #watch: Watch;
  readonly #pace: Pace;
  #inactive: TableConfig | null = null;
  /** Who waits for the device to be left to another process; -1: nobody. */
  #heir = -1;
  #is_handed_over = false;
  /** How long the device is to be under it. */
  #inactive_sectors = 0;
  /** Null: the device is not about to grow. */
  #grower: Grower | null = null;
  /** Who waits for the table to be wiped; -1: nobody. */
  #wiper = -1;
  /** The table has been replaced by one that fails all I/O, and both devices are let go. */
  #is_wiped = false;
  /** When the turn began: a turn is short, one look at the clock is enough for it. */
  #now_ms = performance.now();

  constructor(shell: Shell, config: TableConfig, parts: Parts) {
    const { arena, ring, engine } = parts;
    this.#shell = shell;
    this.#config = config;
    this.#parts = parts;
    this.#ring = ring;
    this.#engine = engine;
    this.#backing = parts.backing.device;
    this.#watch = new Watch(engine);
    this.#pace = new Pace(engine.counters, performance.now());
    this.#served = {
      ...namesOf(shell.home.name),
      size_bytes: engine.size_bytes,
      max_request_bytes: engine.max_request_bytes,
      read_only: config.read_only,
      is_rotational: parts.backing.is_rotational,
      is_failing: false,
    };
    this.#frontend = parts.frontend.make(engine, this.#served);
    this.#control = new ControlServer({
      arena,
      ring,
      sockets,
      listen_fd: parts.control_fd,
      handler: {
        request: (request, client) => this.#answer(request, client),
        gone: (client) => this.#clientGone(client),
      },
    });
    this.#removal = new Removal({
      engine,
      isInUse: () => this.#frontend.isInUse(),
      admit: (on) => this.#admit(on),
      stop: (force) => this.#frontend.stop(force),
      backingTrouble: () => this.#backing.trouble,
    });
    this.#jobs = new Jobs({
      engine,
      backingTrouble: () => this.#backing.trouble,
      now_ms: () => performance.now(),
    });
    this.#suspension = new Suspension({
      engine: {
        close: () => engine.close(),
        isClosed: () => engine.isClosed(),
        reopen: () => this.#is_wiped || engine.reopen(),
      },
      // A device that is to grow has to be without any request: writes that have begun may end.
      hold: (what) =>
        this.#frontend.hold(what === "requests" && this.#grower !== null ? "new requests" : what),
      unansweredCount: () =>
        this.#grower === null ? this.#frontend.unanswered_count : engine.requests_in_use,
    });
  }

  /**
   * Lets clients in.
   *
   * @throws {CacheError} It cannot be served.
   */
  ready(): DeviceEvent & { event: "ready" } {
    this.#shell.reply = (client, reply) => this.#control.reply(client, reply);
    this.#frontend.start();
    while (!this.#frontend.isServing()) {
      this.#ring.wait(this.#sleepMs());
      this.#turn();
    }
    this.#control.start();
    this.#ring.wait(0);
    return { event: "ready", uri: this.#frontend.uri, notes: this.#notes() };
  }

  /** Goes on for a device that had no table until `client` resumed it. */
  takeOver(clients: readonly ControlClient[], client: number): void {
    this.#control.adopt(clients);
    const { notes } = this.ready();
    this.#shell.raise();
    this.#control.reply(client, { ok: true, notes });
  }

  #notes(): string[] {
    const { notes } = this.#parts.frontend;
    if (this.#parts.memory.kind !== "tmpfs") return [...notes];
    return [
      ...notes,
      `cache device ${this.#config.cache_path} is on tmpfs: ` +
      "it survives a crash of the process, not of the machine",
    ];
  }

  /** Serves until the device has been removed, or left to another process. */
  serve(): void {
    while (!this.#removal.is_done && !this.#is_handed_over) {
      this.#ring.wait(this.#sleepMs());
      this.#turn();
    }
    removeFile(`${this.#shell.home.run_dir}/${CONTROL_SOCKET}`);
    if (!this.#is_handed_over) this.#frontend.close();
    this.#sayGoodbye();
  }

  /** Tells the one who asked for the end. Whoever does not read its answers is not waited for. */
  #sayGoodbye(): void {
    this.#shell.events.end(this.#shell.reply);
    if (this.#is_handed_over) this.#control.reply(this.#heir, DONE);
    else this.#control.reply(this.#removal.client, this.#removal.outcome());
    const deadline_ms = performance.now() + GOODBYE_MS;
    while (this.#control.is_sending) {
      this.#ring.wait(GOODBYE_MS);
      while (this.#ring.next()) this.#handle(this.#ring.user, this.#ring.result);
      // Looked at after the first try, so that a machine that is slow to give us the processor does not cost the answer.
      if (performance.now() >= deadline_ms) return;
    }
  }

  /** Lets new clients in, or turns all away. A suspended device has to go on to be closed. */
  #admit(on: boolean): void {
    if (!on) this.#suspension.end();
    this.#frontend.admit(on);
  }

  /** A client of the control socket has gone before it got its answer. */
  #clientGone(client: number): void {
    this.#removal.clientGone(client);
    if (client === this.#grower?.client) this.#endGrowth(this.#grower);
    this.#suspension.clientGone(client);
    this.#shell.events.forget(client);
    this.#jobs.clientGone(client);
    if (client === this.#wiper) this.#wiper = -1;
    if (client === this.#heir && !this.#suspension.is_held) this.#heir = -1;
  }

  #turn(): void {
    const ring = this.#ring;
    const now_ms = performance.now();
    this.#now_ms = now_ms;
    this.#engine.tick(now_ms);
    while (ring.next()) this.#handle(ring.user, ring.result);
    // What can be answered at once is, before the engine does what nobody waits for.
    this.#frontend.turn(now_ms);
    do this.#engine.pump(now_ms); while (
      this.#frontend.turn(now_ms) || this.#backing.turn(now_ms, this.#engine)
    );
    this.#control.turn(now_ms);
    if (this.#suspension.is_pending) this.#suspendOn(now_ms);
    if (this.#heir >= 0 && this.#suspension.is_held) {
      this.#is_handed_over = this.#frontend.leave();
    }
    if (this.#shell.is_deferred) this.#removeDeferred(now_ms);
    if (this.#jobs.is_under_way) this.#jobOn(now_ms);
    if (this.#removal.is_under_way) this.#removeOn(now_ms);
    if (this.#watch.look(now_ms)) this.#shell.raise();
    this.#pace.look(now_ms);
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
        return this.#frontend.handle(kind, user, result);
    }
  }

  #sleepMs(): number {
    const now_ms = this.#now_ms;
    return Math.min(
      this.#engine.nextTimerMs(now_ms),
      this.#backing.nextTimerMs(now_ms),
      this.#frontend.nextTimerMs(now_ms),
      this.#shell.is_deferred ? DEFERRED_LOOK_MS : Infinity,
      this.#control.nextTimerMs(now_ms),
      this.#jobs.nextTimerMs(),
      this.#removal.nextTimerMs(),
      this.#suspension.nextTimerMs(),
    );
  }

  /** A message that takes long. When the device ends, it ends unfinished. */
  #jobOn(now_ms: number): void {
    const is_ending = this.#removal.is_under_way || this.#is_wiped;
    const end = is_ending ? this.#jobs.cancel() : this.#jobs.step(now_ms);
    this.#engine.pump(now_ms);
    if (end === null) return;
    if (end.reply.ok) this.#shell.raise();
    this.#control.reply(end.client, end.reply);
  }

  #removeOn(now_ms: number): void {
    const refusal = this.#removal.step(now_ms);
    if (refusal !== null && this.#removal.client >= 0) {
      this.#control.reply(this.#removal.client, refusal);
    }
    if (this.#removal.is_closing) this.#backing.stopWaiting(now_ms);
    this.#engine.pump(now_ms);
  }

  /** The engine comes to rest within two steps when nothing is under way. */
  #suspendOn(now_ms: number): void {
    if (this.#grower !== null && !this.#waitsForGrowth(this.#grower, now_ms)) return;
    for (let step = 0; step < 2; step++) {
      if (this.#suspension.step()) {
        const { client } = this.#suspension;
        if (this.#heir >= 0) return;
        if (this.#grower !== null) return this.#grow(this.#grower);
        if (this.#wiper >= 0) this.#wipe();
        else this.#shell.raise();
        return this.#control.reply(client, DONE);
      }
      this.#engine.pump(now_ms);
    }
  }

  /** The last client has gone. */
  #removeDeferred(now_ms: number): void {
    if (this.#removal.is_under_way || this.#grower !== null || this.#frontend.isInUse()) return;
    this.#removal.ask(-1, { flush: false, force: false }, now_ms);
  }

  #answer(request: ControlRequest, client: number): ControlReply | null {
    const is_between = this.#heir >= 0 || this.#grower !== null;
    if (is_between && !ASKS_ONLY.has(request.verb)) return { ok: false, error: BUSY };
    const reply = this.#shell.answer(request, client);
    if (request.verb === "rename" && reply?.ok) {
      Object.assign(this.#served, namesOf(this.#shell.home.name));
      this.#frontend.renamed();
    }
    if (reply !== undefined) return reply;
    switch (request.verb) {
      case "status":
        return this.#status(request.inactive === true);
      case "table":
        return this.#table(request.inactive === true);
      case "info":
        return this.#info();
      case "stats":
        return this.#stats();
      case "message":
        return this.#message(request.args, client);
      case "progress":
        return this.#progress();
      case "suspend":
        return this.#suspend(client, request.noflush);
      case "resume":
        return this.#resume(client);
      case "load":
        return answering(() => this.#load(request.table));
      case "clear":
        this.#inactive = null;
        return DONE;
      case "wipe":
        return this.#askWipe(client);
      case "remove":
        return this.#remove(request, client);
      case "hand_over":
        return this.#handOver(request.table, client);
      default:
        throw new Error(`verb ${request.verb} is the shell's`);
    }
  }

  #remove(request: ControlRequest & { verb: "remove" }, client: number): ControlReply | null {
    if (this.#removal.is_under_way) return { ok: false, error: BUSY };
    if (request.deferred && this.#frontend.isInUse()) {
      this.#shell.is_deferred = true;
      return { ok: true, deferred: true };
    }
    const force = request.force === true;
    if (force) {
      this.#served.is_failing = true;
      this.#suspension.end();
    }
    // There is nothing to write back any more when the devices have been let go.
    const flush = request.flush && !this.#is_wiped;
    this.#removal.ask(client, { flush, force }, performance.now());
    return null;
  }

  #suspend(client: number, noflush: boolean): ControlReply | null {
    if (this.#removal.is_under_way) return { ok: false, error: BUSY };
    const was_suspended = this.#suspension.is_under_way;
    const reply = this.#suspension.ask(client, noflush);
    if (reply?.ok && !was_suspended) this.#shell.raise();
    return reply;
  }

  /** The inactive table, which differs only in what can change while clients are connected, becomes the live one. */
  #resume(client: number): ControlReply | null {
    if (this.#removal.is_under_way) return { ok: false, error: BUSY };
    if (!this.#suspension.is_under_way && this.#inactive === null) return DONE;
    if (this.#inactive !== null) {
      const table = tableOf(this.#inactive);
      let growth;
      try {
        growth = findGrowth(this.#growing(), table);
      } catch (error) {
        if (!(error instanceof CacheError)) throw error;
        return { ok: false, error: error.message };
      }
      if (growth.is_any) return this.#askGrowth(growth, client);
    }
    return this.#makeLive();
  }

  #makeLive(): ControlReply {
    if (this.#inactive !== null) {
      this.#served.read_only = this.#inactive.read_only;
      if (this.#inactive.cache_mode !== null) this.#engine.setCacheMode(this.#inactive.cache_mode);
      this.#engine.setEviction(this.#inactive.eviction);
    }
    this.#inactive = null;
    this.#suspension.end();
    this.#shell.raise();
    return DONE;
  }

  #growing(): GrowingParts {
    const { memory, cache_file } = this.#parts;
    const { can_resize } = this.#frontend;
    return { engine: this.#engine, memory, cache_file, backing: this.#backing, can_resize };
  }

  /** Clients are held, and what they have begun ends: then it can grow. */
  #askGrowth(growth: Growth, client: number): ControlReply | null {
    const is_pending = this.#suspension.is_pending;
    if (is_pending || this.#jobs.is_under_way) return { ok: false, error: BUSY };
    const was_suspended = this.#suspension.is_under_way;
    const deadline_ms = performance.now() + GROW_PATIENCE_MS;
    this.#grower = { client, growth, deadline_ms, was_suspended };
    this.#suspension.end(); // what is held to the full could not end
    return this.#suspension.ask(client, false);
  }

  /** Nothing is under way. */
  #grow(grower: Grower): void {
    const { data_crc } = this.#config;
    const { cache_mode } = this.#engine;
    const reply = answering(() =>
      applyGrowth(this.#growing(), grower.growth, { data_crc, cache_mode })
    );
    this.#grower = null;
    if (reply.ok) {
      this.#served.size_bytes = this.#engine.size_bytes;
      this.#frontend.resized(this.#engine.size_bytes);
      this.#makeLive();
    } else if (!grower.was_suspended) this.#suspension.end();
    this.#control.reply(grower.client, reply);
  }

  /** Whether it goes on to wait. What the devices have to do takes as long as it does, only clients are not waited for for ever. */
  #waitsForGrowth(grower: Grower, now_ms: number): boolean {
    const count = this.#engine.requests_in_use;
    if (count === 0 || this.#frontend.unanswered_count > 0) {
      grower.deadline_ms = now_ms + GROW_PATIENCE_MS;
    }
    if (now_ms < grower.deadline_ms) return true;
    this.#endGrowth(grower);
    const why = "clients do not send what they write, or take what they read";
    const error = `${BUSY}: ${count} requests have not ended: ${why}`;
    this.#control.reply(grower.client, { ok: false, error });
    return false;
  }

  /** All goes on as before. */
  #endGrowth({ was_suspended }: Grower): void {
    this.#grower = null;
    this.#suspension.end();
    if (was_suspended) this.#suspension.ask(-1, false);
  }

  #load(table: TableConfig): void {
    if (this.#is_wiped) {
      throw new CacheError(`${INVALID}: the table was wiped; remove the device and create it anew`);
    }
    this.#checkSame(table, !this.#frontend.can_change_read_only);
    const { size_bytes } = findGrowth(this.#growing(), tableOf(table));
    this.#inactive_sectors = size_bytes / SECTOR_BYTES;
    this.#inactive = table;
  }

  /**
   * Checks that a table says what the live one says, but for the length.
   *
   * @throws {CacheError}
   */
  #checkSame(table: TableConfig, compares_read_only: boolean): void {
    const facts: [what: string, is: unknown, wanted: unknown][] = [
      ["cache device", realPath(this.#config.cache_path), realPath(table.cache_path)],
      ["backing device", realPath(this.#config.backing_path), realPath(table.backing_path)],
      ["data_crc", this.#config.data_crc, table.data_crc],
      ...(compares_read_only
        ? [["read_only", this.#served.read_only, table.read_only] as [string, unknown, unknown]]
        : []),
    ];
    for (const [what, is, wanted] of facts) {
      if (is === wanted) continue;
      throw new CacheError(
        `${INVALID}: ${what} ${wanted}, but it is ${is} and cannot change while the device lives; ` +
          "remove the device and create it with this table",
      );
    }
  }

  /** From the moment the device is at rest there is no way back: whoever asked may be gone then. */
  #handOver(table: TableConfig, client: number): ControlReply | null {
    const obstacle = this.#obstacleToHandOver();
    if (obstacle !== "") return { ok: false, error: `${BUSY}: ${obstacle}` };
    const checked = answering(() => {
      this.#checkSame(table, true);
      const { size_bytes } = findGrowth(this.#growing(), tableOf(table));
      if (size_bytes > this.#engine.size_bytes) {
        throw new CacheError(`${INVALID}: the backing device has grown: load and resume it first`);
      }
    });
    if (!checked.ok) return checked;
    this.#heir = client;
    return this.#suspension.ask(client, false);
  }

  /** What another process would not know of, or not go on with. */
  #obstacleToHandOver(): string {
    if (this.#removal.is_under_way) return "it is being removed";
    if (this.#shell.is_deferred) return "it goes when its last user does";
    if (this.#is_wiped) return "its table was wiped";
    if (this.#inactive !== null) return "it has an inactive table: resume or clear it first";
    if (this.#suspension.is_under_way) return "it is suspended: resume it first";
    if (this.#jobs.is_under_way) return "a message is under way";
    const clients = this.#frontend.clientCount();
    return clients === 0 ? "" : `NBD clients are connected: ${clients}`;
  }

  #askWipe(client: number): ControlReply | null {
    if (this.#is_wiped) return DONE;
    if (this.#removal.is_under_way) return { ok: false, error: BUSY };
    this.#suspension.end(); // with noflush it would leave requests under way
    this.#wiper = client;
    return this.#suspension.ask(client, false);
  }

  /** Nothing is under way: from now on everything fails, and others may have the devices. */
  #wipe(): void {
    this.#wiper = -1;
    this.#is_wiped = true;
    this.#inactive = null;
    this.#served.is_failing = true;
    this.#frontend.dropUnfinished();
    this.#parts.arena.unmapCache();
    this.#parts.devices.dispose();
    this.#backing = goneBacking(this.#backing);
    this.#shell.home.claimServer("");
    this.#suspension.end();
    this.#shell.raise();
  }

  #table(is_inactive: boolean): ControlReply {
    const length_sectors = this.#engine.size_bytes / SECTOR_BYTES;
    const table = tableOf(this.#config);
    const live = { cache_mode: this.#engine.cache_mode, eviction: this.#engine.eviction };
    if (is_inactive) {
      if (this.#inactive === null) return { ok: true, table: "" };
      const { eviction } = this.#inactive;
      const cache_mode = this.#inactive.cache_mode ?? live.cache_mode;
      const inactive = { ...table, cache_mode, eviction };
      return { ok: true, table: formatTable(inactive, this.#inactive_sectors) };
    }
    if (this.#is_wiped) return { ok: true, table: `0 ${length_sectors} error ` };
    return { ok: true, table: formatTable({ ...table, ...live }, length_sectors) };
  }

  #status(is_inactive: boolean): ControlReply {
    if (is_inactive && this.#inactive === null) {
      return { ok: true, target: null, length_sectors: 0 };
    }
    const length_sectors = this.#engine.size_bytes / SECTOR_BYTES;
    if (this.#is_wiped) return { ok: true, target: "error", length_sectors };
    return {
      ok: true,
      target: TARGET_TYPE,
      start: 0,
      length_sectors,
      ...this.#engine.status(),
      counters: { ...this.#engine.counters },
    };
  }

  #info(): InfoReply {
    const { cache_file, backing, memory } = this.#parts;
    const { home, events, since_ms, is_deferred } = this.#shell;
    const { node } = this.#frontend;
    return {
      ok: true,
      name: home.name,
      uuid: home.uuid,
      major: node?.major ?? 0,
      minor: node?.minor ?? home.minor,
      read_only: this.#served.read_only,
      is_suspended: this.#suspension.is_under_way,
      is_deferred,
      live_target: this.#is_wiped ? "error" : TARGET_TYPE,
      has_inactive_table: this.#inactive !== null,
      event_nr: events.number,
      open_count: this.#frontend.userCount(),
      frontend: this.#frontend.name,
      uri: this.#frontend.uri,
      node: node?.path ?? "",
      link: node?.link ?? "",
      pid: Deno.pid,
      since_ms,
      length_sectors: this.#engine.size_bytes / SECTOR_BYTES,
      cache_path: this.#is_wiped ? "" : this.#config.cache_path,
      backing_path: this.#is_wiped ? "" : this.#config.backing_path,
      cache_dev: { major: cache_file.major, minor: cache_file.minor },
      backing_dev: backing.number,
      backing_trouble: this.#backing.trouble,
      backing_outages: this.#backing.outage_count,
      cache_kind: memory.kind,
      loop: this.#ring.name,
    };
  }

  #stats(): StatsReply {
    const engine = this.#engine;
    return {
      ok: true,
      uptime_ms: Date.now() - this.#shell.since_ms,
      open_count: this.#frontend.userCount(),
      cache_mode: engine.cache_mode,
      is_mode_settled: engine.is_mode_settled,
      writeback_rate: engine.writeback_rate === Infinity ? null : engine.writeback_rate,
      eviction: engine.eviction,
      sequential_cutoff: engine.sequential_cutoff_bytes,
      requests_under_way: engine.requests_in_use,
      requests_waiting: engine.waitingCount(),
      ...this.#pace.report(performance.now()),
      counters: { ...engine.counters },
      latency: engine.latencies(),
    };
  }

  #message(args: string[], client: number): ControlReply | null {
    if (this.#is_wiped) return { ok: false, error: `${INVALID}: the table was wiped` };
    if (this.#removal.is_under_way) return { ok: false, error: BUSY };
    const begun = this.#jobs.ask(args, client);
    if (begun !== undefined) return begun;
    const reply = answering(() => applySetting(this.#engine, args));
    if (!reply.ok) return { ...reply, error: `${INVALID}: ${reply.error}` };
    this.#shell.raise();
    return { ok: true, text: "" };
  }

  #progress(): ControlReply {
    const { dirty_bytes, backing_write_errors, backing_flush_errors } = this.#engine.counters;
    const writeback_errors = backing_write_errors + backing_flush_errors;
    const job = this.#jobs.progress;
    return { ok: true, removing: this.#removal.is_under_way, job, dirty_bytes, writeback_errors };
  }
}

/** How the device's export is called. */
function namesOf(name: string): { name: string; description: string } {
  return { name, description: `pcache device ${name}` };
}

/** A path without links, so that two ways to one file are the same; or as it is, when there is no such file. */
function realPath(path: string): string {
  try {
    return Deno.realPathSync(path);
  } catch {
    return path;
  }
}

/**
 * A device without a live table (`create --notable`): it has a name and a control socket, takes a table into its inactive place,
 * and becomes a whole device when it is resumed.
 *
 * It runs on poll(2): nothing of it is under way in the kernel when the whole device takes its sockets over.
 *
 * @module
 */

import { CacheError } from "../core/errors.ts";
import { parseNbdUri } from "../core/nbd_uri.ts";
import { deviceSectors, formatTable } from "../core/table.ts";
import { Arena } from "./arena.ts";
import { type ControlClient, ControlServer } from "./control.ts";
import type { ControlReply, ControlRequest, InfoReply, TableConfig } from "./control_protocol.ts";
import { INVALID } from "./control_protocol.ts";
import { closeDevice, openDevice } from "./files.ts";
import { PollRing } from "./poll_ring.ts";
import { answering, DONE, type Shell } from "./shell.ts";
import * as sockets from "./sockets.ts";
import { serverOf, tableOf } from "./table_line.ts";
import { KIND_SHIFT } from "./tokens.ts";

const RING_ENTRIES = 64;
const RING_BYTES = 1024 * 1024;
/** How long the last answers may take to leave. */
const GOODBYE_MS = 1000;

/** How a device without a live table ends: removed, or as a whole device that `resumed` asked for. */
export type BareEnd<D> = { device: D; clients: ControlClient[]; resumed: number } | null;

/** A device without a live table. `D` is what it becomes. */
export class BareDevice<D> {
  readonly #shell: Shell;
  readonly #control_fd: number;
  readonly #open: (table: TableConfig) => D;
  #inactive: TableConfig | null = null;
  #length_sectors = 0;
  #removed_by = -1;
  #next: { device: D; resumed: number } | null = null;

  /** `open` makes the whole device; it throws `CacheError` when that fails, and leaves nothing behind then. */
  constructor(shell: Shell, control_fd: number, open: (table: TableConfig) => D) {
    this.#shell = shell;
    this.#control_fd = control_fd;
    this.#open = open;
  }

  /** Serves commands until it is removed (null) or becomes a whole device. */
  serve(): BareEnd<D> {
    const io_bytes = ControlServer.ARENA_BYTES + RING_BYTES;
    const arena = new Arena({ cache_bytes: 0, buffer_bytes: 0, io_bytes });
    try {
      return this.#serve(arena);
    } finally {
      arena.close();
    }
  }

  #serve(arena: Arena): BareEnd<D> {
    const ring = new PollRing(arena, RING_ENTRIES);
    const control = new ControlServer({
      arena,
      ring,
      sockets,
      listen_fd: this.#control_fd,
      handler: {
        request: (request, client) => this.#answer(request, client),
        gone: (client) => this.#shell.events.forget(client),
      },
    });
    this.#shell.reply = (client, reply) => control.reply(client, reply);
    control.start();
    const turn = (most_ms: number) => {
      ring.wait(Math.min(most_ms, control.nextTimerMs(performance.now())));
      while (ring.next()) control.handle(ring.user >>> KIND_SHIFT, ring.user, ring.result);
      control.turn(performance.now());
    };
    while (this.#next === null && this.#removed_by < 0) turn(Infinity);
    if (this.#next !== null) {
      sockets.setBlocking(this.#control_fd); // accept on io_uring waits only then
      return { ...this.#next, clients: control.takeClients() };
    }
    this.#shell.events.end(this.#shell.reply);
    control.reply(this.#removed_by, DONE);
    const deadline_ms = performance.now() + GOODBYE_MS;
    while (control.is_sending) {
      turn(GOODBYE_MS);
      // Looked at after the first try, as in device.ts.
      if (performance.now() >= deadline_ms) break;
    }
    return null;
  }

  #answer(request: ControlRequest, client: number): ControlReply | null {
    const reply = this.#shell.answer(request, client);
    if (reply !== undefined) return reply;
    switch (request.verb) {
      case "status":
        // A table that was never live has no fields: nothing of it has been read.
        return { ok: true, target: null, length_sectors: 0 };
      case "table":
        return { ok: true, table: request.inactive ? this.#tableLine() : "" };
      case "info":
        return this.#info();
      case "progress":
        return { ok: true, removing: false, job: null, dirty_bytes: 0, writeback_errors: 0 };
      case "load":
        return answering(() => this.#load(request.table));
      case "clear":
        this.#inactive = null;
        return answering(() => this.#shell.home.claimServer(""));
      case "resume":
        return this.#resume(client);
      case "remove":
        this.#removed_by = client;
        return null;
      case "hand_over":
      case "suspend":
      case "wipe":
      case "stats":
      case "message":
        return { ok: false, error: `${INVALID}: the device has no live table` };
      default:
        throw new Error(`verb ${request.verb} is the shell's`);
    }
  }

  /** Checks what can be checked without keeping the devices from others; a server is asked when the table becomes live. */
  #load(table: TableConfig): void {
    using opened = new DisposableStack();
    const cache = openDevice("cache", table.cache_path);
    opened.defer(() => closeDevice(cache));
    const uri = serverOf(table);
    if (uri === "") {
      const backing = openDevice("backing", table.backing_path, cache);
      opened.defer(() => closeDevice(backing));
      this.#length_sectors = deviceSectors(tableOf(table), backing.size_bytes);
    } else {
      parseNbdUri(uri);
      this.#length_sectors = table.length_sectors ?? 0;
    }
    this.#shell.home.claimServer(uri);
    this.#inactive = table;
  }

  #resume(client: number): ControlReply | null {
    if (this.#inactive === null) {
      return { ok: false, error: `${INVALID}: no table is loaded; load one first` };
    }
    try {
      this.#next = { device: this.#open(this.#inactive), resumed: client };
      return null;
    } catch (error) {
      if (!(error instanceof CacheError)) throw error;
      return { ok: false, error: error.message };
    }
  }

  #tableLine(): string {
    if (this.#inactive === null) return "";
    return formatTable(tableOf(this.#inactive), this.#length_sectors);
  }

  #info(): InfoReply {
    const { home, events, since_ms } = this.#shell;
    return {
      ok: true,
      name: home.name,
      uuid: home.uuid,
      major: 0,
      minor: home.minor,
      read_only: this.#inactive?.read_only ?? false,
      is_suspended: false,
      is_deferred: false,
      live_target: null,
      has_inactive_table: this.#inactive !== null,
      event_nr: events.number,
      open_count: 0,
      frontend: "nbd",
      uri: "",
      node: "",
      link: "",
      pid: Deno.pid,
      since_ms,
      length_sectors: 0,
      cache_path: "",
      backing_path: "",
      cache_dev: { major: 0, minor: 0 },
      backing_dev: { major: 0, minor: 0 },
      backing_trouble: "",
      backing_outages: 0,
      cache_kind: "file",
      loop: "poll",
    };
  }
}

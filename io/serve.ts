/**
 * Serves a cached device over NBD from inside a Deno program, in a thread of its own.
 *
 * @module
 */

import type { CacheMode } from "../core/cache_mode.ts";
import { CacheError } from "../core/errors.ts";
import type { Eviction } from "../core/eviction.ts";
import { callControl } from "./control_client.ts";
import type { DeviceConfig, DeviceEvent } from "./device_config.ts";
import { absolutePath, controlPath, runRoot } from "./run_dir.ts";
import { isNbdUri } from "../core/nbd_uri.ts";

/** What `serve` serves. */
export interface ServeOptions {
  /** The device's name: 1 to 127 characters of `0-9A-Za-z#+-.:=@_`. The commands of pcache know it by that. */
  readonly name: string;
  readonly cache_path: string;
  readonly backing_path: string;
  /** False if left out. */
  readonly data_crc?: boolean;
  /** The one that the cache has, writeback for a new one, if left out. */
  readonly cache_mode?: CacheMode;
  /** What stays when space is needed; "fifo" if left out. It is not kept in the cache. */
  readonly eviction?: Eviction;
  readonly read_only?: boolean;
  /** Serve TCP here instead of a Unix socket; port 0: any free one. */
  readonly listen?: { readonly host: string; readonly port: number };
}

/** What the thread is told. */
export interface ServeOrder {
  readonly run_root: string;
  readonly name: string;
  readonly device: DeviceConfig;
}

/** What the thread tells: how far it is, or that the device is gone. */
export type ServeEvent = DeviceEvent | { event: "gone" };

/** A device that is being served. */
export class ServedDevice {
  readonly name: string;
  /** Where clients connect. */
  readonly uri: string;
  /** Resolves when the device is gone, whoever has removed it. */
  readonly gone: Promise<void>;
  readonly #run_root: string;

  constructor(name: string, uri: string, gone: Promise<void>, run_root: string) {
    this.name = name;
    this.uri = uri;
    this.gone = gone;
    this.#run_root = run_root;
  }

  /**
   * Ends the device; with `flush` everything is written back first.
   *
   * @throws {CacheError} A client is connected, or not everything could be written back.
   */
  async stop({ flush = false } = {}): Promise<void> {
    const path = controlPath(this.#run_root, this.name);
    const reply = await callControl(path, { verb: "remove", flush });
    if (!reply.ok) throw new CacheError(`stopping ${this.name}: ${reply.error}`);
    await this.gone;
  }
}

/**
 * Opens both devices and serves the cached device until it is stopped, or removed by `pcache remove`. If the program ends without that, it is as
 * if a device process had been killed: what was flushed is safe.
 *
 * @throws {CacheError} It cannot be opened. Nothing is left behind.
 */
export async function serve(options: ServeOptions): Promise<ServedDevice> {
  const run_root = runRoot();
  const { name, backing_path } = options;
  const order: ServeOrder = {
    run_root,
    name,
    device: {
      table: {
        cache_path: absolutePath(options.cache_path),
        backing_path: isNbdUri(backing_path) ? backing_path : absolutePath(backing_path),
        data_crc: options.data_crc ?? false,
        cache_mode: options.cache_mode ?? null,
        eviction: options.eviction ?? "fifo",
        length_sectors: null,
        read_only: options.read_only ?? false,
      },
      listen: options.listen ?? null,
      tls: null,
      is_insecure: false,
      frontend: "nbd",
      attach: null,
      recover: false,
      format: false,
    },
  };
  const worker = new Worker(new URL("./serve_worker.ts", import.meta.url), { type: "module" });
  const gone = Promise.withResolvers<void>();
  const ready = Promise.withResolvers<string>();
  worker.onmessage = ({ data }: MessageEvent<ServeEvent>) => {
    if (data.event === "ready") ready.resolve(data.uri);
    if (data.event === "failed") ready.reject(new CacheError(`serving ${name}: ${data.error}`));
    if (data.event === "gone") gone.resolve();
  };
  worker.onerror = (event) => {
    event.preventDefault();
    const error = new Error(`serving ${name}: ${event.message}`);
    ready.reject(error);
    gone.reject(error);
  };
  worker.postMessage(order);
  try {
    const uri = await ready.promise;
    gone.promise.finally(() => worker.terminate()).catch(() => {});
    return new ServedDevice(name, uri, gone.promise, run_root);
  } catch (error) {
    worker.terminate();
    throw error;
  }
}

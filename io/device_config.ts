/**
 * What a device process is told, and what it tells its creator. Plain types and names, so that commands can use them
 * without loading a device's whole machinery.
 *
 * @module
 */

import type { TableConfig } from "./control_protocol.ts";
import type { TlsServerConfig } from "./tls/credentials.ts";

/**
 * What a device process is told besides its name. Plain JSON: the command that creates the device hands it over a pipe.
 */
export interface DeviceConfig {
  /** Null: it gets one later. */
  table: TableConfig | null;
  /** Serve NBD over TCP instead of the Unix socket (port 0: any free one), or on listening sockets that the process has inherited. */
  listen: { host: string; port: number } | { fds: number[]; unused_fds: number[] } | null;
  /** Null: no TLS. */
  tls: TlsServerConfig | null;
  /** An address that is not loopback may be served without TLS. */
  is_insecure: boolean;
  /** How it is served; `auto`: as a block device where the kernel's ublk driver can be used, else over NBD. */
  frontend: "nbd" | "ublk" | "auto";
  /**
   * The kernel's NBD client makes a block device of it, `/dev/nbd<index>`, or any that is free; null: it does not. Of no concern
   * where the device is a block device anyway.
   */
  attach: { index: number | null } | null;
  /** Take over the block device that a killed process has left, if there is one. */
  recover: boolean;
  /** Format the cache device although a cache was seen on it. */
  format: boolean;
}

/** What a device process tells its creator, in this order: any number of these, then one of the others. */
export type ProgressEvent =
  /** Something that takes time has begun ("connecting to nbd://...", "reading the log"). */
  | { event: "progress"; text: string }
  /** So much of the log has been read, and so much is left; from the first second on, a few times a second. */
  | { event: "reading"; done_bytes: number; left_bytes: number };

/** What a device process tells its creator. */
export type DeviceEvent =
  | ProgressEvent
  /** The device answers at `uri`. `notes` are lines that the user should see once. */
  | { event: "ready"; uri: string; notes: string[] }
  /** It will never answer; nothing was changed and nothing is left behind. */
  | { event: "failed"; error: string };

/** Name of the control socket in `DeviceConfig.run_dir`. */
export const CONTROL_SOCKET = "control";
/** Name of the NBD socket in `DeviceConfig.run_dir`. */
export const NBD_SOCKET = "nbd";

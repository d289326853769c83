/**
 * What the commands say to a device process, and what it answers: one JSON line each way on the control
 * socket, at most `MAX_LINE_BYTES` long. A connection may carry several requests, one after another.
 *
 * @module
 */

import type { CacheMode } from "../core/cache_mode.ts";
import type { Counters } from "../core/counters.ts";
import type { Eviction } from "../core/eviction.ts";
import type { LatencyReport } from "../core/latencies.ts";
import type { PaceReport } from "./pace.ts";

/** Longest request or reply line, in bytes, its newline included. */
export const MAX_LINE_BYTES = 64 * 1024;

/** A request to a device process. `remove` is answered when the device is gone; see `ControlServer`. */
export type ControlRequest =
  /** `inactive`: of the inactive table. */
  | { verb: "status"; inactive?: boolean }
  | { verb: "table"; inactive?: boolean }
  | { verb: "info" }
  | { verb: "stats" }
  | { verb: "message"; args: string[] }
  | { verb: "progress" }
  /**
   * `force`: all I/O fails from now on, and clients are dropped. `deferred`: a device in use goes when its last client does;
   * the answer comes at once then.
   */
  | { verb: "remove"; flush: boolean; force?: boolean; deferred?: boolean }
  /**
   * Ends the process, so that another one, which the caller starts with this table, goes on with the device. Answered when all
   * is durable and at rest.
   */
  | { verb: "hand_over"; table: TableConfig }
  /** Answered when nothing is under way any more; `noflush`: at once. No request is answered until `resume`. */
  | { verb: "suspend"; noflush: boolean }
  /** The inactive table becomes the live one, if there is one; held requests go on. */
  | { verb: "resume" }
  /** Puts a table into the inactive place. */
  | { verb: "load"; table: TableConfig }
  /** Empties the inactive place. */
  | { verb: "clear" }
  /** Replaces the table by one that fails all I/O, and lets go of both devices. */
  | { verb: "wipe" }
  /** `from` is the name that the command knew: of two renames at once one comes too late. */
  | { verb: "rename"; from: string; to: string }
  | { verb: "set_uuid"; uuid: string }
  /** Answered when the event number is above `event_nr`. */
  | { verb: "wait"; event_nr: number };

/** What a table says about a device. */
export interface TableConfig {
  /** An absolute path, or one relative to the working directory of the device process. */
  cache_path: string;
  /** The same, or an NBD URI as `formatNbdUri` writes it. */
  backing_path: string;
  data_crc: boolean;
  /** null: the mode that the cache has, writeback for a new one. */
  cache_mode: CacheMode | null;
  eviction: Eviction;
  /** Size of the cached device, in sectors of 512 bytes; null: the whole backing device. */
  length_sectors: number | null;
  read_only: boolean;
}

/** A place in the log: a cache segment and an offset into its data area, in bytes. */
export interface StatusPosition {
  seg: number;
  off: number;
}

/** The status fields of the kernel's target, in its order (DESIGN §5), and our own counters. */
export interface StatusReply {
  ok: true;
  target: "pcache";
  /** First sector of the cached device: 0. */
  start: number;
  /** Size of the cached device, in sectors of 512 bytes. */
  length_sectors: number;
  sb_flags: number;
  seg_total: number;
  cache_segs: number;
  segs_used: number;
  gc_percent: number;
  cache_flags: number;
  key_head: StatusPosition;
  dirty_tail: StatusPosition;
  key_tail: StatusPosition;
  counters: Record<string, number>;
}

/** The status of a table without fields: one that fails all I/O, or (null) no table at all. */
export interface BlankStatusReply {
  ok: true;
  target: "error" | null;
  /** Size of the cached device, in sectors of 512 bytes; 0 without a table. */
  length_sectors: number;
}

/** The table line that `create` accepts; "": there is no table. */
export interface TableReply {
  ok: true;
  table: string;
}

/** The numbers of a block device, or of the file system that holds a file. */
export interface DeviceNumber {
  major: number;
  minor: number;
}

/** What a device is and does at the moment. */
export interface InfoReply {
  ok: true;
  name: string;
  /** "" when none was given. */
  uuid: string;
  /** The number of the kernel's device; without one the major number is 0 and the minor one our own. */
  major: number;
  minor: number;
  read_only: boolean;
  is_suspended: boolean;
  /** It goes when its last client does. */
  is_deferred: boolean;
  /** Target type of the live table: `pcache`, or `error` (all requests fail); null: no table is live. */
  live_target: string | null;
  has_inactive_table: boolean;
  /** Number of the last event; see `wait`. */
  event_nr: number;
  /**
   * NBD connections that reached the transmission phase, but for those of the device's own block device; mounts of that, and
   * devices on top of it.
   */
  open_count: number;
  frontend: "nbd" | "ublk";
  /** Where NBD clients connect: `nbd+unix:///?socket=PATH` or `nbd://HOST:PORT`; "": it is not served over NBD. */
  uri: string;
  /** Path of the block device, `/dev/ublkb0` or `/dev/nbd0`, and a link with the device's name to it; "": there is none. */
  node: string;
  link: string;
  pid: number;
  /** Unix time at which the device answered first, in milliseconds. */
  since_ms: number;
  length_sectors: number;
  cache_path: string;
  backing_path: string;
  cache_dev: DeviceNumber;
  /** null: the backing device is on an NBD server. */
  backing_dev: DeviceNumber | null;
  /** Why the backing device is away for now; "": it is there. */
  backing_trouble: string;
  /** How often it has been away since the device was created. */
  backing_outages: number;
  /** What the cache device was found to be (DESIGN §4). */
  cache_kind: "pmem" | "file" | "block" | "tmpfs";
  /** The event loop in use. */
  loop: "io_uring" | "poll";
}

/** What a device has done since it was started, and how it stands. */
export interface StatsReply extends PaceReport {
  ok: true;
  uptime_ms: number;
  open_count: number;
  cache_mode: CacheMode;
  /** The mode's promise holds: nothing that was dirty before it began is still missing on the backing device. */
  is_mode_settled: boolean;
  /** Bytes a second that write-back may write where nobody waits for it; 0: it pauses, null: as many as it can. */
  writeback_rate: number | null;
  eviction: Eviction;
  /** How long a sequential stream of reads may be before its misses are not kept any more; 0: as long as it likes. */
  sequential_cutoff: number;
  /** Requests that are not answered, and of these the ones that wait for space. */
  requests_under_way: number;
  requests_waiting: number;
  /** `core/counters.ts` says what each of them is. */
  counters: Readonly<Counters>;
  latency: LatencyReport;
}

/** The answer to a message: "" or lines to print. */
export interface MessageReply {
  ok: true;
  text: string;
}

/** How far a message is that takes long (jobs.ts). */
export interface JobProgress {
  done_bytes: number;
  left_bytes: number;
}

/** How far a removal or a message is. */
export interface ProgressReply {
  ok: true;
  /** True from a `remove` on until it ends or is given up. */
  removing: boolean;
  /** null: no message is under way that takes long. */
  job: JobProgress | null;
  /** Bytes still to be written to the backing device. */
  dirty_bytes: number;
  /** Write-back requests that the backing device failed since the device was created. */
  writeback_errors: number;
}

/** The device is gone: sockets closed and removed, both devices released; or it will go later. */
export interface RemoveReply {
  ok: true;
  deferred?: boolean;
}

/** It is done. `notes` are lines that the user should see. */
export interface DoneReply {
  ok: true;
  notes: string[];
}

/** The number of the last event. */
export interface WaitReply {
  ok: true;
  event_nr: number;
}

/** The request failed. `error` is the reason alone: the command puts verb and name in front. */
export interface ErrorReply {
  ok: false;
  error: string;
}

/** The reply that each verb gets when it succeeds. */
export interface ReplyOf {
  status: StatusReply | BlankStatusReply;
  table: TableReply;
  info: InfoReply;
  stats: StatsReply;
  message: MessageReply;
  progress: ProgressReply;
  remove: RemoveReply;
  hand_over: DoneReply;
  suspend: DoneReply;
  resume: DoneReply;
  load: DoneReply;
  clear: DoneReply;
  wipe: DoneReply;
  rename: DoneReply;
  set_uuid: DoneReply;
  wait: WaitReply;
}

/** Any reply of a device process. */
export type ControlReply = ReplyOf[keyof ReplyOf] | ErrorReply;

/** The words of `errno` in errors that users of dmsetup know. */
export const BUSY = "Device or resource busy";
/** There is no such device, or not any more. */
export const GONE = "No such device or address";
/** The answer to a message that the device does not know (DMSETUP, "Exit status and messages"). */
export const INVALID = "Invalid argument";

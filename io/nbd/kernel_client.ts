/**
 * The kernel's own NBD client, driven by generic netlink (Linux' linux/nbd-netlink.h): block devices `/dev/nbdN` over sockets on
 * which the transmission phase has begun. What is known of such a device is read from sysfs.
 *
 * @module
 */

import { CacheError } from "../../core/errors.ts";
import { EBUSY, EPERM, errorText } from "../libc.ts";
import { Netlink, type NetlinkPort } from "../netlink.ts";
import { type Attribute, numberOf, text, u32, u64 } from "../netlink_messages.ts";
import { nodePath } from "./node_path.ts";

const FAMILY = "nbd";

const COMMAND_CONNECT = 1;
const COMMAND_DISCONNECT = 2;
const COMMAND_RECONFIGURE = 3;

const INDEX = 1;
const SIZE_BYTES = 2;
const BLOCK_SIZE_BYTES = 3;
const TIMEOUT = 4;
const SERVER_FLAGS = 5;
const CLIENT_FLAGS = 6;
const SOCKETS = 7;
const DEAD_CONNECTION_TIMEOUT = 8;
const BACKEND_IDENTIFIER = 10;
const SOCKET_ITEM = 1;
const SOCKET_FD = 1;

/** `NBD_CFLAG_DISCONNECT_ON_CLOSE`. */
const DISCONNECT_ON_CLOSE = 2;

/** A request that is not answered by then goes over another connection, and its own one is given up. */
const REQUEST_TIMEOUT_S = 30;
/** How long requests wait for a connection when there is none: as good as for ever. */
const DEAD_CONNECTION_S = 24 * 60 * 60;
const SECTOR_BYTES = 512;

/** What a block device is to be. */
export interface KernelDeviceSpec {
  /** N of `/dev/nbdN`; null: any that is free. */
  readonly index: number | null;
  readonly size_bytes: number;
  /** "Transmission flags". */
  readonly flags: number;
  /** Says later that the device is ours. */
  readonly backend: string;
  /** Sockets; the kernel has them, too, from then on. */
  readonly fds: readonly number[];
}

/** What an attachment asks of the kernel. Numbers that come back are 0, or an error number. */
export type KernelClient = Pick<
  NbdKernelClient,
  | "connect"
  | "reconnect"
  | "disconnectOnClose"
  | "disconnect"
  | "backendOf"
  | "numberOf"
  | "sizeOf"
>;

export class NbdKernelClient {
  readonly #netlink: NetlinkPort;
  readonly #family: number;
  readonly #sys: string;

  /** `sys`: where the kernel shows its block devices. */
  constructor(netlink: NetlinkPort, family: number, sys = "/sys/block") {
    this.#netlink = netlink;
    this.#family = family;
    this.#sys = sys;
  }

  /** The kernel's client, or why it cannot be used. */
  static open(cleanup: DisposableStack): NbdKernelClient | string {
    const netlink = cleanup.use(new Netlink());
    const family = netlink.family(FAMILY);
    if (family !== null) return new NbdKernelClient(netlink, family);
    return "the kernel's NBD client is not there (modprobe nbd; in a container it takes the host's network)";
  }

  /**
   * Makes a block device of sockets, and returns its index.
   *
   * @throws {CacheError}
   */
  connect(spec: KernelDeviceSpec): number {
    const { errno, replies } = this.#netlink.call(this.#family, COMMAND_CONNECT, [
      ...(spec.index === null ? [] : [[INDEX, u32(spec.index)]] as const),
      [SIZE_BYTES, u64(spec.size_bytes)],
      [BLOCK_SIZE_BYTES, u64(SECTOR_BYTES)],
      [TIMEOUT, u64(REQUEST_TIMEOUT_S)],
      [DEAD_CONNECTION_TIMEOUT, u64(DEAD_CONNECTION_S)],
      [SERVER_FLAGS, u64(spec.flags)],
      [BACKEND_IDENTIFIER, text(spec.backend)],
      [SOCKETS, spec.fds.map(socketItem)],
    ]);
    const [reply] = replies;
    if (errno !== 0 || reply === undefined) {
      const what = spec.index === null ? "a free /dev/nbdN" : nodePath(spec.index);
      throw new CacheError(`${what}: ${whyNot(errno)}`);
    }
    return numberOf(reply, INDEX, 4);
  }

  /** Gives a device sockets in the place of those that are dead; the kernel ignores what it has no place for. */
  reconnect(index: number, backend: string, fds: readonly number[]): number {
    return this.#reconfigure(index, backend, [SOCKETS, fds.map(socketItem)]);
  }

  /** Whether a device is disconnected when its last user closes it. */
  disconnectOnClose(index: number, backend: string, on: boolean): number {
    return this.#reconfigure(index, backend, [CLIENT_FLAGS, u64(on ? DISCONNECT_ON_CLOSE : 0)]);
  }

  /** Disconnects a device; whoever uses it gets errors. */
  disconnect(index: number): number {
    return this.#netlink.call(this.#family, COMMAND_DISCONNECT, [[INDEX, u32(index)]]).errno;
  }

  /** What was said with a device when it was connected; "": it is not connected, or not by us. */
  backendOf(index: number): string {
    return this.#text(index, "backend");
  }

  /** Whether anybody has connected a device. */
  isConnected(index: number): boolean {
    return this.#text(index, "pid") !== "";
  }

  /**
   * The number of a device.
   *
   * @throws {CacheError} It is not to be seen.
   */
  numberOf(index: number): { major: number; minor: number } {
    const [, major, minor] = /^(\d+):(\d+)$/.exec(this.#text(index, "dev")) ?? [];
    if (minor === undefined) throw new CacheError(`${this.#sys}/nbd${index}: not to be seen here`);
    return { major: Number(major), minor: Number(minor) };
  }

  /** Size of a device, in bytes. */
  sizeOf(index: number): number {
    return Number(this.#text(index, "size")) * SECTOR_BYTES;
  }

  #reconfigure(index: number, backend: string, change: Attribute): number {
    return this.#netlink.call(this.#family, COMMAND_RECONFIGURE, [
      [INDEX, u32(index)],
      [BACKEND_IDENTIFIER, text(backend)],
      change,
    ]).errno;
  }

  #text(index: number, name: string): string {
    try {
      return Deno.readTextFileSync(`${this.#sys}/nbd${index}/${name}`).trim();
    } catch (error) {
      if (error instanceof Deno.errors.NotFound) return "";
      throw error;
    }
  }
}

function socketItem(fd: number): Attribute {
  return [SOCKET_ITEM, [[SOCKET_FD, u32(fd)]]];
}

function whyNot(errno: number): string {
  if (errno === 0) return "the kernel does not say which device it has made";
  if (errno === EPERM) return `${errorText(errno)}: CAP_SYS_ADMIN is wanted`;
  if (errno === EBUSY) return `${errorText(errno)}: it is connected already`;
  return errorText(errno);
}

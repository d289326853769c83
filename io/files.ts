/**
 * Opening a cache device or backing device: what it is, how large, locked against a second user, with nothing written.
 *
 * @module
 */

import { CacheError } from "../core/errors.ts";
import { waitOutLeaving } from "./leaving.ts";
import {
  cString,
  EBUSY,
  ERRNO,
  errorText,
  libc,
  O_CLOEXEC,
  O_DIRECT,
  O_EXCL,
  O_NONBLOCK,
  O_RDWR,
  result,
} from "./libc.ts";
import { tryLock } from "./lock.ts";

/** The device's part: it is named in every message. */
export type Role = "cache" | "backing";

/** An open cache device or backing device. */
export interface DeviceFile {
  readonly role: Role;
  /** As the table names it. */
  readonly path: string;
  readonly fd: number;
  /** `dax`: a device DAX, a character device whose mapping is persistent memory. */
  readonly kind: "file" | "block" | "dax";
  /** As the device has it: not rounded. */
  readonly size_bytes: number;
  /** The device's number; a file's is that of its file system. */
  readonly major: number;
  readonly minor: number;
  /** Two files with the same identity are one. */
  readonly identity: string;
  /** What direct I/O wants lengths and offsets, and addresses, to be multiples of. 0: there is no direct I/O. */
  readonly direct_unit_bytes: number;
  readonly direct_addr_bytes: number;
}

const AT_EMPTY_PATH = 0x1000;
const STATX_BASIC_STATS = 0x7ff;
const STATX_DIOALIGN = 0x2000;
const STATX_BYTES = 256;

const S_IFMT = 0o170000;
const S_IFBLK = 0o060000;
const S_IFCHR = 0o020000;
const S_IFREG = 0o100000;

const BLKGETSIZE64 = 0x80081272n;
const BLKSSZGET = 0x1268n;

/** A file whose file system does not say what direct I/O wants. Wide enough for all that are known. */
const UNSTATED_DIRECT_BYTES = 4096;
const SECTOR_BYTES = 512;
const NOT_A_DEVICE = "neither a file nor a block device nor a device DAX";

const KINDS: ReadonlyMap<number, DeviceFile["kind"]> = new Map([
  [S_IFREG, "file"],
  [S_IFBLK, "block"],
  [S_IFCHR, "dax"],
]);

function fail(role: Role, path: string, why: string): CacheError {
  return new CacheError(`Error opening ${role} device: ${path}: ${why}`);
}

/** struct statx of an open file. */
class Statx {
  readonly #view = new DataView(new ArrayBuffer(STATX_BYTES));

  constructor(fd: number) {
    const bytes = new Uint8Array(this.#view.buffer);
    const mask = STATX_BASIC_STATS | STATX_DIOALIGN;
    const failed = result(libc.statx(fd, cString(""), AT_EMPTY_PATH, mask, bytes), ERRNO[0]);
    if (failed !== 0) throw new Error(`statx: ${errorText(-failed)}`);
  }

  #u32(at: number): number {
    return this.#view.getUint32(at, true);
  }

  #u64(at: number): number {
    return Number(this.#view.getBigUint64(at, true));
  }

  get kind(): DeviceFile["kind"] | undefined {
    return KINDS.get(this.#view.getUint16(28, true) & S_IFMT);
  }
  get size_bytes(): number {
    return this.#u64(40);
  }
  /** Bytes that the file system has set aside, its own bookkeeping for the file included. */
  get allocated_bytes(): number {
    return this.#u64(48) * SECTOR_BYTES;
  }
  get rdev_major(): number {
    return this.#u32(128);
  }
  get rdev_minor(): number {
    return this.#u32(132);
  }
  get dev_major(): number {
    return this.#u32(136);
  }
  get dev_minor(): number {
    return this.#u32(140);
  }
  get says_direct(): boolean {
    return (this.#u32(0) & STATX_DIOALIGN) !== 0;
  }
  get direct_addr_bytes(): number {
    return this.#u32(152);
  }
  get direct_unit_bytes(): number {
    return this.#u32(156);
  }
}

/** What the file system has set aside for an open file, in bytes (see `Statx.allocated_bytes`). */
export function allocatedBytes(fd: number): number {
  return new Statx(fd).allocated_bytes;
}

/** How large an open device is now. */
export function currentBytes({ fd, kind }: Pick<DeviceFile, "fd" | "kind">): number {
  if (kind === "block") return blockSize(fd);
  const stat = new Statx(fd);
  return kind === "dax" ? daxSize(stat) ?? 0 : stat.size_bytes;
}

/** A path that reaches an open file again, even when its name has changed or gone. */
export function reopenPath(fd: number): string {
  return `/proc/self/fd/${fd}`;
}

function blockSize(fd: number): number {
  const size = new BigUint64Array(1);
  const failed = result(libc.ioctl(fd, BLKGETSIZE64, new Uint8Array(size.buffer)), ERRNO[0]);
  if (failed !== 0) throw new Error(`BLKGETSIZE64: ${errorText(-failed)}`);
  return Number(size[0]!);
}

function blockSectorBytes(fd: number): number {
  const size = new Int32Array(1);
  const failed = result(libc.ioctl(fd, BLKSSZGET, new Uint8Array(size.buffer)), ERRNO[0]);
  return failed === 0 ? size[0]! : UNSTATED_DIRECT_BYTES;
}

/** A character device's size if it is a device DAX. */
function daxSize(stat: Statx): number | undefined {
  const sys = `/sys/dev/char/${stat.rdev_major}:${stat.rdev_minor}`;
  try {
    if (!Deno.readLinkSync(`${sys}/subsystem`).endsWith("/dax")) return undefined;
    return Number(Deno.readTextFileSync(`${sys}/size`));
  } catch {
    return undefined;
  }
}

/** Whether a block device, or the one that a file's system is on, is a disk that turns, as far as Linux knows. */
export function isRotational(number: { readonly major: number; readonly minor: number }): boolean {
  const sys = `/sys/dev/block/${number.major}:${number.minor}`;
  // A partition has no queue, its disk has; tmpfs and its like are on no device at all.
  for (const queue of [`${sys}/queue`, `${sys}/../queue`]) {
    try {
      return Deno.readTextFileSync(`${queue}/rotational`).trim() === "1";
    } catch (e) {
      if (!(e instanceof Deno.errors.NotFound)) throw e;
    }
  }
  return false;
}

/** What a path leads to, before it is opened: opening a tape, terminal or FIFO is not without effect. */
function look(role: Role, path: string): { kind: DeviceFile["kind"]; identity: string } {
  let info;
  try {
    info = Deno.statSync(path);
  } catch (e) {
    throw fail(role, path, osText(e));
  }
  if (info.isFile) return { kind: "file", identity: `file ${info.dev}:${info.ino}` };
  if (info.isBlockDevice) return { kind: "block", identity: `block ${info.rdev}` };
  if (info.isCharDevice) return { kind: "dax", identity: `dax ${info.rdev}` };
  throw fail(role, path, info.isDirectory ? "Is a directory" : NOT_A_DEVICE);
}

/** The system's own words for an error that `Deno` threw: it adds its own before and after. */
function osText(e: unknown): string {
  const message = e instanceof Error ? e.message : String(e);
  return message.replace(/ \(os error \d+\).*/s, "");
}

/** Opens, or throws with the C library's text for why not. */
function open(role: Role, path: string, kind: DeviceFile["kind"]): number {
  const exclusive = kind === "block" ? O_EXCL : 0;
  // O_NONBLOCK: should the path lead to something else by now, opening it does not wait.
  const flags = O_RDWR | exclusive | O_CLOEXEC | O_NONBLOCK;
  const opened = waitOutLeaving(path, () => {
    const fd = result(libc.open(cString(path), flags, 0), ERRNO[0]);
    return fd === -EBUSY ? null : fd;
  }) ?? -EBUSY;
  if (opened < 0) throw fail(role, path, errorText(-opened));
  return opened;
}

/** Finds out what an open file is and locks it. */
function inspect(role: Role, path: string, fd: number, identity: string): DeviceFile {
  const stat = new Statx(fd);
  const kind = stat.kind;
  const size_bytes = kind === "dax" ? daxSize(stat) : kind && currentBytes({ fd, kind });
  if (kind === undefined || size_bytes === undefined) throw fail(role, path, NOT_A_DEVICE);
  if (kind === "dax" && role === "backing") {
    throw fail(role, path, "a device DAX cannot be a backing device: a file or block device can");
  }
  if (size_bytes < SECTOR_BYTES) {
    throw fail(role, path, `${size_bytes} bytes long: at least ${SECTOR_BYTES} are wanted`);
  }
  if (!tryLock(fd, path)) throw fail(role, path, errorText(EBUSY));
  return {
    role,
    path,
    fd,
    kind,
    size_bytes,
    major: kind === "file" ? stat.dev_major : stat.rdev_major,
    minor: kind === "file" ? stat.dev_minor : stat.rdev_minor,
    identity,
    ...directUnits(stat, kind, fd),
  };
}

function directUnits(
  stat: Statx,
  kind: DeviceFile["kind"],
  fd: number,
): Pick<DeviceFile, "direct_unit_bytes" | "direct_addr_bytes"> {
  if (stat.says_direct) {
    const { direct_unit_bytes, direct_addr_bytes } = stat;
    return { direct_unit_bytes, direct_addr_bytes };
  }
  if (kind === "dax") return { direct_unit_bytes: 0, direct_addr_bytes: 0 };
  const bytes = kind === "block" ? blockSectorBytes(fd) : UNSTATED_DIRECT_BYTES;
  return { direct_unit_bytes: bytes, direct_addr_bytes: bytes };
}

/**
 * Opens a device for one pcache device alone; nothing is written.
 *
 * @param other a device that is open already and must not be this one
 * @throws CacheError `Error opening ROLE device: PATH: ...` when it is missing, not a device, too small or in use
 */
export function openDevice(
  role: Role,
  path: string,
  other: DeviceFile | null = null,
): DeviceFile {
  const { kind, identity } = look(role, path);
  if (identity === other?.identity) {
    throw fail(role, path, `it is the ${other.role} device too: two devices are wanted`);
  }
  const fd = open(role, path, kind);
  try {
    return inspect(role, path, fd, identity);
  } catch (e) {
    libc.close(fd);
    throw e;
  }
}

/**
 * A second descriptor for direct I/O on an open device, or -1 where the device or its file system has none. Not
 * locked: the first descriptor is.
 */
export function openDirect(file: DeviceFile): number {
  if (file.direct_unit_bytes === 0) return -1;
  return libc.open(cString(reopenPath(file.fd)), O_RDWR | O_DIRECT | O_CLOEXEC, 0);
}

/** Closes a device and so drops its lock. */
export function closeDevice(file: DeviceFile): void {
  libc.close(file.fd);
}

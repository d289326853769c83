/**
 * One device of the ublk driver: added or taken over, its character device open, its descriptors mapped.
 *
 * @module
 */

import { CacheError, EINVAL } from "../../core/errors.ts";
import {
  cString,
  EBUSY,
  EOPNOTSUPP,
  ERRNO,
  errorText,
  libc,
  O_CLOEXEC,
  O_NONBLOCK,
  O_RDWR,
  result,
} from "../libc.ts";
import { pause } from "../pause.ts";
import { ANY_DEVICE, type UblkDriver } from "./driver.ts";
import * as ublk from "./protocol.ts";

/** What a device is to be. */
export interface TargetSpec {
  readonly size_bytes: number;
  readonly read_only: boolean;
  readonly is_rotational: boolean;
  /** Says later that the device is ours: two words. */
  readonly cookie: readonly [number, number];
}

/** Requests of one queue, and queues: more processors than this do not make a single loop faster. */
const DEPTH = 128;
const MAX_QUEUES = 2;
/** Longest transfer; the engine takes longer ones, whatever the cache. */
const MAX_IO_BYTES = 1024 * 1024;
const SECTOR_BYTES = 512;
const PAGE_SHIFT = 12;
const SECTOR_SHIFT = 9;
/** Longest discard and zeroing. */
const MAX_ZERO_SECTORS = 2 ** 21;
const PROT_READ = 1;
const MAP_SHARED_POPULATE = 0x01 | 0x8000;
/** udev may take a moment to make the node. */
const NODE_TRIES = 100;
const NODE_PAUSE_MS = 20;
const DELETE_MS = 2000;
const ENOENT = 2;
const EACCES = 13;
/** The kernel's own, for a command that it does not know. */
const ENOTSUPP = 524;
/** A process that was killed may take a moment to let go of its device. */
const RECOVERY_TRIES = 500;

/** Without these there is no device; the words say since when the kernel has them. */
const NEEDED: readonly [flag: number, what: string][] = [
  [ublk.F_CMD_IOCTL_ENCODE, "ioctl-encoded commands, Linux 6.4"],
  [ublk.F_USER_COPY, "USER_COPY, Linux 6.5"],
  [ublk.F_USER_RECOVERY, "USER_RECOVERY, Linux 6.1"],
  [ublk.F_USER_RECOVERY_REISSUE, "USER_RECOVERY_REISSUE, Linux 6.1"],
];
/** Used where they are there. */
const WANTED = ublk.F_QUIESCE | ublk.F_SAFE_STOP_DEV;

/** Why the driver cannot be used for a device; "": it can. Those that do not say what they can do lack USER_COPY, too. */
export function whyUnusable(driver: Pick<UblkDriver, "features">): string {
  return whatLacks(driver.features);
}

function whatLacks(flags: number): string {
  const lacking = NEEDED.filter(([flag]) => (flags & flag) === 0).map(([, what]) => what);
  return lacking.length === 0 ? "" : `the kernel's ublk driver lacks ${lacking.join("; ")}`;
}

/** A device of the driver. Its process ends without deleting it unless `delete` is called: it can be taken over then. */
export class Target {
  readonly dev_id: number;
  readonly queues: number;
  readonly depth: number;
  readonly flags: number;
  /** The character device, for commands, descriptors and payloads. */
  readonly fd: number;
  /** Descriptors of each queue, `DESC_BYTES` for each tag. */
  readonly descriptors: readonly Uint32Array<ArrayBuffer>[];
  readonly #driver: UblkDriver;

  /**
   * Adds a device.
   *
   * @throws {CacheError} The driver cannot do it; nothing is left behind.
   */
  static add(driver: UblkDriver, spec: TargetSpec): Target {
    const info = driver.buffer;
    info.fill(0);
    const queues = Math.max(1, Math.min(MAX_QUEUES, navigator.hardwareConcurrency));
    info[ublk.INFO_QUEUES_AND_DEPTH] = queues | (DEPTH << 16);
    info[ublk.INFO_MAX_IO_BYTES] = MAX_IO_BYTES;
    info[ublk.INFO_DEV_ID] = ANY_DEVICE;
    info[ublk.INFO_FLAGS] = NEEDED.reduce((flags, [flag]) => flags | flag, 0) |
      (driver.features & WANTED);
    info.set(spec.cookie, ublk.INFO_SERVER_FLAGS);
    const failed = driver.call(ublk.CMD_ADD_DEV, ANY_DEVICE, ublk.INFO_BYTES);
    if (failed < 0) throw new CacheError(`ublk: adding a device: ${errorText(-failed)}`);
    const dev_id = info[ublk.INFO_DEV_ID]!;
    const lacking = whatLacks(info[ublk.INFO_FLAGS]!);
    try {
      if (lacking !== "") throw new CacheError(`ublk: ${lacking}`);
      const target = new Target(driver);
      try {
        target.#setParams(spec);
      } catch (error) {
        target.close();
        throw error;
      }
      return target;
    } catch (error) {
      deleteDevice(driver, dev_id);
      throw error;
    }
  }

  /**
   * Takes over a device whose process has gone. Where the driver can resize it may be smaller: `resize` is to follow the start.
   *
   * @throws {CacheError} It is not of this size, or somebody else has it.
   */
  static takeOver(
    driver: UblkDriver,
    dev_id: number,
    spec: Pick<TargetSpec, "size_bytes" | "read_only">,
  ): Target {
    const path = blockPath(dev_id);
    const params = driver.buffer;
    params.fill(0);
    params[ublk.PARAMS_LEN] = ublk.PARAMS_BYTES;
    check(driver.call(ublk.CMD_GET_PARAMS, dev_id, ublk.PARAMS_BYTES), `${path}: its parameters`);
    const sectors = params[ublk.PARAMS_DEV_SECTORS]! +
      params[ublk.PARAMS_DEV_SECTORS + 1]! * 2 ** 32;
    const size_bytes = sectors * SECTOR_BYTES;
    const has_grown = size_bytes < spec.size_bytes && driver.can_resize;
    if (size_bytes !== spec.size_bytes && !has_grown) {
      throw new CacheError(
        `${path} has ${sectors} sectors, but the table says ${spec.size_bytes / SECTOR_BYTES}: ` +
          "it is recovered only with the table it was created with",
      );
    }
    if (((params[ublk.PARAMS_ATTRS]! & ublk.ATTR_READ_ONLY) !== 0) !== spec.read_only) {
      throw new CacheError(
        `${path} was created ${
          spec.read_only ? "writeable" : "read-only"
        }: it is recovered as it was`,
      );
    }
    let failed = -EBUSY;
    for (let tries = 0; failed === -EBUSY && tries < RECOVERY_TRIES; tries++) {
      if (tries > 0) pause(NODE_PAUSE_MS);
      failed = driver.call(ublk.CMD_START_USER_RECOVERY, dev_id);
    }
    check(failed, `${path}: taking it over`);
    driver.buffer.fill(0);
    check(driver.call(ublk.CMD_GET_DEV_INFO, dev_id, ublk.INFO_BYTES), `${path}: its state`);
    return new Target(driver);
  }

  /** Of the device whose info is in the driver's buffer. */
  private constructor(driver: UblkDriver) {
    const info = driver.buffer;
    this.#driver = driver;
    this.dev_id = info[ublk.INFO_DEV_ID]!;
    this.queues = info[ublk.INFO_QUEUES_AND_DEPTH]! & 0xffff;
    this.depth = info[ublk.INFO_QUEUES_AND_DEPTH]! >>> 16;
    this.flags = info[ublk.INFO_FLAGS]!;
    this.fd = openNode(`/dev/ublkc${this.dev_id}`);
    const bytes = this.#mappedBytes();
    this.descriptors = Array.from({ length: this.queues }, (_, queue) => {
      const off = BigInt(queue * ublk.QUEUE_STRIDE_BYTES);
      const pointer = libc.mmap(0n, BigInt(bytes), PROT_READ, MAP_SHARED_POPULATE, this.fd, off);
      const error = ERRNO[0];
      if (BigInt.asIntN(64, BigInt(Deno.UnsafePointer.value(pointer))) === -1n) {
        throw new CacheError(`ublk: mapping a queue: ${errorText(error)}`);
      }
      return new Uint32Array(Deno.UnsafePointerView.getArrayBuffer(pointer!, bytes));
    });
  }

  /** The block device's node. */
  get path(): string {
    return blockPath(this.dev_id);
  }

  /** The block device's number; it has one when it was started. */
  number(): { major: number; minor: number } {
    const params = this.#driver.buffer;
    params.fill(0);
    params[ublk.PARAMS_LEN] = ublk.PARAMS_BYTES;
    check(
      this.#driver.call(ublk.CMD_GET_PARAMS, this.dev_id, ublk.PARAMS_BYTES),
      `${this.path}: its number`,
    );
    return { major: params[ublk.PARAMS_DISK_MAJOR]!, minor: params[ublk.PARAMS_DISK_MINOR]! };
  }

  /** The device, which was started, has this size from now on. Whoever has it open sees it at once. */
  resize(size_bytes: number): void {
    const sectors = size_bytes / SECTOR_BYTES;
    const failed = this.#driver.call(ublk.CMD_UPDATE_SIZE, this.dev_id, 0, sectors);
    check(failed, `${this.path}: setting its size`);
  }

  #setParams(spec: TargetSpec): void {
    const params = this.#driver.buffer;
    params.fill(0);
    params[ublk.PARAMS_LEN] = ublk.PARAMS_BYTES;
    params[ublk.PARAMS_TYPES] = ublk.TYPE_BASIC | ublk.TYPE_DISCARD;
    params[ublk.PARAMS_ATTRS] = ublk.ATTR_VOLATILE_CACHE | ublk.ATTR_FUA |
      (spec.read_only ? ublk.ATTR_READ_ONLY : 0) | (spec.is_rotational ? ublk.ATTR_ROTATIONAL : 0);
    params[ublk.PARAMS_SHIFTS] = SECTOR_SHIFT | (PAGE_SHIFT << 8) | (PAGE_SHIFT << 16) |
      (PAGE_SHIFT << 24);
    params[ublk.PARAMS_MAX_SECTORS] = MAX_IO_BYTES / SECTOR_BYTES;
    const sectors = spec.size_bytes / SECTOR_BYTES;
    params[ublk.PARAMS_DEV_SECTORS] = sectors >>> 0;
    params[ublk.PARAMS_DEV_SECTORS + 1] = sectors / 2 ** 32;
    params[ublk.PARAMS_DISCARD_GRANULARITY] = SECTOR_BYTES;
    params[ublk.PARAMS_MAX_DISCARD_SECTORS] = MAX_ZERO_SECTORS;
    params[ublk.PARAMS_MAX_ZEROES_SECTORS] = MAX_ZERO_SECTORS;
    params[ublk.PARAMS_MAX_DISCARD_SEGMENTS] = 1;
    const failed = this.#driver.call(ublk.CMD_SET_PARAMS, this.dev_id, ublk.PARAMS_BYTES);
    check(failed, `${this.path}: setting its parameters`);
  }

  #mappedBytes(): number {
    const page_bytes = libc.getpagesize();
    return Math.ceil(this.depth * ublk.DESC_BYTES / page_bytes) * page_bytes;
  }

  /** Lets go of the device. Nothing of it may be under way in the ring, or the process is about to end. */
  close(): void {
    for (const words of this.descriptors) {
      const address = Deno.UnsafePointer.value(Deno.UnsafePointer.of(words));
      libc.munmap(BigInt(address), BigInt(words.byteLength));
    }
    libc.close(this.fd);
  }

  /** Deletes the device, which is stopped or was never started. It must be closed. */
  delete(): void {
    deleteDevice(this.#driver, this.dev_id);
  }
}

/**
 * Deletes a device that nobody serves; whoever has it open gets errors from now on. Kernels before 6.9 know only the command
 * that waits until they have closed it: they go on with that by themselves.
 */
export function deleteDevice(driver: UblkDriver, dev_id: number): void {
  let failed: number | null = driver.call(ublk.CMD_DEL_DEV_ASYNC, dev_id);
  if (failed === -EOPNOTSUPP || failed === -ENOTSUPP) {
    failed = driver.callWithin(ublk.CMD_DEL_DEV, dev_id, DELETE_MS);
  }
  if (failed !== null) check(failed, `${blockPath(dev_id)}: deleting it`);
}

/** Path of a device's block device. */
export function blockPath(dev_id: number): string {
  return `/dev/ublkb${dev_id}`;
}

/** How a device that was added earlier stands; null: there is none of this number, or it is somebody else's. */
export function stateOf(
  driver: UblkDriver,
  dev_id: number,
  cookie: readonly [number, number],
): number | null {
  const info = driver.buffer;
  info.fill(0);
  if (driver.call(ublk.CMD_GET_DEV_INFO, dev_id, ublk.INFO_BYTES) < 0) return null;
  const at = ublk.INFO_SERVER_FLAGS;
  const is_ours = info[at] === cookie[0] && info[at + 1] === cookie[1];
  return is_ours ? info[ublk.INFO_STATE]! & 0xffff : null;
}

/** O_NONBLOCK: io_uring copies payloads at once instead of handing them to a thread. */
function openNode(path: string): number {
  let fd = -EINVAL;
  for (let tries = 0; tries < NODE_TRIES; tries++) {
    if (tries > 0) pause(NODE_PAUSE_MS);
    fd = result(libc.open(cString(path), O_RDWR | O_CLOEXEC | O_NONBLOCK, 0), ERRNO[0]);
    if (fd !== -ENOENT && fd !== -EACCES) break;
  }
  if (fd < 0) throw new CacheError(`ublk: ${path}: ${errorText(-fd)}`);
  return fd;
}

function check(failed: number, what: string): void {
  if (failed < 0) throw new CacheError(`ublk: ${what}: ${errorText(-failed)}`);
}

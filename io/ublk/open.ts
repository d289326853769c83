/**
 * From a device's configuration to its block device: a new one, or the one that a killed process has left.
 *
 * @module
 */

import { CacheError } from "../../core/errors.ts";
import { Arena } from "../arena.ts";
import { BUSY, type TableConfig } from "../control_protocol.ts";
import { cString, EBUSY, ERRNO, libc, O_CLOEXEC, O_EXCL, O_NONBLOCK, result } from "../libc.ts";
import { checkTable, NodeRecord, type RecordHome, type UblkRecord } from "../node_record.ts";
import { pause } from "../pause.ts";
import type { Ring } from "../ring.ts";
import { UringRing } from "../uring.ts";
import { UblkDriver } from "./driver.ts";
import { CMD_TRY_STOP_DEV, F_SAFE_STOP_DEV, STATE_LIVE } from "./protocol.ts";
import {
  blockPath,
  deleteDevice,
  stateOf,
  Target,
  type TargetSpec,
  whyUnusable,
} from "./target.ts";

const QUIET_TRIES = 250;
const QUIET_PAUSE_MS = 20;
/** What the driver takes of an arena. */
const CONTROL_BYTES = 4096;

/** What is known of the device before it is opened. */
export interface UblkPlace {
  readonly record: NodeRecord<"ublk">;
  readonly table: TableConfig;
}

/** The driver, or why there can be no block device here. */
export function openDriver(arena: Arena, ring: Ring): UblkDriver | string {
  if (!(ring instanceof UringRing)) return "ublk needs io_uring, which is switched off here";
  const driver = UblkDriver.open(arena);
  if (typeof driver === "string") return driver;
  const why = whyUnusable(driver);
  if (why === "") return driver;
  driver[Symbol.dispose]();
  return why;
}

/**
 * Adds a block device, or with `recover` takes over the one that was left.
 *
 * @throws {CacheError} It cannot be had; a device that was left stays as it is.
 */
export function openTarget(
  driver: UblkDriver,
  place: UblkPlace,
  spec: Omit<TargetSpec, "cookie">,
  recover: boolean,
): { target: Target; is_recovery: boolean } {
  const { record, table } = place;
  const left = leftDevice(driver, record);
  if (left !== null && recover) {
    checkTable(blockPath(left.dev_id), left.table, table);
    const target = Target.takeOver(driver, left.dev_id, spec);
    return { target, is_recovery: true };
  }
  if (left !== null) giveUp(driver, left, record);
  const [first, second] = crypto.getRandomValues(new Uint32Array(2));
  const cookie = [first!, second!] as const;
  const target = Target.add(driver, { ...spec, cookie });
  record.write({ dev_id: target.dev_id, cookie, table });
  return { target, is_recovery: false };
}

/**
 * Gives up the block device that a killed process has left under a name, if nobody uses it.
 *
 * @throws {CacheError} Somebody does.
 */
export function clearLeft(arena: Arena, ring: Ring, home: RecordHome): void {
  const record = new NodeRecord(home, "ublk");
  if (record.read() === null) return;
  const driver = openDriver(arena, ring);
  if (typeof driver === "string") return;
  try {
    const left = leftDevice(driver, record);
    if (left !== null) giveUp(driver, left, record);
  } finally {
    driver[Symbol.dispose]();
  }
}

/**
 * Gives up the block device that a killed process has left under a name which the caller has reserved, if there is one.
 *
 * @param force whoever uses it gets errors from now on
 * @throws {CacheError} Somebody uses it, or the driver cannot be used.
 */
export function giveUpLeft(home: RecordHome, force: boolean): void {
  const record = new NodeRecord(home, "ublk");
  if (record.read() === null) return;
  using cleanup = new DisposableStack();
  const arena = new Arena({ cache_bytes: 0, buffer_bytes: 0, io_bytes: CONTROL_BYTES });
  cleanup.defer(() => arena.close());
  const driver = UblkDriver.open(arena);
  if (typeof driver === "string") throw new CacheError(driver);
  cleanup.use(driver);
  const left = leftDevice(driver, record);
  if (left !== null) giveUp(driver, left, record, force);
}

/** The block device that a killed process has left, if it is still there. */
function leftDevice(driver: UblkDriver, record: NodeRecord<"ublk">): UblkRecord | null {
  const left = record.read();
  if (left === null) return null;
  if (stateOf(driver, left.dev_id, left.cookie) !== null) return left;
  record.remove();
  return null;
}

/** Nobody answers its requests: whoever uses it would wait for ever, or find another device in its place. */
function giveUp(
  driver: UblkDriver,
  left: UblkRecord,
  record: NodeRecord<"ublk">,
  force = false,
): void {
  const node = blockPath(left.dev_id);
  if (!isQuiet(driver, left) || (!force && isOpen(driver, left))) {
    throw new CacheError(
      `${BUSY}: its block device ${node} is in use and waits for a process: ` +
        "create --recover takes it over",
    );
  }
  deleteDevice(driver, left.dev_id);
  record.remove();
}

/** Whether the process that served it has gone; the kernel takes a moment to notice. */
function isQuiet(driver: UblkDriver, left: UblkRecord): boolean {
  for (let tries = 0; tries < QUIET_TRIES; tries++) {
    if (stateOf(driver, left.dev_id, left.cookie) !== STATE_LIVE) return true;
    pause(QUIET_PAUSE_MS);
  }
  return false;
}

/** Whether somebody has a block device open, or where the kernel cannot say that, has it to himself. */
function isOpen(driver: UblkDriver, left: UblkRecord): boolean {
  if ((driver.features & F_SAFE_STOP_DEV) !== 0) {
    return driver.call(CMD_TRY_STOP_DEV, left.dev_id) === -EBUSY;
  }
  const path = blockPath(left.dev_id);
  const fd = result(libc.open(cString(path), O_EXCL | O_NONBLOCK | O_CLOEXEC, 0), ERRNO[0]);
  if (fd >= 0) libc.close(fd);
  return fd === -EBUSY;
}

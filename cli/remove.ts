/**
 * `remove`: ends devices. Without `--flush` dirty data stays in the cache, as with the kernel's target.
 *
 * @module
 */

import { CacheError } from "../core/errors.ts";
import { callControl } from "../io/control_client.ts";
import { BUSY } from "../io/control_protocol.ts";
import {
  checkName,
  controlPath,
  isPublished,
  ProcessEnd,
  reserveDevice,
  runRoot,
} from "../io/run_dir.ts";
import { giveUpLeft } from "../io/left_devices.ts";
import { recordedNames } from "../io/node_record.ts";
import { isGone, noDevice } from "./devices.ts";
import { failedOn } from "./failure.ts";
import type { Options } from "./options.ts";
import { warn } from "./output.ts";
import { DeviceProgress, terminalScreen } from "./progress.ts";

/** How often `--retry` tries while the device is busy, and how long it waits in between (dmsetup's numbers). */
const RETRY_COUNT = 25;
const RETRY_PAUSE_MS = 200;
const CANNOT_FLUSH =
  "its process was killed, so nothing can be written back; create --recover takes its block device over";

/** `remove NAME...`: goes on with the next device when one cannot be removed. */
export async function run(names: string[], options: Options): Promise<boolean> {
  if (names.length === 0) throw new CacheError("No device specified.");
  let is_ok = true;
  for (const name of names) {
    try {
      checkName(name);
      await removeDevice("remove", name, options);
    } catch (error) {
      if (!(error instanceof CacheError)) throw error;
      warn(error.message);
      is_ok = false;
    }
  }
  return is_ok;
}

/**
 * Ends a device and waits until its process has let go of everything; of one whose process was killed, what it has left goes.
 *
 * @throws {CacheError} There is no such device, or it is busy.
 */
export async function removeDevice(verb: string, name: string, options: Options): Promise<void> {
  const root = runRoot();
  if (!isPublished(root, name)) return removeLeft(verb, root, name, options);
  const path = controlPath(root, name);
  const screen = options.flush ? terminalScreen() : null;
  const progress = screen === null ? null : new DeviceProgress(name, path, screen);
  try {
    using end = new ProcessEnd(root, name);
    const is_deferred = await askToEnd(verb, name, path, options);
    if (is_deferred) return;
    await end.wait();
    progress?.finish("all data written back");
  } catch (error) {
    if (!isGone(error)) throw error;
    removeLeft(verb, root, name, options);
  } finally {
    progress?.stop();
  }
}

/** No process answers under that name: only a block device may have been left. */
function removeLeft(verb: string, root: string, name: string, options: Options): void {
  if (!recordedNames(root).includes(name)) throw noDevice(verb, name);
  if (options.flush) throw failedOn(verb, name, CANNOT_FLUSH);
  try {
    const reservation = reserveDevice(root, name, "");
    try {
      giveUpLeft(reservation, options.force === true);
    } finally {
      reservation.release();
    }
  } catch (error) {
    if (!(error instanceof CacheError)) throw error;
    throw failedOn(verb, name, error.message);
  }
}

/** Asks until the device agrees, or as often as `--retry` allows. True: it will go later. */
async function askToEnd(
  verb: string,
  name: string,
  path: string,
  options: Options,
): Promise<boolean> {
  const tries = options.retry ? RETRY_COUNT : 1;
  for (let tried = 1;; tried++) {
    const reply = await callControl(path, {
      verb: "remove",
      flush: options.flush === true,
      force: options.force === true,
      deferred: options.deferred === true,
    });
    if (reply.ok) return reply.deferred === true;
    if (reply.error !== BUSY || tried === tries) throw failedOn(verb, name, reply.error);
    await new Promise((wake) => setTimeout(wake, RETRY_PAUSE_MS));
  }
}

/**
 * A device: one process, one loop. `runDevice` opens the cache device and the backing device, serves the
 * cached device until it is removed, and returns.
 *
 * @module
 */

import type { DeviceConfig, DeviceEvent } from "./device_config.ts";

export type { DeviceConfig, DeviceEvent };

/**
 * Opens and serves a device; returns when it has been removed. `tell` is called while it starts, until and
 * including `ready`.
 *
 * Throws `CacheError` when it cannot be opened, in the words of DMSETUP ("a bad table"): nothing is left behind
 * then, and neither device was changed. Sending `failed` is the caller's part.
 */
export function runDevice(_config: DeviceConfig, _tell: (event: DeviceEvent) => void): void {
  throw new Error("not yet");
}

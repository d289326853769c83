/**
 * What the verbs that look at cache devices without a device process have in common.
 *
 * @module
 */

import { CacheError } from "../core/errors.ts";
import { isNbdUri } from "../core/nbd_uri.ts";
import { closeDevice, openDevice } from "../io/files.ts";
import { OfflineCache } from "../io/offline.ts";
import { failedOn } from "./failure.ts";
import { ProgressBar, steady, terminalScreen } from "./progress.ts";
import { devicePath } from "./table_input.ts";

/** Opens a cache device as a table may name it, and does something with it. What is refused is said in the order of all verbs. */
export function withCache<T>(verb: string, cache_dev: string, act: (cache: OfflineCache) => T): T {
  return naming(verb, cache_dev, () => {
    using cache = new OfflineCache(devicePath(cache_dev));
    return act(cache);
  });
}

/** Puts verb and device in front of the reason for which something was refused. */
export function naming<T>(verb: string, cache_dev: string, act: () => T): T {
  try {
    return act();
  } catch (error) {
    if (!(error instanceof CacheError)) throw error;
    throw failedOn(verb, cache_dev, error.message);
  }
}

/** Size of a backing device that is a file or block device; undefined: none was named. Throws `CacheError`. */
export function backingBytes(backing_dev: string | undefined): number | undefined {
  if (backing_dev === undefined) return undefined;
  if (isNbdUri(backing_dev)) {
    throw new CacheError(
      `Error opening backing device: ${backing_dev}: a file or block device is wanted here`,
    );
  }
  const file = openDevice("backing", devicePath(backing_dev));
  closeDevice(file);
  return file.size_bytes;
}

/** A bar for something that is done in one go, and what draws it. */
export interface Progress {
  readonly bar: ProgressBar;
  readonly show: (done_bytes: number, left_bytes: number) => void;
}

/** A bar at the terminal that this command runs at, if there is one. */
export function newProgress(label: string): Progress {
  const screen = terminalScreen();
  const bar = new ProgressBar(label, screen);
  return { bar, show: steady(bar, screen) };
}

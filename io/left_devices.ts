/**
 * Block devices that killed processes have left, whatever their driver.
 *
 * @module
 */

import type { RecordHome } from "./node_record.ts";
import { giveUpAttached } from "./nbd/open_attachment.ts";
import { giveUpLeft as giveUpUblk } from "./ublk/open.ts";

/**
 * Gives up what a killed process has left under a name that the caller has reserved.
 *
 * @param force whoever uses it gets errors from now on
 * @throws {CacheError} Somebody uses it, or the driver cannot be used.
 */
export function giveUpLeft(home: RecordHome, force: boolean): void {
  giveUpUblk(home, force);
  giveUpAttached(home, force);
}

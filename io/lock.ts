/**
 * The lock that keeps two processes from using one device: flock(2) on the device or file itself. The kernel drops
 * it with the last descriptor, so a killed process leaves none behind. It holds for the inode, whatever path led
 * to it.
 *
 * @module
 */

import { CacheError } from "../core/errors.ts";
import { waitOutLeaving } from "./leaving.ts";
import { EAGAIN, EINTR, ERRNO, errorText, libc, LOCK_EX, LOCK_NB, result } from "./libc.ts";

/**
 * Takes the exclusive lock on an open file, for as long as it is open. A holder that is on its way out is waited for.
 *
 * @returns false when somebody else holds it
 * @throws CacheError when the file system has no locks
 */
export function tryLock(fd: number, path: string): boolean {
  return waitOutLeaving(path, () => lockNow(fd, path) || null) !== null;
}

function lockNow(fd: number, path: string): boolean {
  for (;;) {
    const locked = result(libc.flock(fd, LOCK_EX | LOCK_NB), ERRNO[0]);
    if (locked === 0) return true;
    if (locked === -EAGAIN) return false;
    if (locked !== -EINTR) throw new CacheError(`${path}: locking it: ${errorText(-locked)}`);
  }
}

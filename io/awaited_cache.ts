/**
 * Caches whose block device still waits for a process: the one that served it was killed, and requests of a mounted file system
 * may be under way. Such a cache is only for who takes the block device over: what others change in it would appear under that
 * file system.
 *
 * @module
 */

import { CacheError } from "../core/errors.ts";
import { readRecords } from "./node_record.ts";

/**
 * Checks that no block device of another name waits for the cache.
 *
 * @param root the run directory; null: there is none
 * @param own_name of the device that is to have it; null: it is to be none
 * @throws {CacheError} One waits.
 */
export function checkNotAwaited(
  root: string | null,
  cache_path: string,
  own_name: string | null,
): void {
  if (root === null) return;
  for (const { name, record } of readRecords(root)) {
    if (name === own_name || !isSameFile(record.table.cache_path, cache_path)) continue;
    throw new CacheError(
      `Error opening cache device: ${cache_path}: the block device of ${name}, whose process was killed, waits for it: ` +
        `"pcache create --recover ${name}" takes that over, "pcache remove ${name}" gives it up`,
    );
  }
}

function isSameFile(a: string, b: string): boolean {
  if (a === b) return true;
  try {
    const [of_a, of_b] = [Deno.statSync(a), Deno.statSync(b)];
    return of_a.dev === of_b.dev && of_a.ino === of_b.ino;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

/**
 * Nodes of the kernel's NBD client.
 *
 * @module
 */

/** The kernel's numbers of devices end somewhere below that. */
const MAX_INDEX_DIGITS = 5;

/** Path of a device's node. */
export function nodePath(index: number): string {
  return `/dev/nbd${index}`;
}

/** N of `/dev/nbdN`; null: it is no such path. */
export function nodeIndex(path: string): number | null {
  const digits = /^\/dev\/nbd(0|[1-9]\d*)$/.exec(path)?.[1];
  return digits === undefined || digits.length > MAX_INDEX_DIGITS ? null : Number(digits);
}

/**
 * A hash of numbers, for tables that are asked on the hot path.
 *
 * @module
 */

/** A hash of 32 bits, as a signed number. */
export function scatter(value: number): number {
  let mixed = Math.imul(value | 0, 0x9e3779b1);
  mixed = Math.imul(mixed ^ (mixed >>> 15), 0x85ebca6b);
  return mixed ^ (mixed >>> 13);
}

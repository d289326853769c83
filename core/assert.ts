/**
 * The assertion that core files state their invariants with.
 *
 * @module
 */

/** An invariant does not hold: a bug in this program, never the effect of what a device, socket or file held. */
export class AssertionFailure extends Error {
  override readonly name = "AssertionFailure";
}

/** Throws `AssertionFailure` with `message` unless `condition` holds. */
export function assert(condition: unknown, message: string): asserts condition {
  if (!condition) throw new AssertionFailure(message);
}

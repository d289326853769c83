/**
 * Errors that a user sees.
 *
 * @module
 */

/** A request or a cache was refused: what failed, then the value, then what was wanted. Never shown with a stack. */
export class CacheError extends Error {
  override readonly name = "CacheError";
}

/** Error numbers that requests end with: Linux's, as NBD uses them too (NBD protocol, "Error values"). */
export const OK = 0;
export const EIO = 5;
export const EINVAL = 22;
export const ENOSPC = 28;
/** The number that NBD and Linux share for a stopped device. */
export const ESHUTDOWN = 108;

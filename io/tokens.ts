/**
 * Who a completion of the ring belongs to: the kind in the top 8 bits of its token, an index below.
 *
 * @module
 */

/** Bits of the index. */
export const KIND_SHIFT = 24;
export const INDEX_MASK = (1 << KIND_SHIFT) - 1;

export const KIND_BACKING = 1;
export const KIND_BARRIER = 2;
export const KIND_NBD_ACCEPT = 3;
export const KIND_NBD_RECV = 4;
export const KIND_NBD_SEND = 5;
export const KIND_CONTROL_ACCEPT = 6;
export const KIND_CONTROL_RECV = 7;
export const KIND_CONTROL_SEND = 8;
export const KIND_UBLK_REQUEST = 9;
export const KIND_UBLK_COPY = 10;
export const KIND_UBLK_COMMAND = 11;
export const KIND_CLAIM = 12;

/** The first token of a kind; indices are added to it. */
export function tokenOf(kind: number): number {
  return (kind << KIND_SHIFT) >>> 0;
}

/**
 * How accesses are counted for eviction `reinsert`: by which blocks, and how many of them let bytes stay.
 *
 * @module
 */

/** Sectors of a block: 4 KiB. */
export const BLOCK_SECTORS = 8;
/** Hits that let young bytes stay. */
export const STAYS_FROM = 2;

/** The number of the block that a sector is in. */
export function blockOf(sector: number): number {
  return Math.floor(sector / BLOCK_SECTORS);
}

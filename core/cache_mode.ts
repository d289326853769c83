/**
 * Cache modes: what the cache does with writes and with misses (FORMAT, "Cache info").
 *
 * | mode         | a write is answered when                                     | misses are kept |
 * | ------------ | ------------------------------------------------------------ | --------------- |
 * | writeback    | its key is in the log's staging area                         | yes             |
 * | writethrough | the backing device has it, too                               | yes             |
 * | writearound  | the backing device has it; the log only if it held the range | yes             |
 * | writeonly    | as writeback                                                 | no              |
 *
 * @module
 */

import { MODE_WRITEBACK } from "./format.ts";

/** By number on the media. */
export const CACHE_MODES = ["writeback", "writethrough", "writearound", "writeonly"] as const;
/** How a mode is called in table lines and messages. */
export type CacheMode = typeof CACHE_MODES[number];

/** Whether a word names a mode. */
export function isCacheMode(word: string): word is CacheMode {
  return (CACHE_MODES as readonly string[]).includes(word);
}

/** The number of a mode, as it stands on the media. */
export function modeNumber(mode: CacheMode): number {
  return MODE_WRITEBACK + CACHE_MODES.indexOf(mode);
}

/**
 * Youth: for how long what has come into the cache stays there before it must have been read again. A tenth of the cache is right for most
 * loads (S3-FIFO); where blocks come again only after nearly all of the cache has gone by, all of it is.
 *
 * Two shadow caches of a sample of the blocks are asked, one for each way; the cache follows the one that hits more.
 *
 * Sampled are regions of the cached device, whose number's hash says whether they belong to it; all accesses there count.
 *
 * @module
 */

import { blockOf } from "./heat_scale.ts";
import { scatter } from "./scatter.ts";
import { ShadowCache } from "./shadow_cache.ts";

/** Sectors of a region: 64 KiB. */
const REGION_SECTORS = 128;
/** Most blocks of a shadow: the sample is made as small. */
const MOST_BLOCKS = 16384;
const LEAST_BLOCKS = 64;
/** The short youth, as a part of the cache. */
const SHORT_PART = 0.1;
/** Hits count less and less over so many accesses, in shadow caches' sizes. */
const MEMORY = 4;
/** So much more must the other way hit to be followed. */
const LEAD = 1.2;
/** The two ways. */
const SHORT = 0;
const LONG = 1;

export class Youth {
  readonly #short: ShadowCache;
  readonly #long: ShadowCache;
  /** A region is sampled if these bits of its hash are zero. */
  readonly #mask: number;
  readonly #decay: number;
  /** Of the short way and of the long one, the older the less. In an array: a fraction in a field is a new object each time. */
  readonly #hits = new Float64Array(2);
  #is_long = false;

  /** `sectors`: what the cache may hold. */
  constructor(readonly sectors: number) {
    let blocks = blockOf(sectors);
    let bits = 0;
    for (; blocks > MOST_BLOCKS; blocks = Math.floor(blocks / 2)) bits++;
    blocks = Math.max(LEAST_BLOCKS, blocks);
    this.#mask = (1 << bits) - 1;
    this.#short = new ShadowCache(blocks, Math.max(1, Math.floor(blocks * SHORT_PART)));
    this.#long = new ShadowCache(blocks, blocks);
    this.#decay = 1 - 1 / (MEMORY * blocks);
  }

  /** Whether it is as long as what comes stays in a FIFO. */
  get is_long(): boolean {
    return this.#is_long;
  }

  /** Sectors were read or written. */
  access(sector: number, sectors: number, is_read: boolean): void {
    const end = sector + sectors;
    for (let from = sector; from < end;) {
      const region = Math.floor(from / REGION_SECTORS);
      const stop = Math.min(end, (region + 1) * REGION_SECTORS);
      if ((scatter(region) & this.#mask) === 0) this.#sample(from, stop, is_read);
      from = stop;
    }
  }

  #sample(from: number, stop: number, is_read: boolean): void {
    const hits = this.#hits;
    const last = blockOf(stop - 1);
    for (let block = blockOf(from); block <= last; block++) {
      const is_short_hit = this.#short.access(block);
      const is_long_hit = this.#long.access(block);
      hits[SHORT] = hits[SHORT]! * this.#decay + (is_short_hit && is_read ? 1 : 0);
      hits[LONG] = hits[LONG]! * this.#decay + (is_long_hit && is_read ? 1 : 0);
    }
    if (this.#is_long) this.#is_long = hits[SHORT]! <= hits[LONG]! * LEAD + 1;
    else this.#is_long = hits[LONG]! > hits[SHORT]! * LEAD + 1;
  }
}

/**
 * Builds cache devices with a log of one's own making, right or forged: the input of replay tests.
 *
 * The cache is formatted by the code that ships; ksets are then appended byte by byte, with checksums that are right
 * whatever the fields say, since the seed of the checksums is public.
 *
 * @module
 */

import { crc32c } from "../core/crc32c.ts";
import {
  type Geometry,
  KEY_BYTES,
  KEY_WORDS,
  KSET_HEADER_BYTES,
  KSET_LAST,
  KSET_MAGIC_HI,
  KSET_MAGIC_LO,
  putKey,
  putU32,
  SEGMENTS_ADDR,
} from "../core/format.ts";
import { inspectCache, type OpenedCache, prepareCache } from "../core/media.ts";
import { SimMemory, type SimMemoryOptions } from "./sim_memory.ts";

/** Segments of 64 KiB, 52 KiB of them data; no cache device is too small that has four. */
export const SMALL_GEOMETRY: Geometry = {
  segment_bytes: 64 * 1024,
  min_cache_bytes: SEGMENTS_ADDR + 4 * 64 * 1024,
};

/** A key's fields (FORMAT, "Key"). What is left out: no flags, generation of the segment, checksum of the data there. */
export interface KeyFields {
  readonly off: number;
  readonly len: number;
  readonly seg: number;
  readonly seg_off: number;
  readonly flags?: number;
  readonly gen?: number;
  readonly crc?: number;
}

/** Fields of a kset's header to forge; the checksum covers what they claim, as far as the segment goes. */
export interface ForgedHeader {
  readonly key_num?: number;
  readonly flags?: number;
  readonly flags_hi?: number;
  readonly magic_lo?: number;
  /** True: the checksum is wrong. */
  readonly bad_crc?: boolean;
}

/** Where a kset starts: cache segment, and offset in its data area. */
export interface Place {
  readonly seg: number;
  readonly off: number;
}

export interface BuilderOptions extends Omit<SimMemoryOptions, "cache_bytes"> {
  readonly segments: number;
  readonly geometry?: Geometry;
  readonly data_crc?: boolean;
}

/** A cache device whose log grows at `seg`, `off`. Tests then open `memory` anew. */
export class LogBuilder {
  readonly memory: SimMemory;
  readonly cache: OpenedCache;
  readonly geometry: Geometry;
  readonly data_crc: boolean;
  /** Where the next kset goes. */
  seg = 0;
  off = 0;

  constructor(options: BuilderOptions) {
    const { segments, geometry = SMALL_GEOMETRY, data_crc = false, ...memory } = options;
    this.geometry = geometry;
    this.data_crc = data_crc;
    this.memory = new SimMemory({
      ...memory,
      cache_bytes: SEGMENTS_ADDR + segments * geometry.segment_bytes,
    });
    this.cache = prepareCache(this.memory, inspectCache(this.memory, { geometry, data_crc }));
  }

  /** Puts `bytes` at offset `off` of the data area of cache segment `seg`. */
  putData(seg: number, off: number, bytes: Uint8Array): void {
    this.memory.write(this.cache.dataAddr(seg, off), bytes, bytes.length);
  }

  /** Appends a kset and the end mark after it. */
  kset(keys: readonly KeyFields[], forged: ForgedHeader = {}): Place {
    const words = new Uint32Array(keys.length * KEY_WORDS);
    keys.forEach((key, i) => {
      const { off, len, seg, seg_off, flags = 0 } = key;
      const gen = key.gen ?? (seg < this.cache.n_segs ? this.cache.generations.get(seg) : 0);
      const crc = key.crc ?? this.#dataCrc(key);
      putKey(words, i * KEY_WORDS, off, len, flags, seg, seg_off, gen, crc);
    });
    return this.#append(new Uint8Array(words.buffer), { key_num: keys.length, ...forged });
  }

  /** Appends a last kset that names `next_seg`, and goes on at the start of `go_on_in`. */
  last(next_seg: number, forged: ForgedHeader = {}, go_on_in = next_seg): Place {
    const place = this.#append(new Uint8Array(), {
      key_num: next_seg,
      flags: KSET_LAST,
      ...forged,
    });
    this.seg = go_on_in;
    this.off = 0;
    return place;
  }

  /** The checksum of a key's data, where it lies inside the segment; else 0. */
  #dataCrc({ seg, seg_off, len }: KeyFields): number {
    const { cache, memory } = this;
    if (!this.data_crc || seg >= cache.n_segs || seg_off + len > cache.data_bytes) return 0;
    return memory.crc32c(cache.dataAddr(seg, seg_off), len);
  }

  #append(keys: Uint8Array, header: ForgedHeader & { readonly key_num: number }): Place {
    const place = { seg: this.seg, off: this.off };
    const room = this.cache.data_bytes - place.off;
    const bytes = new Uint8Array(Math.max(room, 0));
    bytes.set(keys, KSET_HEADER_BYTES);
    const flags = header.flags ?? 0;
    putU32(bytes, 4, header.key_num);
    putU32(bytes, 8, header.magic_lo ?? KSET_MAGIC_LO);
    putU32(bytes, 12, KSET_MAGIC_HI);
    putU32(bytes, 16, flags);
    putU32(bytes, 20, header.flags_hi ?? 0);
    const claimed = KSET_HEADER_BYTES + (flags & KSET_LAST ? 0 : header.key_num * KEY_BYTES);
    const crc = crc32c(bytes, 4, Math.min(claimed, room));
    putU32(bytes, 0, header.bad_crc ? crc ^ 1 : crc);
    const len = KSET_HEADER_BYTES + keys.length;
    // What is after the keys is zero in `bytes` already: the end mark, as much of it as fits.
    const with_mark = Math.min(len + KSET_HEADER_BYTES, room);
    this.memory.write(this.cache.dataAddr(place.seg, place.off), bytes, with_mark);
    this.off += len;
    return place;
  }
}

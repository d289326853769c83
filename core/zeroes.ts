/**
 * Zero areas: where the bytes of zeroed ranges lie. An area is a stretch of zeroes in a data segment, stored once; the keys of many
 * zeroed ranges name it, so zeroing costs a key and next to no space.
 *
 * An area is taken at the data head like the space of a write, filled with zeroes and persisted before any key names it: the
 * barrier that comes before a kset makes it durable, as it does data. Each key counts on its segment like any other, so
 * replay, GC and generations know nothing of areas. An area is not pinned: when the last key that names its segment is gone, the
 * segment retires, and the area with it; the next zeroing makes a new one.
 *
 * Write-back takes it that bytes which lie at one place, counted from one sector of the cached device, are those of one write:
 * that is how it knows which of them it may mark clean, or log again. So two zeroings of a sector, with a write between them, must
 * not name the same place. A key for sector `s` in the zeroing number `n` of an area starts `(s + n) mod steps` sectors into it, and an
 * area serves `steps` zeroings: `place - sector` then is another one, modulo `steps`, for each of them. (The keys of one zeroing do
 * not overlap, and may share places.)
 *
 * Which areas there are is known in memory only. Write-back passes what lies in them to the backing device as zeroing; after a
 * restart those keys are written back as data.
 *
 * Invariants:
 * - an area lies in one segment; while it is known, its segment has not retired since it was made;
 * - an area has `2 * steps` sectors, and no key in it is longer than `steps`;
 * - all keys of an area are of one kind: the backing device may punch holes for them, or not.
 *
 * @module
 */

import { assert } from "./assert.ts";
import { crc32c, CRC_SEED } from "./crc32c.ts";
import { SECTOR_BYTES } from "./format.ts";
import type { OpenedCache } from "./media.ts";
import type { Memory } from "./platform.ts";
import type { Segments } from "./segments.ts";
import type { Space } from "./space.ts";

/** Longest key of a zeroed range, where longer ones may be: 1 MiB. */
const MAX_ZERO_KEY_SECTORS = 2048;

const CHUNK_BYTES = 64 * 1024;
const CHUNK = new Uint8Array(CHUNK_BYTES);

/** A stretch of zeroes. Units: sectors of a data area. */
interface Area {
  readonly seg: number;
  readonly place: number;
  readonly steps: number;
  readonly may_punch: boolean;
  /** How many zeroings have begun in it. */
  begun: number;
}

/** The zero areas made since the cache was opened. */
export class ZeroAreas {
  readonly #cache: OpenedCache;
  readonly #memory: Memory;
  readonly #segments: Segments;
  readonly #space: Space;
  /** `steps` of a whole area. */
  readonly #steps: number;
  /** By segment: areas whose segment has not retired, in order of place. */
  readonly #areas = new Map<number, Area[]>();
  /** Where the next keys go, for ranges that the backing device must keep allocated, and for others. */
  readonly #current: [Area | undefined, Area | undefined] = [undefined, undefined];
  /** By number of sectors: the checksum of so many zeroes, as a signed number. */
  readonly #crcs: number[] = [CRC_SEED | 0];
  /** What the last `locate` found. */
  located_seg = 0;
  located_place = 0;
  located_sectors = 0;

  /** `max_key_sectors`: most sectors of any key. */
  constructor(
    cache: OpenedCache,
    memory: Memory,
    segments: Segments,
    space: Space,
    max_key_sectors: number,
  ) {
    this.#cache = cache;
    this.#memory = memory;
    this.#segments = segments;
    this.#space = space;
    // Two areas of an eighth of a segment: small caches of tests have room for it, too.
    const eighth = Math.floor(cache.data_bytes / SECTOR_BYTES / 8);
    this.#steps = Math.min(max_key_sectors, MAX_ZERO_KEY_SECTORS, eighth);
  }

  /** Most sectors of the data head that `locate` may take: what is left of a segment may be too short. */
  get most_taken_sectors(): number {
    return 3 * this.#steps;
  }

  /** A zeroing begins: from now on its keys are located. It must not overlap itself. */
  begin(may_punch: boolean): void {
    const kind = may_punch ? 1 : 0;
    const area = this.#current[kind];
    if (area === undefined) return;
    area.begun++;
    if (area.begun === area.steps) this.#current[kind] = undefined;
  }

  /** Whether `locate` has to make an area: `most_taken_sectors` must be available then. */
  needsArea(may_punch: boolean): boolean {
    return this.#current[may_punch ? 1 : 0] === undefined;
  }

  /**
   * Finds where a key for `sector` lies, with at most `sectors`, and pins its segment once: `located_*` say where. The zeroes there
   * are persisted. To be unpinned when the key is logged.
   */
  locate(sector: number, sectors: number, may_punch: boolean): void {
    const area = this.#current[may_punch ? 1 : 0] ?? this.#make(may_punch);
    this.located_seg = area.seg;
    this.located_place = area.place + (sector + area.begun) % area.steps;
    this.located_sectors = Math.min(sectors, area.steps);
    this.#segments.pin(area.seg);
  }

  /** Checksum of so many sectors of zeroes, as a signed number. */
  crcOf(sectors: number): number {
    for (let known = this.#crcs.length; known <= sectors; known++) {
      this.#crcs.push(crc32c(CHUNK, 0, SECTOR_BYTES, this.#crcs[known - 1]!) | 0);
    }
    return this.#crcs[sectors]!;
  }

  /** Whether any area is known. */
  get is_any_known(): boolean {
    return this.#areas.size > 0;
  }

  /** What is known to be in a range of a data area: ZEROES, ZEROES_TO_PUNCH, or DATA if it is not known to be zeroes. */
  kindOf(seg: number, place: number, sectors: number): number {
    const areas = this.#areas.get(seg);
    if (areas === undefined) return DATA;
    for (const area of areas) {
      if (place >= area.place && place + sectors <= area.place + 2 * area.steps) {
        return area.may_punch ? ZEROES_TO_PUNCH : ZEROES;
      }
    }
    return DATA;
  }

  /** The segment's bytes are dead. */
  retired(seg: number): void {
    if (!this.#areas.delete(seg)) return;
    for (const kind of [0, 1] as const) {
      if (this.#current[kind]?.seg === seg) this.#current[kind] = undefined;
    }
  }

  /** Makes an area at the data head. It stays pinned only as long as its segment is the data head's, or keys name it. */
  #make(may_punch: boolean): Area {
    const space = this.#space;
    assert(space.available_sectors >= this.most_taken_sectors, "space was checked before");
    const wanted = 2 * this.#steps;
    space.take(wanted);
    if (space.taken_sectors < Math.max(2, this.#steps)) {
      // The rest of a segment, too short to be of use.
      this.#segments.unpin(space.taken_seg);
      space.take(wanted);
    }
    const { taken_seg: seg, taken_place: place, taken_sectors } = space;
    const steps = Math.floor(taken_sectors / 2);
    this.#store(seg, place, 2 * steps);
    const area = { seg, place, steps, may_punch, begun: 0 };
    const others = this.#areas.get(seg);
    if (others === undefined) this.#areas.set(seg, [area]);
    else others.push(area);
    this.#current[may_punch ? 1 : 0] = area;
    this.#segments.unpin(seg); // the data head's own pin is there still
    return area;
  }

  #store(seg: number, place: number, sectors: number): void {
    const addr = this.#cache.dataAddr(seg, place * SECTOR_BYTES);
    const len_bytes = sectors * SECTOR_BYTES;
    for (let at = 0; at < len_bytes; at += CHUNK_BYTES) {
      this.#memory.write(addr + at, CHUNK, Math.min(CHUNK_BYTES, len_bytes - at));
    }
    this.#memory.persist(addr, len_bytes);
  }
}

/** What `kindOf` tells. */
export const DATA = 0;
export const ZEROES = 1;
export const ZEROES_TO_PUNCH = 2;

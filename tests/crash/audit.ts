/**
 * Accounting, recomputed from the media by code of its own: which segments the log and live keys hold, the tails, the
 * generations; compared with what the engine believes.
 *
 * @module
 */

import { crc32c } from "../../core/crc32c.ts";
import type { Engine } from "../../core/engine.ts";
import {
  DATA_OFF_BYTES,
  DIRTY_TAIL_ADDR,
  GENERATION_OFF_BYTES,
  KEY_BYTES,
  KEY_CLEAN,
  KEY_TAIL_ADDR,
  KSET_HEADER_BYTES,
  KSET_MAGIC_HI,
  KSET_MAGIC_LO,
  SEGMENTS_ADDR,
  u32At,
} from "../../core/format.ts";

const SECTOR = 512;

/** A place in the log. */
export interface LogPlace {
  readonly seg: number;
  readonly off: number;
}

/** A key, as it stands on the media. */
export interface MediaKey {
  readonly off: number;
  readonly len: number;
  readonly is_clean: boolean;
  readonly seg: number;
  readonly seg_off: number;
  readonly gen: number;
}

/** A kset on the media: its keys, or, of a last kset, the segment it names. */
export interface MediaKset {
  readonly keys: readonly MediaKey[];
  /** -1: not a last kset. */
  readonly next_seg: number;
  readonly len_bytes: number;
}

/** A cache's bytes with chain 0, 1, 2, ..., as this program formats it. */
export class Media {
  constructor(
    readonly bytes: Uint8Array,
    readonly segment_bytes: number,
    readonly segments: number,
  ) {}

  dataAddr(seg: number, off: number): number {
    return SEGMENTS_ADDR + seg * this.segment_bytes + DATA_OFF_BYTES + off;
  }

  /** Address of the latest valid copy of a structure of 16 bytes; -1: none. */
  #latest(addr: number): number {
    let found = -1;
    for (const at of [addr, addr + 16]) {
      if (crc32c(this.bytes, at + 4, at + 16) !== u32At(this.bytes, at)) continue;
      const newer = found < 0 || (this.bytes[at + 4]! - this.bytes[found + 4]!) << 24 > 0;
      if (newer) found = at;
    }
    return found;
  }

  tail(addr: number): LogPlace | undefined {
    const at = this.#latest(addr);
    return at < 0 ? undefined : { seg: u32At(this.bytes, at + 8), off: u32At(this.bytes, at + 12) };
  }

  generation(seg: number): number {
    const addr = SEGMENTS_ADDR + seg * this.segment_bytes + GENERATION_OFF_BYTES;
    const at = this.#latest(addr);
    return at < 0 ? 0 : u32At(this.bytes, at + 8);
  }

  /** The kset at a place; undefined: none. */
  kset({ seg, off }: LogPlace): MediaKset | undefined {
    const data_bytes = this.segment_bytes - DATA_OFF_BYTES;
    if (off + KSET_HEADER_BYTES > data_bytes) return undefined;
    return parseKset(this.bytes, this.dataAddr(seg, off), data_bytes - off);
  }
}

/** The kset at `bytes[at]`, with at most `room` bytes; undefined: none. */
export function parseKset(bytes: Uint8Array, at: number, room: number): MediaKset | undefined {
  if (u32At(bytes, at + 8) !== KSET_MAGIC_LO || u32At(bytes, at + 12) !== KSET_MAGIC_HI) {
    return undefined;
  }
  const is_last = u32At(bytes, at + 16) === 1;
  const key_num = is_last ? 0 : u32At(bytes, at + 4);
  const len_bytes = KSET_HEADER_BYTES + key_num * KEY_BYTES;
  if (len_bytes > room || (!is_last && key_num === 0)) return undefined;
  if (crc32c(bytes, at + 4, at + len_bytes) !== u32At(bytes, at)) return undefined;
  const keys: MediaKey[] = [];
  for (let i = 0; i < key_num; i++) {
    const key = at + KSET_HEADER_BYTES + i * KEY_BYTES;
    keys.push({
      off: u32At(bytes, key) + u32At(bytes, key + 4) * 2 ** 32,
      len: u32At(bytes, key + 8),
      is_clean: (u32At(bytes, key + 12) & KEY_CLEAN) !== 0,
      seg: u32At(bytes, key + 16),
      seg_off: u32At(bytes, key + 20),
      gen: u32At(bytes, key + 24),
    });
  }
  return { keys, next_seg: is_last ? u32At(bytes, at + 4) : -1, len_bytes };
}

/** The engine believes something that the media do not say. */
export class AuditFailure extends Error {}

function wanted(what: string, actual: unknown, wanted: unknown): void {
  if (actual === wanted) return;
  throw new AuditFailure(`${what}: the engine has ${actual}, the media say ${wanted}`);
}

/**
 * Compares the engine with the media. Nothing is under way and nothing is staged. `is_new`: it has just been opened, so it holds no
 * segment for a data head or for a barrier to come.
 */
export function audit(engine: Engine, media: Media, is_new: boolean): void {
  const status = engine.status();
  const key_tail = media.tail(KEY_TAIL_ADDR)!;
  const dirty_tail = media.tail(DIRTY_TAIL_ADDR)!;
  wanted("key tail", at(status.key_tail), at(key_tail));
  wanted("dirty tail", at(status.dirty_tail), at(dirty_tail));

  const keys = new Uint32Array(media.segments);
  const in_log = new Uint8Array(media.segments);
  const generations = Array.from(keys, (_, seg) => media.generation(seg));
  const owners = new Owners(media);
  let place: LogPlace = key_tail;
  let met_dirty_tail = false;
  in_log[place.seg] = 1;
  for (;;) {
    met_dirty_tail ||= at(place) === at(dirty_tail);
    const kset = media.kset(place);
    if (kset === undefined) break;
    for (const key of kset.keys) {
      if (key.gen > generations[key.seg]!) {
        throw new AuditFailure(`key of ${key.off}: generation ${key.gen} is still to come`);
      }
      if (key.gen < generations[key.seg]!) continue;
      keys[key.seg] = keys[key.seg]! + 1;
      owners.claim(key);
    }
    if (kset.next_seg < 0) place = { seg: place.seg, off: place.off + kset.len_bytes };
    else {
      place = { seg: kset.next_seg, off: 0 };
      if (in_log[place.seg] !== 0) throw new AuditFailure(`the log loops at segment ${place.seg}`);
      in_log[place.seg] = 1;
    }
  }
  wanted("key head", at(status.key_head), at(place));
  wanted("dirty tail in the log", true, met_dirty_tail);
  compareSegments(engine, keys, in_log, is_new);
}

function compareSegments(
  engine: Engine,
  keys: Uint32Array,
  in_log: Uint8Array,
  is_new: boolean,
): void {
  const { segments } = engine;
  let used = 0;
  for (let seg = 0; seg < keys.length; seg++) {
    const is_used = keys[seg]! > 0 || in_log[seg] !== 0;
    if (is_used) used++;
    wanted(`keys of segment ${seg}`, segments.keys(seg), keys[seg]);
    if (is_used || is_new) {
      wanted(`segment ${seg} free`, segments.isFree(seg), !is_used);
      wanted(`segment ${seg} in the log`, segments.isLog(seg), in_log[seg] !== 0);
    }
  }
  if (is_new) wanted("segments used", engine.status().segs_used, used);
}

function at({ seg, off }: LogPlace): string {
  return `${seg}:${off}`;
}

/**
 * Which sector of the cached device each sector of a data area belongs to: one, as long as a generation lasts. Zeroes may belong to many.
 */
class Owners {
  readonly #media: Media;
  readonly #sectors: number;
  readonly #owner: Int32Array;

  constructor(media: Media) {
    this.#media = media;
    this.#sectors = Math.floor((media.segment_bytes - DATA_OFF_BYTES) / SECTOR);
    this.#owner = new Int32Array(media.segments * this.#sectors).fill(-1);
  }

  #isZero(seg: number, off: number): boolean {
    const addr = this.#media.dataAddr(seg, off);
    return this.#media.bytes.subarray(addr, addr + SECTOR).every((byte) => byte === 0);
  }

  claim({ off, len, seg, seg_off }: MediaKey): void {
    for (let i = 0; i < len / SECTOR; i++) {
      if (this.#isZero(seg, seg_off + i * SECTOR)) continue;
      const place = seg * this.#sectors + seg_off / SECTOR + i;
      const sector = off / SECTOR + i;
      const owner = this.#owner[place]!;
      if (owner >= 0 && owner !== sector) {
        throw new AuditFailure(
          `sector ${
            seg_off / SECTOR + i
          } of segment ${seg} belongs to sectors ${owner} and ${sector}`,
        );
      }
      this.#owner[place] = sector;
    }
  }
}

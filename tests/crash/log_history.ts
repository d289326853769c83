/**
 * What the log has said since the cache was opened, sector by sector, and whether a backing device holds a prefix of it.
 *
 * Invariant wanted (DESIGN §3, "Write-back"): for some batch of ksets from the dirty tail on, every sector of the backing device holds
 * its last version before the batch, or one from within it. So no version older than the dirty tail is missing, and none is there
 * that is more than a batch beyond.
 *
 * What went around the cache may be there from the moment its write began until the log's next version is in order.
 *
 * @module
 */

import { DIRTY_TAIL_ADDR } from "../../core/format.ts";
import type { CrashBacking } from "./crash_backing.ts";
import { type LogPlace, type Media, type MediaKset, parseKset } from "./audit.ts";

const SECTOR = 512;

/** A version of a sector: which kset named it (0: the backing device had it when the cache was opened), and its hash. */
interface Version {
  readonly kset: number;
  readonly hash: number;
  /** It went around the cache: the log never named it. */
  readonly is_around?: boolean;
}

export class PrefixFailure extends Error {}

export class LogHistory {
  readonly #media: Media;
  readonly #versions: Version[][] = [];
  /** By place: how many ksets come before it. */
  readonly #ksets_before = new Map<number, number>();
  #ksets = 0;

  /** `media` is what the engine works on when it is opened. */
  constructor(media: Media, backing: CrashBacking) {
    this.#media = media;
    for (let off = 0; off < backing.size_bytes; off += SECTOR) {
      this.#versions.push([{ kset: 0, hash: hashOf(backing.durable, off) }]);
    }
    for (const { off, bytes } of backing.volatile) {
      for (let at = 0; at < bytes.length; at += SECTOR) {
        this.#versions[(off + at) / SECTOR]!.push({ kset: 0, hash: hashOf(bytes, at) });
      }
    }
    const tail = media.tail(DIRTY_TAIL_ADDR) ?? { seg: 0, off: 0 };
    let place: LogPlace = tail;
    this.#ksets_before.set(numberOf(place), 0);
    for (let kset = media.kset(place); kset !== undefined; kset = media.kset(place)) {
      place = this.#add(place, kset);
    }
  }

  /** A store of `len_bytes` to `addr`: notes it if it is a kset. */
  stored(addr: number, len_bytes: number): void {
    const media = this.#media;
    if (len_bytes < 24 || addr < media.dataAddr(0, 0)) return;
    const kset = parseKset(media.bytes, addr, len_bytes);
    if (kset === undefined || kset.len_bytes !== len_bytes) return;
    const seg = Math.floor((addr - media.dataAddr(0, 0)) / media.segment_bytes);
    this.#add({ seg, off: addr - media.dataAddr(seg, 0) }, kset);
  }

  /** A write of the backing device has begun that goes around the cache. */
  around(off: number, bytes: Uint8Array): void {
    for (let at = 0; at < bytes.length; at += SECTOR) {
      this.#versions[(off + at) / SECTOR]!.push({
        kset: this.#ksets,
        hash: hashOf(bytes, at),
        is_around: true,
      });
    }
  }

  #add(place: LogPlace, { keys, next_seg, len_bytes }: MediaKset): LogPlace {
    if (next_seg < 0) this.#ksets++;
    for (const key of keys) {
      if (key.is_clean || key.gen < this.#media.generation(key.seg)) continue;
      for (let at = 0; at < key.len; at += SECTOR) {
        const hash = hashOf(this.#media.bytes, this.#media.dataAddr(key.seg, key.seg_off + at));
        this.#versions[(key.off + at) / SECTOR]!.push({ kset: this.#ksets, hash });
      }
    }
    const next = next_seg < 0
      ? { seg: place.seg, off: place.off + len_bytes }
      : { seg: next_seg, off: 0 };
    this.#ksets_before.set(numberOf(next), this.#ksets);
    return next;
  }

  /** Throws unless `backing` is a prefix up to `dirty_tail`, give or take a batch of `batch_ksets`. */
  checkPrefix(backing: Uint8Array, dirty_tail: LogPlace, batch_ksets: number): void {
    const before = this.#ksets_before.get(numberOf(dirty_tail));
    if (before === undefined) {
      throw new PrefixFailure(
        `dirty tail ${dirty_tail.seg}:${dirty_tail.off}: no kset ended there`,
      );
    }
    for (let sector = 0; sector < this.#versions.length; sector++) {
      const versions = this.#versions[sector]!;
      const hash = hashOf(backing, sector * SECTOR);
      if (versions.length === 1 && versions[0]!.hash === hash) continue;
      const is_right = versions.some((version, i) =>
        version.hash === hash &&
        (version.is_around || version.kset <= before + batch_ksets) &&
        (versions.find(({ kset, is_around }, j) => j > i && !is_around && kset > version.kset)
            ?.kset ?? Infinity) > before
      );
      if (is_right) continue;
      const known = versions.filter((version) => version.hash === hash).map(({ kset }) => kset);
      throw new PrefixFailure(
        `sector ${sector} of the backing device holds ${
          known.length === 0 ? "what the log never named" : `the version of kset ${known}`
        }, but the dirty tail is behind kset ${before}, and its versions are of ksets ` +
          `${versions.map(({ kset }) => kset)}`,
      );
    }
  }
}

function numberOf({ seg, off }: LogPlace): number {
  return seg * 2 ** 32 + off;
}

function hashOf(bytes: Uint8Array, off: number): number {
  const words = new Int32Array(bytes.buffer, bytes.byteOffset + off, SECTOR / 4);
  let a = 1;
  let b = 2;
  for (let i = 0; i < words.length; i++) {
    a = Math.imul(a ^ words[i]!, 0x85ebca6b);
    a ^= a >>> 15;
    b = Math.imul(b + words[i]!, 0x9e3779b1) ^ (b >>> 13);
  }
  return (a >>> 0) * 2 ** 21 + (b >>> 11);
}

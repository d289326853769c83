/**
 * Verifies the checksum of all data that a cache device would serve (FORMAT, "Key": data_crc).
 *
 * Data that was overwritten since is not looked at, nor what no key names any more: nobody will read it.
 *
 * @module
 */

import { assert } from "./assert.ts";
import { CacheError } from "./errors.ts";
import { ExtentIndex } from "./extent_index.ts";
import type { Findings } from "./findings.ts";
import { SECTOR_BYTES } from "./format.ts";
import { KeySums } from "./key_sums.ts";
import type { OpenedCache } from "./media.ts";
import type { Memory } from "./platform.ts";
import { replay } from "./replay.ts";
import { Segments } from "./segments.ts";

/** What was verified, in bytes of the cached device. */
export interface DataReport {
  verified_bytes: number;
  damaged_bytes: number;
}

/** Told now and then how many bytes have been verified, and how many are left. */
export type VerifyListener = (done_bytes: number, left_bytes: number) => void;

/** How much is verified between two reports. */
const REPORT_BYTES = 1024 * 1024;

/**
 * Verifies the data of a cache in which `checkCache` found no error. `size_bytes` is the size of the cached device, or anything that all keys
 * lie within. Damaged clean data is a warning, since the backing device has it, and damaged dirty data an error. Throws `CacheError` when
 * the log cannot be read.
 */
export function checkData(
  cache: OpenedCache,
  memory: Memory,
  size_bytes: number,
  findings: Findings,
  onVerified: VerifyListener = () => {},
): DataReport {
  assert(cache.data_crc, "there are checksums");
  const index = new ExtentIndex(Math.ceil(size_bytes / SECTOR_BYTES), cache.n_segs);
  const sums = new KeySums(cache.n_segs);
  const segments = new Segments(cache.n_segs, cache.generations, () => {});
  replay(cache, memory, size_bytes, { index, segments, sums });

  let left_bytes = 0;
  index.forEach((_, extent) => {
    if (index.isLive(extent)) left_bytes += index.sectors(extent) * SECTOR_BYTES;
  });
  const report: DataReport = { verified_bytes: 0, damaged_bytes: 0 };
  let reported_bytes = 0;
  const keys = new KeyVerifier(cache, memory, sums);
  index.forEach((sector, extent) => {
    if (!index.isLive(extent)) return;
    const sectors = index.sectors(extent);
    const fault = keys.faultOf(index.segment(extent), index.place(extent), sectors);
    report.verified_bytes += sectors * SECTOR_BYTES;
    if (fault !== "") {
      report.damaged_bytes += sectors * SECTOR_BYTES;
      const range = `data of sectors ${sector}+${sectors}: ${fault}`;
      if (index.isClean(extent)) findings.warn("data", `${range}; the backing device has it`);
      else findings.error("data", `${range}; it is dirty: nobody else has it`);
    }
    left_bytes -= sectors * SECTOR_BYTES;
    if (report.verified_bytes < reported_bytes + REPORT_BYTES) return;
    reported_bytes = report.verified_bytes;
    onVerified(report.verified_bytes, left_bytes);
  });
  return report;
}

/** Verifies whole keys; parts of the same one ask together. */
class KeyVerifier {
  readonly #cache: OpenedCache;
  readonly #memory: Memory;
  readonly #sums: KeySums;
  #seg = -1;
  #from = 0;
  #to = 0;
  #fault = "";

  constructor(cache: OpenedCache, memory: Memory, sums: KeySums) {
    this.#cache = cache;
    this.#memory = memory;
    this.#sums = sums;
  }

  /** What is wrong with the key that the sectors at a place belong to; "": nothing. */
  faultOf(seg: number, place: number, sectors: number): string {
    const is_known = seg === this.#seg && place >= this.#from && place + sectors <= this.#to;
    if (is_known) return this.#fault;
    const sums = this.#sums;
    const is_found = sums.find(seg, place, sectors);
    assert(is_found, "every extent lies in a key");
    this.#seg = seg;
    this.#from = sums.found_start;
    this.#to = sums.found_start + sums.found_sectors;
    const off = sums.found_start * SECTOR_BYTES;
    const crc = this.#read(this.#cache.dataAddr(seg, off), sums.found_sectors * SECTOR_BYTES);
    const wanted = sums.found_crc >>> 0;
    const at = `segment ${seg}, offset ${off}`;
    if (typeof crc === "string") this.#fault = `${at}: ${crc}`;
    else if (crc === wanted) this.#fault = "";
    else this.#fault = `${at}: crc ${hex(crc)}, but its key says ${hex(wanted)}`;
    return this.#fault;
  }

  /** The checksum, or why the bytes cannot be read. */
  #read(addr: number, len_bytes: number): number | string {
    try {
      return this.#memory.crc32c(addr, len_bytes);
    } catch (error) {
      if (!(error instanceof CacheError)) throw error;
      return error.message;
    }
  }
}

function hex(value: number): string {
  return `0x${value.toString(16)}`;
}

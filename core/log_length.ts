/**
 * How long the log is, roughly and quickly: for those who show how far reading it has come.
 *
 * Invariants:
 * - It hops from header to header and believes them: neither checksums nor keys are looked at. Nothing may rely on the result.
 * - It ends for any content: no segment is entered more often than there are segments.
 *
 * @module
 */

import {
  KSET_HEADER_BYTES,
  KSET_LAST,
  KSET_MAGIC_HI,
  KSET_MAGIC_LO,
  KSET_MAX_KEYS,
  ksetBytes,
  ksetKeyNum,
  ksetNextSeg,
  u32At,
} from "./format.ts";
import type { OpenedCache } from "./media.ts";
import type { Memory } from "./platform.ts";

/** How much is read at once. */
const CHUNK_BYTES = 256 * 1024;

/** Bytes of log from the key tail to where no header follows. Throws `CacheError` when the medium cannot be read. */
export function measureLog(cache: OpenedCache, memory: Memory): number {
  const chunk = new Uint8Array(CHUNK_BYTES);
  let { seg, off } = cache.key_tail;
  let log_bytes = 0;
  for (let entered = 0; entered < cache.n_segs; entered++) {
    const { ksets_bytes, next_seg } = measureSegment(cache, memory, seg, off, chunk);
    log_bytes += ksets_bytes;
    if (next_seg >= cache.n_segs) break;
    seg = next_seg;
    off = 0;
  }
  return log_bytes;
}

/** The ksets from `off` on, and the segment that a last kset names; Infinity: there is none. */
function measureSegment(
  cache: OpenedCache,
  memory: Memory,
  seg: number,
  off: number,
  chunk: Uint8Array,
): { ksets_bytes: number; next_seg: number } {
  const first_off = off;
  let chunk_off = 0;
  let chunk_bytes = 0;
  while (off + KSET_HEADER_BYTES <= cache.data_bytes) {
    if (off + KSET_HEADER_BYTES > chunk_off + chunk_bytes) {
      chunk_off = off;
      chunk_bytes = Math.min(CHUNK_BYTES, cache.data_bytes - off);
      memory.read(cache.dataAddr(seg, off), chunk, chunk_bytes);
    }
    const at = off - chunk_off;
    if (u32At(chunk, at + 8) !== KSET_MAGIC_LO || u32At(chunk, at + 12) !== KSET_MAGIC_HI) break;
    if ((u32At(chunk, at + 16) & KSET_LAST) !== 0) {
      const ksets_bytes = off + KSET_HEADER_BYTES - first_off;
      return { ksets_bytes, next_seg: ksetNextSeg(chunk, at) };
    }
    const key_num = ksetKeyNum(chunk, at);
    if (key_num === 0 || key_num > KSET_MAX_KEYS) break;
    off += ksetBytes(key_num);
  }
  return { ksets_bytes: off - first_off, next_seg: Infinity };
}

/**
 * The log in objects, one kset after another: for those who show it. The engine reads it by `LogReader` itself.
 *
 * @module
 */

import { CacheError } from "./errors.ts";
import {
  KEY_CLEAN,
  keyCrc,
  keyFlags,
  keyGen,
  keyLen,
  keyOff,
  keySeg,
  keySegOff,
} from "./format.ts";
import { LOG_END, LOG_LAST, LogReader } from "./log_reader.ts";
import type { OpenedCache } from "./media.ts";
import type { Memory } from "./platform.ts";

/** A key, as it stands on the media (FORMAT, "Key"). */
export interface LogKey {
  /** On the cached device, in bytes. */
  readonly off: number;
  readonly len: number;
  readonly clean: boolean;
  /** Where the bytes lie: cache segment, and offset in its data area. */
  readonly seg: number;
  readonly seg_off: number;
  readonly gen: number;
  readonly data_crc: number;
  /** Its generation is not its segment's any more: it means nothing. */
  readonly dead: boolean;
}

/** A kset. A last kset has no keys, and names the segment in which the log goes on. */
export interface LogKset {
  readonly seg: number;
  readonly off: number;
  readonly next_seg: number | null;
  readonly keys: readonly LogKey[];
}

/**
 * The ksets from the key tail to the end of the log. The generations of `cache` have been loaded. Throws `CacheError` where a kset must be
 * refused, or the log goes in a circle.
 */
export function* readLog(cache: OpenedCache, memory: Memory): Generator<LogKset> {
  const reader = new LogReader(cache, memory, cache.key_tail.seg, cache.key_tail.off);
  // A log that is whole enters no segment twice, the first one included.
  for (let entered = 0; entered <= cache.n_segs;) {
    const { seg, off } = reader;
    const kind = reader.read();
    if (kind === LOG_END) return;
    if (kind === LOG_LAST) {
      entered++;
      yield { seg, off, next_seg: reader.next_seg, keys: [] };
    } else {
      const keys = Array.from({ length: reader.key_num }, (_, i) => keyAt(reader, i, cache));
      yield { seg, off, next_seg: null, keys };
    }
    reader.advance(kind);
  }
  throw new CacheError(`log: goes in a circle at ${reader.position}`);
}

function keyAt(reader: LogReader, i: number, cache: OpenedCache): LogKey {
  const { words } = reader;
  const at = reader.keyAt(i);
  const seg = keySeg(words, at);
  const gen = keyGen(words, at);
  return {
    off: keyOff(words, at),
    len: keyLen(words, at),
    clean: (keyFlags(words, at) & KEY_CLEAN) !== 0,
    seg,
    seg_off: keySegOff(words, at),
    gen,
    data_crc: keyCrc(words, at),
    dead: seg >= cache.n_segs || gen < cache.generations.get(seg),
  };
}

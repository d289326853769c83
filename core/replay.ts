/**
 * Replay: from the log on the media to the index, the references and the checksum tables.
 *
 * The walk goes from the key tail to the first place that holds no valid kset: that is the key head. It reads no
 * data and writes nothing, so it may be cut short anywhere and started again.
 *
 * What it has read may be the stores of a process that was killed before its barrier: it makes them durable, or a power cut
 * could take back what readers have seen since, and a tail that others relied on. (Data needs none of it: a kset is only
 * stored when its data is durable.)
 *
 * A key counts when its generation is its segment's. An older one is dead. A newer one proves that the segment's
 * generation slots were lost: its generation is taken over, and keys counted for the segment so far are not.
 *
 * @module
 */

import { CacheError } from "./errors.ts";
import type { ExtentIndex } from "./extent_index.ts";
import {
  KEY_CLEAN,
  keyCrc,
  keyFlags,
  keyGen,
  keyLen,
  keyPlace,
  keySectors,
  keySeg,
  keySegOff,
  KSET_HEADER_BYTES,
  ksetBytes,
  SECTOR_BYTES,
} from "./format.ts";
import { KeyBatch } from "./key_batch.ts";
import type { KeySums } from "./key_sums.ts";
import { keyRefusal, LOG_END, LOG_KEYS, LOG_LAST, LogReader } from "./log_reader.ts";
import type { OpenedCache } from "./media.ts";
import type { Memory } from "./platform.ts";
import type { Segments } from "./segments.ts";
import { Staging } from "./staging.ts";

// Own names for what is imported: V8 folds a module's constants into its code, and loads and checks imported ones at each use.
const SECTOR = SECTOR_BYTES;
const CLEAN = KEY_CLEAN;

/** How much of the log lies between two reports of how far replay has come. */
const REPORT_BYTES = 64 * 1024;

/** What replay found. */
export interface Replayed {
  /** Key head. */
  readonly head_seg: number;
  readonly head_off: number;
  readonly keys: number;
  /** Of these, keys behind the dirty tail. */
  readonly keys_to_write_back: number;
  /** Bytes of dirty keys behind the dirty tail, each write counted. */
  readonly dirty_bytes: number;
}

/** The tables that replay fills; all empty before. `sums` is null without data_crc. */
export interface ReplayTables {
  readonly index: ExtentIndex;
  readonly segments: Segments;
  readonly sums: KeySums | null;
}

/** Told now and then how many bytes of the log, from the key tail on, have been read. */
export type ReplayListener = (read_bytes: number) => void;

/**
 * Replays the log of `cache` for a cached device of `size_bytes`, and then what `staging` has that the log lacks. Throws
 * `CacheError` for everything that FORMAT ("What a reader must refuse") says of ksets, keys and the log, and when the medium failed.
 */
export function replay(
  cache: OpenedCache,
  memory: Memory,
  size_bytes: number,
  tables: ReplayTables,
  onRead: ReplayListener = () => {},
  staging = Staging.inMemory(0),
): Replayed {
  staging.match(cache, memory);
  const { key_tail, dirty_tail } = cache;
  const reader = new LogReader(cache, memory, key_tail.seg, key_tail.off);
  let keys = 0;
  let keys_to_write_back = 0;
  const batch = new KeyBatch(tables.index);
  const dirty_bytes = new Float64Array(cache.n_segs);
  const entering = { ...tables, batch, dirty_bytes };
  let met_dirty_tail = false;
  let read_bytes = 0;
  let reported_bytes = 0;
  tables.segments.claimForLog(reader.seg);

  for (;;) {
    met_dirty_tail ||= reader.seg === dirty_tail.seg && reader.off === dirty_tail.off;
    const kind = reader.read();
    if (kind === LOG_END) break;
    const addr = cache.dataAddr(reader.seg, reader.off);
    const kset_bytes = ksetBytes(kind === LOG_LAST ? 0 : reader.key_num);
    memory.persist(addr, kset_bytes);
    if (kind === LOG_KEYS) {
      for (let i = 0; i < reader.key_num; i++) {
        reader.checkKey(i, size_bytes);
        replayKey(cache, entering, reader.words, reader.keyAt(i), met_dirty_tail);
      }
      keys += reader.key_num;
      if (met_dirty_tail) keys_to_write_back += reader.key_num;
    }
    if (kind === LOG_LAST) claimNext(reader, tables.segments);
    reader.advance(kind);
    read_bytes += kset_bytes;
    if (read_bytes >= reported_bytes + REPORT_BYTES) {
      reported_bytes = read_bytes;
      onRead(read_bytes);
    }
  }

  if (!met_dirty_tail) {
    throw new CacheError(
      `dirty tail ${dirty_tail.seg}:${dirty_tail.off}: not in the log, which goes from ` +
        `${key_tail.seg}:${key_tail.off} to ${reader.position}`,
    );
  }
  if (reader.off + KSET_HEADER_BYTES > cache.data_bytes) {
    throw new CacheError(
      `log ends at ${reader.position}, but a last kset of ${KSET_HEADER_BYTES} bytes must fit behind it`,
    );
  }
  staging.checkHead(reader.seg, reader.off);
  replayStaged(cache, memory, size_bytes, entering, staging);
  batch.enter();
  checkLogSegments(cache, tables.segments);
  cache.persist(memory);
  memory.barrierSync();
  tables.segments.settle();
  const dirty_sum = dirty_bytes.reduce((sum, bytes) => sum + bytes, 0);
  return {
    head_seg: reader.seg,
    head_off: reader.off,
    keys,
    keys_to_write_back,
    dirty_bytes: dirty_sum,
  };
}

/** What replay fills, the index by way of a batch. */
interface Entering extends ReplayTables {
  readonly batch: KeyBatch;
  /** By segment: of the keys that count. */
  readonly dirty_bytes: Float64Array;
}

/** Enters the keys that the log lacks. Their bytes may not be on their way to the medium yet. */
function replayStaged(
  cache: OpenedCache,
  memory: Memory,
  size_bytes: number,
  entering: Entering,
  staging: Staging,
): void {
  const { ring } = staging;
  for (let key = staging.durable; key < staging.appended; key++) {
    const at = staging.wordOf(key);
    const refusal = keyRefusal(ring, at, cache, size_bytes);
    if (refusal !== "") throw new CacheError(`staged key ${key}: ${refusal}`);
    replayKey(cache, entering, ring, at, true);
    memory.persist(cache.dataAddr(keySeg(ring, at), keySegOff(ring, at)), keyLen(ring, at));
  }
}

/** Enters one key, which stands in `words` at `at`. */
function replayKey(
  cache: OpenedCache,
  { batch, segments, sums, index, dirty_bytes }: Entering,
  words: Uint32Array,
  at: number,
  behind_dirty_tail: boolean,
): void {
  const seg = keySeg(words, at);
  const gen = keyGen(words, at);
  const current = cache.generations.get(seg);
  if (gen < current) return;
  if (gen > current) {
    cache.generations.adopt(seg, gen);
    batch.enter();
    index.freeSegment(seg);
    segments.forgetKeys(seg);
    sums?.clear(seg);
    dirty_bytes[seg] = 0;
  }
  const sectors = keySectors(words, at);
  const place = keyPlace(words, at);
  const is_clean = (keyFlags(words, at) & CLEAN) !== 0 || !behind_dirty_tail;
  batch.add(words, at, is_clean);
  segments.addKey(seg);
  sums?.add(seg, place, sectors, keyCrc(words, at) | 0);
  if (!is_clean) dirty_bytes[seg] = dirty_bytes[seg]! + sectors * SECTOR;
}

function claimNext(reader: LogReader, segments: Segments): void {
  if (segments.isLog(reader.next_seg)) {
    throw new CacheError(
      `last kset at ${reader.position}: next segment ${reader.next_seg}, but the log was there already`,
    );
  }
  segments.claimForLog(reader.next_seg);
}

/** "Segments hold either ksets or data": a key that names a log segment was never written by a cache. */
function checkLogSegments(cache: OpenedCache, segments: Segments): void {
  for (let seg = 0; seg < cache.n_segs; seg++) {
    if (segments.isLog(seg) && segments.keys(seg) > 0) {
      throw new CacheError(`segment ${seg}: holds the log, but keys name it as holding data`);
    }
  }
}

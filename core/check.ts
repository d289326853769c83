/**
 * Checks a cache device that nobody uses against FORMAT, and finds as much as it can at once.
 *
 * Invariants:
 * - It writes nothing, and believes nothing that it has not checked.
 * - A device that `inspectCache` or `replay` refuse has an error here (but for a data_crc setting that the user got wrong); so a device
 *   without one can be opened.
 * - It ends for any content, in time and memory that the device's size bounds.
 *
 * @module
 */

import { CacheError } from "./errors.ts";
import { type FindingPart, Findings } from "./findings.ts";
import {
  checkKset,
  DIRTY_TAIL_ADDR,
  GENERATION_BYTES,
  GENERATION_OFF_BYTES,
  GENERATION_STRIDE_BYTES,
  type Geometry,
  INFO_ADDR,
  INFO_BYTES,
  INFO_STRIDE_BYTES,
  KERNEL_GEOMETRY,
  KEY_CLEAN,
  KEY_TAIL_ADDR,
  keyFlags,
  keyGen,
  keyLen,
  keyOff,
  keySeg,
  KSET_HEADER_BYTES,
  KSET_IS_KEYS,
  KSET_IS_LAST,
  KSET_LAST,
  KSET_MAGIC_HI,
  KSET_MAGIC_LO,
  KSET_MAX_BYTES,
  KSET_MAX_KEYS,
  ksetBytes,
  ksetKeyNum,
  POSITION_BYTES,
  POSITION_STRIDE_BYTES,
  SEGMENT_INFO_BYTES,
  SEGMENT_INFO_STRIDE_BYTES,
  segmentAddr,
  u32At,
} from "./format.ts";
import { keyRefusal, LOG_END, LOG_KEYS, LOG_LAST, LogReader } from "./log_reader.ts";
import { checkInfo, checkSize, loadChain, loadTail, OpenedCache, readSuperblock } from "./media.ts";
import type { Memory } from "./platform.ts";
import type { ReplayListener } from "./replay.ts";
import { readSlotStates } from "./slot_states.ts";
import { CacheInfo } from "./slots.ts";

/** What is known of the device besides its content. */
export interface CheckOptions {
  /** `KERNEL_GEOMETRY` if left out. */
  readonly geometry?: Geometry;
  /** Size of the cached device, which keys must lie in; unknown if left out. */
  readonly size_bytes?: number;
  /** Told now and then how many bytes of the log have been read. */
  readonly onRead?: ReplayListener;
}

/** The log, as far as it could be read. */
export interface LogReport {
  /** Where it ends: the key head. */
  readonly end: { readonly seg: number; readonly off: number };
  readonly ksets: number;
  readonly keys: number;
  /** Keys of a generation that is not their segment's any more. */
  readonly dead_keys: number;
  /** Bytes of dirty keys behind the dirty tail, each write counted. */
  readonly dirty_bytes: number;
  /** Where the key ends that reaches furthest into the cached device. */
  readonly keys_end_bytes: number;
}

/** What a check came to. */
export interface CheckReport {
  readonly findings: Findings;
  /** The cache, its generations as the log proves them; null: it cannot be opened so far that there is a log to read. */
  readonly cache: OpenedCache | null;
  /** null: it could not be read at all. */
  readonly log: LogReport | null;
}

/** Checks everything but the data that keys name. Throws `CacheError` when the medium cannot be read. */
export function checkCache(memory: Memory, options: CheckOptions = {}): CheckReport {
  const geometry = options.geometry ?? KERNEL_GEOMETRY;
  const findings = new Findings();
  const trying = new Trying(findings);
  const is_large = trying.can("device", () => checkSize(memory, geometry));
  if (!is_large) return { findings, cache: null, log: null };
  const cache = openMetadata(memory, geometry, findings, trying);
  if (cache === null) return { findings, cache, log: null };
  const log = new LogCheck(memory, cache, options, findings).run();
  return { findings, cache, log };
}

/** Makes findings of what is thrown. */
class Trying {
  constructor(readonly findings: Findings) {}

  /** False: it threw, and that is an error now. */
  can(part: FindingPart, act: () => void): boolean {
    try {
      act();
      return true;
    } catch (error) {
      if (!(error instanceof CacheError)) throw error;
      this.findings.error(part, error.message);
      return false;
    }
  }
}

/** Superblock, cache info, chain, generations and tails. Null: without them there is no log to be found. */
function openMetadata(
  memory: Memory,
  geometry: Geometry,
  findings: Findings,
  trying: Trying,
): OpenedCache | null {
  let seg_num = 0;
  const has_superblock = trying.can("superblock", () => {
    const found = readSuperblock(memory, geometry);
    if (found === undefined) {
      throw new CacheError("superblock: magic 0: no cache is on this device, create makes one");
    }
    seg_num = found.seg_num;
  });
  const has_info = checkSlots(memory, findings, "cache info", "cache info", {
    addr: INFO_ADDR,
    len_bytes: INFO_BYTES,
    stride_bytes: INFO_STRIDE_BYTES,
    is_needed: true,
  });
  for (const [name, addr] of TAILS) {
    checkSlots(memory, findings, name, name, {
      addr,
      len_bytes: POSITION_BYTES,
      stride_bytes: POSITION_STRIDE_BYTES,
      is_needed: true,
    });
  }
  if (!has_superblock || !has_info) return null;
  const info = new CacheInfo(memory);
  const is_right = trying.can("cache info", () => {
    info.load();
    if (!info.init_done) {
      throw new CacheError("cache info: init done is not set: its format was never completed");
    }
    checkInfo(info, seg_num, info.data_crc);
  });
  if (!is_right) return null;

  const cache = new OpenedCache(memory, geometry, seg_num, info, false);
  if (!trying.can("segment info", () => loadChain(memory, cache))) return null;
  for (let seg = 0; seg < cache.n_segs; seg++) checkSegment(memory, cache, seg, findings, trying);
  const has_key_tail = trying.can("key tail", () => loadTail(cache, cache.key_tail));
  const has_dirty_tail = trying.can("dirty tail", () => loadTail(cache, cache.dirty_tail));
  return has_key_tail && has_dirty_tail ? cache : null;
}

const TAILS = [["key tail", KEY_TAIL_ADDR], ["dirty tail", DIRTY_TAIL_ADDR]] as const;

function checkSegment(
  memory: Memory,
  cache: OpenedCache,
  seg: number,
  findings: Findings,
  trying: Trying,
): void {
  const device_seg = cache.chain[seg]!;
  const addr = segmentAddr(cache.geometry, device_seg);
  checkSlots(memory, findings, "segment info", `segment info of device segment ${device_seg}`, {
    addr,
    len_bytes: SEGMENT_INFO_BYTES,
    stride_bytes: SEGMENT_INFO_STRIDE_BYTES,
    is_needed: true,
  });
  checkSlots(memory, findings, "generation", `generation of cache segment ${seg}`, {
    addr: addr + GENERATION_OFF_BYTES,
    len_bytes: GENERATION_BYTES,
    stride_bytes: GENERATION_STRIDE_BYTES,
    is_needed: false,
  });
  trying.can("generation", () => cache.generations.load(seg));
}

/** One structure that stands twice. Returns whether a copy counts. */
function checkSlots(
  memory: Memory,
  findings: Findings,
  part: FindingPart,
  name: string,
  { addr, len_bytes, stride_bytes, is_needed }: {
    addr: number;
    len_bytes: number;
    stride_bytes: number;
    /** Without a valid copy the cache is refused; else two blank slots are nothing unusual. */
    is_needed: boolean;
  },
): boolean {
  const { states, latest, is_ambiguous, header_fault } = readSlotStates(
    memory,
    addr,
    len_bytes,
    stride_bytes,
  );
  const damaged = states.indexOf("damaged");
  if (latest === null && (is_needed || damaged >= 0)) {
    findings.error(part, `${name}: no valid copy: slot 0 is ${states[0]}, slot 1 ${states[1]}`);
    return false;
  }
  if (damaged >= 0) {
    findings.warn(part, `${name}: slot ${damaged} is torn or damaged, the other one counts`);
  }
  if (is_ambiguous) {
    findings.warn(part, `${name}: the two slots differ and have the same sequence number`);
  }
  if (header_fault !== "") findings.error(part, `${name}: ${header_fault}`);
  return latest !== null && header_fault === "";
}

/** How many ksets behind the end of the log are counted. */
const MAX_CUT_OFF = 1_000_000;

/** How much of the log lies between two reports of how far the check has come. */
const REPORT_BYTES = 64 * 1024;

/** A walk along the log. */
class LogCheck {
  readonly #memory: Memory;
  readonly #cache: OpenedCache;
  readonly #findings: Findings;
  readonly #size_bytes: number;
  readonly #onRead: ReplayListener;
  readonly #reader: LogReader;
  readonly #is_log: Uint8Array;
  readonly #live_keys: Uint32Array;
  /** Of live keys behind the dirty tail, by segment. */
  readonly #dirty_bytes: Float64Array;
  #met_dirty_tail = false;
  #ksets = 0;
  #keys = 0;
  #keys_end_bytes = 0;

  constructor(memory: Memory, cache: OpenedCache, options: CheckOptions, findings: Findings) {
    this.#memory = memory;
    this.#cache = cache;
    this.#findings = findings;
    this.#size_bytes = options.size_bytes ?? Number.MAX_SAFE_INTEGER;
    this.#onRead = options.onRead ?? (() => {});
    this.#reader = new LogReader(cache, memory, cache.key_tail.seg, cache.key_tail.off);
    this.#is_log = new Uint8Array(cache.n_segs);
    this.#live_keys = new Uint32Array(cache.n_segs);
    this.#dirty_bytes = new Float64Array(cache.n_segs);
  }

  run(): LogReport {
    const reader = this.#reader;
    const { dirty_tail } = this.#cache;
    let read_bytes = 0;
    let reported_bytes = 0;
    this.#is_log[reader.seg] = 1;
    for (;;) {
      this.#met_dirty_tail ||= reader.seg === dirty_tail.seg && reader.off === dirty_tail.off;
      const kind = this.#read();
      if (kind === LOG_END) break;
      this.#ksets++;
      if (kind === LOG_KEYS) this.#checkKeys();
      else if (!this.#claimNext()) break;
      read_bytes += ksetBytes(kind === LOG_LAST ? 0 : reader.key_num);
      reader.advance(kind);
      if (read_bytes < reported_bytes + REPORT_BYTES) continue;
      reported_bytes = read_bytes;
      this.#onRead(read_bytes);
    }
    this.#checkWhole();
    const live_keys = this.#live_keys.reduce((sum, keys) => sum + keys, 0);
    return {
      end: { seg: reader.seg, off: reader.off },
      ksets: this.#ksets,
      keys: this.#keys,
      dead_keys: this.#keys - live_keys,
      dirty_bytes: this.#dirty_bytes.reduce((sum, bytes) => sum + bytes, 0),
      keys_end_bytes: this.#keys_end_bytes,
    };
  }

  /** As `LogReader.read`; what must be refused is an error, and the end. */
  #read(): number {
    try {
      const kind = this.#reader.read();
      if (kind === LOG_END) this.#checkEnd();
      return kind;
    } catch (error) {
      if (!(error instanceof CacheError)) throw error;
      this.#findings.error("kset", error.message);
      return LOG_END;
    }
  }

  #checkKeys(): void {
    const reader = this.#reader;
    const { words } = reader;
    for (let i = 0; i < reader.key_num; i++) {
      const at = reader.keyAt(i);
      this.#keys++;
      const refusal = keyRefusal(words, at, this.#cache, this.#size_bytes);
      if (refusal !== "") {
        this.#findings.error("key", `key ${i} of the kset at ${reader.position}: ${refusal}`);
      } else this.#countKey(at);
    }
  }

  /** The same test as in replay, to count the same. */
  #countKey(at: number): void {
    const { words } = this.#reader;
    const { generations } = this.#cache;
    const seg = keySeg(words, at);
    const gen = keyGen(words, at);
    const current = generations.get(seg);
    if (gen < current) return;
    if (gen > current) {
      this.#findings.warn(
        "generation",
        `generation of cache segment ${seg}: ${current}, but the kset at ${this.#reader.position} has ` +
          `a key of ${gen}: both slots were lost, the key's counts`,
      );
      generations.adopt(seg, gen);
      this.#live_keys[seg] = 0;
      this.#dirty_bytes[seg] = 0;
    }
    const len = keyLen(words, at);
    this.#live_keys[seg] = this.#live_keys[seg]! + 1;
    this.#keys_end_bytes = Math.max(this.#keys_end_bytes, keyOff(words, at) + len);
    const is_clean = (keyFlags(words, at) & KEY_CLEAN) !== 0 || !this.#met_dirty_tail;
    if (!is_clean) this.#dirty_bytes[seg] = this.#dirty_bytes[seg]! + len;
  }

  /** The segment that a last kset names becomes one of the log's; false: it was one before. */
  #claimNext(): boolean {
    const { next_seg, position } = this.#reader;
    if (this.#is_log[next_seg] === 1) {
      this.#findings.error(
        "log",
        `last kset at ${position}: next segment ${next_seg}, but the log was there already`,
      );
      return false;
    }
    this.#is_log[next_seg] = 1;
    return true;
  }

  /** What only the whole log tells. */
  #checkWhole(): void {
    const { dirty_tail, key_tail, n_segs, data_bytes } = this.#cache;
    const { position, off } = this.#reader;
    if (!this.#met_dirty_tail) {
      this.#findings.error(
        "dirty tail",
        `dirty tail: ${dirty_tail.seg}:${dirty_tail.off}, but the log goes from ` +
          `${key_tail.seg}:${key_tail.off} to ${position} and has no kset that starts there`,
      );
    }
    if (off + KSET_HEADER_BYTES > data_bytes) {
      this.#findings.error(
        "log",
        `log ends at ${position}, but a last kset of ${KSET_HEADER_BYTES} bytes must fit behind it`,
      );
    }
    for (let seg = 0; seg < n_segs; seg++) {
      if (this.#is_log[seg] === 0 || this.#live_keys[seg] === 0) continue;
      const keys = this.#live_keys[seg]!;
      this.#findings.error(
        "key",
        `segment ${seg}: holds the log, but ${keys} keys name it as data`,
      );
    }
  }

  /**
   * What stands where the log ends. Behind the last kset there are zeroes; something else is a kset that a power cut tore, or one that
   * was damaged. Only when others follow it, something that was durable may be lost.
   */
  #checkEnd(): void {
    const { seg, off, position } = this.#reader;
    const { data_bytes } = this.#cache;
    const bytes = new Uint8Array(Math.min(2 * KSET_MAX_BYTES, data_bytes - off));
    if (bytes.length < KSET_HEADER_BYTES) return;
    this.#memory.read(this.#cache.dataAddr(seg, off), bytes, bytes.length);
    if (isEndMark(bytes)) return;
    if (isDamagedLastKset(bytes)) {
      const text =
        `last kset at ${position}: damaged; the log goes on in another segment, which is lost`;
      return this.#findings.error("log", text);
    }
    const { ksets, keys } = this.#cutOff(bytes);
    const text = `log ends at ${position} with a kset that is torn or damaged`;
    if (ksets === 0) return this.#findings.warn("log", `${text}; nothing follows it`);
    this.#findings.error("log", `${text}; ${ksets} ksets with ${keys} keys follow it and are lost`);
  }

  /** Ksets that follow the broken one at `bytes[0]` without a gap. */
  #cutOff(bytes: Uint8Array): { ksets: number; keys: number } {
    let ksets = 0;
    let keys = 0;
    const first = nextKset(bytes);
    if (first < 0) return { ksets, keys };
    const reader = new LogReader(this.#cache, this.#memory, this.#reader.seg, this.#reader.off);
    reader.off += first;
    const seen = new Uint8Array(this.#cache.n_segs);
    while (ksets < MAX_CUT_OFF) {
      const kind = reader.reread();
      if (kind === LOG_END) break;
      ksets++;
      if (kind === LOG_KEYS) keys += reader.key_num;
      else if (seen[reader.next_seg] === 1) break;
      else seen[reader.next_seg] = 1;
      reader.advance(kind);
    }
    return { ksets, keys };
  }
}

/** Whether `bytes` start with the zeroes that stand behind the last kset of a log, as far as they go. */
export function isEndMark(bytes: Uint8Array): boolean {
  return bytes.subarray(0, KSET_HEADER_BYTES).every((byte) => byte === 0);
}

/**
 * How far behind the broken kset at `bytes[0]` the next one starts; -1: there is none. `bytes` hold what lies before the end of the data area,
 * or two of the longest ksets.
 *
 * Further behind there may be ksets of an earlier use of the segment, which must not be taken for this log's: each kset is stored when the end
 * mark behind it is, so the search ends at zeroes. A header that a power cut tore has lost whole words, and says nothing.
 */
export function nextKset(bytes: Uint8Array): number {
  if (isTornHeader(bytes) || isLastKset(bytes)) return -1;
  const claimed = ksetKeyNum(bytes, 0);
  const is_possible = 0 < claimed && claimed <= KSET_MAX_KEYS;
  if (is_possible && isKset(bytes, ksetBytes(claimed))) return ksetBytes(claimed);
  for (let keys = 1; keys <= KSET_MAX_KEYS; keys++) {
    const end = ksetBytes(keys);
    if (isKset(bytes, end)) return end;
    if (isEndMark(bytes.subarray(end))) return -1;
  }
  return -1;
}

/** Whether words that no header goes without are not there. */
function isTornHeader(bytes: Uint8Array): boolean {
  const has_length = u32At(bytes, 0) !== 0 || u32At(bytes, 4) !== 0;
  const has_magic = u32At(bytes, 8) !== 0 || u32At(bytes, 12) !== 0;
  return !has_length || !has_magic;
}

/** Whether the header at `bytes[0]` says that it is a last kset. */
function isLastKset(bytes: Uint8Array): boolean {
  return u32At(bytes, 16) === KSET_LAST && u32At(bytes, 20) === 0;
}

/** Whether `bytes` start with a last kset that was durable once and is broken: a power cut would have left out whole words. */
export function isDamagedLastKset(bytes: Uint8Array): boolean {
  return isLastKset(bytes) && !isTornHeader(bytes);
}

function isKset(bytes: Uint8Array, at: number): boolean {
  if (at + KSET_HEADER_BYTES > bytes.length) return false;
  // Most places hold no magic: the checksum need not be looked at.
  if (u32At(bytes, at + 8) !== KSET_MAGIC_LO || u32At(bytes, at + 12) !== KSET_MAGIC_HI) {
    return false;
  }
  const kind = checkKset(bytes, at, bytes.length);
  return kind === KSET_IS_KEYS || kind === KSET_IS_LAST;
}

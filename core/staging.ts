/**
 * Where staged keys lie until the log is durable: a ring of keys, and beside it how far the log has them. In memory that outlives
 * the process (a mapped file in the run directory) a process that was killed leaves in it what it had answered and not
 * committed, and whoever opens the cache next takes it over: nothing that was answered is lost, unless the machine goes down, too.
 *
 * ```text
 * [0, 4096)   numbers of 64 bits: APPENDED; TURN; for either value of TURN's lowest bit DURABLE, HEAD_SEG, HEAD_OFF
 * [4096, ...) the ring: key number n at n mod its length, as it stands in a kset
 * ```
 *
 * Keys are numbered from the first one on that was ever put there. A store may be the last one, so what makes others
 * count comes after them: APPENDED behind the key, TURN behind the three that it names.
 *
 * Invariants: `durable <= appended <= durable + the ring's length`; every key before `durable` is in the log, before the place
 * HEAD_SEG:HEAD_OFF; the next ones are in the log behind it or not at all, in this order.
 *
 * @module
 */

import { CacheError } from "./errors.ts";
import { KEY_WORDS } from "./format.ts";
import { LOG_END, LOG_KEYS, LogReader } from "./log_reader.ts";
import type { OpenedCache } from "./media.ts";
import type { Memory } from "./platform.ts";

const HEADER_BYTES = 4096;
const APPENDED = 0;
const TURN = 1;
/** What TURN names: three numbers each. */
const PLACES = 2;
const PLACE_NUMBERS = 3;
const NUMBERS = PLACES + 2 * PLACE_NUMBERS;

/** The memory of staged keys. */
export class Staging {
  /** The keys, `KEY_WORDS` each. */
  readonly ring: Uint32Array;
  readonly #numbers: Float64Array;

  /** Most keys in it. */
  readonly keys: number;

  /** Takes memory of `Staging.bytesFor(keys)` bytes from `at_bytes` on, as it is: zeroes are an empty one. */
  constructor(buffer: ArrayBuffer, keys: number, at_bytes = 0) {
    this.keys = keys;
    this.#numbers = new Float64Array(buffer, at_bytes, NUMBERS);
    this.ring = new Uint32Array(buffer, at_bytes + HEADER_BYTES, keys * KEY_WORDS);
  }

  static bytesFor(keys: number): number {
    return HEADER_BYTES + keys * KEY_WORDS * 4;
  }

  /** One in memory that goes with the process. */
  static inMemory(keys: number): Staging {
    return new Staging(new ArrayBuffer(Staging.bytesFor(keys)), keys);
  }

  /** How many keys were ever appended. */
  get appended(): number {
    return this.#numbers[APPENDED]!;
  }

  /** The key before number `appended` is in the ring. */
  setAppended(appended: number): void {
    this.#numbers[APPENDED] = appended;
  }

  /** How many keys the log has. */
  get durable(): number {
    return this.#numbers[this.#place]!;
  }

  /** The log has every key before number `durable`, and goes on at this place. */
  setDurable(durable: number, head_seg: number, head_off: number): void {
    const turn = this.#numbers[TURN]! + 1;
    const at = PLACES + (turn % 2) * PLACE_NUMBERS;
    this.#numbers[at] = durable;
    this.#numbers[at + 1] = head_seg;
    this.#numbers[at + 2] = head_off;
    this.#numbers[TURN] = turn;
  }

  get #place(): number {
    return PLACES + (this.#numbers[TURN]! % 2) * PLACE_NUMBERS;
  }

  /** Where in `ring` key number `key` stands. */
  wordOf(key: number): number {
    return (key % this.keys) * KEY_WORDS;
  }

  /**
   * Finds out which keys the log lacks, and counts the others as durable.
   *
   * @throws {CacheError} It does not belong to the log as it is now, or is damaged.
   */
  match(cache: OpenedCache, memory: Memory): void {
    const { appended, durable } = this;
    if (appended === durable) return;
    const [head_seg, head_off] = this.#numbers.subarray(this.#place + 1);
    const is_whole = [...this.#numbers].every((n) => Number.isSafeInteger(n) && n >= 0) &&
      durable <= appended && appended <= durable + this.keys &&
      head_seg! < cache.n_segs && head_off! <= cache.data_bytes;
    if (!is_whole) {
      throw new CacheError(
        `staged keys: numbers ${[...this.#numbers].join(" ")}, which no process has left so`,
      );
    }
    const reader = new LogReader(cache, memory, head_seg!, head_off!);
    const found = this.#follow(reader, cache.n_segs);
    this.setDurable(durable + found, reader.seg, reader.off);
  }

  /** Goes to the end of the log, whose keys from the reader's place on must be the first ones that it may lack. Returns how many they are. */
  #follow(reader: LogReader, n_segs: number): number {
    const { appended, durable } = this;
    let found = 0;
    for (let entered = 0; entered <= n_segs;) {
      const kind = reader.read();
      if (kind === LOG_END) return found;
      if (kind === LOG_KEYS) {
        for (let i = 0; i < reader.key_num; i++, found++) {
          if (durable + found < appended && this.#isAt(durable + found, reader, i)) continue;
          throw new CacheError(
            `staged keys: the kset at ${reader.position} has others; the cache was used since they were left`,
          );
        }
      } else entered++;
      reader.advance(kind);
    }
    throw new CacheError(`staged keys: the log goes in a circle at ${reader.position}`);
  }

  /** Whether key number `key` is the one that the reader has at `i`. */
  #isAt(key: number, reader: LogReader, i: number): boolean {
    const ours = this.wordOf(key);
    const theirs = reader.keyAt(i);
    for (let word = 0; word < KEY_WORDS; word++) {
      if (this.ring[ours + word] !== reader.words[theirs + word]) return false;
    }
    return true;
  }

  /**
   * Refuses a log whose end is another place than that found by `match`.
   *
   * @throws {CacheError}
   */
  checkHead(head_seg: number, head_off: number): void {
    const [seg, off] = this.#numbers.subarray(this.#place + 1);
    if (this.appended === this.durable || (seg === head_seg && off === head_off)) return;
    throw new CacheError(
      `staged keys: they belong behind ${seg}:${off}, but the log ends at ${head_seg}:${head_off}; ` +
        "the cache was used since they were left",
    );
  }
}

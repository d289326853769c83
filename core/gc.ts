/**
 * GC: takes the oldest ksets off the log, so that segments no key names any more can be used again.
 *
 * A round walks from the key tail, at most to the dirty tail; it stores the new key tail, waits for the barrier, and only
 * then drops the references that the walked keys held. Segments left with none get a new generation at once, and are free
 * when a barrier has made that durable.
 *
 * What is to stay is kept when its key is dropped (`eviction.ts`).
 *
 * Invariant: key tail <= dirty tail, on the media too: a round never passes the durable dirty tail.
 *
 * @module
 */

import { Keeper } from "./eviction.ts";
import { keyGen, keyOff, keyPlace, keySectors, keySeg, SECTOR_BYTES } from "./format.ts";
import { LOG_END, LOG_KEYS, LogReader } from "./log_reader.ts";
import type { EngineState } from "./state.ts";

/** Most ksets in a round. */
const ROUND_KSETS = 64;

/** The collector. */
export class Gc {
  readonly #state: EngineState;
  readonly #keeper: Keeper;
  /** GC goes on in the next turn of the loop: this one has kept enough. */
  #is_cut_short = false;
  #is_held_up = false;
  readonly #reader: LogReader;
  /** Keys that the round under way gives up, by segment, and which segments have any. */
  readonly #dropped: Uint32Array;
  readonly #touched: Uint32Array;
  #touched_count = 0;
  /** Log segments that the round leaves. */
  readonly #left: Uint32Array;
  #left_count = 0;
  /** The barrier that covers the new key tail; 0: no round is under way. */
  #tail_barrier = 0;
  /** How many keys the log had at the start and was given since, less those that were walked over. */
  #keys: number;
  #appended = 0;
  /** Keys to be walked over until one turn of the log has been without a segment given back. */
  #keys_to_free: number;
  /** Keys to be walked over in this turn of the log. */
  #keys_to_turn = 0;
  #data_freed = 0;
  #log_freed = 0;
  /** The barrier that covers new generations; 0: none is awaited. */
  #free_barrier = 0;

  /** `keys`: how many replay found. */
  constructor(state: EngineState, keys: number) {
    this.#state = state;
    this.#keeper = new Keeper(state);
    this.#keys = keys;
    this.#keys_to_free = keys;
    const { cache, memory } = state;
    this.#reader = new LogReader(cache, memory, cache.key_tail.seg, cache.key_tail.off);
    this.#dropped = new Uint32Array(cache.n_segs);
    this.#touched = new Uint32Array(cache.n_segs);
    this.#left = new Uint32Array(cache.n_segs);
  }

  /** A turn of the loop begins. */
  allowKeeping(): void {
    this.#keeper.allow();
    this.#is_cut_short = false;
  }

  /** Whether the next turn is waited for. */
  get is_cut_short(): boolean {
    return this.#is_cut_short;
  }

  /** Whether it keeps what is to stay, and has gone over all that it may: write-back has to pass more of the log. */
  get is_held_up(): boolean {
    return this.#is_held_up;
  }

  get is_busy(): boolean {
    return this.#tail_barrier > 0 || this.#free_barrier > 0;
  }

  /**
   * Goes on as far as it can. `is_starved`: there is no space; `is_waited_for`: requests wait for it. `dirty_seg`, `dirty_off`: the durable dirty tail.
   * Returns whether anything changed.
   */
  step(
    is_starved: boolean,
    is_waited_for: boolean,
    dirty_seg: number,
    dirty_off: number,
  ): boolean {
    const freed = this.#free();
    this.#is_held_up = false;
    if (this.#tail_barrier > 0) {
      if (!this.#state.barriers.isDone(this.#tail_barrier)) return freed;
      this.#tail_barrier = 0;
      this.#drop();
      return true;
    }
    if (!this.#isNeeded(is_starved)) return freed;
    const keeps = this.#beginKeeping(is_waited_for);
    this.#is_cut_short = keeps && this.#keeper.is_spent;
    if (this.#is_cut_short || (keeps && !this.#state.log.has_room)) return freed;
    return this.#walk(dirty_seg, dirty_off, keeps) || freed;
  }

  /** Whether this round keeps what is to stay. */
  #beginKeeping(is_waited_for: boolean): boolean {
    const { heat, is_reclaiming, counters, log } = this.#state;
    this.#keys += log.appended - this.#appended;
    this.#appended = log.appended;
    const data_freed = counters.segments_freed - this.#log_freed;
    if (data_freed > this.#data_freed) this.#keys_to_free = this.#keys;
    this.#data_freed = data_freed;
    if (this.#keys_to_turn <= 0) {
      this.#keys_to_turn = this.#keys;
      this.#keeper.turn();
    }
    if (heat === null || is_waited_for) this.#keeper.yield();
    if (heat === null || is_waited_for || is_reclaiming) return false;
    if (log.is_stuck || this.#keys_to_free <= 0) return false;
    this.#keeper.begin(this.#most_segments);
    return true;
  }

  /** GC begins when so many segments are held. */
  get #most_segments(): number {
    const { segments, cache } = this.#state;
    return Math.floor((segments.total * cache.info.gc_percent) / 100);
  }

  #isNeeded(is_starved: boolean): boolean {
    const { segments, is_closing } = this.#state;
    if (is_closing || this.#state.barriers.has_failed) return false;
    if (is_starved || this.#state.wants_space || this.#state.is_reclaiming) return true;
    return segments.held >= this.#most_segments;
  }

  /** Frees what has retired, a barrier later. */
  #free(): boolean {
    const { segments, barriers } = this.#state;
    if (this.#free_barrier > 0) {
      if (!barriers.isDone(this.#free_barrier)) return false;
      segments.freeSealed();
      this.#free_barrier = 0;
      return true;
    }
    if (!segments.has_unsealed) return false;
    segments.sealRetired();
    this.#free_barrier = barriers.cover();
    return true;
  }

  /** Walks until a segment can be freed, or the round is full, or the dirty tail is met. False: there was nothing. */
  #walk(dirty_seg: number, dirty_off: number, keeps: boolean): boolean {
    const reader = this.#reader;
    let ksets = 0;
    let frees_segment = false;
    while (ksets < ROUND_KSETS && !frees_segment) {
      if (keeps && this.#keeper.is_spent) break;
      if (reader.seg === dirty_seg && reader.off === dirty_off) break;
      const kind = reader.reread();
      if (kind === LOG_END) return this.#state.failLog();
      if (kind === LOG_KEYS) {
        if (keeps) this.#visitKeys(); // first: it may log keys of the same segments
        frees_segment = this.#countKeys();
        this.#keys -= reader.key_num;
        this.#keys_to_free -= reader.key_num;
        this.#keys_to_turn -= reader.key_num;
        ksets++;
      } else {
        this.#left[this.#left_count++] = reader.seg;
        frees_segment = true;
      }
      reader.advance(kind);
    }
    const { key_tail } = this.#state.cache;
    if (reader.seg === key_tail.seg && reader.off === key_tail.off) {
      this.#state.wants_space = false; // there is nothing to be had
      this.#is_held_up = keeps;
      return false;
    }
    this.#state.counters.gc_ksets += ksets;
    key_tail.store(reader.seg, reader.off);
    this.#tail_barrier = this.#state.barriers.cover();
    return true;
  }

  /** Shows the keys of the kset just read to the keeper. */
  #visitKeys(): void {
    const { words } = this.#reader;
    const { generations } = this.#state.cache;
    for (let i = 0; i < this.#reader.key_num; i++) {
      const at = this.#reader.keyAt(i);
      const seg = keySeg(words, at);
      if (keyGen(words, at) !== generations.get(seg)) continue;
      const sector = keyOff(words, at) / SECTOR_BYTES;
      this.#keeper.visit(sector, keySectors(words, at), seg, keyPlace(words, at));
    }
  }

  /** Counts the keys of the kset just read. Returns whether a segment has none left. */
  #countKeys(): boolean {
    const { words } = this.#reader;
    const { generations } = this.#state.cache;
    const { segments } = this.#state;
    let frees_segment = false;
    for (let i = 0; i < this.#reader.key_num; i++) {
      const at = this.#reader.keyAt(i);
      const seg = keySeg(words, at);
      if (keyGen(words, at) !== generations.get(seg)) continue;
      if (this.#dropped[seg] === 0) this.#touched[this.#touched_count++] = seg;
      this.#dropped[seg] = this.#dropped[seg]! + 1;
      if (this.#dropped[seg] === segments.keys(seg)) frees_segment = true;
    }
    return frees_segment;
  }

  /** The new key tail is durable: the references go. */
  #drop(): void {
    const { segments, counters } = this.#state;
    for (let i = 0; i < this.#touched_count; i++) {
      const seg = this.#touched[i]!;
      segments.dropKeys(seg, this.#dropped[seg]!);
      this.#dropped[seg] = 0;
    }
    this.#touched_count = 0;
    for (let i = 0; i < this.#left_count; i++) segments.dropLog(this.#left[i]!);
    this.#log_freed += this.#left_count;
    this.#left_count = 0;
    this.#state.wants_space = false;
    counters.gc_rounds++;
  }
}

/**
 * A cache device that knows which stores are durable: what a power cut may leave of it, and what a killed process leaves.
 *
 * Two media. Persistent memory ("pmem"): the unit is an aligned word of 8 bytes, never torn. A word that was stored and
 * not made durable since may hold what it was, or what any store since made of it, whatever the words around it hold. It
 * is durable once it was persisted and a barrier that began after that has ended; a barrier alone covers nothing. A file
 * ("pages"): the unit is a page of 4 KiB, as it was after any of the stores since the last barrier. A barrier covers every
 * page; `persist` means nothing.
 *
 * Invariants: what `bytes` and `durable` differ in is in the records; the records of one word stand in the order of stores.
 *
 * @module
 */

import { CacheError, EIO } from "../../core/errors.ts";
import { SimMemory, type SimMemoryOptions } from "../sim_memory.ts";

export type Medium = "pmem" | "pages";

/** Bytes of an atom: never torn, on any medium. */
const ATOM_BYTES = 8;
/** Atoms of a page and of a cache line, as shifts. */
export const PAGE_SHIFT = 9;
export const LINE_SHIFT = 3;
const PAGE_BYTES = ATOM_BYTES << PAGE_SHIFT;

/** How far a record is on its way. */
const STORED = 0;
const PERSISTED = 1;
/** The barrier under way covers it. */
const COVERED = 2;

/** One half of a state's hash: what an atom adds to it. The hash of an all-zero device is 0. */
export function mixAtom(at: number, lo: number, hi: number): number {
  let x = Math.imul(lo ^ Math.imul(at + 1, 0x9e3779b1), 0x85ebca6b);
  x = Math.imul(x ^ (x >>> 15) ^ hi, 0xc2b2ae35);
  return x ^ (x >>> 13);
}

/** The other half. */
export function mixAtomAgain(at: number, lo: number, hi: number): number {
  let x = Math.imul(hi ^ Math.imul(at + 7, 0x27d4eb2f), 0x165667b1);
  x = Math.imul(x ^ (x >>> 13) ^ lo, 0x9e3779b1);
  return x ^ (x >>> 16);
}

export interface CrashMemoryOptions extends SimMemoryOptions {
  readonly medium: Medium;
}

export class CrashMemory extends SimMemory {
  readonly medium: Medium;
  /** What is there for certain. */
  readonly durable: Uint8Array<ArrayBuffer>;
  /** Told before a barrier takes effect: the last moment at which what it covers may be lost. */
  onEpoch: () => void = () => {};
  /** Told of every store to the cache device of at least a kset's header, after it. */
  onStore: (addr: number, len_bytes: number) => void = () => {};
  /** Asked at each barrier and read: true makes it fail. */
  fault: (what: "barrier" | "read") => boolean = () => false;
  /** Hash of `durable`, in two halves. */
  hash_a = 0;
  hash_b = 0;

  // Records: one for each atom that a store changed.
  count = 0;
  atom = new Int32Array(4096);
  lo = new Int32Array(4096);
  hi = new Int32Array(4096);
  /** Number of the store. */
  store = new Int32Array(4096);
  #state = new Uint8Array(4096);
  /** The latest record of each atom; -1: none. */
  readonly #last: Int32Array;
  /** While a barrier ends: the record that it makes durable, by atom; else -1. */
  readonly #covering: Int32Array;
  readonly #words: Int32Array;
  readonly #durable_words: Int32Array;
  #next_store = 1;
  /** Grows when `durable` changes. */
  #epoch = 0;
  /** What was loaded last, and which pages were changed since. */
  #origin: CrashMemory | undefined;
  #origin_epoch = 0;
  readonly #is_changed: Uint8Array;
  readonly #changed: Int32Array;
  #changed_count = 0;

  constructor(options: CrashMemoryOptions) {
    super(options);
    this.medium = options.medium;
    this.durable = new Uint8Array(this.buffer_addr);
    this.#words = new Int32Array(this.bytes.buffer);
    this.#durable_words = new Int32Array(this.durable.buffer);
    this.#last = new Int32Array(this.buffer_addr / ATOM_BYTES).fill(-1);
    this.#covering = this.#last.slice();
    this.#is_changed = new Uint8Array(this.buffer_addr / PAGE_BYTES);
    this.#changed = new Int32Array(this.buffer_addr / PAGE_BYTES);
  }

  /** Takes over what is durable on `other`, which is of the same size, and nothing else. */
  loadDurable(other: CrashMemory): void {
    this.forget();
    this.#epoch++;
    const is_same = this.#origin === other && this.#origin_epoch === other.#epoch;
    if (!is_same) {
      this.durable.set(other.durable);
      this.bytes.set(other.durable);
    } else {
      for (let i = 0; i < this.#changed_count; i++) {
        const from = this.#changed[i]! * PAGE_BYTES;
        const page = other.durable.subarray(from, from + PAGE_BYTES);
        this.durable.set(page, from);
        this.bytes.set(page, from);
      }
    }
    for (let i = 0; i < this.#changed_count; i++) this.#is_changed[this.#changed[i]!] = 0;
    this.#changed_count = 0;
    this.#origin = other;
    this.#origin_epoch = other.#epoch;
    this.hash_a = other.hash_a;
    this.hash_b = other.hash_b;
  }

  /** Takes over all of `other`, what may be lost included: its process was killed, the machine goes on. */
  loadKilled(other: CrashMemory): void {
    this.loadDurable(other);
    for (let i = 0; i < other.count; i++) {
      this.#add(other.atom[i]!, other.lo[i]!, other.hi[i]!, other.store[i]!);
      this.#state[i] = Math.min(other.#state[i]!, PERSISTED);
      this.#words[2 * other.atom[i]!] = other.lo[i]!;
      this.#words[2 * other.atom[i]! + 1] = other.hi[i]!;
    }
    this.#next_store = other.#next_store;
  }

  /** Makes one atom durable, as a power cut may leave it. */
  put(atom: number, lo: number, hi: number): void {
    this.#setDurable(atom, lo, hi);
    this.#words[2 * atom] = lo;
    this.#words[2 * atom + 1] = hi;
  }

  /** Everything in `bytes` counts as durable. */
  settleAll(): void {
    for (let i = 0; i < this.count; i++) {
      const atom = this.atom[i]!;
      this.#setDurable(atom, this.#words[2 * atom]!, this.#words[2 * atom + 1]!);
    }
    this.forget();
  }

  /** Drops all records, and a barrier that was under way. */
  forget(): void {
    for (let i = 0; i < this.count; i++) this.#last[this.atom[i]!] = -1;
    this.count = 0;
    this.dropBarrier();
  }

  override write(addr: number, from: Uint8Array, len_bytes: number): void {
    super.write(addr, from, len_bytes);
    this.#record(addr, len_bytes);
  }

  override copy(to_addr: number, from_addr: number, len_bytes: number): void {
    super.copy(to_addr, from_addr, len_bytes);
    this.#record(to_addr, len_bytes);
  }

  override receive(addr: number, from: Uint8Array): void {
    super.receive(addr, from);
    this.#record(addr, from.length);
  }

  override persist(addr: number, len_bytes: number): void {
    super.persist(addr, len_bytes);
    if (this.medium === "pages") return;
    const to = Math.ceil((addr + len_bytes) / ATOM_BYTES);
    for (let atom = Math.floor(addr / ATOM_BYTES); atom < to; atom++) {
      const record = this.#last[atom]!;
      if (record >= 0 && this.#state[record] === STORED) this.#state[record] = PERSISTED;
    }
  }

  override barrier(): boolean {
    const is_done = super.barrier();
    this.#cover();
    if (is_done) this.#end();
    return is_done;
  }

  override completeBarrier(): number {
    super.completeBarrier();
    if (this.fault("barrier")) {
      this.#uncover();
      return EIO;
    }
    this.#end();
    return 0;
  }

  override barrierSync(): void {
    super.barrierSync();
    if (this.fault("barrier")) throw new CacheError("a simulated cache device: barrier failed");
    this.#cover();
    this.#end();
  }

  override read(addr: number, into: Uint8Array, len_bytes: number): void {
    if (addr < this.cache_bytes && this.fault("read")) {
      throw new CacheError(`a simulated cache device: reading at ${addr} failed`);
    }
    super.read(addr, into, len_bytes);
  }

  /** The barrier has failed: what it covered may be lost for good (Linux: its pages count as clean). */
  #uncover(): void {
    for (let i = 0; i < this.count; i++) {
      if (this.#state[i] === COVERED) this.#state[i] = STORED;
    }
  }

  #cover(): void {
    const needed = this.medium === "pages" ? STORED : PERSISTED;
    for (let i = 0; i < this.count; i++) {
      if (this.#state[i]! >= needed) this.#state[i] = COVERED;
    }
  }

  /** The barrier has ended: what it covers is durable. The latest covered record of an atom replaces all before it. */
  #end(): void {
    this.onEpoch();
    const cover = this.#covering;
    const count = this.count;
    for (let i = 0; i < count; i++) if (this.#state[i] === COVERED) cover[this.atom[i]!] = i;
    let kept = 0;
    for (let i = 0; i < count; i++) {
      const atom = this.atom[i]!;
      if (cover[atom] === i) {
        this.#setDurable(atom, this.lo[i]!, this.hi[i]!);
        cover[atom] = -1;
        this.#last[atom] = -1;
        continue;
      }
      if (cover[atom]! > i) continue;
      this.atom[kept] = atom;
      this.lo[kept] = this.lo[i]!;
      this.hi[kept] = this.hi[i]!;
      this.store[kept] = this.store[i]!;
      this.#state[kept] = this.#state[i]!;
      this.#last[atom] = kept;
      kept++;
    }
    this.count = kept;
  }

  #changePage(page: number): void {
    if (this.#is_changed[page] !== 0) return;
    this.#is_changed[page] = 1;
    this.#changed[this.#changed_count++] = page;
  }

  #setDurable(atom: number, lo: number, hi: number): void {
    this.#epoch++;
    this.#changePage(atom >> PAGE_SHIFT);
    const words = this.#durable_words;
    const was_lo = words[2 * atom]!;
    const was_hi = words[2 * atom + 1]!;
    if (was_lo === lo && was_hi === hi) return;
    this.hash_a = (this.hash_a - mixAtom(atom, was_lo, was_hi) + mixAtom(atom, lo, hi)) | 0;
    this.hash_b = (this.hash_b - mixAtomAgain(atom, was_lo, was_hi) + mixAtomAgain(atom, lo, hi)) |
      0;
    words[2 * atom] = lo;
    words[2 * atom + 1] = hi;
  }

  #record(addr: number, len_bytes: number): void {
    if (addr >= this.cache_bytes || len_bytes === 0) return;
    // A store of what is there already leaves nothing to lose.
    const store = this.#next_store++;
    const to = Math.ceil((addr + len_bytes) / ATOM_BYTES);
    for (let atom = Math.floor(addr / ATOM_BYTES); atom < to; atom++) {
      const lo = this.#words[2 * atom]!;
      const hi = this.#words[2 * atom + 1]!;
      const last = this.#last[atom]!;
      const was_lo = last < 0 ? this.#durable_words[2 * atom]! : this.lo[last]!;
      const was_hi = last < 0 ? this.#durable_words[2 * atom + 1]! : this.hi[last]!;
      if (was_lo === lo && was_hi === hi) continue;
      this.#add(atom, lo, hi, store);
    }
    this.onStore(addr, len_bytes);
  }

  #add(atom: number, lo: number, hi: number, store: number): void {
    if (this.count === this.atom.length) this.#grow();
    const i = this.count++;
    this.atom[i] = atom;
    this.lo[i] = lo;
    this.hi[i] = hi;
    this.store[i] = store;
    this.#state[i] = STORED;
    this.#last[atom] = i;
    this.#changePage(atom >> PAGE_SHIFT);
  }

  #grow(): void {
    const twice = (old: Int32Array): Int32Array<ArrayBuffer> => {
      const grown = new Int32Array(2 * old.length);
      grown.set(old);
      return grown;
    };
    this.atom = twice(this.atom);
    this.lo = twice(this.lo);
    this.hi = twice(this.hi);
    this.store = twice(this.store);
    const state = new Uint8Array(2 * this.#state.length);
    state.set(this.#state);
    this.#state = state;
  }
}

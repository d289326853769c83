/**
 * Structures that stand twice on the media (FORMAT, "Metadata header"), so that a torn or damaged copy never costs the other:
 * cache info, the two tails, and each segment's info and generation.
 *
 * Invariants:
 * - Reading takes the valid slot with the newer sequence number.
 * - Writing increases the sequence number and overwrites the slot that does not hold the latest copy, also right after a load.
 * - A store here is persisted, but durable only after the caller's next barrier. Two stores of one structure without a barrier
 *   between them may cost both copies: one barrier at least between two stores.
 *
 * @module
 */

import { assert } from "./assert.ts";
import { crc32c } from "./crc32c.ts";
import { CacheError } from "./errors.ts";
import {
  GC_PERCENT_MAX,
  GENERATION_BYTES,
  GENERATION_OFF_BYTES,
  GENERATION_STRIDE_BYTES,
  type Geometry,
  HEADER_BYTES,
  HEADER_VERSION,
  INFO_ADDR,
  INFO_BYTES,
  INFO_DATA_CRC,
  INFO_GC_MASK,
  INFO_GC_SHIFT,
  INFO_INIT_DONE,
  INFO_MODE_MASK,
  INFO_MODE_SHIFT,
  INFO_STRIDE_BYTES,
  MAX_GENERATION,
  MODE_MAX,
  POSITION_BYTES,
  POSITION_STRIDE_BYTES,
  putU32,
  SEGMENT_INFO_BYTES,
  SEGMENT_INFO_STRIDE_BYTES,
  segmentAddr,
  u32At,
} from "./format.ts";
import type { Memory } from "./platform.ts";

/** No slot holds a valid copy. */
export const NO_SLOT = -1;

const LARGEST_BYTES = 24;
const TWO_POW_32 = 2 ** 32;

/** True when sequence number `a` is newer than `b`; both 0..255, and they wrap. */
export function isNewer(a: number, b: number): boolean {
  return ((a - b) << 24 >> 24) > 0;
}

/**
 * One duplicated structure of the media: reads and writes its two slots. The latest copy read stands in `bytes`, header and all;
 * a writer puts its fields there. One object serves many structures of a kind: the state is the caller's.
 */
class SlotCodec {
  readonly bytes = new Uint8Array(LARGEST_BYTES);
  readonly #other = new Uint8Array(LARGEST_BYTES);

  /** `name` is for errors; `len_bytes` is the structure's size; its slots are `stride_bytes` apart. */
  constructor(
    readonly name: string,
    readonly len_bytes: number,
    readonly stride_bytes: number,
  ) {
    assert(len_bytes <= LARGEST_BYTES, "the structure fits in the buffer");
  }

  /** Leaves the latest copy in `bytes` and returns its slot, 0 or 1, or `NO_SLOT`. Its fields are not checked. */
  read(memory: Memory, addr: number): number {
    const { bytes, len_bytes } = this;
    const other = this.#other;
    memory.read(addr, bytes, len_bytes);
    memory.read(addr + this.stride_bytes, other, len_bytes);
    const valid_0 = isValid(bytes, len_bytes);
    const valid_1 = isValid(other, len_bytes);
    if (!valid_0 && !valid_1) return NO_SLOT;
    const slot = valid_1 && (!valid_0 || isNewer(other[4]!, bytes[4]!)) ? 1 : 0;
    if (slot === 1) bytes.set(other);
    return slot;
  }

  /** Writes `bytes` to `slot` with sequence number `seq`, and persists it. */
  write(memory: Memory, addr: number, slot: number, seq: number): void {
    assert(slot === 0 || slot === 1, "a structure has two slots");
    const { bytes, len_bytes } = this;
    bytes[4] = seq;
    bytes[5] = HEADER_VERSION;
    bytes[6] = bytes[7] = 0;
    putU32(bytes, 0, crc32c(bytes, 4, len_bytes));
    const slot_addr = addr + slot * this.stride_bytes;
    memory.write(slot_addr, bytes, len_bytes);
    memory.persist(slot_addr, len_bytes);
  }

  /** Clears both slots, and persists that. */
  clear(memory: Memory, addr: number): void {
    this.bytes.fill(0);
    for (let slot = 0; slot < 2; slot++) {
      const slot_addr = addr + slot * this.stride_bytes;
      memory.write(slot_addr, this.bytes, this.len_bytes);
      memory.persist(slot_addr, this.len_bytes);
    }
  }

  /** Throws `CacheError` when the copy in `bytes` has an unknown version. `of` names the instance. */
  checkHeader(of = ""): void {
    const version = this.bytes[5]!;
    const reserved = this.bytes[6]! | this.bytes[7]! << 8;
    if (version !== HEADER_VERSION) {
      throw new CacheError(`${this.name}${of}: version ${version}, but only 0 is known`);
    }
    if (reserved !== 0) {
      throw new CacheError(`${this.name}${of}: reserved field ${reserved}, but it must be 0`);
    }
  }
}

function isValid(bytes: Uint8Array, len_bytes: number): boolean {
  return crc32c(bytes, 4, len_bytes) === u32At(bytes, 0);
}

/** The sequence number after `seq`. */
function nextSeq(seq: number): number {
  return (seq + 1) & 0xff;
}

/** The key tail or the dirty tail (FORMAT, "Positions"). */
export class PositionSlots {
  /** Cache segment. */
  seg = 0;
  /** Offset in bytes in that segment's data area. */
  off = 0;
  readonly #memory: Memory;
  readonly #addr: number;
  readonly #codec: SlotCodec;
  #seq = 0;
  #slot = NO_SLOT;

  constructor(memory: Memory, addr: number, readonly name: string) {
    this.#memory = memory;
    this.#addr = addr;
    this.#codec = new SlotCodec(name, POSITION_BYTES, POSITION_STRIDE_BYTES);
  }

  /** Reads the position; false if no slot is valid. Its value is not checked. */
  load(): boolean {
    this.#slot = this.#codec.read(this.#memory, this.#addr);
    if (this.#slot === NO_SLOT) return false;
    this.#codec.checkHeader();
    const { bytes } = this.#codec;
    this.#seq = bytes[4]!;
    this.seg = u32At(bytes, HEADER_BYTES);
    this.off = u32At(bytes, HEADER_BYTES + 4);
    return true;
  }

  /** Writes and persists a new position; durable after the next barrier. */
  store(seg: number, off: number): void {
    this.seg = seg;
    this.off = off;
    const { bytes } = this.#codec;
    putU32(bytes, HEADER_BYTES, seg);
    putU32(bytes, HEADER_BYTES + 4, off);
    this.#seq = nextSeq(this.#seq);
    this.#slot = this.#slot === 0 ? 1 : 0;
    this.#codec.write(this.#memory, this.#addr, this.#slot, this.#seq);
  }

  /** Clears both slots: the position counts as never written. */
  clear(): void {
    this.#codec.clear(this.#memory, this.#addr);
    this.#slot = NO_SLOT;
    this.#seq = 0;
  }
}

/** The cache info (FORMAT, "Cache info"). */
export class CacheInfo {
  /** The device segment that is cache segment 0. */
  seg_id = 0;
  /** How many cache segments there are. */
  n_segs = 0;
  /** The flags as they stand on the media; the fields of the status line show them in hex. */
  flags = 0;
  readonly #memory: Memory;
  readonly #codec = new SlotCodec("cache info", INFO_BYTES, INFO_STRIDE_BYTES);
  #seq = 0;
  #slot = NO_SLOT;

  constructor(memory: Memory) {
    this.#memory = memory;
  }

  get init_done(): boolean {
    return (this.flags & INFO_INIT_DONE) !== 0;
  }
  get data_crc(): boolean {
    return (this.flags & INFO_DATA_CRC) !== 0;
  }
  /** Number of the cache mode. */
  get mode(): number {
    return (this.flags >>> INFO_MODE_SHIFT) & INFO_MODE_MASK;
  }
  /** Percentage of segments in use at which GC starts: 0..90. */
  get gc_percent(): number {
    return (this.flags >>> INFO_GC_SHIFT) & INFO_GC_MASK;
  }

  /** Reads the info; false if no slot is valid. The values are not checked. */
  load(): boolean {
    if (!this.loadSequence()) return false;
    this.#codec.checkHeader();
    const { bytes } = this.#codec;
    this.seg_id = u32At(bytes, HEADER_BYTES);
    this.n_segs = u32At(bytes, HEADER_BYTES + 4);
    this.flags = u32At(bytes, HEADER_BYTES + 8);
    return true;
  }

  /** Reads which slot is the latest, and nothing else, so that `store` overwrites the other; false if none is valid. */
  loadSequence(): boolean {
    this.#slot = this.#codec.read(this.#memory, INFO_ADDR);
    if (this.#slot === NO_SLOT) return false;
    this.#seq = this.#codec.bytes[4]!;
    return true;
  }

  /** True when the older slot is a valid copy without init done: a format was cut just before its end. */
  isHalfDone(): boolean {
    if (this.#slot === NO_SLOT || !this.init_done) return false;
    const older = new Uint8Array(INFO_BYTES);
    this.#memory.read(INFO_ADDR + (1 - this.#slot) * INFO_STRIDE_BYTES, older, INFO_BYTES);
    return isValid(older, INFO_BYTES) && (u32At(older, HEADER_BYTES + 8) & INFO_INIT_DONE) === 0;
  }

  /** Writes and persists the fields as they are; durable after the next barrier. */
  store(): void {
    const { bytes } = this.#codec;
    putU32(bytes, HEADER_BYTES, this.seg_id);
    putU32(bytes, HEADER_BYTES + 4, this.n_segs);
    putU32(bytes, HEADER_BYTES + 8, this.flags);
    putU32(bytes, HEADER_BYTES + 12, 0);
    this.#seq = nextSeq(this.#seq);
    this.#slot = this.#slot === 1 ? 0 : 1;
    this.#codec.write(this.#memory, INFO_ADDR, this.#slot, this.#seq);
  }

  /** Sets `gc_percent`, to be stored. Throws `CacheError` outside 0..90. */
  setGcPercent(percent: number): void {
    if (!Number.isInteger(percent) || percent < 0 || percent > GC_PERCENT_MAX) {
      throw new CacheError(`gc_percent ${percent}, but it must be 0..${GC_PERCENT_MAX}`);
    }
    this.flags = (this.flags & ~(INFO_GC_MASK << INFO_GC_SHIFT)) | percent << INFO_GC_SHIFT;
  }

  /** Sets the number of the cache mode, to be stored. */
  setMode(mode: number): void {
    assert(mode <= MODE_MAX, "a cache mode is one that is known");
    this.flags = (this.flags & ~(INFO_MODE_MASK << INFO_MODE_SHIFT)) | mode << INFO_MODE_SHIFT;
  }
}

/** A segment's info (FORMAT, "A segment"): read when a cache is opened, written when it is formatted. */
export class SegmentInfo {
  flags = 0;
  /** Device segment that follows in the chain, if the flags say that one does. */
  next_seg = 0;
  readonly #memory: Memory;
  readonly #geometry: Geometry;
  readonly #codec = new SlotCodec(
    "segment info of device segment ",
    SEGMENT_INFO_BYTES,
    SEGMENT_INFO_STRIDE_BYTES,
  );

  constructor(memory: Memory, geometry: Geometry) {
    this.#memory = memory;
    this.#geometry = geometry;
  }

  /** Reads the info of `device_seg`; false if no slot is valid. The values are not checked. */
  load(device_seg: number): boolean {
    const addr = segmentAddr(this.#geometry, device_seg);
    if (this.#codec.read(this.#memory, addr) === NO_SLOT) return false;
    this.#codec.checkHeader(`${device_seg}`);
    this.flags = u32At(this.#codec.bytes, HEADER_BYTES);
    this.next_seg = u32At(this.#codec.bytes, HEADER_BYTES + 4);
    return true;
  }

  /** Writes the fields into both slots of `device_seg`, so that the loss of one costs nothing. Only while formatting. */
  format(device_seg: number): void {
    const addr = segmentAddr(this.#geometry, device_seg);
    const { bytes } = this.#codec;
    putU32(bytes, HEADER_BYTES, this.flags);
    putU32(bytes, HEADER_BYTES + 4, this.next_seg);
    this.#codec.write(this.#memory, addr, 1, 1);
    this.#codec.write(this.#memory, addr, 0, 2);
  }
}

/** The generations of all cache segments (FORMAT, "A segment"): ten bytes of state each. */
export class Generations {
  readonly #memory: Memory;
  readonly #geometry: Geometry;
  readonly #chain: Uint32Array;
  readonly #codec = new SlotCodec(
    "generation of cache segment ",
    GENERATION_BYTES,
    GENERATION_STRIDE_BYTES,
  );
  readonly #gens: Float64Array;
  readonly #seqs: Uint8Array;
  /** Slot of the latest copy. */
  readonly #slots: Int8Array;

  /** `chain` gives each cache segment's device segment. */
  constructor(memory: Memory, geometry: Geometry, chain: Uint32Array) {
    this.#memory = memory;
    this.#geometry = geometry;
    this.#chain = chain;
    this.#gens = new Float64Array(chain.length);
    this.#seqs = new Uint8Array(chain.length);
    this.#slots = new Int8Array(chain.length).fill(NO_SLOT);
  }

  /** Reads the generation of cache segment `seg`; 0 if no slot is valid. Throws `CacheError` over `MAX_GENERATION`. */
  load(seg: number): void {
    const slot = this.#codec.read(this.#memory, this.#addr(seg));
    this.#slots[seg] = slot;
    if (slot === NO_SLOT) return;
    this.#codec.checkHeader(`${seg}`);
    const { bytes } = this.#codec;
    this.#seqs[seg] = bytes[4]!;
    const gen = u32At(bytes, HEADER_BYTES) + u32At(bytes, HEADER_BYTES + 4) * TWO_POW_32;
    this.adopt(seg, gen);
  }

  /** The generation of cache segment `seg`. */
  get(seg: number): number {
    return this.#gens[seg]!;
  }

  /** Gives cache segment `seg` its next generation and persists it; durable after the next barrier. */
  bump(seg: number): void {
    assert(seg < this.#gens.length, "the segment exists");
    const gen = this.#gens[seg]! + 1;
    this.#gens[seg] = gen;
    const { bytes } = this.#codec;
    putU32(bytes, HEADER_BYTES, gen % TWO_POW_32);
    putU32(bytes, HEADER_BYTES + 4, Math.floor(gen / TWO_POW_32));
    this.#seqs[seg] = nextSeq(this.#seqs[seg]!);
    this.#slots[seg] = this.#slots[seg] === 0 ? 1 : 0;
    this.#codec.write(this.#memory, this.#addr(seg), this.#slots[seg]!, this.#seqs[seg]!);
  }

  /**
   * Takes over a generation that a key in the log proves, in memory only; the next `bump` writes a newer one. Throws
   * `CacheError` over `MAX_GENERATION`.
   */
  adopt(seg: number, gen: number): void {
    assert(seg < this.#gens.length, "the segment exists");
    if (gen > MAX_GENERATION) {
      throw new CacheError(
        `generation of cache segment ${seg}: ${gen}, but at most ${MAX_GENERATION} is possible`,
      );
    }
    this.#gens[seg] = gen;
  }

  /** Clears both slots of `seg` and writes a generation. Only while a cache is formatted or repaired. */
  format(seg: number, gen = 0): void {
    const addr = this.#addr(seg);
    const { bytes } = this.#codec;
    this.#codec.clear(this.#memory, addr);
    putU32(bytes, HEADER_BYTES, gen % TWO_POW_32);
    putU32(bytes, HEADER_BYTES + 4, Math.floor(gen / TWO_POW_32));
    this.#codec.write(this.#memory, addr, 1, 1);
    this.#gens[seg] = gen;
    this.#seqs[seg] = 1;
    this.#slots[seg] = 1;
  }

  #addr(seg: number): number {
    return segmentAddr(this.#geometry, this.#chain[seg]!) + GENERATION_OFF_BYTES;
  }
}

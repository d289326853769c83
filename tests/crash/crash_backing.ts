/**
 * A backing device with a volatile write cache: until a flush that began after a write ended has ended itself, each of
 * the write's sectors may be lost, alone. A write under way may have reached any of its sectors.
 *
 * A request that fails has moved some of its sectors all the same. A flush that fails may have thrown away what it was to
 * make durable (Linux: a page whose write failed counts as clean afterwards).
 *
 * @module
 */

import type { Random } from "../random.ts";
import { SimBacking, type SimRequest } from "../sim_backing.ts";
import { mixAtom, mixAtomAgain } from "./crash_memory.ts";

const SECTOR = 512;
const SECTOR_WORDS = SECTOR / 4;

/** Sectors that may be lost, as one write brought them. */
export interface VolatileWrite {
  readonly off: number;
  readonly bytes: Uint8Array;
  /** Id of the request; it is used again later. */
  readonly id: number;
  /** When the request ended; Infinity while it is under way. */
  ended: number;
}

export class CrashBacking extends SimBacking {
  /** What is there for certain. */
  readonly durable: Uint8Array<ArrayBuffer>;
  /** What may be lost, in the order in which it was written. */
  readonly volatile: VolatileWrite[] = [];
  /** Told before a flush takes effect. */
  onEpoch: () => void = () => {};
  /** Told of each write when it starts. */
  onWrite: (id: number, off: number, bytes: Uint8Array) => void = () => {};
  /** Hash of `durable`, in two halves; 0 for the content it was made with. */
  hash_a = 0;
  hash_b = 0;
  #clock = 0;
  /** When the flush under way began. */
  #flush_began = 0;

  constructor(bytes: Uint8Array, memory_bytes: Uint8Array, random: Random) {
    super(bytes, memory_bytes, random);
    this.durable = bytes.slice();
  }

  /** Takes over what is durable on `other`. */
  loadDurable(other: CrashBacking): void {
    this.durable.set(other.durable);
    this.bytes.set(other.durable);
    this.hash_a = other.hash_a;
    this.hash_b = other.hash_b;
    this.volatile.length = 0;
    this.pending.length = 0;
  }

  /** Takes over all of `other`, whose process was killed: what was under way ends, or never happens. */
  loadKilled(other: CrashBacking): void {
    this.loadDurable(other);
    for (const write of other.volatile) {
      if (write.ended === Infinity && this.random.chance(0.5)) continue;
      this.bytes.set(write.bytes, write.off);
      this.volatile.push({ ...write, ended: 0 });
    }
  }

  /** Makes a range of whole sectors durable, as a power cut may leave it. */
  put(off: number, bytes: Uint8Array): void {
    for (let at = 0; at < bytes.length; at += SECTOR) {
      this.#hashSector(off + at, -1);
      this.durable.set(bytes.subarray(at, at + SECTOR), off + at);
      this.#hashSector(off + at, 1);
    }
    this.bytes.set(bytes, off);
  }

  override flush(id: number): void {
    this.#flush_began = ++this.#clock;
    super.flush(id);
  }

  override write(...args: Parameters<SimBacking["write"]>): void {
    super.write(...args);
    const [id, off, len, from] = args;
    const bytes = new Uint8Array(len);
    let at = 0;
    for (let i = 0; i < from.count; i++) {
      bytes.set(this.memory_bytes.subarray(from.addr(i), from.addr(i) + from.len(i)), at);
      at += from.len(i);
    }
    this.#began(id, off, bytes);
  }

  override zero(...args: Parameters<SimBacking["zero"]>): void {
    super.zero(...args);
    const [id, off, len] = args;
    this.#began(id, off, new Uint8Array(len));
  }

  #began(id: number, off: number, bytes: Uint8Array): void {
    this.volatile.push({ off, bytes, id, ended: Infinity });
    this.onWrite(id, off, bytes);
  }

  protected override end(request: SimRequest): void {
    if (request.kind === "write" || request.kind === "zero") {
      const write = this.volatile.findLast((write) => write.id === request.id)!;
      write.ended = ++this.#clock;
      if (request.errno !== 0) this.#breakWrite(write);
    } else if (request.kind === "read" && request.errno !== 0) {
      const [addr, len] = request.ranges[0]!;
      const some = SECTOR * this.random.below(len / SECTOR + 1);
      this.memory_bytes.set(this.bytes.subarray(request.off, request.off + some), addr);
      this.memory_bytes.fill(0xee, addr + some, addr + len);
    } else if (request.kind === "flush") this.#endFlush(request.errno !== 0);
  }

  /** A failed write has reached some of its sectors. */
  #breakWrite(write: VolatileWrite): void {
    this.volatile.splice(this.volatile.indexOf(write), 1);
    for (let at = 0; at < write.bytes.length; at += SECTOR) {
      if (this.random.chance(0.5)) continue;
      const bytes = write.bytes.slice(at, at + SECTOR);
      this.bytes.set(bytes, write.off + at);
      this.volatile.push({ off: write.off + at, bytes, id: -1, ended: write.ended });
    }
  }

  #endFlush(failed: boolean): void {
    this.onEpoch();
    const covered = this.volatile.filter((write) => write.ended < this.#flush_began);
    const others = this.volatile.filter((write) => write.ended >= this.#flush_began);
    this.volatile.length = 0;
    for (const write of covered) {
      for (let at = 0; at < write.bytes.length; at += SECTOR) {
        const off = write.off + at;
        if (!failed || this.random.chance(0.4)) {
          const now = this.bytes.slice(off, off + SECTOR);
          this.put(off, write.bytes.subarray(at, at + SECTOR));
          this.bytes.set(now, off);
        } else if (this.random.chance(0.5)) {
          this.bytes.set(this.durable.subarray(off, off + SECTOR), off);
        } else {
          const bytes = write.bytes.slice(at, at + SECTOR);
          this.volatile.push({ off, bytes, id: -1, ended: write.ended });
        }
      }
    }
    this.volatile.push(...others);
  }

  #hashSector(off: number, sign: number): void {
    const [a, b] = hashSector(this.durable, off);
    this.hash_a = (this.hash_a + sign * a) | 0;
    this.hash_b = (this.hash_b + sign * b) | 0;
  }
}

const halves: [number, number] = [0, 0];

/** Hash of the sector at `off`, in two halves; the result is reused. */
export function hashSector(bytes: Uint8Array, off: number): [number, number] {
  const words = new Int32Array(bytes.buffer, bytes.byteOffset + off, SECTOR_WORDS);
  let a = 0;
  let b = 0;
  for (let i = 0; i < SECTOR_WORDS; i += 2) {
    a = (a + mixAtom(off + i, words[i]!, words[i + 1]!)) | 0;
    b = (b + mixAtomAgain(off + i, words[i]!, words[i + 1]!)) | 0;
  }
  halves[0] = a;
  halves[1] = b;
  return halves;
}

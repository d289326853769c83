/**
 * An engine over simulated memory and backing device of which the test ends every barrier and every backing request by
 * itself, in the order it wants.
 *
 * @module
 */

import type { CacheMode } from "../core/cache_mode.ts";
import { fillFor, Random } from "./random.ts";
import { SimBacking, type SimRequest } from "./sim_backing.ts";
import { SimDevice } from "./sim_device.ts";
import { SimMemory } from "./sim_memory.ts";

const KIB = 1024;
const MIB = 1024 * KIB;

/** `bytes` of content that belongs to `id` alone. */
export function content(id: number, bytes: number): Uint8Array {
  const made = new Uint8Array(bytes);
  fillFor(id, made);
  return made;
}

export interface HandOptions {
  /** Segments of 256 KiB. */
  readonly segments?: number;
  readonly data_crc?: boolean;
  readonly buffer_bytes?: number;
  readonly barrier_is_cheap?: boolean;
  readonly cache_mode?: CacheMode;
}

/** Segments of 256 KiB, and a backing device of 16 MiB filled with `fillFor(0)`; barriers take until `endBarrier`. */
export class HandDevice extends SimDevice {
  constructor(options: HandOptions = {}) {
    const { segments = 16, data_crc = false, buffer_bytes = 8 * MIB } = options;
    const { cache_mode = "writeback" } = options;
    const memory = new SimMemory({
      cache_bytes: 0x5000 + segments * 256 * KIB,
      buffer_bytes,
      barrier_is_cheap: options.barrier_is_cheap ?? false,
      barriers_are_asynchronous: true,
    });
    const geometry = { segment_bytes: 256 * KIB, min_cache_bytes: 0 };
    const backing = new SimBacking(content(0, 16 * MIB), memory.bytes, new Random(1));
    super(memory, backing, { geometry, data_crc, cache_mode });
  }

  pump(): void {
    this.engine.pump(this.now_ms);
  }

  /** The barrier under way ends. */
  endBarrier(errno = 0): void {
    this.memory.completeBarrier();
    this.engine.barrierDone(errno);
    this.pump();
  }

  /** What the backing device has under way: kind, offset, length; sorted. */
  under_way(): string[] {
    return this.backing.pending.map(({ kind, off, len }) => `${kind} ${off}+${len}`).sort();
  }

  /** The first backing request that `isWanted` ends. */
  end(isWanted: (request: SimRequest) => boolean = () => true): void {
    const { pending } = this.backing;
    const request = pending.find(isWanted);
    if (request === undefined) throw new Error(`no such request is under way: ${this.under_way()}`);
    const others = pending.filter((other) => other !== request);
    pending.splice(0, pending.length, request);
    this.backing.endOne((id, errno) => this.engine.backingDone(id, errno));
    pending.push(...others);
    this.pump();
  }

  /** Ends barriers and backing requests until there are none; time stands still. */
  settle(): void {
    for (;;) {
      this.pump();
      if (this.memory.barrier_is_under_way) this.endBarrier();
      else if (this.backing.pending.length > 0) this.end();
      else return;
    }
  }

  /** Slots answered since the last time, in order. They are still to be released. */
  answered(): number[] {
    const slots: number[] = [];
    for (let slot = this.engine.takeAnswered(); slot >= 0; slot = this.engine.takeAnswered()) {
      slots.push(slot);
    }
    return slots;
  }

  /** Slots placed since the last time, in order. */
  placed(): number[] {
    const slots: number[] = [];
    for (let slot = this.engine.takePlaced(); slot >= 0; slot = this.engine.takePlaced()) {
      slots.push(slot);
    }
    return slots;
  }

  /** Puts a placed write's payload where it belongs, or the first bytes of it; the engine is not told. */
  receive(slot: number, bytes: Uint8Array): void {
    const { engine, memory } = this;
    let at = 0;
    for (let piece = engine.firstPiece(slot); piece >= 0; piece = engine.nextPiece(piece)) {
      const part = bytes.subarray(at, at + engine.pieceLen(piece));
      memory.bytes.set(part, engine.pieceAddr(piece));
      at += engine.pieceLen(piece);
    }
  }

  /** Begins a write that is placed at once, and hands over its payload. Returns its slot. */
  beginWhole(off_bytes: number, bytes: Uint8Array, fua = false): number {
    const slot = this.engine.beginWrite(off_bytes, bytes.length, fua);
    const placed = this.placed();
    if (placed.length !== 1 || placed[0] !== slot) throw new Error(`placed: ${placed}`);
    this.receive(slot, bytes);
    this.engine.payloadArrived(slot);
    this.pump();
    return slot;
  }

  /** What an answered read brings. */
  bytesOf(slot: number): Uint8Array {
    const { engine, memory } = this;
    const parts: number[] = [];
    for (let piece = engine.firstPiece(slot); piece >= 0; piece = engine.nextPiece(piece)) {
      const addr = engine.pieceAddr(piece);
      parts.push(...memory.bytes.subarray(addr, addr + engine.pieceLen(piece)));
    }
    return Uint8Array.from(parts);
  }

  /** What of the cache is held by requests: throws unless it is nothing. Nothing may be under way. */
  assertNothingHeld(): void {
    const { engine } = this;
    const pins = Array.from(
      { length: engine.segments.total },
      (_, seg) => engine.segments.pins(seg),
    );
    const held = pins.reduce((sum, count) => sum + count, 0);
    if (engine.requests_in_use !== 0) throw new Error(`${engine.requests_in_use} slots in use`);
    if (held > 1) throw new Error(`pins, of which the data head has one: ${pins}`);
  }
}

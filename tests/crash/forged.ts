/**
 * Forged images: any field of any structure set to a boundary or a random value, with a checksum that is right. Each is
 * refused with a reason, or opened, read out, written back; the memory throws at the first access outside the device.
 *
 * @module
 */

import { crc32c } from "../../core/crc32c.ts";
import { CacheError } from "../../core/errors.ts";
import {
  DATA_OFF_BYTES,
  DIRTY_TAIL_ADDR,
  GENERATION_OFF_BYTES,
  INFO_ADDR,
  KEY_BYTES,
  KEY_TAIL_ADDR,
  KSET_HEADER_BYTES,
  putU32,
  SEGMENTS_ADDR,
  SUPERBLOCK_ADDR,
  u32At,
} from "../../core/format.ts";
import { Engine } from "../../core/engine.ts";
import { inspectCache, prepareCache } from "../../core/media.ts";
import { LogBuilder } from "../log_builder.ts";
import type { Random } from "../random.ts";
import { SimBacking } from "../sim_backing.ts";
import { SimMemory } from "../sim_memory.ts";
import { guard, Violation } from "./explorer.ts";
import { SEGMENT_BYTES } from "./script.ts";

const SECTOR = 512;
const SEGMENTS = 6;
/** Size of the cached device. */
export const DEVICE_BYTES = 32 * SECTOR;
export const GEOMETRY = { segment_bytes: SEGMENT_BYTES, min_cache_bytes: 0 };
const LIMITS = { requests: 8, pieces: 128, staged_keys: 128, batch_ksets: 4 };
/** An image needs no more turns than this to be read out; more would be a loop. */
const MOST_TURNS = 2000;

/** A structure whose fields are forged: its checksum covers `[addr + 4, addr + len)`. */
interface Structure {
  readonly addr: number;
  readonly len: number;
  /** Distance of its second copy; 0: there is none. */
  readonly stride: number;
}

/** Good images to start from, and where their structures are. */
interface Origin {
  readonly bytes: Uint8Array;
  readonly data_crc: boolean;
  readonly structures: readonly Structure[];
}

function newOrigin(random: Random, data_crc: boolean): Origin {
  const builder = new LogBuilder({ segments: SEGMENTS, geometry: GEOMETRY, data_crc });
  const structures: Structure[] = [
    { addr: SUPERBLOCK_ADDR, len: 24, stride: 0 },
    { addr: INFO_ADDR, len: 24, stride: 4096 },
    { addr: KEY_TAIL_ADDR, len: 16, stride: 16 },
    { addr: DIRTY_TAIL_ADDR, len: 16, stride: 16 },
  ];
  for (let seg = 0; seg < SEGMENTS; seg++) {
    const addr = SEGMENTS_ADDR + seg * SEGMENT_BYTES;
    structures.push({ addr, len: 16, stride: 4096 });
    structures.push({ addr: addr + GENERATION_OFF_BYTES, len: 16, stride: 16 });
  }
  const addKset = (keys: number) => {
    const fields = Array.from({ length: keys }, (_, i) => ({
      off: SECTOR * random.below(28),
      len: SECTOR * random.between(1, 4),
      seg: 1 + random.below(2),
      seg_off: SECTOR * (i % 36),
      flags: random.chance(0.2) ? 2 : 0,
    }));
    const { seg, off } = builder.kset(fields);
    structures.push({
      addr: builder.cache.dataAddr(seg, off),
      len: KSET_HEADER_BYTES + keys * KEY_BYTES,
      stride: 0,
    });
  };
  for (const keys of [1, 3]) addKset(keys);
  const tail = { seg: builder.seg, off: builder.off };
  addKset(2);
  builder.cache.dirty_tail.store(tail.seg, tail.off);
  const { seg, off } = builder.last(4);
  structures.push({ addr: builder.cache.dataAddr(seg, off), len: KSET_HEADER_BYTES, stride: 0 });
  for (const keys of [2, 1]) addKset(keys);
  return { bytes: builder.memory.cache.slice(), data_crc, structures };
}

const DATA_BYTES = SEGMENT_BYTES - DATA_OFF_BYTES;
const BOUNDARIES: readonly number[] = [
  ...[0, 1, 2, 3, 4, 5, 6, 7, 8, 24, 40, 64, 127, 128, 129, 255, 256, 511, 512, 513, 1024, 4096],
  ...[
    DATA_BYTES,
    DATA_BYTES - 24,
    DATA_BYTES - 16,
    DATA_BYTES - 512,
    DATA_BYTES - 8,
    DATA_BYTES + 8,
  ],
  ...[
    DEVICE_BYTES,
    DEVICE_BYTES - 512,
    SEGMENT_BYTES,
    65535,
    65536,
    1 << 20,
    (1 << 20) - 1,
    1 << 22,
  ],
  ...[0x1181, 0x1183, 0x1182, 0x1fff, 0x7fff_ffff, 0x8000_0000, 0xffff_fe00, 0xffff_fff8],
  ...[0xffff_fffe, 0xffff_ffff, 0x000f_ffff, 0x0010_0000, 0x0020_0000],
];

/** What became of the images. */
export interface ForgedCounts {
  forged: number;
  opened: number;
}

/** An image with forged fields, until the next one is asked for. */
export interface ForgedImage {
  readonly memory: SimMemory;
  /** What the cache was made with. */
  readonly data_crc: boolean;
  /** What was forged. */
  readonly changed: string;
}

/** Forged images without end, all in one memory. */
export function* forgedImages(random: Random): Generator<ForgedImage> {
  const memory = new SimMemory({
    cache_bytes: SEGMENTS_ADDR + SEGMENTS * SEGMENT_BYTES,
    buffer_bytes: 16 * 1024,
    barrier_is_cheap: true,
  });
  let origin = newOrigin(random, true);
  memory.cache.set(origin.bytes);
  for (let forged = 0;; forged++) {
    if (forged % 500 === 0) {
      origin = newOrigin(random, random.chance(0.5));
      memory.cache.set(origin.bytes);
    }
    const changed = forge(memory, origin, random);
    yield { memory, data_crc: origin.data_crc, changed };
    memory.cache.set(origin.bytes);
  }
}

/** Opens `count` forged images. Throws `Violation` for one that is neither refused nor used in bounds. */
export function openForged(random: Random, count: number, until: () => boolean): ForgedCounts {
  const counts: ForgedCounts = { forged: 0, opened: 0 };
  const images = forgedImages(random);
  for (; counts.forged < count && !until(); counts.forged++) {
    const { memory, data_crc, changed } = images.next().value;
    const what = `forged image ${counts.forged} of seed ${random.seed}`;
    try {
      if (guard("outside", () => use(memory, data_crc, random))) counts.opened++;
    } catch (error) {
      if (!(error instanceof Violation)) throw error;
      throw new Violation(error.check, `${what}, ${changed}: ${error.message}`, { cause: error });
    }
  }
  return counts;
}

/** Forges one field or a few. Returns what. */
function forge(memory: SimMemory, { structures }: Origin, random: Random): string {
  const changed: string[] = [];
  for (let n = random.pick([1, 1, 1, 2, 3]); n > 0; n--) {
    const { addr, len, stride } = random.pick(structures);
    const field = 4 * random.between(1, len / 4 - 1);
    const value = random.chance(0.3)
      ? random.u32()
      : (random.pick(BOUNDARIES) + random.pick([0, 0, 0, -1, 1])) >>> 0;
    const width = random.chance(0.9) ? 4 : 1; // one byte: version, or a part of a field
    for (const at of stride === 0 || random.chance(0.4) ? [addr] : [addr, addr + stride]) {
      const bytes = memory.bytes.subarray(at, at + len);
      if (width === 4) putU32(bytes, field, value);
      else bytes[field + random.below(4)] = value;
      // A kset's checksum covers what its header now claims, as far as the segment goes.
      const is_last = len >= KSET_HEADER_BYTES && (u32At(bytes, 16) & 1) !== 0;
      const claimed = stride === 0 && addr > SEGMENTS_ADDR
        ? KSET_HEADER_BYTES + (is_last ? 0 : u32At(bytes, 4) * KEY_BYTES)
        : len;
      const room = SEGMENT_BYTES - ((at - SEGMENTS_ADDR) % SEGMENT_BYTES + SEGMENT_BYTES) %
          SEGMENT_BYTES;
      const covered = addr > SEGMENTS_ADDR ? Math.min(claimed, room) : claimed;
      putU32(bytes, 0, crc32c(memory.bytes, at + 4, at + covered));
    }
    changed.push(`${value} at ${addr}+${field}`);
  }
  return changed.join(", ");
}

/** Opens the image, reads all of it, and lets write-back and GC go for a while. False: it was refused. */
function use(memory: SimMemory, data_crc: boolean, random: Random): boolean {
  const backing = new SimBacking(new Uint8Array(DEVICE_BYTES), memory.bytes, random);
  let engine: Engine;
  try {
    const inspection = inspectCache(memory, { geometry: GEOMETRY, data_crc });
    const cache = prepareCache(memory, inspection);
    engine = Engine.open({ memory, backing, cache, now_ms: 0, limits: LIMITS });
  } catch (error) {
    if (error instanceof CacheError && error.message.length > 20) return false;
    throw error;
  }
  let now_ms = 0;
  let turns = 0;
  const turn = () => {
    engine.pump(now_ms);
    if (!backing.endOne((id, errno) => engine.backingDone(id, errno))) now_ms += 100;
    if (++turns > MOST_TURNS) throw new Error(`not read out after ${MOST_TURNS} turns`);
  };
  const step = Math.min(engine.max_request_bytes, 8 * SECTOR);
  for (let off = 0; off < engine.size_bytes; off += step) {
    const slot = engine.beginRead(off, Math.min(step, engine.size_bytes - off));
    while (engine.takeAnswered() !== slot) turn();
    engine.release(slot);
  }
  engine.setDraining(true);
  engine.setGcPercent(random.below(91));
  for (let i = 0; i < 20; i++) turn();
  return true;
}

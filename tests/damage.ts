/**
 * Damages to a cache device: what a flipped bit, a zeroed or lost page does to each structure of the format, where the structures stand.
 *
 * @module
 */

import {
  DIRTY_TAIL_ADDR,
  GENERATION_OFF_BYTES,
  INFO_ADDR,
  INFO_STRIDE_BYTES,
  KERNEL_GEOMETRY,
  KEY_BYTES,
  KEY_TAIL_ADDR,
  KSET_HEADER_BYTES,
  SEGMENT_INFO_STRIDE_BYTES,
  segmentAddr,
  SUPERBLOCK_ADDR,
} from "../core/format.ts";
import { LOG_KEYS, LOG_LAST, LogReader } from "../core/log_reader.ts";
import { inspectCache, type OpenedCache } from "../core/media.ts";
import type { SimMemory } from "./sim_memory.ts";

/** The structures of an image that is whole. */
export class Anatomy {
  readonly cache: OpenedCache;
  /** Address of each kset of the log, in order, and how many keys it has; 0: a last kset. */
  readonly ksets: readonly { readonly addr: number; readonly keys: number }[];
  /** Where the log ends. */
  readonly end_addr: number;

  constructor(memory: SimMemory, data_crc: boolean) {
    const { cache } = inspectCache(memory, { data_crc });
    if (cache === undefined) throw new Error("an image that holds a cache is wanted");
    this.cache = cache;
    const ksets: { addr: number; keys: number }[] = [];
    const reader = new LogReader(cache, memory, cache.key_tail.seg, cache.key_tail.off);
    for (let kind = reader.read(); kind === LOG_KEYS || kind === LOG_LAST; kind = reader.read()) {
      const keys = kind === LOG_KEYS ? reader.key_num : 0;
      ksets.push({ addr: cache.dataAddr(reader.seg, reader.off), keys });
      reader.advance(kind);
    }
    this.ksets = ksets;
    this.end_addr = cache.dataAddr(reader.seg, reader.off);
  }

  /** A kset of keys in the middle of those that are not written back. */
  get middleKset(): { addr: number; keys: number; i: number } {
    const { dirty_tail } = this.cache;
    const dirty_addr = this.cache.dataAddr(dirty_tail.seg, dirty_tail.off);
    const first = Math.max(0, this.ksets.findIndex(({ addr }) => addr === dirty_addr));
    const i = Math.floor((first + this.ksets.length) / 2);
    return { ...this.ksets[i]!, i };
  }
}

/** Flips a bit. */
function flip(memory: SimMemory, addr: number): void {
  memory.bytes[addr] = memory.bytes[addr]! ^ 0x10;
}

/** Flips a bit in both slots, which are `stride_bytes` apart. */
function flipBoth(memory: SimMemory, addr: number, stride_bytes: number): void {
  flip(memory, addr);
  flip(memory, addr + stride_bytes);
}

function zero(memory: SimMemory, addr: number, len_bytes: number): void {
  memory.bytes.fill(0, addr, addr + len_bytes);
}

/** One way of damaging an image, and what is to be said of it. */
export interface Damage {
  readonly what: string;
  readonly act: (memory: SimMemory, anatomy: Anatomy) => void;
  /** The finding: severity, then a part of its text. */
  readonly found: readonly ["error" | "warning", string];
  /** What a repair does: everything is there again, or a part of the log is lost. */
  readonly repaired: "whole" | "lost";
}

const SEG = 5;
const SEG_ADDR = segmentAddr(KERNEL_GEOMETRY, SEG);

/** Damages that every image can be given. */
export const DAMAGES: readonly Damage[] = [
  ...[0, 4, 8, 16, 20].map((field): Damage => ({
    what: `a flipped bit in the superblock's byte ${field}`,
    act: (memory) => flip(memory, SUPERBLOCK_ADDR + field),
    found: ["error", "superblock: "],
    repaired: "whole",
  })),
  {
    what: "a zeroed superblock page",
    act: (memory) => zero(memory, SUPERBLOCK_ADDR, 4096),
    found: ["error", "superblock: magic 0"],
    repaired: "whole",
  },
  {
    // The kernel stores a segment's info before it knows which segment follows, and again then.
    what: "a flipped bit in the newer slot of a segment info",
    act: (memory) => flip(memory, SEG_ADDR + 12),
    found: [
      "error",
      `segment info of device segment ${SEG}: the chain ends at cache segment ${SEG}`,
    ],
    repaired: "whole",
  },
  {
    what: "a flipped bit in the older slot of a segment info",
    act: (memory) => flip(memory, SEG_ADDR + SEGMENT_INFO_STRIDE_BYTES + 12),
    found: ["warning", `segment info of device segment ${SEG}: slot 1 is torn or damaged`],
    repaired: "whole",
  },
  {
    what: "both slots of the cache info flipped",
    act: (memory) => flipBoth(memory, INFO_ADDR + 12, INFO_STRIDE_BYTES),
    found: ["error", "cache info: no valid copy: slot 0 is damaged"],
    repaired: "whole",
  },
  {
    what: "both pages of the cache info zeroed",
    act: (memory) => zero(memory, INFO_ADDR, 2 * INFO_STRIDE_BYTES),
    found: ["error", "cache info: no valid copy: slot 0 is blank, slot 1 blank"],
    repaired: "whole",
  },
  {
    what: "superblock and cache info zeroed",
    act: (memory) => zero(memory, SUPERBLOCK_ADDR, 3 * 4096),
    found: ["error", "cache info: no valid copy"],
    repaired: "whole",
  },
  {
    what: "both slots of a segment info flipped",
    act: (memory) => flipBoth(memory, SEG_ADDR + 12, SEGMENT_INFO_STRIDE_BYTES),
    found: ["error", `segment info of device segment ${SEG}: no valid copy, but one is needed`],
    repaired: "whole",
  },
  {
    what: "the infos of three segments zeroed",
    act: (memory) => {
      for (const seg of [0, 7, 8]) zero(memory, segmentAddr(KERNEL_GEOMETRY, seg), 8192);
    },
    found: ["error", "segment info of device segment 0: no valid copy"],
    repaired: "whole",
  },
  {
    what: "both slots of all generations damaged",
    act: (memory, { cache }) => {
      for (let seg = 0; seg < cache.n_segs; seg++) {
        const addr = segmentAddr(KERNEL_GEOMETRY, seg) + GENERATION_OFF_BYTES;
        memory.bytes.fill(0xa5, addr, addr + 32);
      }
    },
    found: ["error", "generation of cache segment 0: no valid copy"],
    repaired: "whole",
  },
  {
    what: "both slots of the key tail zeroed",
    act: (memory) => zero(memory, KEY_TAIL_ADDR, 32),
    found: ["error", "key tail: no valid copy"],
    repaired: "whole",
  },
  {
    what: "both slots of the dirty tail flipped",
    act: (memory) => flipBoth(memory, DIRTY_TAIL_ADDR + 8, 16),
    found: ["error", "dirty tail: no valid copy"],
    repaired: "whole",
  },
  {
    what: "one slot of the dirty tail torn in its checksum, the other one's content flipped",
    act: (memory) => {
      zero(memory, DIRTY_TAIL_ADDR, 4);
      flip(memory, DIRTY_TAIL_ADDR + 16 + 12);
    },
    found: ["error", "dirty tail: no valid copy: slot 0 is damaged, slot 1 damaged"],
    repaired: "whole",
  },
  {
    what: "the whole page of the tails zeroed",
    act: (memory) => zero(memory, KEY_TAIL_ADDR, 4096),
    found: ["error", "key tail: no valid copy: slot 0 is blank, slot 1 blank"],
    repaired: "whole",
  },
  {
    what: "something behind the end of the log",
    act: (memory, { end_addr }) => memory.bytes.fill(0x77, end_addr, end_addr + 100),
    found: ["warning", "with a kset that is torn or damaged; nothing follows it"],
    repaired: "whole",
  },
];

/** Damages to a log that has several ksets. */
export const LOG_DAMAGES: readonly Damage[] = [
  ...([
    ["a flipped bit in its checksum", 1],
    ["a flipped bit in its number of keys", 4],
    ["a flipped bit in its magic", 9],
    ["a flipped bit in a key's offset", KSET_HEADER_BYTES + 2],
    ["a flipped bit in a key's checksum", KSET_HEADER_BYTES + 32],
  ] as const).map(([what, at]): Damage => ({
    what: `a kset in the middle with ${what}`,
    act: (memory, { middleKset }) => flip(memory, middleKset.addr + at),
    found: ["error", "with a kset that is torn or damaged; "],
    repaired: "whole",
  })),
  {
    what: "a kset with an overwritten magic",
    act: (memory, { middleKset: { addr } }) => memory.bytes.fill(0x5a, addr + 8, addr + 16),
    found: ["error", "with a kset that is torn or damaged; "],
    repaired: "whole",
  },
  {
    what: "a kset whose last key is overwritten",
    act: (memory, { middleKset: { addr, keys } }) => {
      const last = addr + KSET_HEADER_BYTES + (keys - 1) * KEY_BYTES;
      memory.bytes.fill(0xff, last, last + KEY_BYTES);
    },
    found: ["error", "with a kset that is torn or damaged; "],
    repaired: "lost",
  },
  {
    what: "a kset with a key whose offset is overwritten, which its data does not show",
    act: (memory, { middleKset: { addr } }) => {
      const off_addr = addr + KSET_HEADER_BYTES + KEY_BYTES;
      memory.bytes[off_addr + 1] = memory.bytes[off_addr + 1]! ^ 0x62;
    },
    found: ["error", "with a kset that is torn or damaged; "],
    repaired: "lost",
  },
];

/** Damages to a log that goes on in another segment. */
export const CHAIN_DAMAGES: readonly Damage[] = [
  ...[1, 4, 6].map((at): Damage => ({
    what: `a last kset with a flipped bit in its byte ${at}`,
    act: (memory, { ksets }) => flip(memory, ksets.find(({ keys }) => keys === 0)!.addr + at),
    found: ["error", "damaged; the log goes on in another segment, which is lost"],
    repaired: "whole",
  })),
];

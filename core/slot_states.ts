/**
 * Both slots of a structure that stands twice on the media (FORMAT, "Metadata header"), for those who want to know about each of them.
 *
 * @module
 */

import { crc32c } from "./crc32c.ts";
import { HEADER_VERSION, u32At } from "./format.ts";
import type { Memory } from "./platform.ts";
import { isNewer } from "./slots.ts";

/** `blank`: all zero, never written. `damaged`: neither that nor a copy with its checksum: torn by a power cut, or damaged. */
export type SlotState = "valid" | "blank" | "damaged";

/** What stands in the two slots of one structure. */
export interface SlotStates {
  readonly states: readonly [SlotState, SlotState];
  /** The copy that counts, header and all; null: neither is valid. */
  readonly latest: Uint8Array | null;
  /** Two valid copies say different things with the same sequence number: which one is newer cannot be told. */
  readonly is_ambiguous: boolean;
  /** What is wrong with the header of the copy that counts; "": nothing. */
  readonly header_fault: string;
}

/** Reads the slots of the structure at `addr`, `len_bytes` long, `stride_bytes` apart. */
export function readSlotStates(
  memory: Memory,
  addr: number,
  len_bytes: number,
  stride_bytes: number,
): SlotStates {
  const copies = [0, 1].map((slot) => {
    const bytes = new Uint8Array(len_bytes);
    memory.read(addr + slot * stride_bytes, bytes, len_bytes);
    return bytes;
  }) as [Uint8Array, Uint8Array];
  const states = copies.map(stateOf) as [SlotState, SlotState];
  const [first, second] = copies;
  const both = states[0] === "valid" && states[1] === "valid";
  const has_newer_second = states[1] === "valid" && (!both || isNewer(second[4]!, first[4]!));
  const latest = has_newer_second ? second : states[0] === "valid" ? first : null;
  return {
    states,
    latest,
    is_ambiguous: both && first[4] === second[4] && first.some((byte, i) => byte !== second[i]),
    header_fault: latest === null ? "" : headerFault(latest),
  };
}

function stateOf(bytes: Uint8Array): SlotState {
  // In this order: FORMAT's checksum of zeroes is not zero.
  if (bytes.every((byte) => byte === 0)) return "blank";
  return crc32c(bytes, 4, bytes.length) === u32At(bytes, 0) ? "valid" : "damaged";
}

function headerFault(bytes: Uint8Array): string {
  const version = bytes[5]!;
  if (version !== HEADER_VERSION) return `version ${version}, but only ${HEADER_VERSION} is known`;
  const reserved = bytes[6]! | bytes[7]! << 8;
  return reserved === 0 ? "" : `reserved field ${reserved}, but it must be 0`;
}

/**
 * Messages of generic netlink, bytes in and bytes out (netlink(7), Linux' linux/netlink.h and linux/genetlink.h): a header of 16
 * bytes, one of 4 with the command, then attributes, each with a header of 4 and filled up to a multiple of 4. Everything
 * is in the host's order, which is little-endian wherever this program runs.
 *
 * What comes from the kernel is checked as if it came from anybody: lengths must fit.
 *
 * @module
 */

import { assert } from "../core/assert.ts";

/** The family that knows the others, and how it is asked (`GENL_ID_CTRL`, `CTRL_...`). */
export const CONTROL_FAMILY = 0x10;
export const CONTROL_GET_FAMILY = 3;
export const CONTROL_FAMILY_ID = 1;
export const CONTROL_FAMILY_NAME = 2;

const HEADER_BYTES = 16;
const COMMAND_BYTES = 4;
const ATTRIBUTE_BYTES = 4;
const ERROR_BYTES = 4;
/** `NLMSG_ERROR`: how a request has ended. Types below 16 are netlink's own. */
const TYPE_ERROR = 2;
const FIRST_FAMILY = 0x10;
/** `NLM_F_REQUEST | NLM_F_ACK`: every request is answered with how it has ended. */
const FLAGS = 0x1 | 0x4;
/** `NLA_F_NESTED`, and what is no part of an attribute's type. */
const NESTED = 0x8000;
const TYPE_MASK = 0x3fff;
const COMMAND_VERSION = 1;
const MAX_ATTRIBUTE_BYTES = 0xffff;

/** An attribute that is to be sent. */
export type Attribute = readonly [type: number, value: Value];
/** What an attribute carries: bytes as they are, or other attributes. */
export type Value = Uint8Array | readonly Attribute[];
/** What attributes of an answer carry, by type; of several of one type the last. */
export type Attributes = ReadonlyMap<number, Uint8Array>;

/** One message of the kernel's. */
export type Message =
  /** How the request has ended: 0, or an error number. */
  | { readonly kind: "end"; readonly seq: number; readonly errno: number }
  | { readonly kind: "reply"; readonly seq: number; readonly attributes: Attributes };

/** The kernel's words make no sense. */
export class NetlinkFormatError extends Error {
  override readonly name = "NetlinkFormatError";
}

/** A value of 32 bits. */
export function u32(value: number): Uint8Array {
  return new Uint8Array(new Uint32Array([value]).buffer);
}

/** A value of 64 bits, from a number up to 2^53. */
export function u64(value: number): Uint8Array {
  assert(Number.isSafeInteger(value) && value >= 0, `netlink: ${value} is no count`);
  return new Uint8Array(new BigUint64Array([BigInt(value)]).buffer);
}

/** A text with its final zero. */
export function text(value: string): Uint8Array {
  return new TextEncoder().encode(value + "\0");
}

/** A request to a family. */
export function request(
  family: number,
  command: number,
  seq: number,
  attributes: readonly Attribute[],
): Uint8Array<ArrayBuffer> {
  const body = encoded(attributes);
  const bytes = new Uint8Array(HEADER_BYTES + COMMAND_BYTES + body.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, bytes.length, true);
  view.setUint16(4, family, true);
  view.setUint16(6, FLAGS, true);
  view.setUint32(8, seq, true);
  bytes[HEADER_BYTES] = command;
  bytes[HEADER_BYTES + 1] = COMMAND_VERSION;
  bytes.set(body, HEADER_BYTES + COMMAND_BYTES);
  return bytes;
}

function encoded(attributes: readonly Attribute[]): Uint8Array {
  const parts = attributes.map(([type, value]) => {
    const is_nested = !(value instanceof Uint8Array);
    const data = is_nested ? encoded(value) : value;
    const len_bytes = ATTRIBUTE_BYTES + data.length;
    assert(len_bytes <= MAX_ATTRIBUTE_BYTES, `netlink: an attribute of ${len_bytes} bytes`);
    const part = new Uint8Array(aligned(len_bytes));
    const view = new DataView(part.buffer);
    view.setUint16(0, len_bytes, true);
    view.setUint16(2, is_nested ? type | NESTED : type, true);
    part.set(data, ATTRIBUTE_BYTES);
    return part;
  });
  const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

/**
 * Takes what one receive has brought apart.
 *
 * @throws {NetlinkFormatError} A length does not fit.
 */
export function parseMessages(bytes: Uint8Array): Message[] {
  const messages: Message[] = [];
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let at = 0; at < bytes.length;) {
    const len_bytes = bytes.length - at < HEADER_BYTES ? 0 : view.getUint32(at, true);
    if (len_bytes < HEADER_BYTES || at + len_bytes > bytes.length) {
      throw new NetlinkFormatError(
        `a message of ${len_bytes} bytes at ${at} of ${bytes.length}: at least ${HEADER_BYTES} are wanted, all of them there`,
      );
    }
    const type = view.getUint16(at + 4, true);
    const seq = view.getUint32(at + 8, true);
    const body = bytes.subarray(at + HEADER_BYTES, at + len_bytes);
    if (type === TYPE_ERROR) messages.push({ kind: "end", seq, errno: errnoOf(body) });
    else if (type >= FIRST_FAMILY) messages.push({ kind: "reply", seq, attributes: replyOf(body) });
    at += aligned(len_bytes);
  }
  return messages;
}

function errnoOf(body: Uint8Array): number {
  if (body.length < ERROR_BYTES) throw new NetlinkFormatError("an end without an error number");
  return -new DataView(body.buffer, body.byteOffset).getInt32(0, true) | 0;
}

function replyOf(body: Uint8Array): Attributes {
  if (body.length < COMMAND_BYTES) throw new NetlinkFormatError("an answer without a command");
  return parseAttributes(body.subarray(COMMAND_BYTES));
}

function parseAttributes(bytes: Uint8Array): Attributes {
  const found = new Map<number, Uint8Array>();
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let at = 0; at < bytes.length;) {
    const len_bytes = bytes.length - at < ATTRIBUTE_BYTES ? 0 : view.getUint16(at, true);
    if (len_bytes < ATTRIBUTE_BYTES || at + len_bytes > bytes.length) {
      throw new NetlinkFormatError(
        `an attribute of ${len_bytes} bytes at ${at} of ${bytes.length}`,
      );
    }
    const type = view.getUint16(at + 2, true) & TYPE_MASK;
    found.set(type, bytes.slice(at + ATTRIBUTE_BYTES, at + len_bytes));
    at += aligned(len_bytes);
  }
  return found;
}

/**
 * A number of 16 or 32 bits.
 *
 * @throws {NetlinkFormatError} It is not there, or not of this length.
 */
export function numberOf(attributes: Attributes, type: number, bytes: 2 | 4): number {
  const value = attributes.get(type);
  if (value?.length !== bytes) {
    throw new NetlinkFormatError(
      `attribute ${type} has ${value?.length ?? "no"} bytes, ${bytes} are wanted`,
    );
  }
  const view = new DataView(value.buffer, value.byteOffset, bytes);
  return bytes === 2 ? view.getUint16(0, true) : view.getUint32(0, true);
}

function aligned(len_bytes: number): number {
  return (len_bytes + 3) & ~3;
}

/**
 * Conversations of NBD clients that are right at first and then are changed here and there: bytes, fields, whole messages.
 *
 * @module
 */

import type { Random } from "../../io/nbd/fakes.ts";
import * as nbd from "../../io/nbd/protocol.ts";
import { contextQuery, option, u32, u64 } from "../../io/nbd/rig.ts";
import { EXTENDED, requestMagic, SIMPLE, STRUCTURED } from "../../io/nbd/session.ts";

/** One message of a client. */
export interface Message {
  /** The state that the server is in when it comes, and what it is. */
  readonly state: string;
  bytes: number[];
}

export interface Conversation {
  readonly messages: Message[];
  /** The states in which something was changed. */
  readonly changed: readonly string[];
}

/** What the fuzzed server serves. */
export const SIZE_BYTES = 16 * 1024;
export const MAX_BYTES = 2048;

const STYLE_NAMES = ["simple", "structured", "extended"];
const COMMANDS = [
  nbd.CMD_READ,
  nbd.CMD_WRITE,
  nbd.CMD_DISC,
  nbd.CMD_FLUSH,
  nbd.CMD_TRIM,
  nbd.CMD_CACHE,
  nbd.CMD_WRITE_ZEROES,
  nbd.CMD_BLOCK_STATUS,
  8,
  0xffff,
];
const OPTIONS = [
  nbd.OPT_LIST,
  nbd.OPT_INFO,
  nbd.OPT_LIST_META_CONTEXT,
  nbd.OPT_SET_META_CONTEXT,
  5, // STARTTLS
  77,
];
const QUERIES = ["base:allocation", "pcache:dirty", "base:", "pcache:", "other:x", "none"];
const U32_MAX = 2 ** 32 - 1;
/** Numbers near which things break. */
const EDGES = [0, 1, 511, 512, MAX_BYTES, MAX_BYTES + 1, SIZE_BYTES, 2 ** 31, U32_MAX];

/** Every state that `converse` can change something in. */
export function allStates(): string[] {
  const states = ["client flags"];
  for (const style of STYLE_NAMES) {
    for (const number of [...OPTIONS, nbd.OPT_GO]) states.push(`${style}: option ${number}`);
    for (const type of COMMANDS) states.push(`${style}: command ${type}`);
  }
  for (const style of STYLE_NAMES.slice(0, 2)) {
    states.push(`${style}: option ${nbd.OPT_EXPORT_NAME}`);
  }
  states.push(`simple: option ${nbd.OPT_STRUCTURED_REPLY}`);
  states.push(`simple: option ${nbd.OPT_EXTENDED_HEADERS}`);
  states.push(`structured: option ${nbd.OPT_EXTENDED_HEADERS}`);
  return states;
}

/** A conversation, changed in up to three places. */
export function converse(random: Random): Conversation {
  const messages = [
    message("client flags", u32(nbd.FLAG_FIXED_NEWSTYLE | random.next(2) * nbd.FLAG_NO_ZEROES)),
  ];
  const style = negotiate(random, messages);
  for (let count = random.next(12); count > 0; count--) messages.push(request(random, style));
  const changed: string[] = [];
  for (let count = random.next(4); count > 0; count--) changed.push(change(random, messages));
  return { messages, changed };
}

function message(state: string, bytes: number[]): Message {
  return { state, bytes };
}

function optionMessage(style: number, number: number, data: number[]): Message {
  return message(`${STYLE_NAMES[style]}: option ${number}`, option(number, data));
}

/** Adds options up to the one that leads to the transmission phase. Returns the style that was agreed on. */
function negotiate(random: Random, messages: Message[]): number {
  let style = SIMPLE;
  const wanted = random.next(3);
  const some = (most: number) => {
    for (let count = random.next(most); count > 0; count--) {
      const number = pick(random, OPTIONS);
      messages.push(optionMessage(style, number, optionData(random, number)));
    }
  };
  some(2);
  if (wanted === STRUCTURED || (wanted === EXTENDED && random.chance(30))) {
    messages.push(optionMessage(style, nbd.OPT_STRUCTURED_REPLY, []));
    style = STRUCTURED;
  }
  some(2);
  if (wanted === EXTENDED) {
    messages.push(optionMessage(style, nbd.OPT_EXTENDED_HEADERS, []));
    style = EXTENDED;
  }
  some(3);
  if (style !== SIMPLE && random.chance(70)) {
    const number = nbd.OPT_SET_META_CONTEXT;
    messages.push(optionMessage(style, number, contextQuery(...QUERIES.slice(0, 2))));
  }
  const number = style !== EXTENDED && random.chance(20) ? nbd.OPT_EXPORT_NAME : nbd.OPT_GO;
  messages.push(optionMessage(style, number, number === nbd.OPT_GO ? infoQuery(random) : []));
  return style;
}

function optionData(random: Random, number: number): number[] {
  if (number === nbd.OPT_INFO) return infoQuery(random);
  if (number === nbd.OPT_LIST) return [];
  if (number !== nbd.OPT_LIST_META_CONTEXT && number !== nbd.OPT_SET_META_CONTEXT) {
    return payload(random, random.next(40));
  }
  return contextQuery(...Array.from({ length: random.next(4) }, () => pick(random, QUERIES)));
}

function infoQuery(random: Random): number[] {
  const types = Array.from({ length: random.next(4) }, () => random.next(6));
  return [...u32(0), 0, types.length, ...types.flatMap((type) => [0, type])];
}

function request(random: Random, style: number): Message {
  const type = random.chance(60) ? random.next(2) : pick(random, COMMANDS);
  const has_range = type !== nbd.CMD_FLUSH && type !== nbd.CMD_DISC;
  const takes_payload = type === nbd.CMD_WRITE;
  let len = has_range ? 1 + random.next(random.chance(80) ? 600 : MAX_BYTES) : 0;
  let off = has_range ? random.next(SIZE_BYTES - 512 - len) : 0;
  if (random.chance(5)) off = pick(random, EDGES);
  if (random.chance(5) && !takes_payload) len = pick(random, EDGES);
  let flags = takes_payload && style === EXTENDED ? nbd.CMD_FLAG_PAYLOAD_LEN : 0;
  if (random.chance(20)) flags |= 1 << random.next(6);
  const head = [flags >> 8, flags & 255, type >> 8, type & 255];
  const where = [...u64(off), ...(style === EXTENDED ? u64(len) : u32(len))];
  const cookie = payload(random, 8);
  const bytes = [...u32(requestMagic(style)), ...head, ...cookie, ...where];
  if (takes_payload) bytes.push(...payload(random, len));
  return message(`${STYLE_NAMES[style]}: command ${type}`, bytes);
}

/** Bytes below 128: what others must not see has larger ones. */
function payload(random: Random, len: number): number[] {
  return Array.from({ length: len }, () => random.next(128));
}

/** Changes a message, or its place. Returns its state. */
function change(random: Random, messages: Message[]): string {
  const nth = random.next(messages.length);
  const chosen = messages[nth]!;
  const { bytes } = chosen;
  const at = random.next(bytes.length);
  switch (random.next(10)) {
    case 0:
    case 1:
      bytes[at] = random.next(256);
      break;
    case 2:
      bytes[at]! ^= 1 << random.next(8);
      break;
    case 3:
    case 4: // a field of 32 bits
      bytes.splice(at - (at % 4), 4, ...u32(pick(random, EDGES)));
      break;
    case 5:
      bytes.splice(at, 1 + random.next(40));
      break;
    case 6:
      bytes.splice(at, 0, ...payload(random, 1 + random.next(40)));
      break;
    case 7:
      messages.splice(nth, 0, { ...chosen, bytes: [...bytes] });
      break;
    case 8:
      chosen.bytes = payload(random, random.next(100));
      break;
    case 9: { // out of turn
      const other = messages[random.next(messages.length)]!;
      [chosen.bytes, other.bytes] = [other.bytes, chosen.bytes];
      break;
    }
  }
  if (chosen.bytes.length === 0) chosen.bytes = [0];
  return chosen.state;
}

function pick<T>(random: Random, from: readonly T[]): T {
  return from[random.next(from.length)]!;
}

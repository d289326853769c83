/**
 * Conversations of NBD clients that are right at first and then are changed here and there: bytes, fields, whole messages.
 *
 * @module
 */

import { HELLO, type Random } from "../../io/nbd/fakes.ts";
import * as nbd from "../../io/nbd/protocol.ts";
import { contextQuery, option, u32, u64 } from "../../io/nbd/rig.ts";
import { EXTENDED, requestMagic, SIMPLE, STRUCTURED } from "../../io/nbd/session.ts";

/** One message of a client. */
export interface Message {
  /** The state that the server is in when it comes, and what it is. */
  readonly state: string;
  /** Where its payload, or its data, begins. */
  readonly head_bytes: number;
  bytes: Uint8Array;
  /** The next one is not sent before the server has answered this one. */
  readonly waits: boolean;
}

export interface Conversation {
  readonly messages: Message[];
  /** How often something was changed. */
  readonly changes: number;
  /** The state in which the server met the first change, and the kind of change: `state: kind`. Null: it met none. */
  readonly reached: string | null;
  /** Requests that are answered in structured chunks, when nothing was changed; -1: the style says no lengths, or they are not counted. */
  readonly answers: number;
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
  nbd.OPT_STARTTLS,
  77,
];
const QUERIES = ["base:allocation", "pcache:dirty", "base:", "pcache:", "other:x", "none"];
const U32_MAX = 2 ** 32 - 1;
/** Numbers near which things break. */
const EDGES = [0, 1, 511, 512, MAX_BYTES, MAX_BYTES + 1, SIZE_BYTES, 2 ** 31, U32_MAX];

/** STARTTLS as it should be, and the handshake behind it. */
const STARTTLS = "TLS: STARTTLS";
const SHAKE = "TLS: handshake";
const GO = `: option ${nbd.OPT_GO}`;

/** What can be done to a message. */
export const CHANGES = [
  "a byte",
  "a bit",
  "a field",
  "cut out",
  "put in",
  "doubled",
  "replaced",
  "swapped",
] as const;
type Change = typeof CHANGES[number];

/** Every state that `converse` can change something in. */
export function allStates(): string[] {
  const states = ["client flags", STARTTLS, SHAKE];
  for (const style of STYLE_NAMES) {
    for (const number of [...OPTIONS, nbd.OPT_GO]) states.push(`${style}: option ${number}`);
    for (const type of COMMANDS) states.push(`${style}: command ${type}`);
    states.push(`${style}: payload`);
  }
  for (const style of STYLE_NAMES.slice(0, 2)) {
    states.push(`${style}: option ${nbd.OPT_EXPORT_NAME}`);
  }
  states.push(`simple: option ${nbd.OPT_STRUCTURED_REPLY}`);
  states.push(`simple: option ${nbd.OPT_EXTENDED_HEADERS}`);
  states.push(`structured: option ${nbd.OPT_EXTENDED_HEADERS}`);
  return states;
}

/** A conversation, in the clear or under TLS, changed in up to three places. */
export function converse(random: Random, has_tls: boolean): Conversation {
  const messages = [
    message("client flags", u32(nbd.FLAG_FIXED_NEWSTYLE | random.next(2) * nbd.FLAG_NO_ZEROES)),
  ];
  if (has_tls) {
    if (random.chance(30)) messages.push(optionMessage(SIMPLE, nbd.OPT_LIST, []));
    messages.push({ ...message(STARTTLS, option(nbd.OPT_STARTTLS, [])), waits: true });
    messages.push(message(SHAKE, [HELLO]));
  }
  const style = negotiate(random, messages);
  const negotiated = messages.length;
  for (let count = random.next(12); count > 0; count--) messages.push(request(random, style));
  const end = messages.findIndex(({ state }) => state.endsWith(`: command ${nbd.CMD_DISC}`));
  const live = end < 0 ? messages.length : end;
  const is_counted = style !== SIMPLE && messages[negotiated - 1]!.state.endsWith(GO);
  const answers = is_counted ? live - negotiated : -1;
  let first = messages.length;
  let reached = null;
  const changes = random.next(4);
  for (let count = changes; count > 0; count--) {
    const nth = random.next(messages.length);
    const seen = change(random, messages, nth, first);
    // Nothing that came before it is changed, and the conversation is not over.
    if (nth >= first) continue;
    first = nth;
    reached = nth <= live ? seen : null;
  }
  return { messages, changes, reached, answers };
}

/** Bytes below 128: what others must not see has larger ones. */
const POOL = Uint8Array.from(
  { length: 64 * 1024 },
  (_, i) => (Math.imul(i, 0x9e3779b1) >>> 24) & 127,
);

function payload(random: Random, len: number): Uint8Array {
  const from = random.next(POOL.length - len);
  return POOL.slice(from, from + len);
}

function message(state: string, head: number[], payload?: Uint8Array): Message {
  const bytes = new Uint8Array(head.length + (payload?.length ?? 0));
  bytes.set(head);
  if (payload !== undefined) bytes.set(payload, head.length);
  return { state, head_bytes: head.length, bytes, waits: false };
}

function optionMessage(style: number, number: number, data: ArrayLike<number>): Message {
  return message(`${STYLE_NAMES[style]}: option ${number}`, option(number, Array.from(data)));
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

function optionData(random: Random, number: number): ArrayLike<number> {
  if (number === nbd.OPT_INFO) return infoQuery(random);
  if (number === nbd.OPT_LIST) return [];
  // Without data it would be taken at its word.
  if (number === nbd.OPT_STARTTLS) return payload(random, 1 + random.next(40));
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
  let flags = random.chance(20) ? 1 << random.next(6) : 0;
  if (type === nbd.CMD_WRITE && style === EXTENDED) flags |= nbd.CMD_FLAG_PAYLOAD_LEN;
  const has_payload = style === EXTENDED
    ? (flags & nbd.CMD_FLAG_PAYLOAD_LEN) !== 0
    : type === nbd.CMD_WRITE;
  let len = has_range ? 1 + random.next(random.chance(80) ? 600 : MAX_BYTES) : 0;
  let off = has_range ? random.next(SIZE_BYTES - 512 - len) : 0;
  if (random.chance(5)) off = pick(random, EDGES);
  if (random.chance(5) && !has_payload) len = pick(random, EDGES);
  const head = [flags >> 8, flags & 255, type >> 8, type & 255];
  const where = [...u64(off), ...(style === EXTENDED ? u64(len) : u32(len))];
  const cookie = payload(random, 8);
  const bytes = [...u32(requestMagic(style)), ...head, ...cookie, ...where];
  const state = `${STYLE_NAMES[style]}: command ${type}`;
  return message(state, bytes, has_payload ? payload(random, len) : undefined);
}

/** Changes a message, or its place. Returns its state and the kind of change; of a payload that state is one of its own. */
function change(random: Random, messages: Message[], nth: number, first: number): string {
  const chosen = messages[nth]!;
  const { bytes } = chosen;
  const at = random.next(bytes.length);
  const picked: Change = pick(random, CHANGES);
  const is_last = nth === messages.length - 1;
  const kind = picked === "swapped" && is_last ? "replaced" : picked;
  const is_inside = at >= chosen.head_bytes && INSIDE.has(kind);
  switch (kind) {
    case "a byte":
      bytes[at] = random.next(256);
      break;
    case "a bit":
      bytes[at]! ^= 1 << random.next(8);
      break;
    case "a field": { // of 32 bits
      const field = at - (at % 4);
      chosen.bytes = spliced(bytes, field, 4, u32(pick(random, EDGES)));
      break;
    }
    case "cut out":
      chosen.bytes = spliced(bytes, at, 1 + random.next(40), []);
      break;
    case "put in":
      chosen.bytes = spliced(bytes, at, 0, payload(random, 1 + random.next(40)));
      break;
    case "doubled":
      messages.splice(nth, 0, { ...chosen, bytes: bytes.slice() });
      break;
    case "replaced":
      chosen.bytes = payload(random, random.next(100));
      break;
    case "swapped": { // out of turn
      const other = messages[nth + 1 + random.next(messages.length - nth - 1)]!;
      [chosen.bytes, other.bytes] = [other.bytes, chosen.bytes];
      break;
    }
  }
  if (chosen.bytes.length === 0) chosen.bytes = new Uint8Array(1);
  if (nth >= first) return "";
  const state = is_inside ? `${chosen.state.split(":")[0]}: payload` : chosen.state;
  return `${state}: ${kind}`;
}

/** Changes that have a place in the message. */
const INSIDE = new Set<Change>(["a byte", "a bit", "a field", "cut out", "put in"]);

function spliced(bytes: Uint8Array, at: number, cut: number, put: ArrayLike<number>): Uint8Array {
  const after = Math.min(bytes.length, at + cut);
  const made = new Uint8Array(bytes.length - (after - at) + put.length);
  made.set(bytes.subarray(0, at));
  made.set(put, at);
  made.set(bytes.subarray(after), at + put.length);
  return made;
}

function pick<T>(random: Random, from: readonly T[]): T {
  return from[random.next(from.length)]!;
}

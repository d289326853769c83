/**
 * The negotiation with one client (NBD protocol, "Fixed newstyle negotiation"): bytes in, bytes out. It knows no
 * socket; the connection feeds it and sends what it answers.
 *
 * Invariants:
 * - The input of a step is consumed whole messages at a time; a message that is not complete is left alone.
 * - Every option gets an answer, unless the connection ends with it (EXPORT_NAME has no error answer).
 * - After `serve` or `close` no further step is made.
 * - `tls`: the connection goes on under TLS with what `secured` returns, which has forgotten all that was agreed on.
 *
 * @module
 */

import * as nbd from "./protocol.ts";
import { CONTEXTS, EXTENDED, type Session, SIMPLE, STRUCTURED } from "./session.ts";

/** What is served. */
export interface Export {
  /** The device's name. Clients may name it, or leave the name empty. */
  name: string;
  description: string;
  /** It may grow. A client that is connected already was told what held then, and may use the rest all the same. */
  size_bytes: number;
  /** Longest read and longest write: at most `MAX_REQUEST_BYTES`. */
  readonly max_request_bytes: number;
  /** Writes are refused. A client that is connected already was told what held then. */
  read_only: boolean;
  /** The backing device is a disk that turns. */
  readonly is_rotational: boolean;
  /** Every request is answered with EIO. */
  is_failing: boolean;
}

/** The transmission flags of an export, for a client with which `style` of replies was agreed on. */
export function transmissionFlags(served: Export, style: number): number {
  return nbd.FLAG_HAS_FLAGS | nbd.FLAG_SEND_FLUSH | nbd.FLAG_SEND_FUA | nbd.FLAG_CAN_MULTI_CONN |
    nbd.FLAG_SEND_CACHE | nbd.FLAG_SEND_TRIM | nbd.FLAG_SEND_WRITE_ZEROES |
    nbd.FLAG_SEND_FAST_ZERO | (served.read_only ? nbd.FLAG_READ_ONLY : 0) |
    (served.is_rotational ? nbd.FLAG_ROTATIONAL : 0) | (style === SIMPLE ? 0 : nbd.FLAG_SEND_DF);
}

/** What a server does with STARTTLS ("TLS"): it has no TLS, it lets the client choose, or it answers nothing without. */
export type TlsPolicy = "off" | "on" | "require";

/** What one message of the client led to. */
export interface Step {
  /** Bytes of the input that are done with. */
  readonly consumed_bytes: number;
  /** To be sent before anything else; may be empty. */
  readonly reply: Uint8Array;
  /**
   * `serve`: the transmission phase begins. `close`: the connection ends when the reply has been sent. `tls`: the client's next
   * bytes are those of a TLS handshake.
   */
  readonly then: "continue" | "serve" | "close" | "tls";
}

const NOTHING = new Uint8Array(0);
const OPTION_HEADER_BYTES = 16;

const encoder = new TextEncoder();
// Invalid UTF-8 becomes U+FFFD, which is in no device's name: such an export is unknown.
const decoder = new TextDecoder();

export class Handshake {
  readonly #export: Export;
  readonly #tls: TlsPolicy;
  #is_secure = false;
  #stage: "flags" | "options" = "flags";
  #fixed = false;
  #no_zeroes = false;
  #options = 0;
  #style = SIMPLE;
  #contexts = 0;
  /** Bytes of an oversized option that are still to be skipped. */
  #skip_bytes = 0;

  constructor(served: Export, tls: TlsPolicy) {
    this.#export = served;
    this.#tls = tls;
  }

  /** The negotiation that goes on under TLS: of what was said in the clear, only the client's flags count (they are not sent again). */
  secured(): Handshake {
    const next = new Handshake(this.#export, this.#tls);
    next.#is_secure = true;
    next.#stage = this.#stage;
    next.#fixed = this.#fixed;
    next.#no_zeroes = this.#no_zeroes;
    next.#options = this.#options;
    return next;
  }

  /** What has been agreed on so far. */
  get session(): Session {
    return { style: this.#style, contexts: this.#contexts };
  }

  /** The server speaks first: both magics and the handshake flags. */
  greeting(): Uint8Array {
    const out = new Writer(18);
    out.u32(nbd.INIT_MAGIC_HI).u32(nbd.INIT_MAGIC_LO);
    out.u32(nbd.OPTION_MAGIC_HI).u32(nbd.OPTION_MAGIC_LO);
    out.u16(nbd.FLAG_FIXED_NEWSTYLE | nbd.FLAG_NO_ZEROES);
    return out.bytes();
  }

  /** Handles the next message of the client; null when more bytes are needed. */
  step(input: Uint8Array): Step | null {
    if (input.length === 0) return null;
    if (this.#skip_bytes > 0) {
      const skipped_bytes = Math.min(this.#skip_bytes, input.length);
      this.#skip_bytes -= skipped_bytes;
      return goOn(skipped_bytes, NOTHING);
    }
    const view = new DataView(input.buffer, input.byteOffset, input.byteLength);
    return this.#stage === "flags" ? this.#clientFlags(view) : this.#option(view);
  }

  #clientFlags(view: DataView): Step | null {
    if (view.byteLength < 4) return null;
    const flags = view.getUint32(0);
    if ((flags & ~(nbd.FLAG_FIXED_NEWSTYLE | nbd.FLAG_NO_ZEROES)) !== 0) return close(4, NOTHING);
    this.#fixed = (flags & nbd.FLAG_FIXED_NEWSTYLE) !== 0;
    this.#no_zeroes = (flags & nbd.FLAG_NO_ZEROES) !== 0;
    this.#stage = "options";
    return goOn(4, NOTHING);
  }

  #option(view: DataView): Step | null {
    if (view.byteLength < OPTION_HEADER_BYTES) return null;
    if (view.getUint32(0) !== nbd.OPTION_MAGIC_HI || view.getUint32(4) !== nbd.OPTION_MAGIC_LO) {
      return close(view.byteLength, NOTHING);
    }
    const option = view.getUint32(8);
    const len_bytes = view.getUint32(12);
    // A client without fixed newstyle understands no option reply: it may only name its export.
    if (!this.#fixed && option !== nbd.OPT_EXPORT_NAME) return close(OPTION_HEADER_BYTES, NOTHING);
    if (len_bytes > nbd.MAX_OPTION_BYTES) return this.#oversizedOption(option, len_bytes);
    const end = OPTION_HEADER_BYTES + len_bytes;
    if (view.byteLength < end) return null;
    this.#options += 1;
    if (this.#options > nbd.MAX_OPTIONS) return close(end, NOTHING);
    const data = new DataView(view.buffer, view.byteOffset + OPTION_HEADER_BYTES, len_bytes);
    return this.#answer(option, data, end);
  }

  #oversizedOption(option: number, len_bytes: number): Step {
    this.#options += 1;
    if (
      option === nbd.OPT_EXPORT_NAME || len_bytes > nbd.MAX_SKIPPED_OPTION_BYTES ||
      this.#options > nbd.MAX_OPTIONS
    ) {
      return close(OPTION_HEADER_BYTES, NOTHING);
    }
    this.#skip_bytes = len_bytes;
    const text = `option data: ${len_bytes} bytes, at most ${nbd.MAX_OPTION_BYTES} are taken`;
    const reply = this.#isRefusedInTheClear(option)
      ? tlsRequired(option)
      : optionError(option, nbd.REP_ERR_TOO_BIG, text);
    return goOn(OPTION_HEADER_BYTES, reply);
  }

  /** "FORCEDTLS mode": nothing is said without TLS but how to get there, and goodbye. */
  #isRefusedInTheClear(option: number): boolean {
    if (this.#tls !== "require" || this.#is_secure) return false;
    return option !== nbd.OPT_STARTTLS && option !== nbd.OPT_ABORT;
  }

  #answer(option: number, data: DataView, consumed_bytes: number): Step {
    if (this.#isRefusedInTheClear(option)) {
      // EXPORT_NAME has no error answer.
      if (option === nbd.OPT_EXPORT_NAME) return close(consumed_bytes, NOTHING);
      return goOn(consumed_bytes, tlsRequired(option));
    }
    switch (option) {
      case nbd.OPT_EXPORT_NAME:
        return this.#exportName(data, consumed_bytes);
      case nbd.OPT_ABORT:
        return close(consumed_bytes, optionReply(option, nbd.REP_ACK, NOTHING));
      case nbd.OPT_STARTTLS:
        return this.#startTls(data, consumed_bytes);
      case nbd.OPT_LIST:
        return goOn(consumed_bytes, this.#list(data));
      case nbd.OPT_INFO:
      case nbd.OPT_GO:
        return this.#infoOrGo(option, data, consumed_bytes);
      case nbd.OPT_STRUCTURED_REPLY:
      case nbd.OPT_EXTENDED_HEADERS:
        return goOn(consumed_bytes, this.#agreeOnStyle(option, data));
      case nbd.OPT_LIST_META_CONTEXT:
      case nbd.OPT_SET_META_CONTEXT:
        return goOn(consumed_bytes, this.#metaContexts(option, data));
      default:
        return goOn(consumed_bytes, optionError(option, nbd.REP_ERR_UNSUP, "option not supported"));
    }
  }

  #startTls(data: DataView, consumed_bytes: number): Step {
    const option = nbd.OPT_STARTTLS;
    const refuse = (type: number, text: string) =>
      goOn(consumed_bytes, optionError(option, type, text));
    if (data.byteLength !== 0) return refuse(nbd.REP_ERR_INVALID, "STARTTLS takes no data");
    if (this.#is_secure) return refuse(nbd.REP_ERR_INVALID, "TLS is in use");
    if (this.#tls === "off") return refuse(nbd.REP_ERR_POLICY, "this server has no TLS");
    return { consumed_bytes, reply: optionReply(option, nbd.REP_ACK, NOTHING), then: "tls" };
  }

  #exportName(data: DataView, consumed_bytes: number): Step {
    // With extended headers only GO leads on ("NBD_OPT_EXTENDED_HEADERS").
    const is_allowed = this.#style !== EXTENDED && this.#isOurs(textOf(data));
    if (!is_allowed) return close(consumed_bytes, NOTHING);
    const out = new Writer(10 + 124);
    out.u64(this.#export.size_bytes).u16(this.#flags());
    if (!this.#no_zeroes) out.zeroes(124);
    return { consumed_bytes, reply: out.bytes(), then: "serve" };
  }

  #list(data: DataView): Uint8Array {
    if (data.byteLength !== 0) {
      return optionError(nbd.OPT_LIST, nbd.REP_ERR_INVALID, "LIST takes no data");
    }
    const name = encoder.encode(this.#export.name);
    const about = encoder.encode(this.#export.description);
    const out = new Writer(4 + name.length + about.length);
    const entry = out.u32(name.length).raw(name).raw(about).bytes();
    return concat([
      optionReply(nbd.OPT_LIST, nbd.REP_SERVER, entry),
      optionReply(nbd.OPT_LIST, nbd.REP_ACK, NOTHING),
    ]);
  }

  #infoOrGo(option: number, data: DataView, consumed_bytes: number): Step {
    const asked = parseInfoRequest(data);
    if (typeof asked === "string") {
      return goOn(consumed_bytes, optionError(option, nbd.REP_ERR_INVALID, asked));
    }
    if (asked.name.length > nbd.MAX_NAME_BYTES) {
      const text = `export name: at most ${nbd.MAX_NAME_BYTES} bytes are taken`;
      return goOn(consumed_bytes, optionError(option, nbd.REP_ERR_TOO_BIG, text));
    }
    if (!this.#isOurs(decoder.decode(asked.name))) {
      return goOn(consumed_bytes, optionError(option, nbd.REP_ERR_UNKNOWN, "no such export"));
    }
    const infos = [this.#info(nbd.INFO_EXPORT)!];
    for (const type of asked.types) {
      const info = type === nbd.INFO_EXPORT ? null : this.#info(type);
      if (info !== null) infos.push(info);
    }
    const parts = infos.map((info) => optionReply(option, nbd.REP_INFO, info));
    const reply = concat([...parts, optionReply(option, nbd.REP_ACK, NOTHING)]);
    return { consumed_bytes, reply, then: option === nbd.OPT_GO ? "serve" : "continue" };
  }

  /** The payload of NBD_REP_INFO; null for a type that is not known, which is passed over. */
  #info(type: number): Uint8Array | null {
    const out = new Writer(2 + 4096).u16(type);
    switch (type) {
      case nbd.INFO_EXPORT:
        return out.u64(this.#export.size_bytes).u16(this.#flags()).bytes();
      case nbd.INFO_NAME:
        return out.raw(encoder.encode(this.#export.name)).bytes();
      case nbd.INFO_DESCRIPTION:
        return out.raw(encoder.encode(this.#export.description)).bytes();
      case nbd.INFO_BLOCK_SIZE:
        return out.u32(nbd.MIN_BLOCK_BYTES).u32(nbd.PREFERRED_BLOCK_BYTES)
          .u32(this.#export.max_request_bytes).bytes();
      default:
        return null;
    }
  }

  /** STRUCTURED_REPLY and EXTENDED_HEADERS. Each is agreed on once; the latter stands above the former. */
  #agreeOnStyle(option: number, data: DataView): Uint8Array {
    if (data.byteLength !== 0) {
      return optionError(option, nbd.REP_ERR_INVALID, "the option takes no data");
    }
    const wanted = option === nbd.OPT_EXTENDED_HEADERS ? EXTENDED : STRUCTURED;
    if (this.#style === wanted) {
      return optionError(option, nbd.REP_ERR_INVALID, "this was agreed on before");
    }
    if (this.#style === EXTENDED) {
      return optionError(option, nbd.REP_ERR_EXT_HEADER_REQD, "extended headers were agreed on");
    }
    this.#style = wanted;
    return optionReply(option, nbd.REP_ACK, NOTHING);
  }

  /** LIST_META_CONTEXT and SET_META_CONTEXT. A SET that fails leaves nothing selected. */
  #metaContexts(option: number, data: DataView): Uint8Array {
    const is_set = option === nbd.OPT_SET_META_CONTEXT;
    if (is_set) this.#contexts = 0;
    if (this.#style === SIMPLE) {
      const text = "structured replies or extended headers have to be agreed on before";
      return optionError(option, nbd.REP_ERR_INVALID, text);
    }
    const asked = parseContextQuery(data);
    if (typeof asked === "string") return optionError(option, nbd.REP_ERR_INVALID, asked);
    if (asked.name.length > nbd.MAX_NAME_BYTES) {
      const text = `export name: at most ${nbd.MAX_NAME_BYTES} bytes are taken`;
      return optionError(option, nbd.REP_ERR_TOO_BIG, text);
    }
    if (!this.#isOurs(decoder.decode(asked.name))) {
      return optionError(option, nbd.REP_ERR_UNKNOWN, "no such export");
    }
    const lists_all = !is_set && asked.queries.length === 0;
    const parts: Uint8Array[] = [];
    for (const { name, id } of CONTEXTS) {
      if (!lists_all && !asked.queries.some((query) => isMatch(query, name, !is_set))) continue;
      if (is_set) this.#contexts |= id;
      const out = new Writer(4 + name.length).u32(is_set ? id : 0).raw(encoder.encode(name));
      parts.push(optionReply(option, nbd.REP_META_CONTEXT, out.bytes()));
    }
    return concat([...parts, optionReply(option, nbd.REP_ACK, NOTHING)]);
  }

  #flags(): number {
    return transmissionFlags(this.#export, this.#style);
  }

  #isOurs(name: string): boolean {
    return name === "" || name === this.#export.name;
  }
}

interface InfoRequest {
  name: Uint8Array;
  /** Each type once, in the order asked. */
  types: Set<number>;
}

/** Data of NBD_OPT_INFO and NBD_OPT_GO: name length, name, number of types, types. A text says what is wrong. */
function parseInfoRequest(data: DataView): InfoRequest | string {
  if (data.byteLength < 6) return `data: ${data.byteLength} bytes, at least 6 wanted`;
  const name_bytes = data.getUint32(0);
  if (name_bytes > data.byteLength - 6) {
    return `length of the export name: ${name_bytes}, but ${data.byteLength - 6} bytes are there`;
  }
  const count = data.getUint16(4 + name_bytes);
  const wanted_bytes = 6 + name_bytes + 2 * count;
  if (wanted_bytes !== data.byteLength) {
    return `data: ${data.byteLength} bytes, ${wanted_bytes} wanted for ${count} information types`;
  }
  const types = new Set<number>();
  for (let i = 0; i < count; i++) types.add(data.getUint16(6 + name_bytes + 2 * i));
  return { name: new Uint8Array(data.buffer, data.byteOffset + 4, name_bytes), types };
}

interface ContextQuery {
  name: Uint8Array;
  queries: string[];
}

/** Data of the meta context options: name length, name, number of queries, each with its length. A text says what is wrong. */
function parseContextQuery(data: DataView): ContextQuery | string {
  const end = data.byteLength;
  if (end < 8) return `data: ${end} bytes, at least 8 wanted`;
  const name_bytes = data.getUint32(0);
  if (name_bytes > end - 8) {
    return `length of the export name: ${name_bytes}, but ${end - 8} bytes are there`;
  }
  const name = new Uint8Array(data.buffer, data.byteOffset + 4, name_bytes);
  const count = data.getUint32(4 + name_bytes);
  const queries: string[] = [];
  let at = 8 + name_bytes;
  for (let i = 0; i < count; i++) {
    const query_bytes = end - at < 4 ? Infinity : data.getUint32(at);
    if (query_bytes > end - at - 4) return `query ${i + 1} of ${count}: the data ends in it`;
    const query = textOf(new DataView(data.buffer, data.byteOffset + at + 4, query_bytes));
    if (!query.includes(":")) return `query ${i + 1} of ${count}: a namespace and a colon wanted`;
    queries.push(query);
    at += 4 + query_bytes;
  }
  return at === end ? { name, queries } : `data: ${end} bytes, ${at} wanted`;
}

/** Whether a query means a context: by its name, or for a list by its namespace and colon alone. */
function isMatch(query: string, name: string, is_list: boolean): boolean {
  return query === name || (is_list && query === name.slice(0, name.indexOf(":") + 1));
}

function goOn(consumed_bytes: number, reply: Uint8Array): Step {
  return { consumed_bytes, reply, then: "continue" };
}

function close(consumed_bytes: number, reply: Uint8Array): Step {
  return { consumed_bytes, reply, then: "close" };
}

function optionError(option: number, type: number, text: string): Uint8Array {
  return optionReply(option, type, encoder.encode(text));
}

function tlsRequired(option: number): Uint8Array {
  return optionError(option, nbd.REP_ERR_TLS_REQD, "this server wants STARTTLS first");
}

function optionReply(option: number, type: number, data: Uint8Array): Uint8Array {
  const out = new Writer(20 + data.length);
  out.u32(nbd.OPTION_REPLY_MAGIC_HI).u32(nbd.OPTION_REPLY_MAGIC_LO);
  return out.u32(option).u32(type).u32(data.length).raw(data).bytes();
}

function textOf(data: DataView): string {
  return decoder.decode(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
}

function concat(parts: Uint8Array[]): Uint8Array {
  const out = new Writer(parts.reduce((sum, part) => sum + part.length, 0));
  for (const part of parts) out.raw(part);
  return out.bytes();
}

/** Big-endian numbers into a buffer of a fixed size. */
class Writer {
  readonly #view: DataView;
  #at = 0;

  constructor(size_bytes: number) {
    this.#view = new DataView(new ArrayBuffer(size_bytes));
  }

  u16(value: number): this {
    this.#view.setUint16(this.#at, value);
    this.#at += 2;
    return this;
  }

  u32(value: number): this {
    this.#view.setUint32(this.#at, value);
    this.#at += 4;
    return this;
  }

  u64(value: number): this {
    return this.u32(Math.floor(value / 2 ** 32)).u32(value % 2 ** 32);
  }

  raw(bytes: Uint8Array): this {
    new Uint8Array(this.#view.buffer).set(bytes, this.#at);
    this.#at += bytes.length;
    return this;
  }

  zeroes(count: number): this {
    this.#at += count;
    return this;
  }

  bytes(): Uint8Array {
    return new Uint8Array(this.#view.buffer, 0, this.#at);
  }
}

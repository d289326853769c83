/**
 * The client's side of the negotiation, bytes in and bytes out: fixed newstyle, STARTTLS where TLS is wanted, one GO that
 * asks for the block sizes. There is no way on without TLS where it is wanted.
 *
 * Nothing that a server says is believed unseen: numbers are checked, texts are cut, and whoever talks without end or
 * out of turn is refused.
 *
 * @module
 */

import { assert } from "../../core/assert.ts";
import {
  FLAG_FIXED_NEWSTYLE,
  FLAG_HAS_FLAGS,
  FLAG_NO_ZEROES,
  FLAG_READ_ONLY,
  INFO_BLOCK_SIZE,
  INFO_EXPORT,
  INIT_MAGIC_HI,
  INIT_MAGIC_LO,
  MAX_OPTION_BYTES,
  MAX_OPTIONS,
  MAX_REQUEST_BYTES,
  OLDSTYLE_MAGIC_HI,
  OLDSTYLE_MAGIC_LO,
  OPT_GO,
  OPT_STARTTLS,
  OPTION_MAGIC_HI,
  OPTION_MAGIC_LO,
  OPTION_REPLY_MAGIC_HI,
  OPTION_REPLY_MAGIC_LO,
  REP_ACK,
  REP_ERR_POLICY,
  REP_ERR_SHUTDOWN,
  REP_ERR_TLS_REQD,
  REP_ERR_UNKNOWN,
  REP_ERR_UNSUP,
  REP_INFO,
} from "./protocol.ts";

/** What a server says of an export. */
export interface RemoteExport {
  readonly size_bytes: number;
  /** "Transmission flags". */
  readonly flags: number;
  /** Shortest and longest request that it takes; all are multiples of the shortest. */
  readonly min_block_bytes: number;
  readonly max_block_bytes: number;
}

/** A server refuses, is not one, or cannot be used. The message goes on a line after the server's address. */
export class HandshakeError extends Error {
  override readonly name = "HandshakeError";
}

const GREETING_BYTES = 18;
const REPLY_BYTES = 20;
const ERROR_BIT = 0x80000000;
/** So much of what a server says is shown. */
const MAX_TEXT_CHARS = 200;
/** Engines speak in sectors of this size. */
const SECTOR_BYTES = 512;

const REFUSALS: ReadonlyMap<number, string> = new Map([
  [REP_ERR_UNSUP, "the server is too old: it does not know NBD_OPT_GO"],
  [REP_ERR_POLICY, "the server does not let us in"],
  [REP_ERR_TLS_REQD, "the server wants TLS: nbds:// or nbds+unix:// is wanted"],
  [REP_ERR_UNKNOWN, "the server has no export of that name"],
  [REP_ERR_SHUTDOWN, "the server is about to stop"],
]);

/** One negotiation. */
export class ClientHandshake {
  readonly #name: Uint8Array;
  #pending = new Uint8Array(0);
  #output: Uint8Array | null = null;
  #is_greeted = false;
  #replies = 0;
  #size_bytes = -1;
  #flags = 0;
  #min_block_bytes = 1;
  #max_block_bytes = MAX_REQUEST_BYTES;
  #is_done = false;
  /** The option whose answer is awaited. */
  #option = OPT_GO;
  readonly #wants_tls: boolean;
  #starts_tls = false;

  constructor(export_name: string, wants_tls: boolean) {
    this.#name = new TextEncoder().encode(export_name);
    this.#wants_tls = wants_tls;
  }

  /** The server awaits a TLS handshake. */
  get starts_tls(): boolean {
    return this.#starts_tls;
  }

  /** TLS is there: goes on under it. */
  secured(): void {
    assert(this.#starts_tls, "handshake: the server has not agreed to TLS");
    this.#starts_tls = false;
    this.#output = this.#goOption();
  }

  /**
   * Takes what has come from the server. Returns the export when the transmission phase has begun, else null.
   *
   * @throws {HandshakeError}
   */
  feed(bytes: Uint8Array): RemoteExport | null {
    assert(!this.#is_done, "handshake: it is over");
    const all = new Uint8Array(this.#pending.length + bytes.length);
    all.set(this.#pending);
    all.set(bytes, this.#pending.length);
    let at = 0;
    for (;;) {
      const used = this.#take(new DataView(all.buffer, at));
      if (used === 0) break;
      at += used;
      if (!this.#is_done && !this.#starts_tls) continue;
      // Behind the answer to STARTTLS it may be somebody else's word.
      if (at < all.length) {
        throw new HandshakeError("the server talks before it was asked anything");
      }
      if (this.#is_done) return this.#export();
    }
    this.#pending = all.slice(at);
    return null;
  }

  /** What is to be sent now; null: nothing. */
  takeOutput(): Uint8Array | null {
    const output = this.#output;
    this.#output = null;
    return output;
  }

  /** Takes the next whole message and returns its length; 0: there is none yet. */
  #take(view: DataView): number {
    if (!this.#is_greeted) return this.#takeGreeting(view);
    if (view.byteLength < REPLY_BYTES) return 0;
    const is_reply = view.getUint32(0) === OPTION_REPLY_MAGIC_HI &&
      view.getUint32(4) === OPTION_REPLY_MAGIC_LO && view.getUint32(8) === this.#option;
    if (!is_reply) throw new HandshakeError("it does not answer as an NBD server");
    const len_bytes = view.getUint32(16);
    if (len_bytes > MAX_OPTION_BYTES) {
      throw new HandshakeError(
        `the server answers with ${len_bytes} bytes, at most ${MAX_OPTION_BYTES} are taken`,
      );
    }
    const end = REPLY_BYTES + len_bytes;
    if (view.byteLength < end) return 0;
    if (++this.#replies > MAX_OPTIONS) {
      throw new HandshakeError(`the server answers more than ${MAX_OPTIONS} times`);
    }
    this.#takeReply(
      view.getUint32(12),
      new DataView(view.buffer, view.byteOffset + REPLY_BYTES, len_bytes),
    );
    return end;
  }

  #takeGreeting(view: DataView): number {
    if (view.byteLength < GREETING_BYTES) return 0;
    const is_server = view.getUint32(0) === INIT_MAGIC_HI && view.getUint32(4) === INIT_MAGIC_LO;
    if (!is_server) throw new HandshakeError("it does not answer as an NBD server");
    const [high, low] = [view.getUint32(8), view.getUint32(12)];
    const is_oldstyle = high === OLDSTYLE_MAGIC_HI && low === OLDSTYLE_MAGIC_LO;
    const flags = view.getUint16(16);
    if (is_oldstyle || (flags & FLAG_FIXED_NEWSTYLE) === 0) {
      throw new HandshakeError("the server is too old: fixed newstyle negotiation is wanted");
    }
    if (high !== OPTION_MAGIC_HI || low !== OPTION_MAGIC_LO) {
      throw new HandshakeError("it does not answer as an NBD server");
    }
    this.#is_greeted = true;
    const option = this.#wants_tls ? this.#optionMessage(OPT_STARTTLS, 0) : this.#goOption();
    const output = new Uint8Array(4 + option.length);
    new DataView(output.buffer).setUint32(0, flags & (FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES));
    output.set(option, 4);
    this.#output = output;
    return GREETING_BYTES;
  }

  /** GO for the export, with a wish to know the block sizes. */
  #goOption(): Uint8Array {
    const name = this.#name;
    const bytes = this.#optionMessage(OPT_GO, 4 + name.length + 2 + 2);
    const view = new DataView(bytes.buffer);
    view.setUint32(16, name.length);
    bytes.set(name, 20);
    view.setUint16(20 + name.length, 1);
    view.setUint16(22 + name.length, INFO_BLOCK_SIZE);
    return bytes;
  }

  /** An option with room for its data; its answer is awaited from now on. */
  #optionMessage(option: number, data_bytes: number): Uint8Array<ArrayBuffer> {
    this.#option = option;
    const bytes = new Uint8Array(16 + data_bytes);
    const view = new DataView(bytes.buffer);
    view.setUint32(0, OPTION_MAGIC_HI);
    view.setUint32(4, OPTION_MAGIC_LO);
    view.setUint32(8, option);
    view.setUint32(12, data_bytes);
    return bytes;
  }

  #takeReply(type: number, data: DataView): void {
    if (this.#option === OPT_STARTTLS && type < ERROR_BIT) {
      if (type !== REP_ACK) throw new HandshakeError("it does not answer as an NBD server");
      this.#starts_tls = true;
      return;
    }
    if (type === REP_INFO) return this.#takeInfo(data);
    if (type === REP_ACK) {
      if (this.#size_bytes < 0) throw new HandshakeError("the server does not tell the size");
      this.#is_done = true;
      return;
    }
    if (type < ERROR_BIT) throw new HandshakeError(`the server answers ${type}, which is unknown`);
    const reason = this.#option === OPT_STARTTLS
      ? "the server has no TLS"
      : REFUSALS.get(type) ?? `the server refuses (error 0x${type.toString(16)})`;
    const text = shown(data);
    throw new HandshakeError(text === "" ? reason : `${reason}: ${text}`);
  }

  #takeInfo(data: DataView): void {
    const kind = data.byteLength < 2 ? -1 : data.getUint16(0);
    if (kind === INFO_EXPORT && data.byteLength === 12) {
      this.#size_bytes = Number(data.getBigUint64(2));
      this.#flags = data.getUint16(10);
    } else if (kind === INFO_BLOCK_SIZE && data.byteLength === 14) {
      this.#min_block_bytes = data.getUint32(2);
      this.#max_block_bytes = data.getUint32(10);
    } else if (kind === -1 || kind === INFO_EXPORT || kind === INFO_BLOCK_SIZE) {
      throw new HandshakeError(`the server's information ${kind} has ${data.byteLength} bytes`);
    }
    // Others were not asked for and change nothing.
  }

  #export(): RemoteExport {
    return {
      size_bytes: this.#size_bytes,
      flags: this.#flags,
      min_block_bytes: this.#min_block_bytes,
      max_block_bytes: this.#max_block_bytes,
    };
  }
}

/** Why an export cannot be a backing device; "": it can. */
export function whyUnusable(remote: RemoteExport): string {
  const { size_bytes, flags, min_block_bytes, max_block_bytes } = remote;
  if ((flags & FLAG_HAS_FLAGS) === 0) return "the server does not say what the export can do";
  if ((flags & FLAG_READ_ONLY) !== 0) {
    return "the export is read-only: write-back needs one that can be written";
  }
  if (size_bytes > Number.MAX_SAFE_INTEGER) return `${size_bytes} bytes are too many`;
  if (size_bytes < SECTOR_BYTES) {
    return `${size_bytes} bytes long: at least ${SECTOR_BYTES} are wanted`;
  }
  const is_power = min_block_bytes > 0 && (min_block_bytes & (min_block_bytes - 1)) === 0;
  if (!is_power || max_block_bytes < min_block_bytes) {
    return `block sizes ${min_block_bytes} to ${max_block_bytes} make no sense`;
  }
  if (min_block_bytes > SECTOR_BYTES || max_block_bytes < SECTOR_BYTES) {
    return `its requests have ${min_block_bytes} to ${max_block_bytes} bytes: ` +
      `the cache works in sectors of ${SECTOR_BYTES} (nbdkit's blocksize filter helps)`;
  }
  return "";
}

/** What a server says in words, fit for a terminal. */
function shown(data: DataView): string {
  const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  // deno-lint-ignore no-control-regex
  const text = new TextDecoder().decode(bytes).replace(/[\x00-\x1f\x7f-\x9f]+/g, " ").trim();
  return text.length > MAX_TEXT_CHARS ? `${text.slice(0, MAX_TEXT_CHARS)}...` : text;
}

/**
 * An NBD client for tests and the demo, on `Deno.connect`: nothing of it is shared with the server, so that each checks
 * the other. Requests may overlap; their answers are told apart by cookie.
 *
 * @module
 */

/** A request that the server answered with an error number. */
export class NbdError extends Error {
  override readonly name = "NbdError";
  readonly errno: number;
  /** What the server says about it; "" in simple replies. */
  readonly text: string;
  constructor(what: string, errno: number, text = "") {
    super(`${what}: the server answers error ${errno} ${text}`);
    this.errno = errno;
    this.text = text;
  }
}

/** The connection ended, or what came over it is not NBD. */
export class NbdBroken extends Error {
  override readonly name = "NbdBroken";
}

const GREETING = "NBDMAGICIHAVEOPT";
const OPTION_MAGIC = 0x49484156454f5054n;
const OPTION_REPLY_MAGIC = 0x3e889045565a9n;
const REQUEST_MAGIC = 0x25609513;
const EXTENDED_REQUEST_MAGIC = 0x21e41c71;
const REPLY_MAGIC = 0x67446698;
const CHUNK_MAGIC = 0x668e33ef;
const EXTENDED_CHUNK_MAGIC = 0x6e8a278c;
const MAX_REPLY_DATA_BYTES = 1 << 20;
const MAX_CHUNK_BYTES = 64 << 20;
const READ_CHUNK_BYTES = 256 * 1024;

export const OPT = {
  EXPORT_NAME: 1,
  ABORT: 2,
  LIST: 3,
  STARTTLS: 5,
  INFO: 6,
  GO: 7,
  STRUCTURED_REPLY: 8,
  LIST_META_CONTEXT: 9,
  SET_META_CONTEXT: 10,
  EXTENDED_HEADERS: 11,
} as const;
export const REP = { ACK: 1, SERVER: 2, INFO: 3, META_CONTEXT: 4 } as const;
export const INFO = { EXPORT: 0, NAME: 1, DESCRIPTION: 2, BLOCK_SIZE: 3 } as const;
export const CMD = {
  READ: 0,
  WRITE: 1,
  DISC: 2,
  FLUSH: 3,
  TRIM: 4,
  CACHE: 5,
  WRITE_ZEROES: 6,
  BLOCK_STATUS: 7,
} as const;
export const FUA = 1;
export const NO_HOLE = 2;
export const DF = 4;
export const REQ_ONE = 8;
export const PAYLOAD_LEN = 32;
const FLAG_READ_ONLY = 2;
const CHUNK = { NONE: 0, DATA: 1, HOLE: 2, STATUS: 5, STATUS_EXT: 6, ERROR: 0x8001 } as const;
const FLAG_DONE = 1;

/** How requests and replies look. */
export type Style = "simple" | "structured" | "extended";

/** What a status reply says of one range. */
export interface Extent {
  len_bytes: number;
  flags: number;
}

/** Where an NBD URI leads: `nbd+unix:///NAME?socket=PATH` or `nbd://HOST:PORT/NAME`. */
export function parseUri(
  uri: string,
): { address: Deno.ConnectOptions | UnixAddress; name: string } {
  const url = new URL(uri);
  const name = decodeURIComponent(url.pathname.replace(/^\//, ""));
  if (url.protocol === "nbd+unix:") {
    const path = url.searchParams.get("socket");
    if (path === null) throw new Error(`NBD URI ${uri}: socket=PATH is wanted`);
    return { address: { transport: "unix", path }, name };
  }
  if (url.protocol !== "nbd:") throw new Error(`NBD URI ${uri}: nbd or nbd+unix is wanted`);
  const hostname = url.hostname.replace(/^\[|\]$/g, "");
  return { address: { hostname, port: Number(url.port || 10809) }, name };
}

interface UnixAddress {
  transport: "unix";
  path: string;
}

/** A connection as bytes: for what a well-behaved client would not do. */
export class RawConnection {
  readonly #connection: Deno.Conn;
  #buffer = new Uint8Array(READ_CHUNK_BYTES);
  #from = 0;
  #to = 0;
  #outgoing: Uint8Array[] = [];
  #sending: Promise<void> | null = null;

  private constructor(connection: Deno.Conn) {
    this.#connection = connection;
  }

  static async open(uri: string): Promise<RawConnection> {
    const { address } = parseUri(uri);
    const connection = "transport" in address && address.transport === "unix"
      ? await Deno.connect(address)
      : await Deno.connect(address as Deno.ConnectOptions);
    return new RawConnection(connection);
  }

  /** Sends all bytes of the parts, in order, after what was sent before. */
  send(...parts: Uint8Array[]): Promise<void> {
    this.#outgoing.push(...parts);
    this.#sending ??= this.#drain();
    return this.#sending;
  }

  async #drain(): Promise<void> {
    while (this.#outgoing.length > 0) {
      const parts = this.#outgoing;
      this.#outgoing = [];
      const bytes = concat(parts);
      for (let at = 0; at < bytes.length;) {
        at += await this.#connection.write(bytes.subarray(at));
      }
    }
    // Here and not when the promise is seen to be done: by then more may have been queued.
    this.#sending = null;
  }

  /** The next `count` bytes, valid until the next call. Throws `NbdBroken` when the connection ends before. */
  async take(count: number): Promise<Uint8Array<ArrayBuffer>> {
    if (this.#to - this.#from < count) await this.#fill(count);
    this.#from += count;
    return this.#buffer.subarray(this.#from - count, this.#from);
  }

  async #fill(count: number): Promise<void> {
    const rest = this.#buffer.subarray(this.#from, this.#to);
    if (count > this.#buffer.length) this.#buffer = new Uint8Array(count);
    this.#buffer.set(rest);
    [this.#from, this.#to] = [0, rest.length];
    while (this.#to < count) {
      const got = await this.#connection.read(this.#buffer.subarray(this.#to)).catch(() => null);
      if (got === null) throw new NbdBroken(`connection ended, ${count - this.#to} bytes missing`);
      this.#to += got;
    }
  }

  /** Everything up to the end of the connection. */
  async takeRest(): Promise<Uint8Array<ArrayBuffer>> {
    const parts: Uint8Array[] = [];
    try {
      for (;;) parts.push((await this.take(1)).slice());
    } catch (error) {
      if (!(error instanceof NbdBroken)) throw error;
      return concat(parts);
    }
  }

  /** Ends the sending side only. */
  async closeWrite(): Promise<void> {
    await this.#connection.closeWrite();
  }

  close(): void {
    try {
      this.#connection.close();
    } catch (error) {
      if (!(error instanceof Deno.errors.BadResource)) throw error;
    }
  }
}

/** A reply to an option: the data of the replies before the last one, and the type of the last one. */
export interface OptionOutcome {
  type: number;
  data: { type: number; data: Uint8Array }[];
  /** What the server says to an error. */
  text: string;
}

/** The negotiation, step by step. */
export class NbdNegotiation {
  readonly raw: RawConnection;

  private constructor(raw: RawConnection) {
    this.raw = raw;
  }

  /** Connects and agrees on fixed newstyle without zeroes. */
  static async open(uri: string): Promise<NbdNegotiation> {
    const raw = await RawConnection.open(uri);
    try {
      const greeting = await raw.take(18);
      const text = new TextDecoder().decode(greeting.subarray(0, 16));
      if (text !== GREETING || greeting[17] !== 3) throw new NbdBroken(`greeting ${text}`);
      await raw.send(u32(3));
      return new NbdNegotiation(raw);
    } catch (error) {
      raw.close();
      throw error;
    }
  }

  /** Sends an option and waits for its outcome. Not for EXPORT_NAME, which has no reply. */
  async option(option: number, data: Uint8Array = new Uint8Array(0)): Promise<OptionOutcome> {
    await this.raw.send(optionMessage(option, data));
    const outcome: OptionOutcome = { type: 0, data: [], text: "" };
    for (;;) {
      const head = viewOf(await this.raw.take(20));
      if (head.getBigUint64(0) !== OPTION_REPLY_MAGIC || head.getUint32(8) !== option) {
        throw new NbdBroken(`reply to option ${option}: wrong magic or option`);
      }
      outcome.type = head.getUint32(12);
      const len = head.getUint32(16);
      if (len > MAX_REPLY_DATA_BYTES) {
        throw new NbdBroken(`reply to option ${option}: ${len} bytes`);
      }
      const reply = (await this.raw.take(len)).slice();
      if (outcome.type >= 0x80000000) outcome.text = new TextDecoder().decode(reply);
      if (outcome.type >= 0x80000000 || outcome.type === REP.ACK) return outcome;
      outcome.data.push({ type: outcome.type, data: reply });
    }
  }

  /** INFO or GO, asking for the given information types. */
  async ask(option: number, name: string, types: number[]): Promise<OptionOutcome> {
    const text = new TextEncoder().encode(name);
    return await this.option(option, concat([u32(text.length), text, u16(types.length, ...types)]));
  }

  /** EXPORT_NAME: the size and the transmission flags. */
  async exportName(name: string): Promise<{ size_bytes: number; flags: number }> {
    await this.raw.send(optionMessage(OPT.EXPORT_NAME, new TextEncoder().encode(name)));
    const reply = viewOf(await this.raw.take(10));
    return { size_bytes: Number(reply.getBigUint64(0)), flags: reply.getUint16(8) };
  }
}

interface Pending {
  what: string;
  off_bytes: number;
  /** Bytes that a good reply carries. */
  data_bytes: number;
  /** Of a reply in chunks: the data, of which so much has come, the extents by context, and what failed. */
  data: Uint8Array<ArrayBuffer>;
  done_bytes: number;
  extents: Map<string, Extent[]>;
  error: NbdError | null;
  resolve(data: Uint8Array<ArrayBuffer>): void;
  reject(error: Error): void;
}

/** A client in the transmission phase. */
export class NbdClient {
  readonly raw: RawConnection;
  readonly size_bytes: number;
  /** The transmission flags. */
  readonly flags: number;
  readonly style: Style;
  /** Names of the selected metadata contexts, by their ids. */
  readonly #contexts: Map<number, string>;
  readonly #pending = new Map<number, Pending>();
  #cookie = 0;
  #broken: Error | null = null;
  readonly #receiving: Promise<void>;

  private constructor(
    raw: RawConnection,
    size_bytes: number,
    flags: number,
    style: Style,
    contexts: Map<number, string>,
  ) {
    this.raw = raw;
    this.size_bytes = size_bytes;
    this.flags = flags;
    this.style = style;
    this.#contexts = contexts;
    this.#receiving = this.#receive();
  }

  /** Connects to the export that the URI names; selects the contexts, which have to be there. */
  static async connect(
    uri: string,
    style: Style = "simple",
    contexts: string[] = [],
  ): Promise<NbdClient> {
    const negotiation = await NbdNegotiation.open(uri);
    try {
      const selected = await agree(negotiation, parseUri(uri).name, style, contexts);
      const outcome = await negotiation.ask(OPT.GO, parseUri(uri).name, []);
      if (outcome.type !== REP.ACK) throw new NbdBroken(`GO: ${outcome.text}`);
      const info = outcome.data.map((d) => viewOf(d.data)).find((d) =>
        d.getUint16(0) === INFO.EXPORT
      );
      if (info === undefined) throw new NbdBroken("GO: no size");
      const [size_bytes, flags] = [Number(info.getBigUint64(2)), info.getUint16(10)];
      return new NbdClient(negotiation.raw, size_bytes, flags, style, selected);
    } catch (error) {
      negotiation.raw.close();
      throw error;
    }
  }

  get is_read_only(): boolean {
    return (this.flags & FLAG_READ_ONLY) !== 0;
  }

  async read(off_bytes: number, len_bytes: number): Promise<Uint8Array<ArrayBuffer>> {
    return await this.request(CMD.READ, off_bytes, len_bytes, len_bytes);
  }

  /** Writes; with `fua` it is answered when it is durable. */
  async write(off_bytes: number, bytes: Uint8Array, options = { fua: false }): Promise<void> {
    const flags = options.fua ? FUA : 0;
    await this.request(CMD.WRITE, off_bytes, bytes.length, 0, flags, bytes);
  }

  async flush(): Promise<void> {
    await this.request(CMD.FLUSH, 0, 0, 0);
  }

  /** Asks the server to read into its cache. */
  async cache(off_bytes: number, len_bytes: number): Promise<void> {
    await this.request(CMD.CACHE, off_bytes, len_bytes, 0);
  }

  /** The extents that each selected context has at the start of a range, or all over it. */
  async blockStatus(
    off_bytes: number,
    len_bytes: number,
    flags = 0,
  ): Promise<Map<string, Extent[]>> {
    const extents = new Map<string, Extent[]>();
    const none = new Uint8Array(0);
    await this.request(CMD.BLOCK_STATUS, off_bytes, len_bytes, 0, flags, none, extents);
    if (extents.size !== this.#contexts.size) throw new NbdBroken("a context is missing");
    return extents;
  }

  /**
   * Any request, sensible or not; resolves with the data of the reply.
   *
   * Rejects with `NbdError` for an error reply and with `NbdBroken` when the connection ends first.
   */
  request(
    type: number,
    off_bytes: number,
    len_bytes: number,
    data_bytes: number,
    flags = 0,
    payload: Uint8Array = new Uint8Array(0),
    extents = new Map<string, Extent[]>(),
  ): Promise<Uint8Array<ArrayBuffer>> {
    if (this.#broken !== null) return Promise.reject(this.#broken);
    const cookie = this.#cookie = (this.#cookie + 1) >>> 0;
    const what = `request ${type} of ${len_bytes} bytes at ${off_bytes}`;
    return new Promise((resolve, reject) => {
      const data = new Uint8Array(this.style === "simple" ? 0 : data_bytes);
      const reply = { data, done_bytes: 0, extents, error: null };
      this.#pending.set(cookie, { what, off_bytes, data_bytes, ...reply, resolve, reject });
      const is_long = this.style === "extended";
      const all_flags = is_long && type === CMD.WRITE ? flags | PAYLOAD_LEN : flags;
      const message = requestMessage(type, cookie, off_bytes, len_bytes, all_flags, is_long);
      this.raw.send(message, payload).catch((error) => this.#break(error));
    });
  }

  async #receive(): Promise<void> {
    try {
      for (;;) {
        const head = viewOf((await this.raw.take(16)).slice());
        const cookie = head.getUint32(12);
        const pending = this.#pending.get(cookie);
        if (head.getUint32(8) !== 0 || pending === undefined) {
          throw new NbdBroken("reply with an unknown cookie");
        }
        if (head.getUint32(0) !== REPLY_MAGIC) {
          if (await this.#chunk(head, pending)) this.#pending.delete(cookie);
          continue;
        }
        const errno = head.getUint32(4);
        const is_right = this.style === "simple" ||
          (this.style === "structured" && pending.data_bytes === 0);
        if (!is_right) throw new NbdBroken("a simple reply where it may not be");
        this.#pending.delete(cookie);
        if (errno !== 0) pending.reject(new NbdError(pending.what, errno));
        else pending.resolve((await this.raw.take(pending.data_bytes)).slice());
      }
    } catch (error) {
      this.#break(error as Error);
    }
  }

  /** The rest of a chunk of which 16 bytes have come. True: it was the last. */
  async #chunk(head: DataView, pending: Pending): Promise<boolean> {
    const is_long = this.style === "extended";
    const magic = is_long ? EXTENDED_CHUNK_MAGIC : CHUNK_MAGIC;
    if (this.style === "simple" || head.getUint32(0) !== magic) {
      throw new NbdBroken("reply with a wrong magic");
    }
    const rest = viewOf((await this.raw.take(is_long ? 16 : 4)).slice());
    if (is_long && rest.getBigUint64(0) !== BigInt(pending.off_bytes)) {
      throw new NbdBroken("reply with another offset");
    }
    const len = is_long ? Number(rest.getBigUint64(8)) : rest.getUint32(0);
    if (len > MAX_CHUNK_BYTES) throw new NbdBroken(`a chunk of ${len} bytes`);
    this.#takeChunk(head.getUint16(6), await this.raw.take(len), pending);
    if ((head.getUint16(4) & FLAG_DONE) === 0) return false;
    if (pending.error !== null) pending.reject(pending.error);
    else if (pending.done_bytes === pending.data_bytes) pending.resolve(pending.data);
    else throw new NbdBroken(`${pending.what}: ${pending.done_bytes} bytes came`);
    return true;
  }

  #takeChunk(type: number, payload: Uint8Array, pending: Pending): void {
    const view = viewOf(payload);
    switch (type) {
      case CHUNK.NONE:
        return;
      case CHUNK.DATA: {
        const bytes = payload.subarray(8);
        pending.data.set(bytes, Number(view.getBigUint64(0)) - pending.off_bytes);
        pending.done_bytes += bytes.length;
        return;
      }
      case CHUNK.HOLE:
        pending.done_bytes += view.getUint32(8);
        return;
      case CHUNK.ERROR: {
        const text = new TextDecoder().decode(payload.subarray(6, 6 + view.getUint16(4)));
        pending.error = new NbdError(pending.what, view.getUint32(0), text);
        return;
      }
      case CHUNK.STATUS:
      case CHUNK.STATUS_EXT: {
        const context = this.#contexts.get(view.getUint32(0));
        const is_long = type === CHUNK.STATUS_EXT;
        if (context === undefined || is_long !== (this.style === "extended")) break;
        pending.extents.set(context, is_long ? longExtents(view) : shortExtents(view));
        return;
      }
    }
    throw new NbdBroken(`${pending.what}: a chunk of type ${type}`);
  }

  #break(error: Error): void {
    this.#broken ??= error;
    for (const pending of this.#pending.values()) pending.reject(this.#broken);
    this.#pending.clear();
    this.raw.close();
  }

  /** Says goodbye, and waits until the server has closed the connection. */
  async close(): Promise<void> {
    if (this.#broken === null) {
      const message = requestMessage(CMD.DISC, 0, 0, 0, 0, this.style === "extended");
      await this.raw.send(message).catch(() => {});
    }
    await this.#receiving;
    this.raw.close();
  }

  /** Breaks the connection off, whatever is under way. */
  async vanish(): Promise<void> {
    this.#break(new NbdBroken("the client vanished"));
    await this.#receiving;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

/** An option as it is sent; `len` may lie about the data. */
export function optionMessage(option: number, data: Uint8Array, len = data.length): Uint8Array {
  const head = new DataView(new ArrayBuffer(16));
  head.setBigUint64(0, OPTION_MAGIC);
  head.setUint32(8, option);
  head.setUint32(12, len);
  return concat([new Uint8Array(head.buffer), data]);
}

/** Agrees on a style and on metadata contexts, which it returns by their ids. */
async function agree(
  negotiation: NbdNegotiation,
  name: string,
  style: Style,
  contexts: string[],
): Promise<Map<number, string>> {
  const selected = new Map<number, string>();
  if (style === "simple") return selected;
  const option = style === "extended" ? OPT.EXTENDED_HEADERS : OPT.STRUCTURED_REPLY;
  const outcome = await negotiation.option(option);
  if (outcome.type !== REP.ACK) throw new NbdBroken(`${style}: ${outcome.text}`);
  if (contexts.length === 0) return selected;
  const data = contextQuery(name, contexts);
  const found = await negotiation.option(OPT.SET_META_CONTEXT, data);
  for (const { data } of found.data) {
    selected.set(viewOf(data).getUint32(0), new TextDecoder().decode(data.subarray(4)));
  }
  if (selected.size !== contexts.length) throw new NbdBroken(`contexts: ${found.text}`);
  return selected;
}

/** Data of LIST_META_CONTEXT and SET_META_CONTEXT. */
export function contextQuery(name: string, queries: string[]): Uint8Array {
  const counted = (text: string) => {
    const bytes = new TextEncoder().encode(text);
    return concat([u32(bytes.length), bytes]);
  };
  return concat([counted(name), u32(queries.length), ...queries.map(counted)]);
}

function shortExtents(view: DataView): Extent[] {
  const extents: Extent[] = [];
  for (let at = 4; at < view.byteLength; at += 8) {
    extents.push({ len_bytes: view.getUint32(at), flags: view.getUint32(at + 4) });
  }
  return extents;
}

function longExtents(view: DataView): Extent[] {
  const extents: Extent[] = [];
  for (let at = 8; at < view.byteLength; at += 16) {
    const [len_bytes, flags] = [view.getBigUint64(at), view.getBigUint64(at + 8)].map(Number);
    extents.push({ len_bytes: len_bytes!, flags: flags! });
  }
  return extents;
}

/** A request as it is sent, without its payload; `is_long`: with an extended header. */
export function requestMessage(
  type: number,
  cookie: number,
  off_bytes: number,
  len_bytes: number,
  flags: number,
  is_long = false,
): Uint8Array {
  const head = new DataView(new ArrayBuffer(is_long ? 32 : 28));
  head.setUint32(0, is_long ? EXTENDED_REQUEST_MAGIC : REQUEST_MAGIC);
  head.setUint16(4, flags);
  head.setUint16(6, type);
  head.setUint32(12, cookie);
  head.setBigUint64(16, BigInt(off_bytes));
  if (is_long) head.setBigUint64(24, BigInt(len_bytes));
  else head.setUint32(24, len_bytes);
  return new Uint8Array(head.buffer);
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function u32(value: number): Uint8Array {
  return new Uint8Array([value >>> 24, value >>> 16, value >>> 8, value]);
}

function u16(...values: number[]): Uint8Array {
  return new Uint8Array(values.flatMap((value) => [value >> 8, value & 255]));
}

function concat(parts: Uint8Array[]): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}

/**
 * A connection to an NBD server that is made again whenever it breaks.
 *
 *   down -> greeting -> up -> ending -> down
 *
 * Invariants:
 * - Where TLS is wanted nothing but STARTTLS is said without it, and nothing is received while the answer to it is taken in.
 * - At most one receive and one send are under way, on one socket: a completion belongs to the connection there is.
 * - `down` means that nothing is under way: memory that a receive or send named is the owner's again.
 * - Between two tries lie 100 ms, then twice as long each time, at most 5 s; a server that has answered a request gets
 *   the short pause again.
 *
 * @module
 */

import { assert } from "../../core/assert.ts";
import { EAGAIN, EINTR, errorText } from "../libc.ts";
import type { Ring } from "../ring.ts";
import {
  ClientHandshake,
  HandshakeError,
  type RemoteExport,
  whyUnusable,
} from "./client_handshake.ts";
import { Iovecs } from "./iovecs.ts";
import type { NbdArena } from "./ports.ts";
import type { TlsStream } from "../tls/stream.ts";
import { MAX_NAME_BYTES } from "./protocol.ts";

/** A server that has not been greeted back by then is given up for now. */
const HANDSHAKE_MS = 10_000;
const MIN_PAUSE_MS = 100;
const MAX_PAUSE_MS = 5000;
/** Our flags and options: one GO. */
const OUTPUT_BYTES = MAX_NAME_BYTES + 64;

export interface LinkOptions {
  readonly arena: NbdArena;
  readonly ring: Pick<Ring, "recv" | "recvmsg" | "sendmsg">;
  readonly sockets: {
    shutdown(fd: number): void;
    close(fd: number): void;
  };
  /** Starts to connect to the next of the server's addresses: a descriptor, or an error number negated. */
  readonly connect: () => number;
  readonly export_name: string;
  /** Makes a TLS connection of a socket; null: it stays in the clear. */
  readonly tls: ((fd: number, recv_user: number, send_user: number) => TlsStream) | null;
  /** Tokens of receives and sends. */
  readonly recv_user: number;
  readonly send_user: number;
  /** Where receives of the negotiation go. The owner may use it while the link is up. */
  readonly buffer_addr: number;
  readonly buffer_bytes: number;
}

export class Link {
  state: "down" | "greeting" | "up" | "ending" = "down";
  /** Why there is no connection; "" when there is. */
  reason = "not connected yet";
  /** How often a connection that was up has been lost. */
  outage_count = 0;
  /** A smaller export is not taken. */
  least_bytes = 0;
  /** What the server says of the export, once the link was up. */
  remote: RemoteExport | null = null;
  is_sending = false;
  #is_receiving = false;
  /** The receive and the send under way, to ask for them again; the place counts where there are no ranges. */
  #recv_into: Iovecs | null = null;
  #recv_addr = 0;
  #recv_bytes = 0;
  #send_from: Iovecs;
  #tls: TlsStream | null = null;
  /** The TLS handshake is over, and the negotiation has gone on. */
  #is_secured = false;

  readonly #o: LinkOptions;
  readonly #output_addr: number;
  readonly #output: Iovecs;
  #fd = -1;
  #handshake: ClientHandshake | null = null;
  /** The server has accepted, and our own last message is still leaving. */
  #is_accepted = false;
  #deadline_ms = 0;
  #pause_ms = MIN_PAUSE_MS;
  /** NaN: the pause has not begun. */
  #retry_at_ms = 0;

  constructor(options: LinkOptions) {
    this.#o = options;
    this.#output_addr = options.arena.alloc(OUTPUT_BYTES);
    this.#output = new Iovecs(options.arena, options.arena.alloc(Iovecs.sizeBytes(1)), 1);
    this.#send_from = this.#output;
  }

  /** A try to connect begins now. The link is down. */
  connect(now_ms: number): void {
    assert(this.state === "down", "link: one connection at a time");
    this.#retry_at_ms = NaN;
    const fd = this.#o.connect();
    if (fd < 0) {
      this.reason = errorText(-fd);
      return;
    }
    this.#fd = fd;
    this.state = "greeting";
    this.#is_accepted = false;
    this.#is_secured = false;
    this.#handshake = new ClientHandshake(this.#o.export_name, this.#o.tls !== null);
    this.#deadline_ms = now_ms + HANDSHAKE_MS;
    this.recv(this.#o.buffer_addr, this.#o.buffer_bytes);
  }

  /** Connects when it is time to, and gives up who does not answer. */
  turn(now_ms: number): void {
    this.checkDeadline(now_ms);
    if (this.state !== "down") return;
    if (Number.isNaN(this.#retry_at_ms)) {
      this.#retry_at_ms = now_ms + this.#pause_ms;
      this.#pause_ms = Math.min(2 * this.#pause_ms, MAX_PAUSE_MS);
    }
    if (now_ms >= this.#retry_at_ms) this.connect(now_ms);
  }

  checkDeadline(now_ms: number): void {
    if (this.state !== "greeting" || now_ms < this.#deadline_ms) return;
    this.drop(`no answer within ${HANDSHAKE_MS / 1000} s`);
  }

  /** How long the loop may sleep before the next turn. */
  nextTimerMs(now_ms: number): number {
    if (this.state === "greeting") return Math.max(0, this.#deadline_ms - now_ms);
    if (this.state !== "down") return Infinity;
    return Number.isNaN(this.#retry_at_ms) ? 0 : Math.max(0, this.#retry_at_ms - now_ms);
  }

  /** The server has done what it was asked. */
  proven(): void {
    this.#pause_ms = MIN_PAUSE_MS;
  }

  /** Receives what is there, at least a byte. */
  recv(addr: number, len_bytes: number): void {
    assert(!this.#is_receiving, "link: two receives");
    this.#recv_into = null;
    this.#recv_addr = addr;
    this.#recv_bytes = len_bytes;
    this.#receive();
  }

  /** Receives into the ranges that are left. */
  recvmsg(into: Iovecs): void {
    assert(!this.#is_receiving, "link: two receives");
    this.#recv_into = into;
    this.#receive();
  }

  #receive(): void {
    this.#is_receiving = true;
    const { ring, recv_user } = this.#o;
    const [into, tls] = [this.#recv_into, this.#tls];
    if (into !== null) {
      if (tls === null) ring.recvmsg(recv_user, this.#fd, into.msghdr_addr);
      else tls.recvmsg(into);
    } else if (tls === null) ring.recv(recv_user, this.#fd, this.#recv_addr, this.#recv_bytes);
    else tls.recv(this.#recv_addr, this.#recv_bytes);
  }

  /** Sends the ranges that are left. */
  send(from: Iovecs): void {
    assert(!this.is_sending, "link: two sends");
    this.is_sending = true;
    this.#send_from = from;
    if (this.#tls === null) this.#o.ring.sendmsg(this.#o.send_user, this.#fd, from.msghdr_addr);
    else this.#tls.send(from);
  }

  /** Takes leave: sends a last message, as far as that can be done now. The link is dropped next. */
  sendLast(from: Iovecs): void {
    if (this.#tls === null) return this.send(from);
    this.#tls.sendNow(from);
    this.#tls.bye();
  }

  /** A receive has ended. Returns how many bytes came for the owner. */
  received(completed: number): number {
    const result = this.#tls === null ? completed : this.#tls.received(completed);
    this.#is_receiving = false;
    if (this.state === "ending") {
      this.#finish();
      return 0;
    }
    if (this.#tls !== null && !this.#is_secured && this.#tls.is_established) this.#goOnSecured();
    if (result === -EINTR || result === -EAGAIN) this.#receive();
    else if (result <= 0) {
      this.drop(result === 0 ? "the server closed the connection" : this.#errorText(-result));
    } else if (this.state === "up") return result;
    else this.#greet(result);
    return 0;
  }

  /** A send has ended. Returns how many bytes of the owner's left. */
  sent(completed: number): number {
    const result = this.#tls === null ? completed : this.#tls.sent(completed);
    this.is_sending = false;
    if (this.state === "ending") this.#finish();
    else if (result === -EINTR || result === -EAGAIN) this.send(this.#send_from);
    else if (result <= 0) this.drop(this.#errorText(-result));
    else if (this.state === "up") return result;
    else this.#sentOutput(result);
    return 0;
  }

  /** Ends the connection. It is `down` when nothing is under way on it any more. */
  drop(reason: string): void {
    if (this.state === "down" || this.state === "ending") return;
    if (this.state === "up") this.outage_count += 1;
    this.state = "ending";
    this.reason = reason;
    this.#o.sockets.shutdown(this.#fd);
    this.#finish();
  }

  #errorText(error: number): string {
    const reason = this.#tls?.reason ?? "";
    return reason === "" ? errorText(error) : `TLS: ${reason}`;
  }

  #finish(): void {
    if (this.#is_receiving || this.is_sending) return;
    this.#tls?.close();
    this.#tls = null;
    this.#o.sockets.close(this.#fd);
    this.#fd = -1;
    this.state = "down";
  }

  #greet(len_bytes: number): void {
    const { buffer_addr, buffer_bytes, arena } = this.#o;
    let remote: RemoteExport | null;
    try {
      remote = this.#handshake!.feed(arena.bytes.slice(buffer_addr, buffer_addr + len_bytes));
    } catch (error) {
      if (!(error instanceof HandshakeError)) throw error;
      return this.drop(error.message);
    }
    this.#sendOutput();
    if (remote !== null) this.#take(remote);
    else if (!this.#handshake!.starts_tls) this.recv(buffer_addr, buffer_bytes);
    else if (!this.is_sending) this.#startTls();
  }

  #sendOutput(): void {
    const output = this.#handshake!.takeOutput();
    if (output === null) return;
    this.#o.arena.bytes.set(output, this.#output_addr);
    this.#output.clear();
    this.#output.add(this.#output_addr, output.length);
    this.#output.seal();
    this.send(this.#output);
  }

  #sentOutput(len_bytes: number): void {
    this.#output.advance(len_bytes);
    if (this.#output.left_bytes > 0) this.send(this.#output);
    else if (this.#is_accepted) this.#rise();
    else if (this.#handshake!.starts_tls) this.#startTls();
  }

  /** The server has agreed, and nothing is under way on the socket: the rest is said under TLS. */
  #startTls(): void {
    const { tls, recv_user, send_user, buffer_addr, buffer_bytes } = this.#o;
    this.#tls = tls!(this.#fd, recv_user, send_user);
    this.recv(buffer_addr, buffer_bytes);
  }

  #goOnSecured(): void {
    this.#is_secured = true;
    this.#handshake!.secured();
    this.#sendOutput();
  }

  #take(remote: RemoteExport): void {
    const why = whyUnusable(remote);
    if (why !== "") return this.drop(why);
    if (remote.size_bytes < this.least_bytes) {
      return this.drop(
        `the export has ${remote.size_bytes} bytes now, ${this.least_bytes} are wanted`,
      );
    }
    this.remote = remote;
    this.#rise();
  }

  /** The answer may be there before the word that all of the question has left. */
  #rise(): void {
    this.#is_accepted = this.is_sending;
    if (this.is_sending) return;
    this.reason = "";
    this.state = "up";
  }
}

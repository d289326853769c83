/**
 * One TLS connection over a socket that is there already: what the ring does with bytes for others, this does for whoever
 * speaks TLS, in the same way. Something is asked for, one completion comes under the same token, and `received` or `sent` makes of
 * it what the plain socket would have said: bytes, 0 at the end, or an error number negated. EAGAIN: ask again.
 *
 * What is under way on the ring is only ever a poll. Bytes are decrypted into the place they are meant for, and encrypted from
 * where they lie, short ranges together.
 *
 * Invariants:
 * - The socket is non-blocking; nobody else receives from it or sends to it.
 * - `#has_more`: GnuTLS has something to tell that no poll announces: decrypted bytes, or an error. The next receive does not wait for the socket then.
 * - `#has_begun`: the next bytes of the message are in a record that GnuTLS has made and the socket has not taken in full. It wants to
 *   be asked again for that, and for nothing else; the bytes themselves it does not need any more.
 * - After `#fail`, every call answers with the error.
 *
 * @module
 */

import { assert } from "../../core/assert.ts";
import type { Arena } from "../arena.ts";
import {
  cString,
  EAGAIN,
  EPROTO,
  ERRNO,
  F_GETFL,
  F_SETFL,
  libc,
  O_CLOEXEC,
  O_NONBLOCK,
  O_RDONLY,
  POLLIN,
  POLLOUT,
  result,
  Word,
} from "../libc.ts";
import type { Iovecs } from "../nbd/iovecs.ts";
import type { Ring } from "../ring.ts";
import {
  type Gnutls,
  GNUTLS_E_AGAIN,
  GNUTLS_E_CERTIFICATE_VERIFICATION_ERROR,
  GNUTLS_E_FATAL_ALERT_RECEIVED,
  GNUTLS_E_INTERRUPTED,
  GNUTLS_E_PREMATURE_TERMINATION,
  GNUTLS_E_REHANDSHAKE,
  GNUTLS_SHUT_WR,
  gnutlsText,
  verificationText,
} from "./gnutls.ts";

/** What fits into a record (RFC 8446). */
export const RECORD_BYTES = 16 * 1024;
/** After so much others have their turn. */
const SLICE_BYTES = 1024 * 1024;
/** A peer that sends warnings without end is not listened to. */
const MAX_WARNINGS = 16;

/** Where a stream works. */
export interface StreamPlace {
  readonly arena: Pick<Arena, "address" | "bytes">;
  readonly ring: Pick<Ring, "poll">;
  /** Room for a record; all streams may share it. */
  readonly scratch_addr: number;
  /** Tokens of what is under way. */
  readonly recv_user: number;
  readonly send_user: number;
}

export class TlsStream {
  /** The handshake is over. */
  is_established = false;
  /** Why the connection was lost, if it was by TLS; else "". */
  reason = "";

  readonly #gnutls: Gnutls;
  readonly #session: Deno.PointerObject;
  readonly #place: StreamPlace;
  readonly #fd: number;
  /** What `#session` refers to: kept from being collected. */
  readonly #kept: unknown;
  /** Where the next bytes go: ranges, or one place. */
  #into: Iovecs | null = null;
  #into_addr = 0;
  #into_bytes = 0;
  #from: Iovecs | null = null;
  /** What the handshake waits for. */
  #awaits = POLLIN;
  #has_more = false;
  /** What the last attempt to take bytes ended with; 1: there was no more room for them. */
  #stopped_by = 1;
  #has_begun = false;
  #warnings = 0;
  readonly #address_word = new Word();
  readonly #len_word = new Word();

  /** Takes the socket over. A client's handshake begins with the first receive, a server's with the client's first bytes. */
  constructor(
    gnutls: Gnutls,
    session: Deno.PointerObject,
    fd: number,
    place: StreamPlace,
    role: { readonly is_client: boolean; readonly kept: unknown },
  ) {
    this.#gnutls = gnutls;
    this.#session = session;
    this.#place = place;
    this.#fd = fd;
    this.#kept = role.kept;
    this.#awaits = role.is_client ? POLLOUT : POLLIN;
    libc.fcntl(fd, F_SETFL, libc.fcntl(fd, F_GETFL, 0) | O_NONBLOCK);
    gnutls.gnutls_transport_set_int2(session, fd, fd);
  }

  /** Asks for bytes, at least one. */
  recv(addr: number, len_bytes: number): void {
    this.#into = null;
    this.#into_addr = addr;
    this.#into_bytes = len_bytes;
    this.#awaitReadable();
  }

  /** Asks for bytes in the ranges that are left. */
  recvmsg(into: Iovecs): void {
    this.#into = into;
    this.#awaitReadable();
  }

  #awaitReadable(): void {
    const { ring, recv_user } = this.#place;
    if (this.#has_more) ring.poll(recv_user, readyFd(), POLLIN);
    else ring.poll(recv_user, this.#fd, this.is_established ? POLLIN : this.#awaits);
  }

  /** Asks for the ranges that are left to be sent. */
  send(from: Iovecs): void {
    this.#from = from;
    this.#place.ring.poll(this.#place.send_user, this.#fd, POLLOUT);
  }

  /** What `recv` or `recvmsg` was asked for can be tried now; `polled` is the ring's result. */
  received(polled: number): number {
    if (polled < 0) return polled;
    if (!this.is_established) {
      const outcome = this.#shakeHands();
      if (outcome !== 0) return outcome;
    }
    const outcome = this.#into === null
      ? this.#take(this.#place.arena.address(this.#into_addr), this.#into_bytes)
      : this.#takeRanges(this.#into);
    this.#has_more = outcome > 0 && this.#isMoreInside();
    return outcome;
  }

  /** Bytes that found no room, or an end or error that was not told because bytes came before it. */
  #isMoreInside(): boolean {
    if (this.#stopped_by < 1) return this.#stopped_by !== GNUTLS_E_AGAIN;
    return this.#gnutls.gnutls_record_check_pending(this.#session) > 0;
  }

  /** The same for `send`. */
  sent(polled: number): number {
    return polled < 0 ? polled : this.sendNow(this.#from!);
  }

  /** Sends what the socket has room for now. Only after the handshake, and not while a `send` is under way. */
  sendNow(from: Iovecs): number {
    assert(this.is_established, "tls: bytes to send before the handshake");
    let done_bytes = 0;
    while (done_bytes < from.left_bytes && done_bytes < SLICE_BYTES) {
      const outcome = this.#has_begun
        ? this.#gnutls.gnutls_record_send(this.#session, 0n, 0n)
        : this.#sendRecord(from, done_bytes);
      this.#has_begun = outcome === GNUTLS_E_AGAIN || outcome === GNUTLS_E_INTERRUPTED;
      if (outcome > 0) done_bytes += outcome;
      else if (outcome !== GNUTLS_E_INTERRUPTED) {
        return done_bytes > 0 ? done_bytes : this.#errno(outcome);
      }
    }
    return done_bytes;
  }

  /**
   * Sends the next record, from the byte after `skip_bytes` of what is left: one long range from where it lies, short ones gathered.
   * (GnuTLS could gather itself, by gnutls_record_cork. That forgets that the peer has asked for a new key.)
   */
  #sendRecord(from: Iovecs, skip_bytes: number): number {
    let skip = skip_bytes;
    let i = from.first;
    for (; skip >= from.len(i); i++) skip -= from.len(i);
    const address = from.address(i) + skip;
    const len_bytes = Math.min(from.len(i) - skip, RECORD_BYTES);
    const is_last = i + 1 === from.count;
    return len_bytes === RECORD_BYTES || is_last
      ? this.#sendRange(address, len_bytes)
      : this.#sendGathered(from, i, skip);
  }

  #sendGathered(from: Iovecs, first: number, skip_bytes: number): number {
    const { arena, scratch_addr } = this.#place;
    const base = arena.address(0);
    let skip = skip_bytes;
    let filled = 0;
    for (let i = first; i < from.count && filled < RECORD_BYTES; i++) {
      const addr = from.address(i) - base + skip;
      const len_bytes = Math.min(from.len(i) - skip, RECORD_BYTES - filled);
      arena.bytes.copyWithin(scratch_addr + filled, addr, addr + len_bytes);
      filled += len_bytes;
      skip = 0;
    }
    return this.#sendRange(base + scratch_addr, filled);
  }

  #sendRange(address: number, len_bytes: number): number {
    return this.#gnutls.gnutls_record_send(
      this.#session,
      this.#address_word.set(address),
      this.#len_word.set(len_bytes),
    );
  }

  /** Fills the ranges, one after another, as far as there are bytes. */
  #takeRanges(into: Iovecs): number {
    let done_bytes = 0;
    for (let i = into.first; i < into.count && done_bytes < SLICE_BYTES; i++) {
      const len_bytes = into.len(i);
      const outcome = this.#take(into.address(i), len_bytes);
      if (outcome > 0) done_bytes += outcome;
      else if (done_bytes === 0) return outcome;
      if (outcome < len_bytes) break;
    }
    return done_bytes;
  }

  /** Takes what is there. Ends and errors are told when nothing was: they come again. */
  #take(address: number, len_bytes: number): number {
    let done_bytes = 0;
    this.#stopped_by = 1;
    while (done_bytes < len_bytes && done_bytes < SLICE_BYTES) {
      const outcome = this.#gnutls.gnutls_record_recv(
        this.#session,
        this.#address_word.set(address + done_bytes),
        this.#len_word.set(len_bytes - done_bytes),
      );
      if (outcome > 0) {
        done_bytes += outcome;
      } else if (outcome !== GNUTLS_E_INTERRUPTED && !this.#isWarning(outcome)) {
        this.#stopped_by = outcome;
        if (done_bytes > 0) break;
        const is_end = outcome === 0 || outcome === GNUTLS_E_PREMATURE_TERMINATION;
        return is_end ? 0 : this.#errno(outcome);
      }
    }
    return done_bytes;
  }

  #shakeHands(): number {
    for (;;) {
      const outcome = this.#gnutls.gnutls_handshake(this.#session);
      if (outcome === 0) break;
      if (outcome === GNUTLS_E_INTERRUPTED || this.#isWarning(outcome)) continue;
      if (outcome === GNUTLS_E_AGAIN) {
        const writes = this.#gnutls.gnutls_record_get_direction(this.#session) === 1;
        this.#awaits = writes ? POLLOUT : POLLIN;
      }
      return this.#errno(outcome);
    }
    this.is_established = true;
    return 0;
  }

  /** Nothing that ends the connection, unless there is too much of it. */
  #isWarning(outcome: number): boolean {
    if (outcome >= 0 || outcome === GNUTLS_E_AGAIN || outcome === GNUTLS_E_REHANDSHAKE) {
      return false;
    }
    if (this.#gnutls.gnutls_error_is_fatal(outcome) !== 0) return false;
    return ++this.#warnings <= MAX_WARNINGS;
  }

  /** The error number for one of GnuTLS's, negated. All but EAGAIN end the connection, and the peer is told why. */
  #errno(outcome: number): number {
    if (outcome === GNUTLS_E_AGAIN) return -EAGAIN;
    if (this.reason === "") {
      this.reason = this.#why(outcome);
      this.#gnutls.gnutls_alert_send_appropriate(this.#session, outcome);
    }
    return -EPROTO;
  }

  #why(outcome: number): string {
    const gnutls = this.#gnutls;
    const text = gnutlsText(gnutls, outcome);
    if (outcome === GNUTLS_E_FATAL_ALERT_RECEIVED) {
      const name = gnutls.gnutls_alert_get_name(gnutls.gnutls_alert_get(this.#session));
      return name === null ? text : `${text}: ${Deno.UnsafePointerView.getCString(name)}`;
    }
    if (outcome === GNUTLS_E_CERTIFICATE_VERIFICATION_ERROR) {
      const status = gnutls.gnutls_session_get_verify_cert_status(this.#session);
      return verificationText(gnutls, status);
    }
    return text;
  }

  /** Says that nothing more will be sent, if the socket takes that now. */
  bye(): void {
    if (this.is_established && this.reason === "") {
      this.#gnutls.gnutls_bye(this.#session, GNUTLS_SHUT_WR);
    }
  }

  /** Forgets the connection: nothing is under way on it any more. The socket stays the caller's. */
  close(): void {
    this.#gnutls.gnutls_deinit(this.#session);
  }
}

/** A descriptor that is always readable: a poll of it ends at once. */
function readyFd(): number {
  if (ready_fd < 0) {
    ready_fd = result(libc.open(cString("/dev/null"), O_RDONLY | O_CLOEXEC, 0), ERRNO[0]);
    assert(ready_fd >= 0, "tls: /dev/null is there");
  }
  return ready_fd;
}

let ready_fd = -1;

/**
 * What the NBD server needs from its neighbours, and no more: the tests put fakes in their place.
 *
 * @module
 */

import type { Engine } from "../../core/engine.ts";
import type { Arena } from "../arena.ts";
import type { Medium } from "../medium.ts";
import type { RequestEngine } from "../request_engine.ts";
import type { Ring } from "../ring.ts";
import type { TlsServer } from "../tls/credentials.ts";
import type { TlsStream } from "../tls/stream.ts";
import type * as sockets from "../sockets.ts";

/** Completions come to `NbdServer.handle`. */
export type NbdRing = Pick<Ring, "accept" | "recv" | "recvmsg" | "sendmsg">;

export type NbdArena = Pick<Arena, "bytes" | "alloc" | "discard" | "absolute" | "putAddress">;

/** Where payloads go. */
export type NbdMemory = Pick<Medium, "receive" | "receives_past_caches">;

/** System calls on sockets that end at once. */
export type NbdSockets = Pick<
  typeof sockets,
  "sendNow" | "shutdown" | "close" | "keepAlive" | "hasHungUp"
>;

/** Makes TLS connections of sockets. Completions of these come to `NbdServer.handle`, too. */
export interface NbdTls {
  readonly is_required: TlsServer["is_required"];
  open(fd: number, recv_user: number, send_user: number): NbdTlsStream;
}

export type NbdTlsStream = Pick<
  TlsStream,
  | "is_established"
  | "recv"
  | "recvmsg"
  | "send"
  | "sendNow"
  | "received"
  | "sent"
  | "bye"
  | "close"
>;

/** Requests, and what is told of zeroes and of what is cached. */
export type NbdEngine =
  & RequestEngine
  & Pick<Engine, "knows_zeroes" | "pieceIsZero" | "listRangeStates">;

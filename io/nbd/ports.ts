/**
 * What the NBD server needs from its neighbours, and no more: the tests put fakes in their place.
 *
 * @module
 */

import type { Engine } from "../../core/engine.ts";
import type { Arena } from "../arena.ts";
import type { Medium } from "../medium.ts";
import type { Ring } from "../ring.ts";
import type * as sockets from "../sockets.ts";

/** Completions come to `NbdServer.handle`. */
export type NbdRing = Pick<Ring, "accept" | "recv" | "recvmsg" | "sendmsg">;

export type NbdArena = Pick<Arena, "bytes" | "alloc" | "discard" | "absolute" | "putAddress">;

/** Where payloads go. */
export type NbdMemory = Pick<Medium, "receive" | "receives_past_caches">;

/** System calls on sockets that end at once. */
export type NbdSockets = Pick<typeof sockets, "sendNow" | "shutdown" | "close" | "keepAlive">;

export type NbdEngine = Pick<
  Engine,
  | "max_requests"
  | "beginRead"
  | "beginWrite"
  | "beginZero"
  | "beginFlush"
  | "takePlaced"
  | "takeAnswered"
  | "payloadArrived"
  | "payloadLost"
  | "error"
  | "firstPiece"
  | "nextPiece"
  | "pieceAddr"
  | "pieceLen"
  | "release"
  | "listRangeStates"
>;

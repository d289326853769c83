/**
 * What every front-end asks of the engine for its clients' requests: the tests put fakes in its place.
 *
 * @module
 */

import type { Engine } from "../core/engine.ts";

/** Requests, their pieces and their ends. */
export type RequestEngine = Pick<
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
>;

/**
 * What the NBD server needs from its neighbours: the parts of the ring, the arena and the engine that it uses.
 *
 * @module
 */

/** The part of the ring that the server uses. Completions come to `NbdServer.handle`. */
export interface NbdRing {
  accept(user: number, fd: number): void;
  recv(user: number, fd: number, addr: number, len_bytes: number): void;
  recvmsg(user: number, fd: number, msghdr_addr: number): void;
  sendmsg(user: number, fd: number, msghdr_addr: number): void;
}

/** The part of the arena that the server uses. */
export interface NbdArena {
  readonly bytes: Uint8Array;
  /** Sets memory aside for good, zeroed, and returns its address. */
  alloc(len_bytes: number, align_bytes: number): number;
  /** Stores the absolute address of `addr` as two words, low word first. */
  putAddress(words: Uint32Array, index: number, addr: number): void;
}

/** The part of the engine that the server uses; see `Engine`. */
export interface NbdEngine {
  readonly size_bytes: number;
  readonly max_requests: number;
  beginRead(off_bytes: number, len_bytes: number): number;
  beginWrite(off_bytes: number, len_bytes: number, fua: boolean): number;
  beginFlush(): number;
  takePlaced(): number;
  takeAnswered(): number;
  payloadArrived(slot: number): void;
  payloadLost(slot: number): void;
  error(slot: number): number;
  firstPiece(slot: number): number;
  nextPiece(piece: number): number;
  pieceAddr(piece: number): number;
  pieceLen(piece: number): number;
  release(slot: number): void;
}

/** System calls on sockets that end at once. */
export interface NbdSockets {
  /** Makes pending operations on the socket end, in both directions. */
  shutdown(fd: number): void;
  close(fd: number): void;
  /** Sends small replies at once (TCP_NODELAY). */
  setNoDelay(fd: number): void;
}

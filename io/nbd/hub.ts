/**
 * What the connections of one server share: its neighbours, and which request belongs to whom.
 *
 * Invariant: `slot_owner[slot]` is the index of the connection that began the request, from `begin...` until the
 * slot is released or lost. A connection's place is not reused before its last slot is released.
 *
 * @module
 */

import { RangeStates } from "../../core/range_states.ts";
import { FailurePayloads } from "./failures.ts";
import type { Export } from "./handshake.ts";
import type { NbdArena, NbdEngine, NbdMemory, NbdRing, NbdSockets, NbdTls } from "./ports.ts";

export interface HubOptions {
  arena: NbdArena;
  ring: NbdRing;
  memory: NbdMemory;
  engine: NbdEngine;
  sockets: NbdSockets;
  /** Null: there is no TLS. */
  tls: NbdTls | null;
  served: Export;
  /** Tokens for the ring: the connection's index is added. */
  recv_user: number;
  send_user: number;
}

export class Hub {
  readonly arena: NbdArena;
  readonly ring: NbdRing;
  readonly memory: NbdMemory;
  readonly engine: NbdEngine;
  readonly sockets: NbdSockets;
  readonly tls: NbdTls | null;
  readonly served: Export;
  readonly recv_user: number;
  readonly send_user: number;
  readonly slot_owner: Int32Array;
  /** Cookie and offset of each request: four words as they came, never swapped. */
  readonly slot_words: Uint32Array;
  readonly slot_type: Uint8Array;
  readonly slot_bytes: Uint32Array;
  /** Not 0: the reply to the read must be one chunk. */
  readonly slot_is_whole: Uint8Array;
  /** The same words of a request that is answered at once. */
  readonly request_words = new Uint32Array(4);
  /** What block status replies are made of. */
  readonly states = new RangeStates();
  readonly failures: FailurePayloads;
  /** Tells connections that their writes have got space (the server's part). */
  readonly collectPlaced: () => void;
  /** No request is taken, and nothing received: the device is suspended. */
  is_holding = false;
  /** While it is: payloads of writes that have begun are received all the same. */
  takes_payloads = false;
  /** A client is waited for, which has to be looked after. */
  waits_for_clients = false;
  /** The engine got work since this was last cleared. */
  fed = false;
  /** A request has ended since this was last cleared: connections that wait for room may go on. */
  ended = false;

  /** Connections of the kernel's that are not closed. */
  attached_count = 0;
  /** The kernel has said on one of them that it goes. */
  has_taken_leave = false;

  constructor(o: HubOptions, collectPlaced: () => void) {
    this.collectPlaced = collectPlaced;
    this.arena = o.arena;
    this.ring = o.ring;
    this.memory = o.memory;
    this.engine = o.engine;
    this.sockets = o.sockets;
    this.tls = o.tls;
    this.served = o.served;
    this.recv_user = o.recv_user;
    this.send_user = o.send_user;
    this.slot_owner = new Int32Array(o.engine.max_requests).fill(-1);
    this.slot_words = new Uint32Array(4 * o.engine.max_requests);
    this.slot_type = new Uint8Array(o.engine.max_requests);
    this.slot_is_whole = new Uint8Array(o.engine.max_requests);
    this.slot_bytes = new Uint32Array(o.engine.max_requests);
    this.failures = new FailurePayloads(o.arena);
  }
}

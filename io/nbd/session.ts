/**
 * What the negotiation with a client has agreed on, and what follows from it for the transmission phase.
 *
 * @module
 */

import * as nbd from "./protocol.ts";

/** How requests and replies are laid out (NBD protocol, "Transmission"). */
export const SIMPLE = 0;
/** Requests as ever, structured replies. */
export const STRUCTURED = 1;
/** Extended requests and extended replies. */
export const EXTENDED = 2;

/** Bits of `Session.contexts`, which are the contexts' ids as well ("Metadata context"). */
export const CONTEXT_ALLOCATION = 1;
export const CONTEXT_DIRTY = 2;

/** The metadata contexts that can be selected, and their ids. */
export const CONTEXTS: readonly { readonly name: string; readonly id: number }[] = [
  { name: "base:allocation", id: CONTEXT_ALLOCATION },
  { name: "pcache:dirty", id: CONTEXT_DIRTY },
];

export interface Session {
  /** SIMPLE, STRUCTURED or EXTENDED. */
  readonly style: number;
  /** The selected metadata contexts; 0: none. */
  readonly contexts: number;
}

/** Before anything is agreed on, and all that EXPORT_NAME alone leads to. */
export const PLAIN_SESSION: Session = { style: SIMPLE, contexts: 0 };

/** Length of a request's header. */
export function requestBytes(style: number): number {
  return style === EXTENDED ? nbd.EXTENDED_REQUEST_BYTES : nbd.REQUEST_BYTES;
}

/** What a request begins with. */
export function requestMagic(style: number): number {
  return style === EXTENDED ? nbd.EXTENDED_REQUEST_MAGIC : nbd.REQUEST_MAGIC;
}

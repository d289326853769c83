/**
 * TCP ports for the servers that a test starts.
 *
 * @module
 */

import {
  AF_INET,
  AF_INET6,
  ERRNO,
  IPPROTO_IPV6,
  IPV6_V6ONLY,
  libc,
  result,
  SO_REUSEADDR,
  SOCK_CLOEXEC,
  SOCK_STREAM,
  SOL_SOCKET,
} from "../io/libc.ts";
import { socketAddress } from "../io/sockets.ts";
import type { Rig } from "./device.ts";

/** So many are tried: one may be taken at the second address. */
const TRIES = 100;

/**
 * A port of 127.0.0.1 and [::1] at which nobody listens, and that nobody else is given before the rig ends: sockets that do not listen
 * are bound to it. A server that sets SO_REUSEADDR, as they all do, can listen there, and again when it was killed; no connection
 * starts from it.
 */
export function heldPort(rig: Rig): number {
  for (let tried = 0; tried < TRIES; tried++) {
    const first = bound("127.0.0.1", 0);
    const port = portOf(first);
    const second = bound("::1", port);
    rig.defer("let go of a port", () => {
      for (const fd of [first, second]) if (fd >= 0) libc.close(fd);
    });
    if (second >= 0) return port;
  }
  throw new Error(`none of ${TRIES} ports is free at both 127.0.0.1 and [::1]`);
}

/** A socket that is bound and does not listen; an error number negated. */
function bound(host: string, port: number): number {
  const address = socketAddress(host, port)!;
  const family = new DataView(address.buffer).getUint16(0, true);
  const fd = result(libc.socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0), ERRNO[0]);
  if (fd < 0) throw new Error(`socket: error ${-fd}`);
  if (family === AF_INET6) setOption(fd, IPPROTO_IPV6, IPV6_V6ONLY);
  setOption(fd, SOL_SOCKET, SO_REUSEADDR);
  const outcome = result(libc.bind(fd, address, address.length), ERRNO[0]);
  if (outcome === 0) return fd;
  libc.close(fd);
  if (family === AF_INET) throw new Error(`bind to ${host}:${port}: error ${-outcome}`);
  return outcome;
}

function setOption(fd: number, level: number, option: number): void {
  const one = new Uint8Array(new Int32Array([1]).buffer);
  const outcome = result(libc.setsockopt(fd, level, option, one, one.length), ERRNO[0]);
  if (outcome !== 0) throw new Error(`setsockopt ${option}: error ${-outcome}`);
}

function portOf(fd: number): number {
  const address = socketAddress("127.0.0.1", 0)!;
  const len = new Uint8Array(new Uint32Array([address.length]).buffer);
  const outcome = result(libc.getsockname(fd, address, len), ERRNO[0]);
  if (outcome !== 0) throw new Error(`getsockname: error ${-outcome}`);
  return new DataView(address.buffer).getUint16(2);
}

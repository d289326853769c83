/**
 * Sockets: listening, connecting, and what is done to them outside the ring. Nothing here waits, but for looking up a
 * host's name.
 *
 * @module
 */

import { CacheError } from "../core/errors.ts";
import {
  AF_INET,
  AF_INET6,
  AF_UNIX,
  cString,
  EINPROGRESS,
  ERRNO,
  errorText,
  F_GETFL,
  F_SETFD,
  F_SETFL,
  FD_CLOEXEC,
  IPPROTO_IPV6,
  IPPROTO_TCP,
  IPV6_V6ONLY,
  libc,
  MSG_DONTWAIT,
  MSG_NOSIGNAL,
  O_NONBLOCK,
  POLLRDHUP,
  result,
  SHUT_RDWR,
  SO_ACCEPTCONN,
  SO_KEEPALIVE,
  SO_REUSEADDR,
  SO_TYPE,
  SOCK_CLOEXEC,
  SOCK_STREAM,
  SOL_SOCKET,
  TCP_KEEPCNT,
  TCP_KEEPIDLE,
  TCP_KEEPINTVL,
  TCP_NODELAY,
} from "./libc.ts";

/** Clients that may wait for `accept`: as many as come at once where there are many. */
const BACKLOG = 1024;
/** sun_path with its final zero (unix(7)). */
const UNIX_PATH_BYTES = 108;
const INET_ADDRESS_BYTES = 16;
const INET6_ADDRESS_BYTES = 28;
/** Only the owner may connect. */
const PRIVATE_MODE = 0o600;
/** A TCP peer that is gone is known to be so after 10 s of silence and four questions. */
const KEEP_IDLE_S = 10;
const KEEP_INTERVAL_S = 5;
const KEEP_COUNT = 4;
/** struct addrinfo: flags, family, type, protocol, length of the address, then pointers: address, name, next. */
const ADDRINFO_BYTES = 48;
/** Most addresses of a host that are tried. */
const MAX_ADDRESSES = 16;

/** A socket that listens on TCP, and where. */
export interface TcpListener {
  readonly fd: number;
  /** A literal address, as it was given or as the name stands for. */
  readonly host: string;
  /** The real one, also when port 0 was asked for. */
  readonly port: number;
}

/** Undoes what `PollRing.accept` did to a listening socket: another ring waits on it then. */
export function setBlocking(fd: number): void {
  libc.fcntl(fd, F_SETFL, libc.fcntl(fd, F_GETFL, 0) & ~O_NONBLOCK);
}

/**
 * Listens on a Unix socket of mode 0600. Nobody can connect before the mode is set. A file at `path` is in the
 * way: the caller owns the directory and clears it.
 *
 * @throws {CacheError}
 */
export function listenUnix(path: string): number {
  const address = unixAddress(path);
  const fd = open(AF_UNIX, path);
  try {
    check(libc.bind(fd, address, address.length), ERRNO[0], `socket ${path}`);
    Deno.chmodSync(path, PRIVATE_MODE);
    check(libc.listen(fd, BACKLOG), ERRNO[0], `socket ${path}`);
    return fd;
  } catch (error) {
    libc.close(fd);
    throw error;
  }
}

/**
 * Listens on TCP at a literal IPv4 or IPv6 address, or "localhost" (127.0.0.1). Port 0: any free one.
 *
 * @throws {CacheError}
 */
export function listenTcp(host: string, port: number): TcpListener {
  const what = `listening on ${host}:${port}`;
  if (!Number.isInteger(port) || port < 0 || port > 65535) {
    throw new CacheError(`${what}: a port from 0 to 65535 is wanted`);
  }
  const literal = host === "localhost" ? "127.0.0.1" : host;
  const address = socketAddress(literal, port);
  if (address === null) {
    throw new CacheError(`${what}: an IPv4 or IPv6 address or "localhost" is wanted`);
  }
  const family = address.length === INET_ADDRESS_BYTES ? AF_INET : AF_INET6;
  const fd = open(family, what);
  try {
    setOption(fd, SOL_SOCKET, SO_REUSEADDR);
    if (family === AF_INET6) setOption(fd, IPPROTO_IPV6, IPV6_V6ONLY);
    check(libc.bind(fd, address, address.length), ERRNO[0], what);
    check(libc.listen(fd, BACKLOG), ERRNO[0], what);
    return { fd, host: literal, port: localPort(fd, what) };
  } catch (error) {
    libc.close(fd);
    throw error;
  }
}

/**
 * `struct sockaddr_un` of a Unix socket's path.
 *
 * @throws {CacheError} The path is too long.
 */
export function unixAddress(path: string): Uint8Array<ArrayBuffer> {
  const name = new TextEncoder().encode(path);
  if (name.length >= UNIX_PATH_BYTES) {
    throw new CacheError(
      `socket ${path}: ${name.length} bytes long, at most ${UNIX_PATH_BYTES - 1} are wanted`,
    );
  }
  const address = new Uint8Array(2 + name.length + 1);
  new DataView(address.buffer).setUint16(0, AF_UNIX, true);
  address.set(name, 2);
  return address;
}

/**
 * The addresses of a host, in the system's order of preference: `struct sockaddr_in` or `sockaddr_in6` each. A name is
 * looked up, which may wait as long as the system's resolver does.
 *
 * @throws {CacheError} There is no host of that name.
 */
export function tcpAddresses(host: string, port: number): Uint8Array<ArrayBuffer>[] {
  const literal = socketAddress(host, port);
  if (literal !== null) return [literal];
  const hints = new Uint8Array(ADDRINFO_BYTES);
  new DataView(hints.buffer).setInt32(8, SOCK_STREAM, true);
  const first = new BigUint64Array(1);
  const failed = libc.getaddrinfo(cString(host), 0n, hints, new Uint8Array(first.buffer));
  if (failed !== 0) {
    const why = Deno.UnsafePointerView.getCString(libc.gai_strerror(failed)!);
    throw new CacheError(`host ${host}: ${why}`);
  }
  const list = Deno.UnsafePointer.create(first[0]!);
  const addresses: Uint8Array<ArrayBuffer>[] = [];
  for (let at = list; at !== null && addresses.length < MAX_ADDRESSES;) {
    const info = new Deno.UnsafePointerView(at);
    const address = new Uint8Array(info.getUint32(16));
    new Deno.UnsafePointerView(info.getPointer(24)!).copyInto(address);
    new DataView(address.buffer).setUint16(2, port);
    addresses.push(address);
    at = info.getPointer(40);
  }
  libc.freeaddrinfo(list);
  return addresses;
}

/**
 * Starts to connect to an address. The connection may still be on its way, or fail, when this returns: what is received
 * first, or the error instead, tells.
 *
 * @returns a descriptor, or an error number negated
 */
export function startConnect(address: Uint8Array<ArrayBuffer>): number {
  const family = new DataView(address.buffer).getUint16(0, true);
  const fd = result(libc.socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0), ERRNO[0]);
  if (fd < 0) return fd;
  if (family !== AF_UNIX) keepAlive(fd);
  const flags = libc.fcntl(fd, F_GETFL, 0);
  libc.fcntl(fd, F_SETFL, flags | O_NONBLOCK);
  const outcome = result(libc.connect(fd, address, address.length), ERRNO[0]);
  libc.fcntl(fd, F_SETFL, flags);
  if (outcome === 0 || outcome === -EINPROGRESS) return fd;
  libc.close(fd);
  return outcome;
}

/**
 * For a TCP connection: small messages leave at once, and a peer whose machine is gone is given up. Not with TCP_USER_TIMEOUT: it would also give up
 * one that is there and takes nothing for a while (docs/backing.md, "Outages").
 */
export function keepAlive(fd: number): void {
  setOption(fd, IPPROTO_TCP, TCP_NODELAY);
  setOption(fd, SOL_SOCKET, SO_KEEPALIVE);
  setOption(fd, IPPROTO_TCP, TCP_KEEPIDLE, KEEP_IDLE_S);
  setOption(fd, IPPROTO_TCP, TCP_KEEPINTVL, KEEP_INTERVAL_S);
  setOption(fd, IPPROTO_TCP, TCP_KEEPCNT, KEEP_COUNT);
}

/**
 * Sends what the socket has room for now, of the `struct msghdr` at an absolute address. Returns bytes, or an error number
 * negated: EAGAIN when there is no room.
 */
export function sendNow(fd: number, msghdr: bigint): number {
  return result(libc.sendmsg(fd, msghdr, MSG_DONTWAIT | MSG_NOSIGNAL), ERRNO[0]);
}

/** Whether an address, or "localhost", is reached from this machine alone. */
export function isLoopback(host: string): boolean {
  const address = host === "localhost" ? null : socketAddress(host, 0);
  return address === null ? host === "localhost" : isLoopbackAddress(address);
}

/** The same of `struct sockaddr_in` or `sockaddr_in6`; IPv4 addresses may stand in IPv6 ones. */
function isLoopbackAddress(address: Uint8Array): boolean {
  const [v4_at, v6_at] = [4, 8];
  if (address[0] === AF_INET) return address[v4_at] === 127;
  const ip = address.subarray(v6_at, v6_at + 16);
  const has_zeroes = ip.subarray(0, 10).every((byte) => byte === 0);
  if (has_zeroes && ip[10] === 255 && ip[11] === 255) return ip[12] === 127;
  return has_zeroes && ip.subarray(10, 15).every((byte) => byte === 0) && ip[15] === 1;
}

/** A listening socket that somebody else has opened. */
export interface AdoptedListener {
  readonly is_unix: boolean;
  /** `HOST:PORT`, or a path. */
  readonly address: string;
  /** Reached from this machine alone. */
  readonly is_loopback: boolean;
}

/**
 * Looks at a listening socket that was inherited, and makes it fit for the ring. No other program inherits it.
 *
 * @throws {CacheError} It is none, or of a kind that is not served.
 */
export function adoptListener(fd: number): AdoptedListener {
  const what = `descriptor ${fd}`;
  const is_stream = option(fd, SO_TYPE, what) === SOCK_STREAM;
  if (!is_stream || option(fd, SO_ACCEPTCONN, what) === 0) {
    throw new CacheError(`${what}: a listening stream socket is wanted`);
  }
  const address = new Uint8Array(2 + UNIX_PATH_BYTES);
  const len = new Uint32Array([address.length]);
  check(libc.getsockname(fd, address, new Uint8Array(len.buffer)), ERRNO[0], what);
  libc.fcntl(fd, F_SETFD, FD_CLOEXEC);
  setBlocking(fd);
  const view = new DataView(address.buffer);
  const family = view.getUint16(0, true);
  if (family === AF_UNIX) {
    const path = new TextDecoder().decode(address.subarray(2, len[0]!)).replace(/\0$/, "");
    if (!path.startsWith("/")) {
      throw new CacheError(`${what}: a Unix socket with an absolute path is wanted`);
    }
    return { is_unix: true, address: path, is_loopback: true };
  }
  if (family !== AF_INET && family !== AF_INET6) {
    throw new CacheError(`${what}: a Unix or TCP socket is wanted, not of family ${family}`);
  }
  const host = family === AF_INET
    ? address.subarray(4, 8).join(".")
    : `[${Array.from({ length: 8 }, (_, i) => view.getUint16(8 + 2 * i).toString(16)).join(":")}]`;
  // The URL standard shortens IPv6 addresses.
  const { hostname } = new URL(`http://${host}/`);
  const is_loopback = isLoopbackAddress(address);
  return { is_unix: false, address: `${hostname}:${view.getUint16(2)}`, is_loopback };
}

function option(fd: number, name: number, what: string): number {
  const value = new Int32Array(1);
  const len = new Uint32Array([4]);
  const [value_bytes, len_bytes] = [new Uint8Array(value.buffer), new Uint8Array(len.buffer)];
  check(libc.getsockopt(fd, SOL_SOCKET, name, value_bytes, len_bytes), ERRNO[0], what);
  return value[0]!;
}

/** Ends what waits on a socket, in both directions. A socket whose peer is gone has nothing to end. */
export function shutdown(fd: number): void {
  libc.shutdown(fd, SHUT_RDWR);
}

/** Whether the peer will send no more. What it has sent before may still be there. */
export function hasHungUp(fd: number): boolean {
  const view = new DataView(POLLED.buffer);
  view.setInt32(0, fd, true);
  view.setInt16(4, POLLRDHUP, true);
  view.setInt16(6, 0, true);
  libc.poll_in(POLLED, 1n, 0);
  return view.getInt16(6, true) !== 0;
}

/** `struct pollfd`. */
const POLLED = new Uint8Array(8);

/**
 * Two connected sockets, of which the kernel can be given one.
 *
 * @throws {CacheError}
 */
export function socketPair(): [number, number] {
  const fds = new Int32Array(2);
  const bytes = new Uint8Array(fds.buffer);
  check(
    libc.socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, bytes),
    ERRNO[0],
    "a pair of sockets",
  );
  return [fds[0]!, fds[1]!];
}

/** Closes a socket on which nothing is under way. */
export function close(fd: number): void {
  libc.close(fd);
}

/**
 * `struct sockaddr_in` or `sockaddr_in6` for a literal address; null when it is none. Zones (`fe80::1%eth0`) are not
 * taken.
 */
export function socketAddress(literal: string, port: number): Uint8Array<ArrayBuffer> | null {
  const v4 = parseIpv4(literal);
  const ip = v4 ?? parseIpv6(literal);
  if (ip === null) return null;
  const address = new Uint8Array(v4 === null ? INET6_ADDRESS_BYTES : INET_ADDRESS_BYTES);
  const view = new DataView(address.buffer);
  view.setUint16(0, v4 === null ? AF_INET6 : AF_INET, true);
  view.setUint16(2, port);
  address.set(ip, v4 === null ? 8 : 4);
  return address;
}

function parseIpv4(text: string): number[] | null {
  if (!/^\d{1,3}(\.\d{1,3}){3}$/.test(text)) return null;
  const parts = text.split(".");
  const numbers = parts.map(Number);
  // 010 is eight to some and ten to others.
  const is_plain = numbers.every((n, i) => n <= 255 && String(n) === parts[i]);
  return is_plain ? numbers : null;
}

function parseIpv6(text: string): number[] | null {
  if (!/^[0-9a-fA-F:.]+$/.test(text) || !text.includes(":")) return null;
  const url = URL.parse(`http://[${text}]/`);
  if (url === null) return null;
  // The URL standard writes it in groups of hexadecimal digits, the longest run of zeroes as "::".
  const [left, right] = url.hostname.slice(1, -1).split("::").map(groups);
  const zeroes = new Array(8 - left!.length - (right?.length ?? 0)).fill(0);
  return [...left!, ...zeroes, ...(right ?? [])].flatMap((group) => [group >> 8, group & 255]);
}

function groups(text: string): number[] {
  return text === "" ? [] : text.split(":").map((group) => parseInt(group, 16));
}

function localPort(fd: number, what: string): number {
  const address = new Uint8Array(INET6_ADDRESS_BYTES);
  const len = new Uint32Array([address.length]);
  check(libc.getsockname(fd, address, new Uint8Array(len.buffer)), ERRNO[0], what);
  return new DataView(address.buffer).getUint16(2);
}

function open(family: number, what: string): number {
  return check(libc.socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0), ERRNO[0], what);
}

function setOption(fd: number, level: number, option: number, value = 1): void {
  const bytes = new Uint8Array(new Int32Array([value]).buffer);
  libc.setsockopt(fd, level, option, bytes, bytes.length);
}

function check(returned: number, error: number, what: string): number {
  const value = result(returned, error);
  if (value < 0) throw new CacheError(`${what}: ${errorText(-value)}`);
  return value;
}

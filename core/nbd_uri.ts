/**
 * NBD URIs: where a backing device is that an NBD server has (doc/uri.md of github.com/NetworkBlockDevice/nbd).
 *
 * ```text
 * nbd://HOST[:PORT][/EXPORT]                 TCP, port 10809 unless it says otherwise
 * nbd+unix:///[EXPORT]?socket=PATH           a Unix socket
 * ```
 *
 * Invariants:
 * - Nothing is guessed: what this program does not know, or cannot do yet (TLS), refuses the whole URI.
 * - `parseNbdUri(formatNbdUri(address))` gives the same address; addresses that are the same are written the same.
 *
 * @module
 */

import { CacheError } from "./errors.ts";

/** An export of a server, and how to reach it. */
export type NbdAddress =
  & {
    /** The export's name; "" is the server's default one. */
    readonly export_name: string;
  }
  & (
    | {
      readonly transport: "tcp";
      /** A name in small letters, an IPv4 address, or an IPv6 address without brackets. */
      readonly host: string;
      readonly port: number;
    }
    | {
      readonly transport: "unix";
      /** As it was written: perhaps relative to the working directory. */
      readonly socket_path: string;
    }
  );

/** The port that IANA has assigned. */
export const NBD_PORT = 10809;
/** Longest export name, in bytes (NBD protocol, "String values"). */
const MAX_NAME_BYTES = 4096;
/** Longest host name (RFC 1035). */
const MAX_HOST_CHARS = 253;

const SCHEME = /^nbds?(?:\+[a-z0-9]+)?:\/\//i;
/** Scheme, authority, path, query, fragment (RFC 3986, appendix B). */
const PARTS = /^([^:]+):\/\/([^/?#]*)([^?#]*)(?:\?([^#]*))?(#.*)?$/;
/** All that may stand in a URI (RFC 3986, section 2). */
const CHARACTERS = /^(?:[A-Za-z0-9\-._~:/?#[\]@!$&'()*+,;=]|%[0-9A-Fa-f]{2})*$/;
const AUTHORITY = /^(?:\[([0-9A-Fa-f:.]+)\]|([0-9A-Za-z._-]+))(?::([0-9]{1,5}))?$/;

/** Whether a word of a table is an NBD URI, perhaps a bad one, and not a path. */
export function isNbdUri(word: string): boolean {
  return SCHEME.test(word);
}

/**
 * Reads an NBD URI.
 *
 * @throws {CacheError} The URI, what is wrong with it, and what was wanted.
 */
export function parseNbdUri(uri: string): NbdAddress {
  const parts = PARTS.exec(uri);
  if (parts === null || !CHARACTERS.test(uri)) {
    throw bad(uri, "it holds what no URI may hold: such characters are written %XX");
  }
  const [, scheme, authority, path, query, fragment] = parts;
  const kind = scheme!.toLowerCase();
  if (kind === "nbds" || kind === "nbds+unix") {
    throw bad(uri, "TLS is not there yet: nbd:// and nbd+unix:// are");
  }
  if (kind !== "nbd" && kind !== "nbd+unix") {
    throw bad(uri, `"${scheme}" is not known: nbd:// or nbd+unix:// is wanted`);
  }
  if (fragment !== undefined) throw bad(uri, `"${fragment}" means nothing there: write # as %23`);
  const export_name = decode(uri, "export name", path!.slice(1));
  const name_bytes = new TextEncoder().encode(export_name).length;
  if (name_bytes > MAX_NAME_BYTES) {
    throw bad(uri, `the export name has ${name_bytes} bytes, at most ${MAX_NAME_BYTES} are wanted`);
  }
  const socket_path = parseQuery(uri, kind, query);
  if (socket_path !== null) {
    if (authority !== "") {
      throw bad(uri, `a host ("${authority}") has no place there: nbd+unix:///EXPORT is wanted`);
    }
    return { transport: "unix", socket_path, export_name };
  }
  return { transport: "tcp", ...parseAuthority(uri, authority!), export_name };
}

/** The URI of an address, always written the same way. */
export function formatNbdUri(address: NbdAddress): string {
  const path = `/${encode(address.export_name)}`;
  if (address.transport === "unix") {
    return `nbd+unix://${path}?socket=${encode(address.socket_path)}`;
  }
  const host = address.host.includes(":") ? `[${address.host}]` : address.host;
  return `nbd://${host}${address.port === NBD_PORT ? "" : `:${address.port}`}${path}`;
}

/** The socket's path; null where the scheme has none. */
function parseQuery(uri: string, kind: "nbd" | "nbd+unix", query: string | undefined) {
  let socket_path: string | null = null;
  for (const parameter of query === undefined ? [] : query.split("&")) {
    const key = parameter.split("=", 1)[0]!;
    if (key.startsWith("tls-")) throw bad(uri, `"${parameter}": TLS is not there yet`);
    if (key !== "socket" || kind !== "nbd+unix") {
      const known = kind === "nbd" ? "none is known for nbd://" : "only socket=PATH is known";
      throw bad(uri, `unknown parameter "${parameter}": ${known}`);
    }
    if (socket_path !== null) throw bad(uri, "socket is given twice");
    socket_path = decode(uri, "socket", parameter.slice(key.length + 1));
  }
  if (kind === "nbd+unix" && !socket_path) throw bad(uri, "?socket=PATH is wanted");
  return socket_path;
}

function parseAuthority(uri: string, authority: string): { host: string; port: number } {
  if (authority === "") throw bad(uri, "a host is wanted: nbd://HOST[:PORT]/EXPORT");
  if (authority.includes("@")) {
    throw bad(uri, "a user has a meaning with TLS only, and TLS is not there yet");
  }
  const match = AUTHORITY.exec(authority);
  const host = match?.[1] ?? match?.[2];
  if (host === undefined || host.length > MAX_HOST_CHARS) {
    throw bad(uri, `"${authority}" is no HOST or HOST:PORT; an IPv6 address stands in brackets`);
  }
  const port = match?.[3] === undefined ? NBD_PORT : Number(match[3]);
  if (port < 1 || port > 65535) throw bad(uri, `port ${port}: 1..65535 is wanted`);
  return { host: host.toLowerCase(), port };
}

function decode(uri: string, what: string, text: string): string {
  let decoded;
  try {
    decoded = decodeURIComponent(text);
  } catch {
    throw bad(uri, `its ${what} is not UTF-8`);
  }
  if (decoded.includes("\0")) throw bad(uri, `its ${what} holds a zero byte`);
  return decoded;
}

function encode(text: string): string {
  return encodeURIComponent(text).replaceAll("%2F", "/");
}

function bad(uri: string, why: string): CacheError {
  return new CacheError(`Error opening backing device: ${uri}: ${why}`);
}

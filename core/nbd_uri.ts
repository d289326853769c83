/**
 * NBD URIs: where a backing device is that an NBD server has (doc/uri.md of github.com/NetworkBlockDevice/nbd).
 *
 * ```text
 * nbd://HOST[:PORT][/EXPORT]                 TCP, port 10809 unless it says otherwise
 * nbd+unix:///[EXPORT]?socket=PATH           a Unix socket
 * nbds://HOST...[?tls-certificates=DIR&tls-hostname=NAME]     the same under TLS, with certificates
 * nbds://USER@HOST...?tls-psk-file=FILE                       the same with a key that both sides have
 * ```
 *
 * Invariants:
 * - Nothing is guessed: what this program does not know refuses the whole URI.
 * - `parseNbdUri(formatNbdUri(address))` gives the same address; addresses that are the same are written the same.
 *
 * @module
 */

import { CacheError } from "./errors.ts";

/** What a client and its server prove themselves with. Paths are as they were written. */
export type NbdTlsProof =
  | {
    /** Authorities, and a certificate of our own; null: the authorities that the system trusts. */
    readonly certificates_dir: string | null;
    /** Whom the server's certificate names. */
    readonly hostname: string;
  }
  | { readonly user: string; readonly psk_path: string };

/** An export of a server, and how to reach it. */
export type NbdAddress =
  & {
    /** Null: in the clear. */
    readonly tls: NbdTlsProof | null;
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
/** A user, which stands before a host. */
const USER = /^(.*)@/;
/** Parameters, by scheme. */
const PLAIN_KEYS: readonly string[] = [];
const TLS_KEYS = ["tls-certificates", "tls-hostname", "tls-psk-file", "tls-username"];
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
  if (!["nbd", "nbds", "nbd+unix", "nbds+unix"].includes(kind)) {
    throw bad(
      uri,
      `"${scheme}" is not known: nbd://, nbds://, nbd+unix:// or nbds+unix:// is wanted`,
    );
  }
  if (fragment !== undefined) throw bad(uri, `"${fragment}" means nothing there: write # as %23`);
  const export_name = decode(uri, "export name", path!.slice(1));
  const name_bytes = new TextEncoder().encode(export_name).length;
  if (name_bytes > MAX_NAME_BYTES) {
    throw bad(uri, `the export name has ${name_bytes} bytes, at most ${MAX_NAME_BYTES} are wanted`);
  }
  const is_unix = kind.endsWith("+unix");
  const has_tls = kind.startsWith("nbds");
  const parameters = parseQuery(uri, kind, query);
  const written_user = USER.exec(authority!)?.[1];
  const place = authority!.slice(written_user === undefined ? 0 : written_user.length + 1);
  if (written_user !== undefined && !has_tls) {
    throw bad(uri, "a user has a meaning with TLS only: nbds://USER@HOST is wanted");
  }
  const reach = is_unix ? socketOf(uri, place, parameters) : hostOf(uri, place);
  if (!has_tls) return { ...reach, export_name, tls: null };
  const user = written_user === undefined ? undefined : decode(uri, "user", written_user);
  const host = "host" in reach ? reach.host : null;
  return { ...reach, export_name, tls: proofOf(uri, parameters, user, host) };
}

/** The URI of an address, always written the same way. */
export function formatNbdUri(address: NbdAddress): string {
  const { tls } = address;
  const scheme = tls === null ? "nbd" : "nbds";
  const user = tls !== null && "user" in tls ? `${encodeURIComponent(tls.user)}@` : "";
  const path = `/${encode(address.export_name)}`;
  if (address.transport === "unix") {
    const parameters = [`socket=${encode(address.socket_path)}`, ...tlsParameters(tls, null)];
    return `${scheme}+unix://${user}${path}?${parameters.join("&")}`;
  }
  const host = address.host.includes(":") ? `[${address.host}]` : address.host;
  const port = address.port === NBD_PORT ? "" : `:${address.port}`;
  const parameters = tlsParameters(tls, address.host).join("&");
  return `${scheme}://${user}${host}${port}${path}${parameters === "" ? "" : `?${parameters}`}`;
}

/** The name of a certificate is left out where it is the host's. */
function tlsParameters(tls: NbdTlsProof | null, host: string | null): string[] {
  if (tls === null) return [];
  if ("user" in tls) return [`tls-psk-file=${encode(tls.psk_path)}`];
  const { certificates_dir, hostname } = tls;
  return [
    ...(certificates_dir === null ? [] : [`tls-certificates=${encode(certificates_dir)}`]),
    ...(hostname === host ? [] : [`tls-hostname=${encode(hostname)}`]),
  ];
}

/** Each parameter once, decoded. */
function parseQuery(uri: string, kind: string, query: string | undefined): Map<string, string> {
  const known = [
    ...(kind.endsWith("+unix") ? ["socket"] : PLAIN_KEYS),
    ...(kind.startsWith("nbds") ? TLS_KEYS : PLAIN_KEYS),
  ];
  const found = new Map<string, string>();
  for (const parameter of query === undefined ? [] : query.split("&")) {
    const key = parameter.split("=", 1)[0]!;
    if (!known.includes(key)) {
      const hint = key.startsWith("tls-") && !kind.startsWith("nbds")
        ? "it has a meaning with TLS only: nbds is wanted"
        : known.length === 0
        ? `none is known for ${kind}://`
        : `${known.join(", ")} ${known.length === 1 ? "is" : "are"} known for ${kind}://`;
      throw bad(uri, `unknown parameter "${parameter}": ${hint}`);
    }
    if (found.has(key)) throw bad(uri, `${key} is given twice`);
    const value = decode(uri, key, parameter.slice(key.length + 1));
    if (value === "") throw bad(uri, `${key} is empty`);
    found.set(key, value);
  }
  return found;
}

function socketOf(uri: string, place: string, parameters: ReadonlyMap<string, string>) {
  const socket_path = parameters.get("socket");
  if (socket_path === undefined) throw bad(uri, "?socket=PATH is wanted");
  if (place !== "") {
    throw bad(uri, `a host ("${place}") has no place there: nbd+unix:///EXPORT is wanted`);
  }
  return { transport: "unix", socket_path } as const;
}

function hostOf(uri: string, place: string) {
  if (place === "") throw bad(uri, "a host is wanted: nbd://HOST[:PORT]/EXPORT");
  const match = AUTHORITY.exec(place);
  const host = match?.[1] ?? match?.[2];
  if (host === undefined || host.length > MAX_HOST_CHARS) {
    throw bad(uri, `"${place}" is no HOST or HOST:PORT; an IPv6 address stands in brackets`);
  }
  const port = match?.[3] === undefined ? NBD_PORT : Number(match[3]);
  if (port < 1 || port > 65535) throw bad(uri, `port ${port}: 1..65535 is wanted`);
  return { transport: "tcp", host: host.toLowerCase(), port } as const;
}

/** A key or certificates; `host` is whom the connection leads to, null: a Unix socket. */
function proofOf(
  uri: string,
  parameters: ReadonlyMap<string, string>,
  written_user: string | undefined,
  host: string | null,
): NbdTlsProof {
  const psk_path = parameters.get("tls-psk-file");
  const certificates_dir = parameters.get("tls-certificates") ?? null;
  const named_user = parameters.get("tls-username");
  if (written_user !== undefined && named_user !== undefined) {
    throw bad(uri, "a user is given twice");
  }
  const user = written_user ?? named_user;
  if (psk_path !== undefined) {
    if (certificates_dir !== null || parameters.has("tls-hostname")) {
      throw bad(uri, "tls-psk-file and certificates: one of them is wanted");
    }
    if (!user) throw bad(uri, "with tls-psk-file a user is wanted: nbds://USER@HOST");
    return { user, psk_path };
  }
  if (user !== undefined) throw bad(uri, "with a user tls-psk-file is wanted");
  const hostname = parameters.get("tls-hostname") ?? host;
  if (hostname === null) {
    throw bad(uri, "tls-hostname is wanted, whom the server's certificate has to name");
  }
  return { certificates_dir, hostname };
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

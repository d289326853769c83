/**
 * What a server or a client proves itself with: certificates, or keys that both have ("pre-shared keys").
 *
 * Files of certificates are called as nbdkit and QEMU call them, in one directory: `ca-cert.pem`, `ca-crl.pem`, and
 * `server-cert.pem`, `server-key.pem` or `client-cert.pem`, `client-key.pem`. A file of keys has lines `USER:KEY`, the key in
 * hexadecimal digits, as psktool(1) writes it.
 *
 * @module
 */

import { CacheError } from "../../core/errors.ts";
import type { NbdTlsProof } from "../../core/nbd_uri.ts";
import {
  cText,
  datum,
  type Gnutls,
  GNUTLS_CERT_IGNORE,
  GNUTLS_CERT_REQUIRE,
  GNUTLS_CLIENT,
  GNUTLS_CRD_CERTIFICATE,
  GNUTLS_CRD_PSK,
  GNUTLS_NAME_DNS,
  GNUTLS_NO_SIGNAL,
  GNUTLS_NO_TICKETS,
  GNUTLS_NONBLOCK,
  GNUTLS_PSK_KEY_HEX,
  GNUTLS_SERVER,
  GNUTLS_X509_FMT_PEM,
  gnutlsText,
  loadGnutls,
  PointerOut,
} from "./gnutls.ts";
import { type StreamPlace, TlsStream } from "./stream.ts";

/** TLS of a server, in plain JSON; paths are absolute. */
export interface TlsServerConfig {
  /** Clients have to use TLS; else they may. */
  readonly is_required: boolean;
  readonly proof:
    | {
      readonly certificates_dir: string;
      /** Only clients with a certificate of the same authority are let in. */
      readonly verifies_peer: boolean;
    }
    | { readonly psk_path: string };
}

/** TLS of a client; paths are absolute. */
export interface TlsClientConfig {
  readonly proof: NbdTlsProof;
}

/** Version 1.2 at least, as the NBD protocol wants it. */
const PRIORITY = "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2";
/** Keys that both have, and a new secret for each connection. */
const PSK_PRIORITY = `${PRIORITY}:-KX-ALL:+ECDHE-PSK:+DHE-PSK`;

const SESSION_FLAGS = GNUTLS_NONBLOCK | GNUTLS_NO_SIGNAL | GNUTLS_NO_TICKETS;
/** Nobody has more. */
const MAX_PSK_FILE_BYTES = 1024 * 1024;

/** A server's side: makes a stream of each client's socket. */
export class TlsServer {
  readonly is_required: boolean;
  readonly #gnutls: Gnutls;
  readonly #kind: number;
  readonly #credentials: Deno.PointerObject;
  readonly #priority: Deno.PointerObject;
  readonly #verifies_peer: boolean;

  /** @throws {CacheError} The library or a file is missing or no good. */
  constructor({ is_required, proof }: TlsServerConfig) {
    this.is_required = is_required;
    this.#gnutls = loadGnutls();
    if ("psk_path" in proof) {
      this.#kind = GNUTLS_CRD_PSK;
      this.#verifies_peer = false;
      this.#credentials = serverKeys(this.#gnutls, proof.psk_path);
    } else {
      this.#kind = GNUTLS_CRD_CERTIFICATE;
      this.#verifies_peer = proof.verifies_peer;
      this.#credentials = serverCertificates(this.#gnutls, proof.certificates_dir);
      if (proof.verifies_peer) trust(this.#gnutls, this.#credentials, proof.certificates_dir);
    }
    this.#priority = priorities(this.#gnutls, this.#kind);
  }

  /** Takes over a connected socket, on which the client is about to begin the handshake. */
  open(fd: number, place: StreamPlace): TlsStream {
    const gnutls = this.#gnutls;
    const session = openSession(gnutls, GNUTLS_SERVER, this.#priority);
    must(gnutls, gnutls.gnutls_credentials_set(session, this.#kind, this.#credentials));
    if (this.#kind === GNUTLS_CRD_CERTIFICATE) {
      const asks = this.#verifies_peer ? GNUTLS_CERT_REQUIRE : GNUTLS_CERT_IGNORE;
      gnutls.gnutls_certificate_server_set_request(session, asks);
      if (this.#verifies_peer) gnutls.gnutls_session_set_verify_cert(session, null, 0);
    }
    return new TlsStream(gnutls, session, fd, place, { is_client: false, kept: this });
  }
}

/** A client's side: makes a stream of each connection to its server. */
export class TlsClient {
  readonly #gnutls: Gnutls;
  readonly #kind: number;
  readonly #credentials: Deno.PointerObject;
  readonly #priority: Deno.PointerObject;
  /** Whom the certificate has to name; with keys there is none. */
  readonly #hostname: Uint8Array<ArrayBuffer> | null;
  readonly #is_named: boolean;

  /** @throws {CacheError} The library or a file is missing or no good. */
  constructor({ proof }: TlsClientConfig) {
    const gnutls = loadGnutls();
    this.#gnutls = gnutls;
    if ("psk_path" in proof) {
      this.#kind = GNUTLS_CRD_PSK;
      this.#hostname = null;
      this.#is_named = false;
      this.#credentials = clientKey(gnutls, proof.psk_path, proof.user);
    } else {
      this.#kind = GNUTLS_CRD_CERTIFICATE;
      this.#hostname = cText(proof.hostname);
      // A server's name is sent so that it can choose its certificate; addresses are no names (RFC 6066).
      this.#is_named = !proof.hostname.includes(":") && !/^[0-9.]+$/.test(proof.hostname);
      this.#credentials = clientCertificates(gnutls, proof.certificates_dir);
    }
    this.#priority = priorities(gnutls, this.#kind);
  }

  /** Takes over a connected socket, on which the server awaits the handshake. */
  open(fd: number, place: StreamPlace): TlsStream {
    const gnutls = this.#gnutls;
    const session = openSession(gnutls, GNUTLS_CLIENT, this.#priority);
    must(gnutls, gnutls.gnutls_credentials_set(session, this.#kind, this.#credentials));
    const name = this.#hostname;
    if (name !== null) {
      gnutls.gnutls_session_set_verify_cert(session, Deno.UnsafePointer.of(name), 0);
      if (this.#is_named) {
        const len_bytes = BigInt(name.length - 1);
        must(gnutls, gnutls.gnutls_server_name_set(session, GNUTLS_NAME_DNS, name, len_bytes));
      }
    }
    return new TlsStream(gnutls, session, fd, place, { is_client: true, kept: this });
  }
}

function openSession(
  gnutls: Gnutls,
  side: number,
  priority: Deno.PointerObject,
): Deno.PointerObject {
  const out = new PointerOut();
  must(gnutls, gnutls.gnutls_init(out.bytes, side | SESSION_FLAGS));
  must(gnutls, gnutls.gnutls_priority_set(out.pointer, priority));
  return out.pointer;
}

function priorities(gnutls: Gnutls, kind: number): Deno.PointerObject {
  const out = new PointerOut();
  const text = kind === GNUTLS_CRD_PSK ? PSK_PRIORITY : PRIORITY;
  must(gnutls, gnutls.gnutls_priority_init(out.bytes, cText(text), new PointerOut().bytes));
  return out.pointer;
}

function serverCertificates(gnutls: Gnutls, dir: string): Deno.PointerObject {
  const out = new PointerOut();
  must(gnutls, gnutls.gnutls_certificate_allocate_credentials(out.bytes));
  ownCertificate(gnutls, out.pointer, `${dir}/server-cert.pem`, `${dir}/server-key.pem`);
  return out.pointer;
}

function clientCertificates(gnutls: Gnutls, dir: string | null): Deno.PointerObject {
  const out = new PointerOut();
  must(gnutls, gnutls.gnutls_certificate_allocate_credentials(out.bytes));
  if (dir === null) {
    must(gnutls, gnutls.gnutls_certificate_set_x509_system_trust(out.pointer));
    return out.pointer;
  }
  trust(gnutls, out.pointer, dir);
  const [cert_path, key_path] = [`${dir}/client-cert.pem`, `${dir}/client-key.pem`];
  if (isThere(cert_path) || isThere(key_path)) {
    ownCertificate(gnutls, out.pointer, cert_path, key_path);
  }
  return out.pointer;
}

function ownCertificate(
  gnutls: Gnutls,
  credentials: Deno.PointerObject,
  cert_path: string,
  key_path: string,
): void {
  checkFile(cert_path);
  checkFile(key_path);
  const outcome = gnutls.gnutls_certificate_set_x509_key_file(
    credentials,
    cText(cert_path),
    cText(key_path),
    GNUTLS_X509_FMT_PEM,
  );
  if (outcome < 0) throw bad(`${cert_path} and ${key_path}`, gnutlsText(gnutls, outcome));
}

/** Whose certificates are believed, and which of them no longer. */
function trust(gnutls: Gnutls, credentials: Deno.PointerObject, dir: string): void {
  const ca_path = `${dir}/ca-cert.pem`;
  checkFile(ca_path);
  const certificates = gnutls.gnutls_certificate_set_x509_trust_file(
    credentials,
    cText(ca_path),
    GNUTLS_X509_FMT_PEM,
  );
  if (certificates < 0) throw bad(ca_path, gnutlsText(gnutls, certificates));
  if (certificates === 0) throw bad(ca_path, "it holds no certificate");
  const crl_path = `${dir}/ca-crl.pem`;
  if (!isThere(crl_path)) return;
  const lists = gnutls.gnutls_certificate_set_x509_crl_file(
    credentials,
    cText(crl_path),
    GNUTLS_X509_FMT_PEM,
  );
  if (lists < 0) throw bad(crl_path, gnutlsText(gnutls, lists));
}

/** GnuTLS reads the file again for each client: a key that is added or taken out counts at once. */
function serverKeys(gnutls: Gnutls, path: string): Deno.PointerObject {
  readKeys(path);
  const out = new PointerOut();
  must(gnutls, gnutls.gnutls_psk_allocate_server_credentials(out.bytes));
  const outcome = gnutls.gnutls_psk_set_server_credentials_file(out.pointer, cText(path));
  if (outcome < 0) throw bad(path, gnutlsText(gnutls, outcome));
  return out.pointer;
}

function clientKey(gnutls: Gnutls, path: string, user: string): Deno.PointerObject {
  const key = readKeys(path).get(user);
  if (key === undefined) throw bad(path, `it has no key for the user "${user}"`);
  const out = new PointerOut();
  must(gnutls, gnutls.gnutls_psk_allocate_client_credentials(out.bytes));
  const digits = cText(key);
  const outcome = gnutls.gnutls_psk_set_client_credentials(
    out.pointer,
    cText(user),
    datum(digits, key.length),
    GNUTLS_PSK_KEY_HEX,
  );
  if (outcome < 0) throw bad(path, gnutlsText(gnutls, outcome));
  return out.pointer;
}

/** Users and their keys. */
function readKeys(path: string): Map<string, string> {
  checkFile(path);
  if (Deno.statSync(path).size > MAX_PSK_FILE_BYTES) {
    throw bad(path, `at most ${MAX_PSK_FILE_BYTES} bytes are wanted`);
  }
  const keys = new Map<string, string>();
  for (const [at, line] of Deno.readTextFileSync(path).split("\n").entries()) {
    if (line === "") continue;
    const match = /^([^:#][^:]*):((?:[0-9A-Fa-f]{2})+)$/.exec(line);
    if (match === null) throw bad(path, `line ${at + 1}: USER:KEY is wanted, as psktool makes it`);
    keys.set(match[1]!, match[2]!);
  }
  if (keys.size === 0) throw bad(path, "it holds no key");
  return keys;
}

/** GnuTLS says of any file that it cannot read "Error while reading file". */
function checkFile(path: string): void {
  try {
    Deno.openSync(path).close();
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) throw bad(path, "No such file or directory");
    if (error instanceof Deno.errors.PermissionDenied) throw bad(path, "Permission denied");
    throw bad(path, (error as Error).message);
  }
}

function isThere(path: string): boolean {
  try {
    Deno.statSync(path);
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw bad(path, (error as Error).message);
  }
}

function bad(path: string, why: string): CacheError {
  return new CacheError(`TLS: ${path}: ${why}`);
}

/** What fails only when there is no memory left. */
function must(gnutls: Gnutls, outcome: number): void {
  if (outcome < 0) throw new Error(`GnuTLS: ${gnutlsText(gnutls, outcome)}`);
}

/**
 * GnuTLS through FFI: exactly the calls that `io/tls/` needs, and their constants. It is loaded when somebody asks for
 * TLS, and asked for only then.
 *
 * What `libc.ts` says of parameters and costs holds here, too. A session or a set of credentials is a pointer object, made once.
 * Addresses that GnuTLS keeps, or reads after the call, must not move: `cText` and `datum` make such.
 *
 * @module
 */

import { CacheError } from "../../core/errors.ts";
import { libc } from "../libc.ts";

const LIBRARY = "libgnutls.so.30";

const symbols = {
  gnutls_check_version: { parameters: ["buffer"], result: "pointer" },
  gnutls_strerror: { parameters: ["i32"], result: "pointer" },
  gnutls_error_is_fatal: { parameters: ["i32"], result: "i32" },
  gnutls_priority_init: { parameters: ["buffer", "buffer", "buffer"], result: "i32" },
  gnutls_priority_set: { parameters: ["pointer", "pointer"], result: "i32" },

  gnutls_certificate_allocate_credentials: { parameters: ["buffer"], result: "i32" },
  gnutls_certificate_set_x509_key_file: {
    parameters: ["pointer", "buffer", "buffer", "i32"],
    result: "i32",
  },
  gnutls_certificate_set_x509_trust_file: {
    parameters: ["pointer", "buffer", "i32"],
    result: "i32",
  },
  gnutls_certificate_set_x509_crl_file: {
    parameters: ["pointer", "buffer", "i32"],
    result: "i32",
  },
  gnutls_certificate_set_x509_system_trust: { parameters: ["pointer"], result: "i32" },
  gnutls_psk_allocate_server_credentials: { parameters: ["buffer"], result: "i32" },
  gnutls_psk_set_server_credentials_file: { parameters: ["pointer", "buffer"], result: "i32" },
  gnutls_psk_allocate_client_credentials: { parameters: ["buffer"], result: "i32" },
  gnutls_psk_set_client_credentials: {
    parameters: ["pointer", "buffer", "buffer", "i32"],
    result: "i32",
  },

  gnutls_init: { parameters: ["buffer", "u32"], result: "i32" },
  gnutls_deinit: { parameters: ["pointer"], result: "void" },
  gnutls_credentials_set: { parameters: ["pointer", "i32", "pointer"], result: "i32" },
  gnutls_certificate_server_set_request: { parameters: ["pointer", "i32"], result: "void" },
  gnutls_session_set_verify_cert: { parameters: ["pointer", "pointer", "u32"], result: "void" },
  gnutls_session_get_verify_cert_status: { parameters: ["pointer"], result: "u32" },
  gnutls_certificate_verification_status_print: {
    parameters: ["u32", "i32", "buffer", "u32"],
    result: "i32",
  },
  gnutls_server_name_set: { parameters: ["pointer", "i32", "buffer", "u64"], result: "i32" },
  gnutls_transport_set_int2: { parameters: ["pointer", "i32", "i32"], result: "void" },
  gnutls_handshake: { parameters: ["pointer"], result: "i32" },
  gnutls_alert_get: { parameters: ["pointer"], result: "i32" },
  gnutls_alert_get_name: { parameters: ["i32"], result: "pointer" },
  gnutls_alert_send_appropriate: { parameters: ["pointer", "i32"], result: "i32" },
  gnutls_bye: { parameters: ["pointer", "i32"], result: "i32" },

  gnutls_record_get_direction: { parameters: ["pointer"], result: "i32" },
  gnutls_record_check_pending: { parameters: ["pointer"], result: "i32" },
  gnutls_record_recv: { parameters: ["pointer", "u64", "u64"], result: "i32" },
  gnutls_record_send: { parameters: ["pointer", "u64", "u64"], result: "i32" },
} as const;

export type Gnutls = Deno.DynamicLibrary<typeof symbols>["symbols"];

/** Flags of a session. */
export const GNUTLS_SERVER = 1 << 0;
export const GNUTLS_CLIENT = 1 << 1;
export const GNUTLS_NONBLOCK = 1 << 3;
export const GNUTLS_NO_SIGNAL = 1 << 6;
export const GNUTLS_NO_TICKETS = 1 << 10;

/** Kinds of credentials. */
export const GNUTLS_CRD_CERTIFICATE = 1;
export const GNUTLS_CRD_PSK = 4;
export const GNUTLS_X509_FMT_PEM = 1;
export const GNUTLS_PSK_KEY_HEX = 1;
export const GNUTLS_CERT_IGNORE = 0;
export const GNUTLS_CERT_REQUIRE = 2;
export const GNUTLS_CRT_X509 = 1;
export const GNUTLS_NAME_DNS = 1;
export const GNUTLS_SHUT_WR = 1;

export const GNUTLS_E_FATAL_ALERT_RECEIVED = -12;
export const GNUTLS_E_AGAIN = -28;
export const GNUTLS_E_REHANDSHAKE = -37;
export const GNUTLS_E_INTERRUPTED = -52;
export const GNUTLS_E_PREMATURE_TERMINATION = -110;
export const GNUTLS_E_CERTIFICATE_VERIFICATION_ERROR = -348;

/** TLS 1.3, renegotiation that can be refused, and what else the calls above need. */
const MIN_VERSION = "3.6.3";

let loaded: Gnutls | null = null;

/**
 * The library's functions.
 *
 * @throws {CacheError} It is not there, or too old.
 */
export function loadGnutls(): Gnutls {
  if (loaded !== null) return loaded;
  let library: Gnutls;
  try {
    library = Deno.dlopen(LIBRARY, symbols).symbols;
  } catch (error) {
    throw new CacheError(
      `TLS: ${LIBRARY} cannot be loaded (${(error as Error).message}): ` +
        "install GnuTLS (Debian: apt-get install libgnutls30)",
    );
  }
  if (library.gnutls_check_version(cText(MIN_VERSION)) === null) {
    throw new CacheError(`TLS: ${LIBRARY} is too old: GnuTLS ${MIN_VERSION} or later is wanted`);
  }
  loaded = library;
  return library;
}

/** What an error number of GnuTLS says. */
export function gnutlsText(library: Gnutls, error: number): string {
  return Deno.UnsafePointerView.getCString(library.gnutls_strerror(error)!).replace(/\.$/, "");
}

/**
 * A text as C wants it, at an address that does not change while somebody holds the array: V8 moves only small arrays whose buffer
 * nobody has asked for.
 */
export function cText(text: string): Uint8Array<ArrayBuffer> {
  const bytes = new TextEncoder().encode(text + "\0");
  const buffer = new ArrayBuffer(bytes.length);
  const kept = new Uint8Array(buffer);
  kept.set(bytes);
  return kept;
}

/** `gnutls_datum_t` of bytes that do not move: pointer, length. */
export function datum(bytes: Uint8Array<ArrayBuffer>, len_bytes: number): Uint8Array<ArrayBuffer> {
  const words = new BigUint64Array(new ArrayBuffer(16));
  words[0] = BigInt(Deno.UnsafePointer.value(Deno.UnsafePointer.of(bytes)));
  words[1] = BigInt(len_bytes);
  return new Uint8Array(words.buffer);
}

/** What a function leaves where it was told to: a pointer. */
export class PointerOut {
  readonly #word = new BigUint64Array(new ArrayBuffer(16));
  readonly bytes = new Uint8Array(this.#word.buffer);

  get pointer(): Deno.PointerObject {
    const pointer = Deno.UnsafePointer.create(this.#word[0]!);
    if (pointer === null) throw new Error("GnuTLS: a pointer is missing");
    return pointer;
  }
}

/** Why a certificate was not accepted, as GnuTLS words it. */
export function verificationText(library: Gnutls, status: number): string {
  const out = new PointerOut();
  const failed = library.gnutls_certificate_verification_status_print(
    status,
    GNUTLS_CRT_X509,
    out.bytes,
    0,
  );
  if (failed < 0) return `status 0x${status.toString(16)}`;
  const { pointer } = out;
  const text = Deno.UnsafePointerView.getCString(pointer).trim().replace(/\.$/, "");
  libc.free(pointer);
  return text;
}

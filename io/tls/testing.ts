/**
 * Certificates and keys for tests, made by certtool(1) in a folder of their own.
 *
 * @module
 */

import { assert } from "@std/assert";

/** Folders with what the two sides of a connection need, and files of keys. */
export interface Proofs {
  /** ca-cert.pem, server-cert.pem for localhost, 127.0.0.1 and ::1, client-cert.pem, and their keys. */
  readonly dir: string;
  /** The same of another authority, so that neither side believes the other. */
  readonly foreign_dir: string;
  /** Only the authority's certificate of `dir`: a client without a certificate. */
  readonly anonymous_dir: string;
  /** Keys of alice and bob, and one of alice that is not the same. */
  readonly psk_path: string;
  readonly wrong_psk_path: string;
}

const AUTHORITY = "cn = test authority\nca\ncert_signing_key\nexpiration_days = 2\n";
const SERVER = "cn = localhost\ndns_name = localhost\nip_address = 127.0.0.1\nip_address = ::1\n" +
  "tls_www_server\nencryption_key\nsigning_key\nexpiration_days = 2\n";
const CLIENT = "cn = alice\ntls_www_client\nencryption_key\nsigning_key\nexpiration_days = 2\n";

/** Makes all of it under `dir`. */
export function makeProofs(dir: string): Proofs {
  const proofs = {
    dir: `${dir}/pki`,
    foreign_dir: `${dir}/foreign`,
    anonymous_dir: `${dir}/anonymous`,
    psk_path: `${dir}/keys.psk`,
    wrong_psk_path: `${dir}/wrong.psk`,
  };
  for (const pki of [proofs.dir, proofs.foreign_dir]) {
    Deno.mkdirSync(pki);
    makeAuthority(pki);
    makeCertificate(pki, "server", SERVER);
    makeCertificate(pki, "client", CLIENT);
  }
  Deno.mkdirSync(proofs.anonymous_dir);
  Deno.copyFileSync(`${proofs.dir}/ca-cert.pem`, `${proofs.anonymous_dir}/ca-cert.pem`);
  const [key, wrong_key] = ["11".repeat(32), "22".repeat(32)];
  Deno.writeTextFileSync(proofs.psk_path, `alice:${key}\nbob:${"33".repeat(32)}\n`);
  Deno.writeTextFileSync(proofs.wrong_psk_path, `alice:${wrong_key}\n`);
  return proofs;
}

function makeAuthority(dir: string): void {
  Deno.writeTextFileSync(`${dir}/ca.cfg`, AUTHORITY);
  makeKey(`${dir}/ca-key.pem`);
  certtool("--generate-self-signed", "--load-privkey", `${dir}/ca-key.pem`, [
    `${dir}/ca.cfg`,
    `${dir}/ca-cert.pem`,
  ]);
}

function makeCertificate(dir: string, name: string, template: string): void {
  Deno.writeTextFileSync(`${dir}/${name}.cfg`, template);
  makeKey(`${dir}/${name}-key.pem`);
  certtool(
    "--generate-certificate",
    "--load-ca-certificate",
    `${dir}/ca-cert.pem`,
    "--load-ca-privkey",
    `${dir}/ca-key.pem`,
    "--load-privkey",
    `${dir}/${name}-key.pem`,
    [`${dir}/${name}.cfg`, `${dir}/${name}-cert.pem`],
  );
}

function makeKey(path: string): void {
  run("--generate-privkey", "--key-type", "ecdsa", "--outfile", path);
}

function certtool(...args: [...string[], [string, string]]): void {
  const [template, out] = args.pop() as [string, string];
  run(...args as string[], "--template", template, "--outfile", out);
}

function run(...args: string[]): void {
  const { success, stderr } = new Deno.Command("certtool", { args }).outputSync();
  assert(success, `certtool ${args.join(" ")}: ${new TextDecoder().decode(stderr)}`);
}

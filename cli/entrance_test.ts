import { assertEquals, assertThrows } from "@std/assert";
import { CacheError } from "../core/errors.ts";
import { parseEntrance, parseListen, systemdSockets } from "./entrance.ts";
import { UsageError } from "./failure.ts";
import type { Options } from "./options.ts";

Deno.test("--listen takes a host and a port, or a port on loopback", () => {
  assertEquals(parseListen("10809"), { host: "localhost", port: 10809 });
  assertEquals(parseListen("127.0.0.1:10809"), { host: "127.0.0.1", port: 10809 });
  assertEquals(parseListen("localhost:0"), { host: "localhost", port: 0 });
  assertEquals(parseListen("[::1]:65535"), { host: "::1", port: 65535 });
  for (
    const bad of ["", ":10809", "host", "host:", "::1:10809", "h:65536", "h:1x", "h:-1", "65536"]
  ) {
    assertThrows(() => parseListen(bad), UsageError, `Invalid --listen argument: "${bad}"`);
  }
});

Deno.test("--listen systemd takes the sockets that this process was given", () => {
  const of = (values: Record<string, string>, name: string | null = null) =>
    systemdSockets((key) => values[key], 77, name);
  assertEquals(of({ LISTEN_PID: "77", LISTEN_FDS: "1" }), { fds: [3], unused_fds: [] });
  const named = { LISTEN_PID: "77", LISTEN_FDS: "3", LISTEN_FDNAMES: "a:b:a" };
  assertEquals(of(named), { fds: [3, 4, 5], unused_fds: [] });
  assertEquals(of(named, "a"), { fds: [3, 5], unused_fds: [4] });
  assertThrows(() => of(named, "c"), CacheError, "systemd:c: the sockets are called a, b, a");
  assertThrows(() => of({}), CacheError, "LISTEN_PID is not 77");
  assertThrows(() => of({ LISTEN_PID: "78", LISTEN_FDS: "1" }), CacheError, "LISTEN_PID is not 77");
  for (const LISTEN_FDS of ["", "0", "x", "-1", "65", "1e1"]) {
    assertThrows(() => of({ LISTEN_PID: "77", LISTEN_FDS }), CacheError, `"${LISTEN_FDS}"`);
  }
  assertThrows(() => parseListen("systemd"), CacheError, "this process was given no sockets");
});

Deno.test("TLS is required where there is something to prove it with, and on or off when that was said", () => {
  const tls = (options: Options) => parseEntrance(options).tls;
  const certificates = { certificates_dir: "/pki", verifies_peer: false };
  assertEquals(tls({}), null);
  assertEquals(tls({ tls: "off" }), null);
  assertEquals(tls({ "tls-certificates": "/pki" }), { is_required: true, proof: certificates });
  assertEquals(tls({ "tls-certificates": "/pki", tls: "on" }), {
    is_required: false,
    proof: certificates,
  });
  assertEquals(tls({ "tls-certificates": "/pki", "tls-verify-peer": true, tls: "require" }), {
    is_required: true,
    proof: { ...certificates, verifies_peer: true },
  });
  assertEquals(tls({ "tls-psk": "k" }), {
    is_required: true,
    proof: { psk_path: `${Deno.cwd()}/k` },
  });
  const bad: [Options, string][] = [
    [{ tls: "maybe" }, 'Invalid --tls argument: "maybe"'],
    [{ tls: "on" }, "--tls on: --tls-certificates or --tls-psk is wanted"],
    [{ tls: "off", "tls-psk": "k" }, "--tls off"],
    [{ "tls-certificates": "/pki", "tls-psk": "k" }, "one of them is wanted"],
    [{ "tls-psk": "k", "tls-verify-peer": true }, "--tls-verify-peer"],
    [{ "tls-verify-peer": true }, "--tls-verify-peer"],
  ];
  for (const [options, why] of bad) assertThrows(() => tls(options), UsageError, why);
});

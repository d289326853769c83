/**
 * Where `create` lets NBD clients in, and how: `--listen`, `--insecure`, and the options of TLS.
 *
 * @module
 */

import { CacheError } from "../core/errors.ts";
import type { DeviceConfig } from "../io/device_config.ts";
import { absolutePath } from "../io/run_dir.ts";
import type { TlsServerConfig } from "../io/tls/credentials.ts";
import { UsageError } from "./failure.ts";
import type { Options } from "./options.ts";

/** The first descriptor that systemd hands over (sd_listen_fds(3)). */
const FIRST_FD = 3;
/** More sockets for one device are a mistake. */
const MAX_FDS = 64;

/**
 * What the device process is told of clients.
 *
 * @throws {UsageError} Options that cannot be meant.
 * @throws {CacheError} There are no sockets from systemd.
 */
export function parseEntrance(
  options: Options,
): Pick<DeviceConfig, "listen" | "tls" | "is_insecure"> {
  return {
    listen: options.listen === undefined ? null : parseListen(options.listen),
    tls: parseTls(options),
    is_insecure: options.insecure === true,
  };
}

/**
 * Reads `HOST:PORT`, where a numeric IPv6 address stands in brackets, or `PORT` alone for loopback, or `systemd` or
 * `systemd:NAME`.
 */
export function parseListen(text: string): NonNullable<DeviceConfig["listen"]> {
  const systemd = /^systemd(?::(.+))?$/.exec(text);
  if (systemd !== null) {
    const named = (name: string) => Deno.env.get(name);
    return systemdSockets(named, Deno.pid, systemd[1] ?? null);
  }
  const match = /^(?:(?:\[([0-9A-Fa-f:.]+)\]|([^:[\]]+)):)?([0-9]{1,5})$/.exec(text);
  const host = match?.[1] ?? match?.[2] ?? "localhost";
  const port = Number(match?.[3]);
  if (match === null || port > 65535) {
    throw new UsageError(
      `Invalid --listen argument: "${text}", wanted [HOST:]PORT, for example 127.0.0.1:10809, or systemd`,
    );
  }
  return { host, port };
}

/**
 * The descriptors that systemd has opened for the process `pid`; with a name those of that name (FileDescriptorName=) are used.
 *
 * @throws {CacheError} There are none.
 */
export function systemdSockets(
  variable: (name: string) => string | undefined,
  pid: number,
  name: string | null,
): { fds: number[]; unused_fds: number[] } {
  const what = name === null ? "--listen systemd" : `--listen systemd:${name}`;
  if (variable("LISTEN_PID") !== String(pid)) {
    throw new CacheError(
      `${what}: this process was given no sockets (LISTEN_PID is not ${pid}): ` +
        "it has to be what a unit with a socket starts",
    );
  }
  const text = variable("LISTEN_FDS") ?? "";
  const count = Number(text);
  if (!/^[0-9]+$/.test(text) || count < 1 || count > MAX_FDS) {
    throw new CacheError(
      `${what}: LISTEN_FDS is "${text}", a number from 1 to ${MAX_FDS} is wanted`,
    );
  }
  const names = variable("LISTEN_FDNAMES")?.split(":") ?? [];
  const fds = Array.from({ length: count }, (_, i) => FIRST_FD + i);
  const isChosen = (fd: number) => name === null || names[fd - FIRST_FD] === name;
  const unused_fds = fds.filter((fd) => !isChosen(fd));
  if (unused_fds.length < count) return { fds: fds.filter(isChosen), unused_fds };
  throw new CacheError(`${what}: the sockets are called ${names.join(", ") || "nothing"}`);
}

function parseTls(options: Options): TlsServerConfig | null {
  const mode = options.tls;
  const proof = parseProof(options);
  if (mode !== undefined && mode !== "off" && mode !== "on" && mode !== "require") {
    throw new UsageError(`Invalid --tls argument: "${mode}", wanted off, on or require`);
  }
  if (mode === "off" && proof !== null) {
    throw new UsageError("--tls off: certificates or keys are of no use");
  }
  if (mode === "off" || mode === undefined && proof === null) return null;
  if (proof === null) {
    throw new UsageError(`--tls ${mode}: --tls-certificates or --tls-psk is wanted`);
  }
  return { is_required: mode !== "on", proof };
}

function parseProof(options: Options): TlsServerConfig["proof"] | null {
  const { "tls-certificates": dir, "tls-psk": psk_path } = options;
  const verifies_peer = options["tls-verify-peer"] === true;
  if (dir !== undefined && psk_path !== undefined) {
    throw new UsageError("--tls-certificates and --tls-psk: one of them is wanted");
  }
  if (verifies_peer && dir === undefined) {
    throw new UsageError("--tls-verify-peer: --tls-certificates is wanted with it");
  }
  if (dir !== undefined) return { certificates_dir: absolutePath(dir), verifies_peer };
  return psk_path === undefined ? null : { psk_path: absolutePath(psk_path) };
}

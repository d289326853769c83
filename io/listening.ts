/**
 * Where a device's NBD clients come in: a Unix socket of its own, a TCP address, or sockets that were open when its creator was
 * started (systemd's socket activation, sd_listen_fds(3)).
 *
 * Whoever reaches an address that is not loopback can read and change the device, so such addresses are served under TLS, or
 * when it was said in so many words that they need not be.
 *
 * @module
 */

import { assert } from "../core/assert.ts";
import { CacheError } from "../core/errors.ts";
import type { DeviceConfig } from "./device_config.ts";
import type { Listener } from "./nbd/server.ts";
import type { Shell } from "./shell.ts";
import * as sockets from "./sockets.ts";
import { TlsServer } from "./tls/credentials.ts";

/** A socket that NBD clients connect to. */
export interface NbdListener extends Listener {
  /** What clients call it: `HOST:PORT`, or the path of a Unix socket. Null: it is the device's own and has its current name. */
  readonly address: string | null;
}

/** What a device process was told of clients and can do before it has a table. */
export interface Entrance {
  /** Null: TLS was not asked for. */
  readonly tls: TlsServer | null;
  /** Sockets that are open already. */
  readonly inherited: readonly NbdListener[];
}

/**
 * Looks at all that can be refused without opening anything.
 *
 * @throws {CacheError} A descriptor is no listening socket, the address is not to be had without TLS, or TLS is not to be had.
 */
export function prepareEntrance({ listen, tls, is_insecure }: DeviceConfig): Entrance {
  const must_be_loopback = tls?.is_required !== true && !is_insecure;
  const inherited: NbdListener[] = [];
  if (listen !== null && "fds" in listen) {
    for (const fd of listen.unused_fds) sockets.close(fd);
    for (const fd of listen.fds) {
      const { is_unix, address, is_loopback } = sockets.adoptListener(fd);
      if (must_be_loopback && !is_loopback) throw exposed(address);
      inherited.push({ fd, tcp: !is_unix, address });
    }
  } else if (listen !== null && must_be_loopback && !sockets.isLoopback(listen.host)) {
    throw exposed(hostAndPort(listen.host, listen.port));
  }
  return { tls: tls === null ? null : new TlsServer(tls), inherited };
}

function exposed(address: string): CacheError {
  return new CacheError(
    `listening on ${address}: whoever reaches it could read and change the device: ` +
      "--tls-certificates or --tls-psk is wanted, or --insecure to do without",
  );
}

/** Opens what is not open yet. It is closed in the end; inherited sockets are others' to close. */
export function openListeners(
  shell: Shell,
  { inherited }: Entrance,
  cleanup: DisposableStack,
): readonly NbdListener[] {
  const { listen } = shell;
  if (listen === null) {
    return [{ fd: listenUnix(() => shell.nbd_path, cleanup), tcp: false, address: null }];
  }
  if ("fds" in listen) {
    assert(inherited.length > 0, "listening: no socket at all");
    return inherited;
  }
  const tcp = sockets.listenTcp(listen.host, listen.port);
  cleanup.defer(() => sockets.close(tcp.fd));
  return [{ fd: tcp.fd, tcp: true, address: hostAndPort(tcp.host, tcp.port) }];
}

/** Listens on a Unix socket until the end. The path may change: the folder can be renamed. */
export function listenUnix(path: () => string, cleanup: DisposableStack): number {
  const fd = sockets.listenUnix(path());
  cleanup.defer(() => {
    sockets.close(fd);
    removeFile(path());
  });
  return fd;
}

/** The URI of a listener, of a device whose own socket is at `nbd_path`. */
export function uriOf(listener: NbdListener, nbd_path: string, tls: TlsServer | null): string {
  const scheme = tls?.is_required === true ? "nbds" : "nbd";
  if (listener.tcp) return `${scheme}://${listener.address}`;
  const path = encodeURIComponent(listener.address ?? nbd_path).replaceAll("%2F", "/");
  return `${scheme}+unix:///?socket=${path}`;
}

/** `HOST:PORT` as a URI has it. */
function hostAndPort(host: string, port: number): string {
  return `${host.includes(":") ? `[${host}]` : host}:${port}`;
}

/** Removes a file that may be gone. */
export function removeFile(path: string): void {
  try {
    Deno.removeSync(path);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
}

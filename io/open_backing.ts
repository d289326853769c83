/**
 * Opens the backing device that a table names: a file or block device by its path, an export by its NBD URI.
 *
 * @module
 */

import { CacheError } from "../core/errors.ts";
import { SECTOR_BYTES } from "../core/format.ts";
import { isNbdUri, type NbdAddress, parseNbdUri } from "../core/nbd_uri.ts";
import type { Arena } from "./arena.ts";
import { FileBacking, type LoopBacking } from "./backing.ts";
import type { DeviceNumber } from "./control_protocol.ts";
import { closeDevice, type DeviceFile, isRotational, openDevice } from "./files.ts";
import { NbdBacking } from "./nbd_backing.ts";
import type { Ring } from "./ring.ts";
import * as sockets from "./sockets.ts";
import { TlsClient } from "./tls/credentials.ts";
import { RECORD_BYTES, type TlsStream } from "./tls/stream.ts";

/** What the backing device is opened in. */
export interface BackingPlace {
  readonly arena: Arena;
  readonly ring: Ring;
  /** What its tokens begin with. */
  readonly user_kind: number;
  readonly cache_file: DeviceFile;
  /** What has to be undone in the end is put here. */
  readonly cleanup: DisposableStack;
}

/** An open backing device, of the table's length. */
export interface OpenedBacking {
  readonly device: LoopBacking;
  /** null: it is on a server and has none. */
  readonly number: DeviceNumber | null;
  /** It is a disk that turns, or lies on one, as far as anybody knows. */
  readonly is_rotational: boolean;
  readonly length_sectors: number;
}

/**
 * Opens the backing device; nothing is written.
 *
 * @param path a path or an NBD URI
 * @param sectorsOf how many sectors of so many bytes are used; throws `CacheError` when they are too few
 * @throws CacheError `Error opening backing device: PATH: ...`
 */
export function openBacking(
  path: string,
  sectorsOf: (backing_bytes: number) => number,
  place: BackingPlace,
): OpenedBacking {
  return isNbdUri(path) ? openExport(path, sectorsOf, place) : openFile(path, sectorsOf, place);
}

function openFile(
  path: string,
  sectorsOf: (backing_bytes: number) => number,
  { arena, ring, user_kind, cache_file, cleanup }: BackingPlace,
): OpenedBacking {
  const file = openDevice("backing", path, cache_file);
  cleanup.defer(() => closeDevice(file));
  const length_sectors = sectorsOf(file.size_bytes);
  const used_file = { ...file, size_bytes: length_sectors * SECTOR_BYTES };
  const device = new FileBacking(arena, used_file, ring, user_kind);
  cleanup.defer(() => device.close());
  const number = { major: file.major, minor: file.minor };
  return { device, number, is_rotational: isRotational(number), length_sectors };
}

function openExport(
  uri: string,
  sectorsOf: (backing_bytes: number) => number,
  { arena, ring, user_kind, cleanup }: BackingPlace,
): OpenedBacking {
  const address = parseNbdUri(uri);
  const candidates = addressesOf(uri, address);
  let next = 0;
  const device = NbdBacking.open({
    arena,
    ring,
    sockets,
    user_kind,
    uri,
    export_name: address.export_name,
    tls: tlsOf(uri, address, { arena, ring }),
    connect: () => sockets.startConnect(candidates[next++ % candidates.length]!),
    address_count: candidates.length,
  });
  cleanup.defer(() => device.close());
  const length_sectors = sectorsOf(device.size_bytes);
  device.resize(length_sectors * SECTOR_BYTES);
  return { device, number: null, is_rotational: device.is_rotational, length_sectors };
}

/** How connections are secured; null: not at all. */
function tlsOf(
  uri: string,
  { tls }: NbdAddress,
  { arena, ring }: Pick<BackingPlace, "arena" | "ring">,
): ((fd: number, recv_user: number, send_user: number) => TlsStream) | null {
  if (tls === null) return null;
  const client = opening(uri, () => new TlsClient({ proof: tls }));
  const scratch_addr = arena.alloc(RECORD_BYTES);
  return (fd, recv_user, send_user) =>
    client.open(fd, { arena, ring, scratch_addr, recv_user, send_user });
}

/** Socket addresses of a server. A host's name is looked up once: it means the same as long as the device lives. */
function addressesOf(uri: string, address: NbdAddress) {
  return opening(
    uri,
    () =>
      address.transport === "unix"
        ? [sockets.unixAddress(address.socket_path)]
        : sockets.tcpAddresses(address.host, address.port),
  );
}

function opening<T>(uri: string, act: () => T): T {
  try {
    return act();
  } catch (error) {
    if (!(error instanceof CacheError)) throw error;
    throw new CacheError(`Error opening backing device: ${uri}: ${error.message}`);
  }
}

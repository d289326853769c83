/**
 * Where tables come from: `--table`, a file, or the standard input.
 *
 * @module
 */

import { CacheError } from "../core/errors.ts";
import {
  formatNbdUri,
  isNbdUri,
  type NbdAddress,
  type NbdTlsProof,
  parseNbdUri,
} from "../core/nbd_uri.ts";
import { MAX_TABLE_CHARS, parseTable, type Table, type TableSource } from "../core/table.ts";
import type { TableConfig } from "../io/control_protocol.ts";
import { absolutePath } from "../io/run_dir.ts";
import { UsageError } from "./failure.ts";

/** What the device process is told of a table. */
export function tableConfig(table: Table, read_only: boolean): TableConfig {
  return {
    cache_path: devicePath(table.cache_dev),
    backing_path: devicePath(table.backing_dev),
    data_crc: table.data_crc,
    cache_mode: table.cache_mode,
    eviction: table.eviction,
    length_sectors: table.length_sectors,
    read_only,
  };
}

/**
 * The table from the option, the file, or else the standard input.
 *
 * @throws {CacheError} There is none, or it is no table.
 */
export async function readTable(
  path: string | undefined,
  text: string | undefined,
): Promise<Table> {
  if (text !== undefined) {
    if (path !== undefined) {
      throw new UsageError(`Two tables: --table and the file "${path}", wanted one`);
    }
    return parseTable(text, { kind: "option" });
  }
  const source: TableSource = path === undefined ? { kind: "stdin" } : { kind: "file", path };
  return parseTable(path === undefined ? await readStdin() : await readFile(path), source);
}

export async function readStdin(): Promise<string> {
  return await readText(Deno.stdin);
}

async function readFile(path: string): Promise<string> {
  let file: Deno.FsFile | undefined;
  try {
    file = await Deno.open(path);
    return await readText(file);
  } catch (error) {
    if (error instanceof CacheError) throw error;
    throw new CacheError(`${path}: open failed: ${fileProblem(error)}`);
  } finally {
    file?.close();
  }
}

/** Reads no more than a table may hold, and a little, so that an endless file is refused too. */
async function readText(from: { read(p: Uint8Array): Promise<number | null> }): Promise<string> {
  const bytes = new Uint8Array(4 * MAX_TABLE_CHARS + 1);
  let filled = 0;
  while (filled < bytes.length) {
    const got = await from.read(bytes.subarray(filled));
    if (got === null) break;
    filled += got;
  }
  return new TextDecoder().decode(bytes.subarray(0, filled));
}

function fileProblem(error: unknown): string {
  if (error instanceof Deno.errors.NotFound) return "No such file or directory";
  if (error instanceof Deno.errors.PermissionDenied) return "Permission denied";
  if (error instanceof Deno.errors.IsADirectory) return "Is a directory";
  return (error as Error).message;
}

/** The kernel prints devices as `major:minor` in its tables, so that is taken as well as a path, or an NBD URI. */
export function devicePath(dev: string): string {
  if (isNbdUri(dev)) return absoluteUri(parseNbdUri(dev));
  return /^[0-9]+:[0-9]+$/.test(dev) ? `/dev/block/${dev}` : absolutePath(dev);
}

/** The device process works in another directory: paths must not depend on it. */
function absoluteUri(given: NbdAddress): string {
  const address = { ...given, tls: absoluteProof(given.tls) };
  if (address.transport === "tcp") return formatNbdUri(address);
  return formatNbdUri({ ...address, socket_path: absolutePath(address.socket_path) });
}

function absoluteProof(tls: NbdTlsProof | null): NbdTlsProof | null {
  if (tls === null) return null;
  if ("user" in tls) return { ...tls, psk_path: absolutePath(tls.psk_path) };
  const { certificates_dir: dir } = tls;
  return { ...tls, certificates_dir: dir === null ? null : absolutePath(dir) };
}

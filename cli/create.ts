/**
 * `create`: starts a device from a table line.
 *
 * @module
 */

import { CacheError } from "../core/errors.ts";
import { MAX_TABLE_CHARS, parseTable, type Table, type TableSource } from "../core/table.ts";
import { absolutePath, checkName, checkUuid, runRoot } from "../io/run_dir.ts";
import type { Order } from "./device_process.ts";
import { failedOn, UsageError } from "./failure.ts";
import { launch } from "./launch.ts";
import type { Options } from "./options.ts";
import { warn } from "./output.ts";

/** `create NAME [FILE]`: returns when the device answers; on failure nothing is left behind. */
export async function run(args: string[], options: Options): Promise<boolean> {
  const [name, table_path] = args;
  if (name === undefined) throw new CacheError("Please provide a name for the new device.");
  checkName(name);
  if (options.uuid !== undefined) checkUuid(options.uuid);
  const listen = options.listen === undefined ? null : parseListen(options.listen);
  const table = await readTable(table_path, options.table);
  const order = makeOrder(name, table, listen, options);
  const is_talkative = options.verbose === true || Deno.stderr.isTerminal();
  try {
    const ready = await launch(order, (text) => {
      if (is_talkative) warn(`${name}: ${text}`);
    });
    for (const note of ready.notes) warn(`${name}: ${note}`);
  } catch (error) {
    if (error instanceof CacheError) throw failedOn("create", name, error.message);
    throw error;
  }
  return true;
}

function makeOrder(
  name: string,
  table: Table,
  listen: { host: string; port: number } | null,
  options: Options,
): Order {
  return {
    run_root: runRoot(),
    device: {
      name,
      uuid: options.uuid ?? "",
      read_only: options.readonly === true,
      cache_path: devicePath(table.cache_dev),
      backing_path: devicePath(table.backing_dev),
      data_crc: table.data_crc,
      length_sectors: table.length_sectors,
      listen,
      format: options.format === true,
    },
  };
}

/** The table from the option, the file, or else the standard input. */
async function readTable(path: string | undefined, text: string | undefined): Promise<Table> {
  if (text !== undefined) {
    if (path !== undefined) {
      throw new UsageError(`Two tables: --table and the file "${path}", wanted one`);
    }
    return parseTable(text, { kind: "option" });
  }
  const source: TableSource = path === undefined ? { kind: "stdin" } : { kind: "file", path };
  return parseTable(path === undefined ? await readStdin() : await readFile(path), source);
}

async function readStdin(): Promise<string> {
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

/** The kernel prints devices as `major:minor` in its tables, so that is taken as well as a path. */
function devicePath(dev: string): string {
  return /^[0-9]+:[0-9]+$/.test(dev) ? `/dev/block/${dev}` : absolutePath(dev);
}

/**
 * Reads `HOST:PORT`; a numeric IPv6 address stands in brackets.
 *
 * @throws {UsageError}
 */
export function parseListen(text: string): { host: string; port: number } {
  const match = /^(?:\[([0-9A-Fa-f:.]+)\]|([^:[\]]+)):([0-9]{1,5})$/.exec(text);
  const host = match?.[1] ?? match?.[2];
  const port = Number(match?.[3]);
  if (host === undefined || port > 65535) {
    throw new UsageError(
      `Invalid --listen argument: "${text}", wanted HOST:PORT, for example 127.0.0.1:10809`,
    );
  }
  return { host, port };
}

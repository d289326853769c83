/**
 * What is noted of a device's block device, so that it is found again when its process was killed: which one it is, how it
 * can be told that it is ours, and for which table it was made. It lies beside the device's folder, which goes with every
 * new process.
 *
 * @module
 */

import { CacheError } from "../core/errors.ts";
import type { TableConfig } from "./control_protocol.ts";

/** A block device of the ublk driver. */
export interface UblkRecord {
  readonly dev_id: number;
  /** The driver keeps it with the device. */
  readonly cookie: readonly [number, number];
  readonly table: TableConfig;
}

/** A block device of the kernel's NBD client, `/dev/nbd<index>`. */
export interface NbdRecord {
  readonly index: number;
  /** The kernel keeps it with the device. */
  readonly backend: string;
  readonly table: TableConfig;
}

/** Which driver the block device is of, and what is noted then. */
export interface RecordOf {
  ublk: UblkRecord;
  nbd: NbdRecord;
}

/** Where a record is. */
export interface RecordHome {
  readonly name: string;
  readonly run_dir: string;
}

/** The file of a record. No device's name begins with a tilde. */
export function recordPath(home: RecordHome, driver: keyof RecordOf): string {
  return `${rootOf(home)}/~${home.name}.${driver}`;
}

/** The run directory that a device's folder is in. */
export function rootOf({ name, run_dir }: RecordHome): string {
  return run_dir.slice(0, -name.length - 1);
}

/** Names of the devices that have a record in the run directory `root`, whatever their driver. */
export function recordedNames(root: string): string[] {
  try {
    const names = [...Deno.readDirSync(root)].map(({ name }) => RECORD.exec(name)?.[1]);
    return names.filter((name) => name !== undefined).sort();
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return [];
    throw error;
  }
}

const RECORD = /^~(.+)\.(?:ublk|nbd)$/;

/**
 * All records in the run directory `root`.
 *
 * @throws {CacheError} One is none.
 */
export function readRecords(root: string): { name: string; record: RecordOf[keyof RecordOf] }[] {
  return recordedNames(root).flatMap((name) => {
    const home = { name, run_dir: `${root}/${name}` };
    const records = DRIVERS.map((driver) => new NodeRecord(home, driver).read());
    return records.filter((record) => record !== null).map((record) => ({ name, record }));
  });
}

const DRIVERS = ["ublk", "nbd"] as const;

/** The record of a device; it follows when the device is renamed, and so does the file of staged keys beside it. */
export class NodeRecord<D extends keyof RecordOf> {
  readonly #home: RecordHome;
  readonly #driver: D;
  #path: string;

  /** `home` tells the device's name as it is now. */
  constructor(home: RecordHome, driver: D) {
    this.#home = home;
    this.#driver = driver;
    this.#path = recordPath(home, driver);
  }

  /**
   * What was noted, or null.
   *
   * @throws {CacheError} The file is no record.
   */
  read(): RecordOf[D] | null {
    let text;
    try {
      text = Deno.readTextFileSync(this.#path);
    } catch (error) {
      if (error instanceof Deno.errors.NotFound) return null;
      throw error;
    }
    try {
      return JSON.parse(text) as RecordOf[D];
    } catch {
      throw new CacheError(`${this.#path}: not a record of a block device; remove the file`);
    }
  }

  /** Notes it, whole or not at all. */
  write(record: RecordOf[D]): void {
    const path = `${this.#path}.new`;
    Deno.writeTextFileSync(path, JSON.stringify(record) + "\n", { mode: 0o600 });
    Deno.renameSync(path, this.#path);
  }

  /** Removes it and the staged keys, if there are any. */
  remove(): void {
    for (const path of [this.#path, this.staged_path]) {
      try {
        Deno.removeSync(path);
      } catch (error) {
        if (!(error instanceof Deno.errors.NotFound)) throw error;
      }
    }
  }

  /** Where the device's staged keys are (staged_file.ts). */
  get staged_path(): string {
    return this.#path.replace(/[^.]*$/, "staged");
  }

  /** The device has another name. */
  renamed(): void {
    const [path, staged_path] = [this.#path, this.staged_path];
    this.#path = recordPath(this.#home, this.#driver);
    Deno.renameSync(staged_path, this.staged_path);
    Deno.renameSync(path, this.#path);
  }
}

/**
 * Checks that a block device is taken over with the table it was made for: the data of another cache would appear under a
 * file system that is mounted.
 *
 * @throws {CacheError} It is another one.
 */
export function checkTable(node_path: string, was: TableConfig, table: TableConfig): void {
  for (const key of ["cache_path", "backing_path", "data_crc", "read_only"] as const) {
    if (was[key] === table[key]) continue;
    throw new CacheError(
      `${node_path} was created with ${key} ${was[key]}, but the table says ${table[key]}: ` +
        "it is recovered only with the table it was created with",
    );
  }
}

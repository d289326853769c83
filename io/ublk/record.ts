/**
 * What is noted of a device's block device, so that it is found again when its process was killed: which one it is,
 * how it can be told that it is ours, and for which table it was made. It lies beside the device's folder, which goes
 * with every new process.
 *
 * @module
 */

import { CacheError } from "../../core/errors.ts";
import type { TableConfig } from "../control_protocol.ts";

export interface UblkRecord {
  readonly dev_id: number;
  /** The driver keeps it with the device. */
  readonly cookie: readonly [number, number];
  readonly table: TableConfig;
}

/** Where the record of a device is. No device's name begins with a tilde. */
export function recordPath(home: { name: string; run_dir: string }): string {
  return `${home.run_dir.slice(0, -home.name.length)}~${home.name}.ublk`;
}

/** Names of the devices that have a record in the run directory `root`. */
export function recordedNames(root: string): string[] {
  try {
    const names = [...Deno.readDirSync(root)].map(({ name }) => /^~(.+)\.ublk$/.exec(name)?.[1]);
    return names.filter((name) => name !== undefined).sort();
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return [];
    throw error;
  }
}

/** The record, or null when there is none. */
export function readRecord(path: string): UblkRecord | null {
  let text;
  try {
    text = Deno.readTextFileSync(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return null;
    throw error;
  }
  try {
    return JSON.parse(text) as UblkRecord;
  } catch {
    throw new CacheError(`${path}: not a record of a block device; remove the file`);
  }
}

/** Writes the record, whole or not at all. */
export function writeRecord(path: string, record: UblkRecord): void {
  Deno.writeTextFileSync(`${path}.new`, JSON.stringify(record) + "\n", { mode: 0o600 });
  Deno.renameSync(`${path}.new`, path);
}

/** Where the device's staged keys are, beside its record. */
export function stagedPath(record_path: string): string {
  return record_path.replace(/ublk$/, "staged");
}

/** The device has another name: takes everything that is noted of it there. */
export function moveRecord(from: string, to: string): void {
  Deno.renameSync(stagedPath(from), stagedPath(to));
  Deno.renameSync(from, to);
}

/** Removes the record and the staged keys, if there are any. */
export function removeRecord(path: string): void {
  for (const each of [path, stagedPath(path)]) {
    try {
      Deno.removeSync(each);
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    }
  }
}

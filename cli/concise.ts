/**
 * Devices in one line: what `table --concise` prints and `create --concise` takes.
 *
 * ```text
 * name,uuid,minor,flags,table[,table...][;name,...]
 * ```
 *
 * A backslash takes the next character as it is. `parseConcise(formatConcise(devices))` gives the same devices.
 *
 * @module
 */

import { CacheError } from "../core/errors.ts";

/** A device as the line has it. */
export interface ConciseDevice {
  readonly name: string;
  /** "": none. */
  readonly uuid: string;
  /** Null: any free one. */
  readonly minor: number | null;
  readonly read_only: boolean;
  /** Table lines; none: a device without a table. */
  readonly table: readonly string[];
}

const FIELD_NAMES = ["name", "uuid", "minor", "flags", "table"];

/** The line. */
export function formatConcise(devices: readonly ConciseDevice[]): string {
  return devices.map(({ name, uuid, minor, read_only, table }) =>
    [name, uuid, String(minor ?? ""), read_only ? "ro" : "rw", ...table].map(escape).join(",")
  ).join(";");
}

function escape(text: string): string {
  return text.replace(/[\\,;]/g, (char) => `\\${char}`);
}

/**
 * Takes the line apart.
 *
 * @throws {CacheError} With dmsetup's words.
 */
export function parseConcise(text: string): ConciseDevice[] {
  return text.trim() === "" ? [] : splitDevices(text).map(readDevice);
}

function readDevice(fields: string[]): ConciseDevice {
  const [name, uuid, minor, flags, ...table] = fields;
  if (name === undefined || uuid === undefined || minor === undefined || flags === undefined) {
    throw missing("Five", fields);
  }
  if (table.length === 0) throw missing("Five", fields);
  if (table.at(-1) === "") throw missing("Incomplete entry: five", fields);
  if (flags !== "ro" && flags !== "rw" && flags !== "") {
    throw new CacheError(`Invalid flags parameter '${flags}' must be 'ro' or 'rw' or empty.`);
  }
  if (!/^[0-9]{0,7}$/.test(minor)) {
    throw new CacheError(`Invalid minor number: "${minor}", wanted a number or nothing`);
  }
  return {
    name,
    uuid,
    minor: minor === "" ? null : Number(minor),
    read_only: flags === "ro",
    table,
  };
}

function missing(begin: string, fields: string[]): CacheError {
  const values = [...fields.slice(0, 4), fields.slice(4).join("\n") || undefined];
  if (fields.length >= 5) values[4] ??= "";
  const given = FIELD_NAMES.map((name, at) => `${name}: ${values[at] ?? "(null)"}`).join(" ");
  return new CacheError(
    `${begin} comma-separated fields are required for each device\n` +
      `Parsed ${Math.min(fields.length, 5)} fields: ${given}`,
  );
}

/** Takes the text apart at commas and semicolons; blanks behind these are passed over. */
function splitDevices(text: string): string[][] {
  const devices: string[][] = [[""]];
  const trimmed = text.trimEnd();
  for (let at = 0; at < trimmed.length; at++) {
    const char = trimmed[at]!;
    const fields = devices.at(-1)!;
    const last = fields.length - 1;
    if (char === ",") fields.push("");
    else if (char === ";") devices.push([""]);
    else if (char === "\\" && at + 1 < trimmed.length) fields[last] += trimmed[++at]!;
    else if (fields[last] !== "" || !/\s/.test(char) || devices.length + last === 1) {
      fields[last] += char;
    }
  }
  const is_ended = devices.length > 1 && devices.at(-1)!.length === 1 && devices.at(-1)![0] === "";
  return is_ended ? devices.slice(0, -1) : devices;
}

/**
 * The table line: how a user says what a device is made of (DESIGN §5, DMSETUP "Output" and "Exit status").
 *
 * ```text
 * <start> <length> pcache <cache_dev> <backing_dev> [<#args> <key> <value> ...]     the kernel's form
 * pcache <cache_dev> <backing_dev> [<#args>] [<key> <value> ...]                     the short form
 * ```
 *
 * Invariants:
 * - Nothing is guessed: a word that is not understood refuses the whole table.
 * - `parseTable(formatTable(table, length))` gives the same table with that length.
 * - Words are split as device-mapper splits them: at blanks, and a backslash takes the next character as it is.
 *
 * @module
 */

import { CACHE_MODES, type CacheMode, isCacheMode } from "./cache_mode.ts";
import { CacheError } from "./errors.ts";
import { type Eviction, EVICTIONS, isEviction } from "./eviction.ts";
import { SECTOR_BYTES } from "./format.ts";
import { isNbdUri, parseNbdUri } from "./nbd_uri.ts";

/** The target type that a table line names. */
export const TARGET_TYPE = "pcache";
/** Version of the kernel's target that this one answers like: major, minor, patch. */
export const TARGET_VERSION = [0, 1, 0] as const;
/** Longest table text that is looked at, in characters. */
export const MAX_TABLE_CHARS = 65536;

/** The keys of a table line and the values that each of them takes. */
export const TABLE_KEYS = {
  cache_mode: CACHE_MODES,
  data_crc: ["true", "false"],
  eviction: EVICTIONS,
} as const;
/** Most words of options: each key and its value. */
const MAX_OPTION_WORDS = 2 * Object.keys(TABLE_KEYS).length;
/** Longest device, in sectors: its size in bytes must be an exact number (2^53). */
const MAX_SECTORS = Math.floor(Number.MAX_SAFE_INTEGER / SECTOR_BYTES);

/** What a table line says. */
export interface Table {
  /** Sectors of the backing device to serve, or null for all of them (the short form). */
  readonly length_sectors: number | null;
  /** The cache device as it was written: a path, or `major:minor`. */
  readonly cache_dev: string;
  /** The backing device as it was written: a path, `major:minor`, or an NBD URI that `parseNbdUri` takes. */
  readonly backing_dev: string;
  /** The cache mode; null: the one that the cache has, writeback for a new one. */
  readonly cache_mode: CacheMode | null;
  /** Whether keys carry a checksum of their data. */
  readonly data_crc: boolean;
  /** What becomes of clean data when GC comes to it. */
  readonly eviction: Eviction;
}

/** Where a table's text came from; it is named in messages. */
export type TableSource =
  | { readonly kind: "option" }
  | { readonly kind: "stdin" }
  | { readonly kind: "file"; readonly path: string };

/**
 * Reads the one target line of a table. Empty lines and lines that start with `#` are passed over.
 *
 * @throws {CacheError} The reason in the target's words, then what was given.
 */
export function parseTable(text: string, source: TableSource): Table {
  if (text.length > MAX_TABLE_CHARS) {
    throw new CacheError(
      `Table too long: ${text.length} characters, at most ${MAX_TABLE_CHARS} are read`,
    );
  }
  if (text.includes("\0")) {
    throw new CacheError(`Table${describe(source)} holds a NUL character: it is not a text`);
  }
  let found: Table | null = null;
  for (const [index, raw_line] of text.split("\n").entries()) {
    const line = raw_line.trim();
    if (line === "" || line.startsWith("#")) continue;
    if (found !== null) {
      throw new CacheError(
        `Too many targets: line ${index + 1} of table${describe(source)} is a second one, ` +
          `a ${TARGET_TYPE} device has one target`,
      );
    }
    found = parseLine(splitWords(line), line, index + 1, source);
  }
  if (found === null) {
    throw new CacheError(`Empty table${describe(source)}: it holds no target line`);
  }
  return found;
}

/** The table line that `table` prints and `create` accepts, in the kernel's form. */
export function formatTable(table: Table, length_sectors: number): string {
  return `0 ${length_sectors} ${TARGET_TYPE} ${formatParams(table)}`;
}

/** The target's own part of a table line: the devices and every option that is known, spelled out. */
export function formatParams(table: Table): string {
  const devices = `${escapeWord(table.cache_dev)} ${escapeWord(table.backing_dev)}`;
  const options = ["data_crc", `${table.data_crc}`];
  if (table.cache_mode !== null) options.unshift("cache_mode", table.cache_mode);
  // The kernel does not know the key: a table without it is one that the kernel takes.
  if (table.eviction !== "fifo") options.push("eviction", table.eviction);
  return `${devices} ${options.length} ${options.join(" ")}`;
}

/**
 * How many sectors the device has on a backing device of `backing_bytes`.
 *
 * @throws {CacheError} The backing device is shorter than the table asks for, or shorter than a sector.
 */
export function deviceSectors(table: Table, backing_bytes: number): number {
  const backing_sectors = Math.floor(backing_bytes / SECTOR_BYTES);
  if (backing_sectors === 0) {
    throw new CacheError(
      `Error opening backing device: ${table.backing_dev} holds ${backing_bytes} bytes, ` +
        `at least ${SECTOR_BYTES} are wanted`,
    );
  }
  if (table.length_sectors === null) return backing_sectors;
  if (table.length_sectors > backing_sectors) {
    throw new CacheError(
      `Error opening backing device: ${table.backing_dev} holds ${backing_sectors} sectors, ` +
        `the table asks for ${table.length_sectors}`,
    );
  }
  return table.length_sectors;
}

function parseLine(words: string[], line: string, number: number, source: TableSource): Table {
  if (words[0] === TARGET_TYPE) {
    if (words.length < 3) throw badFormat(line, number, source);
    return parseParams(words.slice(1), null, false);
  }
  const [start, length, type] = words;
  if (start === undefined || length === undefined || type === undefined) {
    throw badFormat(line, number, source);
  }
  if (!isNumber(start) || !isNumber(length)) throw badFormat(line, number, source);
  if (type !== TARGET_TYPE) {
    throw new CacheError(`Unknown target type: "${type}", wanted "${TARGET_TYPE}"`);
  }
  if (Number(start) !== 0) {
    throw new CacheError(`Gap in table: the target starts at sector ${start}, wanted 0`);
  }
  const length_sectors = Number(length);
  if (length_sectors === 0 || length_sectors > MAX_SECTORS) {
    throw new CacheError(`Invalid target length: ${length} sectors, wanted 1..${MAX_SECTORS}`);
  }
  return parseParams(words.slice(3), length_sectors, true);
}

/** The words after the target type. Only the kernel's form insists on the count before the options. */
function parseParams(
  words: string[],
  length_sectors: number | null,
  is_count_wanted: boolean,
): Table {
  const [cache_dev, backing_dev, ...rest] = words;
  if (!cache_dev || !backing_dev) {
    throw new CacheError(
      `Insufficient args: "${words.join(" ")}", wanted <cache_dev> <backing_dev>`,
    );
  }
  if (isNbdUri(cache_dev)) {
    throw new CacheError(
      `Error opening cache device: ${cache_dev}: only a backing device may be an NBD URI`,
    );
  }
  if (isNbdUri(backing_dev)) parseNbdUri(backing_dev);
  const options = parseOptions(takeOptionWords(rest, is_count_wanted));
  return { length_sectors, cache_dev, backing_dev, ...options };
}

/** Checks and drops the `<#args>` word. */
function takeOptionWords(words: string[], is_count_wanted: boolean): string[] {
  const count = words[0];
  if (count === undefined) return [];
  if (!isNumber(count)) {
    if (!is_count_wanted) return words;
    throw new CacheError(
      `Invalid number of cache option arguments: "${count}", wanted 0..${MAX_OPTION_WORDS}`,
    );
  }
  const options = words.slice(1);
  if (Number(count) > MAX_OPTION_WORDS || Number(count) !== options.length) {
    throw new CacheError(
      `Invalid number of cache option arguments: ${count} announced, ${options.length} given, ` +
        `at most ${MAX_OPTION_WORDS} wanted`,
    );
  }
  return options;
}

function parseOptions(words: string[]): Pick<Table, "cache_mode" | "data_crc" | "eviction"> {
  const seen = new Set<string>();
  let data_crc = false;
  let cache_mode: CacheMode | null = null;
  let eviction: Eviction = "fifo";
  for (let i = 0; i < words.length; i += 2) {
    const key = words[i]!;
    const value = words[i + 1];
    if (!isTableKey(key)) throw unknownOption(key);
    if (value === undefined) throw new CacheError(`Missing value for ${key}`);
    if (seen.has(key)) {
      throw new CacheError(`Invalid number of cache option arguments: ${key} is given twice`);
    }
    seen.add(key);
    if (key === "cache_mode") cache_mode = parseCacheMode(value);
    else if (key === "eviction") eviction = parseEviction(value);
    else data_crc = parseDataCrc(value);
  }
  return { cache_mode, data_crc, eviction };
}

function isTableKey(word: string): word is keyof typeof TABLE_KEYS {
  return Object.hasOwn(TABLE_KEYS, word);
}

function parseCacheMode(value: string): CacheMode {
  if (isCacheMode(value)) return value;
  throw new CacheError(
    `Invalid cache mode parameter: "${value}", wanted ${CACHE_MODES.join(", ")}`,
  );
}

function parseEviction(value: string): Eviction {
  if (isEviction(value)) return value;
  throw new CacheError(
    `Invalid eviction parameter: "${value}", wanted ${EVICTIONS.join(" or ")}`,
  );
}

function parseDataCrc(value: string): boolean {
  if (value !== "true" && value !== "false") {
    throw new CacheError(`Invalid data crc parameter: "${value}", wanted "true" or "false"`);
  }
  return value === "true";
}

/** The kernel prints `crc` in its own table lines and refuses it as we do; whoever pastes one is told. */
function unknownOption(key: string): CacheError {
  const hint = key === "crc" ? ' (the kernel prints "crc" where "data_crc" is meant)' : "";
  return new CacheError(
    `Unrecognised cache option requested: "${key}", wanted ${
      Object.keys(TABLE_KEYS).join(", ")
    }${hint}`,
  );
}

function badFormat(line: string, number: number, source: TableSource): CacheError {
  return new CacheError(
    `Invalid format on line ${number} of table${describe(source)}.\n` +
      `  given:  ${line}\n` +
      `  wanted: <start> <length> ${TARGET_TYPE} <cache_dev> <backing_dev> [<#args> <key> <value> ...]`,
  );
}

function describe(source: TableSource): string {
  if (source.kind === "file") return ` ${source.path}`;
  return source.kind === "stdin" ? " on stdin" : "";
}

function isNumber(word: string): boolean {
  return /^[0-9]+$/.test(word);
}

/** Splits at blanks; a backslash takes the next character as it is, so that a path may hold a blank. */
function splitWords(line: string): string[] {
  const words: string[] = [];
  let word: string | null = null;
  for (let i = 0; i < line.length; i++) {
    const char = line[i]!;
    if (/\s/.test(char)) {
      if (word !== null) words.push(word);
      word = null;
    } else if (char === "\\" && i + 1 < line.length) {
      i++;
      word = (word ?? "") + line[i]!;
    } else {
      word = (word ?? "") + char;
    }
  }
  if (word !== null) words.push(word);
  return words;
}

function escapeWord(word: string): string {
  return word.replace(/[\s\\]/g, (char) => `\\${char}`);
}

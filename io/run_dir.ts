/**
 * The run directory: one folder per device, named like it, under `$PCACHE_RUN_DIR` (DESIGN §5).
 *
 * ```text
 * <run dir>/~lock           held for a moment by whoever reserves or clears a folder ("~" is in no device name)
 * <run dir>/NAME/lock       held by the device process as long as it lives; holds its minor number, UUID, backing URI
 * <run dir>/NAME/pid        written when the device answers: a folder without it is not shown
 * <run dir>/NAME/control    the sockets
 * <run dir>/NAME/nbd
 * <run dir>/NAME/log        what the device process writes to its standard error
 * ```
 *
 * A folder whose lock is free belongs to a process that was killed; the next `create` of that name clears it.
 *
 * @module
 */

import { CacheError } from "../core/errors.ts";
import { BUSY, INVALID } from "./control_protocol.ts";
import { CONTROL_SOCKET, NBD_SOCKET } from "./device_config.ts";
import { isLeaving, waitOutLeaving } from "./leaving.ts";

/** Longest device name, as device-mapper has it. */
export const MAX_NAME_CHARS = 127;
/** Longest UUID, as device-mapper has it. */
export const MAX_UUID_CHARS = 128;
/** Longest path of a Unix socket, in bytes: `sun_path` holds 108 with the final zero (unix(7)). */
export const MAX_SOCKET_PATH_BYTES = 107;
/** Most devices at once: minor numbers are below this (20 bits in the kernel's device numbers). */
const MAX_DEVICES = 1 << 20;

/** How often a process that is on its way out is looked at. */
const EXIT_POLL_MS = 2;

const ROOT_LOCK = "~lock";
const LOCK = "lock";
const PID = "pid";
const LOG = "log";
const PRIVATE_MODE = 0o700;

/** The name and folder of a device, held by the process that made the reservation until it ends. */
export interface Reservation {
  readonly name: string;
  /** "" when none was given. */
  readonly uuid: string;
  readonly run_dir: string;
  readonly minor: number;
  readonly log_path: string;
  /** Makes the device visible to the other commands. */
  publish(): void;
  /**
   * Takes another name; the folder moves with what is in it, and its sockets stay usable.
   *
   * @throws {CacheError} The name cannot be used; nothing has changed then.
   */
  rename(name: string): void;
  /**
   * Gives a UUID to a device that has none.
   *
   * @throws {CacheError} It has one, or another device has this one.
   */
  setUuid(uuid: string): void;
  /**
   * Takes a backing device that is on an NBD server, or with "" lets go of it.
   *
   * @throws {CacheError} It belongs to another device.
   */
  claimServer(backing_uri: string): void;
  /** Removes the folder. The lock itself falls with the process, so that whoever waits for it sees it gone. */
  release(): void;
}

/**
 * Refuses what device-mapper refuses as a name (DMSETUP, "names").
 *
 * @throws {CacheError} With dmsetup's words.
 */
export function checkName(name: string): void {
  if (name.includes("/")) throw new CacheError(`Name "${name}" invalid. It contains "/".`);
  if (name.length > MAX_NAME_CHARS) throw new CacheError(`Name "${name}" too long`);
  if (name === "") throw new CacheError(`Name "" invalid. It is empty.`);
  if (name === "." || name === "..") {
    throw new CacheError(`Name "${name}" invalid. It names a directory.`);
  }
  if (!/^[0-9A-Za-z#+\-.:=@_]*$/.test(name)) {
    throw new CacheError(
      `Name ${JSON.stringify(name)} invalid. Wanted only 0-9 A-Z a-z and #+-.:=@_`,
    );
  }
}

/**
 * Refuses a UUID that is empty, too long or not printable.
 *
 * @throws {CacheError}
 */
export function checkUuid(uuid: string): void {
  if (uuid.length > MAX_UUID_CHARS) {
    throw new CacheError(
      `UUID "${uuid}" too long: ${uuid.length} characters, at most ${MAX_UUID_CHARS} are wanted`,
    );
  }
  if (!/^[!-~]+$/.test(uuid)) {
    throw new CacheError(
      `UUID ${JSON.stringify(uuid)} invalid. Wanted printable characters without blanks`,
    );
  }
}

/**
 * The run directory's path: `$PCACHE_RUN_DIR`, else `/run/pcache` for root, else `$XDG_RUNTIME_DIR/pcache`.
 *
 * @throws {CacheError} None of these is known.
 */
export function runRoot(): string {
  const root = findRunRoot();
  if (root !== null) return root;
  throw new CacheError(
    "No run directory: neither PCACHE_RUN_DIR nor XDG_RUNTIME_DIR is set; set PCACHE_RUN_DIR",
  );
}

/** The run directory's path, or null where there is none: then there are no devices either. */
export function findRunRoot(): string | null {
  const chosen = Deno.env.get("PCACHE_RUN_DIR");
  if (chosen) return absolutePath(chosen).replace(/(.)\/+$/, "$1");
  if (Deno.uid() === 0) return "/run/pcache";
  const runtime_dir = Deno.env.get("XDG_RUNTIME_DIR");
  return runtime_dir ? `${absolutePath(runtime_dir)}/pcache` : null;
}

/** The path as seen from the root directory, so that it keeps its meaning in another working directory. */
export function absolutePath(path: string): string {
  return path.startsWith("/") ? path : `${Deno.cwd()}/${path.replace(/^(\.\/+)+/, "")}`;
}

/** Path of a device's control socket. */
export function controlPath(root: string, name: string): string {
  return `${root}/${name}/${CONTROL_SOCKET}`;
}

/** Names of the folders that were published, sorted; their processes may have been killed since. */
export function publishedNames(root: string): string[] {
  const names: string[] = [];
  for (const name of folderNames(root)) {
    if (exists(`${root}/${name}/${PID}`)) names.push(name);
  }
  return names.sort();
}

/** True if the device of that name was published; its process may have been killed since. */
export function isPublished(root: string, name: string): boolean {
  return exists(`${root}/${name}/${PID}`);
}

/**
 * Takes a name, its folder and a minor number, `wanted_minor` or else the lowest free one, for the calling process; also a
 * backing device on an NBD server, which has no lock of its own.
 *
 * @throws {CacheError} One of them, or the UUID, is in use, the directory cannot be used, or a socket's path would
 * be too long. Nothing is left behind then.
 */
export function reserveDevice(
  root: string,
  name: string,
  uuid: string,
  wanted_minor: number | null = null,
  backing_uri = "",
): Reservation {
  checkName(name);
  if (uuid !== "") checkUuid(uuid);
  const run_dir = `${root}/${name}`;
  checkSocketPaths(run_dir);
  ensureRoot(root);
  return withRootLock(root, () => {
    const live = liveFolders(root);
    if (live.some((folder) => folder.name === name)) throw new CacheError(BUSY);
    checkTwin(live, uuid);
    checkServer(live, backing_uri);
    const taken = new Set(live.map((folder) => folder.minor));
    const minor = wanted_minor ?? lowestFree(taken);
    if (taken.has(minor)) throw new CacheError(`${BUSY}: minor number ${minor} is in use`);
    if (minor >= MAX_DEVICES) {
      throw new CacheError(`Invalid minor number: ${minor}, wanted 0..${MAX_DEVICES - 1}`);
    }
    removeFolder(run_dir);
    return makeFolder(root, { name, minor, uuid, backing_uri });
  });
}

/** A backing device on a server has no lock of its own. */
function checkServer(live: LiveFolder[], backing_uri: string): void {
  const owner = live.find((folder) => backing_uri !== "" && folder.backing_uri === backing_uri);
  if (owner === undefined) return;
  throw new CacheError(
    `Error opening backing device: ${backing_uri}: ${BUSY}: it belongs to device ${owner.name}`,
  );
}

function checkTwin(live: LiveFolder[], uuid: string): void {
  const twin = live.find((folder) => uuid !== "" && folder.uuid === uuid);
  if (twin !== undefined) {
    throw new CacheError(`${BUSY}: UUID "${uuid}" belongs to device ${twin.name}`);
  }
}

/** Removes the folder of a device whose process is gone; leaves the folder of a living one alone. */
export function clearLeftovers(root: string, name: string): void {
  if (!exists(`${root}/${name}`)) return;
  withRootLock(root, () => {
    if (readLiveFolder(root, name) === null) removeFolder(`${root}/${name}`);
  });
}

/**
 * Waits for the end of a device's process. Made before the process is asked to end, since the folder goes with it.
 */
export class ProcessEnd implements Disposable {
  readonly #lock: Deno.FsFile;
  readonly #pid: number;

  /** Throws `Deno.errors.NotFound` when the device is not there. */
  constructor(root: string, name: string) {
    this.#pid = Number(Deno.readTextFileSync(`${root}/${name}/${PID}`));
    this.#lock = Deno.openSync(`${root}/${name}/${LOCK}`);
  }

  /** Resolves when the process has let go of everything and has left the process table but for its status. */
  async wait(): Promise<void> {
    await this.#lock.lock(true);
    // The kernel drops the lock a moment before it marks the process as ended.
    while (isLeaving(this.#pid)) {
      await new Promise((wake) => setTimeout(wake, EXIT_POLL_MS));
    }
  }

  /** Closes what it watches. */
  [Symbol.dispose](): void {
    this.#lock.close();
  }
}

interface LiveFolder {
  name: string;
  minor: number;
  uuid: string;
  backing_uri: string;
}

function checkSocketPaths(run_dir: string): void {
  for (const socket of [CONTROL_SOCKET, NBD_SOCKET]) {
    const path_bytes = new TextEncoder().encode(`${run_dir}/${socket}`).length;
    if (path_bytes > MAX_SOCKET_PATH_BYTES) {
      throw new CacheError(
        `Socket path too long: ${run_dir}/${socket} has ${path_bytes} bytes, ` +
          `at most ${MAX_SOCKET_PATH_BYTES} are wanted; choose a shorter name or PCACHE_RUN_DIR`,
      );
    }
  }
}

/** Makes the run directory if need be. One that others may write to would let them swap our sockets. */
function ensureRoot(root: string): void {
  try {
    Deno.mkdirSync(root, { recursive: true, mode: PRIVATE_MODE });
  } catch (error) {
    throw cannotUse(root, error);
  }
  const info = Deno.statSync(root);
  if (!info.isDirectory) throw new CacheError(`Cannot use run directory ${root}: not a directory`);
  if (info.uid !== Deno.uid() || (info.mode! & 0o022) !== 0) {
    throw new CacheError(
      `Cannot use run directory ${root}: owner ${info.uid}, ` +
        `mode ${
          (info.mode! & 0o7777).toString(8)
        }; wanted one that only user ${Deno.uid()} can write to`,
    );
  }
}

function withRootLock<T>(root: string, action: () => T): T {
  let lock: Deno.FsFile;
  try {
    lock = Deno.openSync(`${root}/${ROOT_LOCK}`, { write: true, create: true, mode: 0o600 });
  } catch (error) {
    throw cannotUse(root, error);
  }
  try {
    lock.lockSync(true);
    return action();
  } finally {
    lock.close();
  }
}

function cannotUse(path: string, error: unknown): unknown {
  if (error instanceof Deno.errors.AlreadyExists || error instanceof Deno.errors.NotADirectory) {
    return new CacheError(`Cannot use run directory ${path}: not a directory`);
  }
  if (error instanceof Deno.errors.PermissionDenied || error instanceof Deno.errors.NotCapable) {
    return new CacheError(
      `Cannot use run directory ${path}: Permission denied; run as root or set PCACHE_RUN_DIR`,
    );
  }
  return new CacheError(`Cannot use run directory ${path}: ${(error as Error).message}`);
}

/** Everything under the run directory that a device can be called. */
function folderNames(root: string): string[] {
  const names: string[] = [];
  try {
    for (const entry of Deno.readDirSync(root)) {
      if (entry.isDirectory && isName(entry.name)) names.push(entry.name);
    }
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return [];
    throw cannotUse(root, error);
  }
  return names;
}

function isName(name: string): boolean {
  try {
    checkName(name);
    return true;
  } catch {
    return false;
  }
}

/** The folders whose process lives. Only under the root lock: looking takes each lock for a moment. */
function liveFolders(root: string): LiveFolder[] {
  const live: LiveFolder[] = [];
  for (const name of folderNames(root)) {
    const folder = readLiveFolder(root, name);
    if (folder !== null) live.push(folder);
  }
  return live;
}

function readLiveFolder(root: string, name: string): LiveFolder | null {
  let lock: Deno.FsFile;
  try {
    lock = Deno.openSync(`${root}/${name}/${LOCK}`, { read: true });
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return null;
    throw error;
  }
  try {
    const is_free = waitOutLeaving(
      `${root}/${name}/${LOCK}`,
      () => lock.tryLockSync(true) || null,
    );
    if (is_free) return null;
    const words = Deno.readTextFileSync(`${root}/${name}/${LOCK}`).split("\n");
    const [minor, uuid = "", backing_uri = ""] = words;
    return { name, minor: Number(minor), uuid, backing_uri };
  } finally {
    lock.close();
  }
}

function lowestFree(taken: Set<number>): number {
  for (let minor = 0; minor < MAX_DEVICES; minor++) {
    if (!taken.has(minor)) return minor;
  }
  throw new CacheError(`Too many devices: at most ${MAX_DEVICES} are wanted`);
}

function makeFolder(root: string, facts: LiveFolder): Reservation {
  const run_dir = `${root}/${facts.name}`;
  try {
    Deno.mkdirSync(run_dir, { mode: PRIVATE_MODE });
    const lock = Deno.openSync(`${run_dir}/${LOCK}`, { write: true, createNew: true, mode: 0o600 });
    lock.lockSync(true);
    lock.writeSync(new TextEncoder().encode(lockText(facts)));
  } catch (error) {
    removeFolder(run_dir);
    throw cannotUse(root, error);
  }
  return new Folder(root, facts);
}

function lockText({ minor, uuid, backing_uri }: LiveFolder): string {
  return `${minor}\n${uuid}\n${backing_uri}\n`;
}

/** A folder whose lock this process holds. */
class Folder implements Reservation {
  readonly #root: string;
  #facts: LiveFolder;

  constructor(root: string, facts: LiveFolder) {
    this.#root = root;
    this.#facts = facts;
  }

  get name(): string {
    return this.#facts.name;
  }
  get minor(): number {
    return this.#facts.minor;
  }
  get uuid(): string {
    return this.#facts.uuid;
  }
  get run_dir(): string {
    return `${this.#root}/${this.name}`;
  }
  get log_path(): string {
    return `${this.run_dir}/${LOG}`;
  }

  publish(): void {
    Deno.writeTextFileSync(`${this.run_dir}/${PID}`, `${Deno.pid}\n`, { mode: 0o600 });
  }

  rename(name: string): void {
    checkName(name);
    const to = `${this.#root}/${name}`;
    checkSocketPaths(to);
    withRootLock(this.#root, () => {
      if (readLiveFolder(this.#root, name) !== null) throw new CacheError(BUSY);
      removeFolder(to);
      Deno.renameSync(this.run_dir, to);
      this.#facts.name = name;
    });
  }

  setUuid(uuid: string): void {
    checkUuid(uuid);
    if (this.uuid !== "") {
      throw new CacheError(`${INVALID}: its UUID is "${this.uuid}" already and cannot be changed`);
    }
    withRootLock(this.#root, () => {
      checkTwin(liveFolders(this.#root), uuid);
      this.#write({ ...this.#facts, uuid });
    });
  }

  claimServer(backing_uri: string): void {
    if (backing_uri === this.#facts.backing_uri) return;
    withRootLock(this.#root, () => {
      checkServer(liveFolders(this.#root), backing_uri);
      this.#write({ ...this.#facts, backing_uri });
    });
  }

  /** Into the same file: the lock is on it. */
  #write(facts: LiveFolder): void {
    Deno.writeTextFileSync(`${this.run_dir}/${LOCK}`, lockText(facts));
    this.#facts = facts;
  }

  release(): void {
    withRootLock(this.#root, () => removeFolder(this.run_dir));
  }
}

function removeFolder(path: string): void {
  try {
    Deno.removeSync(path, { recursive: true });
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
}

function exists(path: string): boolean {
  try {
    Deno.lstatSync(path);
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw cannotUse(path, error);
  }
}

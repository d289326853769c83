/**
 * The staged keys of a block device, in a file of the run directory that is mapped into memory: so they outlive the process, and
 * whoever takes the device over has every write that was answered. To those who use the device nothing has happened, and
 * they will never send it again.
 *
 * @module
 */

import { CacheError } from "../core/errors.ts";
import { STAGED_KEYS } from "../core/log.ts";
import { Staging } from "../core/staging.ts";
import { cString, ERRNO, errorText, libc, O_CLOEXEC, O_RDWR, result } from "./libc.ts";

const FILE_BYTES = Staging.bytesFor(STAGED_KEYS);
const O_CREAT = 0o100;
const O_TRUNC = 0o1000;
const FILE_MODE = 0o600;
const PROT_READ_WRITE = 3;
const MAP_SHARED = 1;

/** A mapped file; `close` unmaps it, and nothing may touch `staging` after that. */
export interface StagedFile {
  readonly staging: Staging;
  close(): void;
}

/**
 * Maps the file: an empty one, or with `is_left` the one that a process left.
 *
 * @throws {CacheError} It cannot be had.
 */
export function mapStagedFile(path: string, is_left: boolean): StagedFile {
  const flags = O_RDWR | O_CLOEXEC | (is_left ? 0 : O_CREAT | O_TRUNC);
  const fd = result(libc.open(cString(path), flags, FILE_MODE), ERRNO[0]);
  if (fd < 0) throw failed(path, -fd);
  try {
    if (is_left) checkSize(path);
    // A hole that cannot be filled later would kill the process.
    else check(path, result(libc.fallocate(fd, 0, 0n, BigInt(FILE_BYTES)), ERRNO[0]));
    return map(path, fd);
  } finally {
    libc.close(fd);
  }
}

function map(path: string, fd: number): StagedFile {
  const len = BigInt(FILE_BYTES);
  const pointer = libc.mmap(0n, len, PROT_READ_WRITE, MAP_SHARED, fd, 0n);
  const error = ERRNO[0];
  const address = BigInt(Deno.UnsafePointer.value(pointer));
  if (BigInt.asIntN(64, address) === -1n) throw failed(path, error);
  const buffer = Deno.UnsafePointerView.getArrayBuffer(pointer!, FILE_BYTES);
  return { staging: new Staging(buffer, STAGED_KEYS), close: () => libc.munmap(address, len) };
}

/** A file that is too short would kill the process where it ends. */
function checkSize(path: string): void {
  const { size } = Deno.statSync(path);
  if (size === FILE_BYTES) return;
  throw new CacheError(`staged keys: ${path} has ${size} bytes, wanted ${FILE_BYTES}`);
}

function check(path: string, failure: number): void {
  if (failure < 0) throw failed(path, -failure);
}

function failed(path: string, error: number): CacheError {
  return new CacheError(`staged keys: ${path}: ${errorText(error)}`);
}

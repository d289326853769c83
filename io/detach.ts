/**
 * Cuts a device process loose from the command that started it.
 *
 * @module
 */

import { CacheError } from "../core/errors.ts";
import {
  cString,
  ERRNO,
  errorText,
  libc,
  O_APPEND,
  O_CLOEXEC,
  O_CREAT,
  O_RDWR,
  O_WRONLY,
  result,
} from "./libc.ts";

/**
 * Points the standard streams away from the pipes of the process that started this one: input and output to
 * /dev/null, errors to the end of a log file. From then on nobody waits for the end of those pipes.
 *
 * @throws {CacheError} The log cannot be opened.
 */
export function detachStreams(log_path: string): void {
  const null_fd = open("/dev/null", O_RDWR);
  const log_fd = open(log_path, O_WRONLY | O_CREAT | O_APPEND);
  for (const [from_fd, to_fd] of [[null_fd, 0], [null_fd, 1], [log_fd, 2]] as const) {
    check(`stream ${to_fd}`, result(libc.dup2(from_fd, to_fd), ERRNO[0]));
  }
  libc.close(null_fd);
  libc.close(log_fd);
}

function open(path: string, flags: number): number {
  const fd = result(libc.open(cString(path), flags | O_CLOEXEC, 0o600), ERRNO[0]);
  check(path, fd);
  return fd;
}

function check(what: string, outcome: number): void {
  if (outcome >= 0) return;
  throw new CacheError(`cannot leave the terminal: ${what}: ${errorText(-outcome)}`);
}

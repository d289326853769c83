/**
 * What is written to a block device while memory is short must not wait for memory that only its own process can free.
 *
 * @module
 */

import { libc } from "./libc.ts";

/** prctl(2). */
const PR_SET_IO_FLUSHER = 57;

/** Tells the kernel that this process serves a block device. Without the right to it all works, but for memory that gets very short. */
export function becomeIoFlusher(): void {
  libc.prctl(PR_SET_IO_FLUSHER, 1n, 0n, 0n, 0n);
}

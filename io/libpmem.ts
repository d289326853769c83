/**
 * libpmem through FFI: is a mapping persistent memory, and how do its cache lines reach it. Optional: without it every
 * medium is mapped and made durable with fdatasync, which is right on DAX file systems too, only slower.
 *
 * @module
 */

import { cString } from "./libc.ts";

/** For `Libpmem.copy`: PMEM_F_MEM_NODRAIN and PMEM_F_MEM_NONTEMPORAL: do not wait, go past the caches whatever the length. */
export const PMEM_F_STREAM = 1 << 0 | 1 << 1;

const symbols = {
  /** Its result, the first argument, is not wanted. */
  pmem_memcpy: { parameters: ["u64", "u64", "u64", "u32"], result: "void" },
  pmem_map_file: {
    parameters: ["buffer", "u64", "i32", "u32", "buffer", "buffer"],
    result: "pointer",
  },
  pmem_unmap: { parameters: ["pointer", "u64"], result: "i32" },
  pmem_flush: { parameters: ["u64", "u64"], result: "void" },
  pmem_drain: { parameters: [], result: "void" },
} as const;

/** The library's functions, addresses absolute. */
export interface Libpmem {
  /** Writes the range's cache lines back, without waiting. */
  flush(address: bigint, len_bytes: bigint): void;
  /** Copies past the processor's caches, so that nothing is left to be written back. Does not wait. */
  copy(to: bigint, from: bigint, len_bytes: bigint, flags: number): void;
  /** Waits for all that `flush` and `copy` began. */
  drain(): void;
  /**
   * Whether a mapping of this file or device DAX is persistent memory. `PMEM_IS_PMEM_FORCE=1` in the environment makes
   * the answer yes. The file is mapped for a moment; nothing is touched.
   */
  isPmem(path: string): boolean;
}

/** Loads libpmem (Debian: libpmem1). Null: it is not installed. */
export function loadLibpmem(): Libpmem | null {
  let library;
  try {
    library = Deno.dlopen("libpmem.so.1", symbols).symbols;
  } catch {
    return null;
  }
  return {
    flush: library.pmem_flush,
    copy: library.pmem_memcpy,
    drain: library.pmem_drain,
    isPmem(path: string): boolean {
      const mapped_bytes = new BigUint64Array(1);
      const is_pmem = new Int32Array(1);
      const at = library.pmem_map_file(
        cString(path),
        0n,
        0,
        0,
        new Uint8Array(mapped_bytes.buffer),
        new Uint8Array(is_pmem.buffer),
      );
      if (at === null) return false;
      library.pmem_unmap(at, mapped_bytes[0]!);
      return is_pmem[0] !== 0;
    },
  };
}

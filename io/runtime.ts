/**
 * How the Deno runtime is started for a device.
 *
 * @module
 */

/**
 * V8 puts small functions into their callers up to a size that the engine's methods, short as they are, exceed. With three times
 * as much a hit costs a fifth less, an overwrite a quarter (`deno task bench:core`, 2026-11-21).
 */
export const V8_FLAGS = "--v8-flags=--max-inlined-bytecode-size-cumulative=3000";

/**
 * Environment of a device: malloc asks for huge pages, for V8's large arrays, too. The index is met at random places, and with pages of
 * 4 KiB a hit among 10 million extents waits for their addresses: a tenth of it, with data_crc a fifth (`deno task bench:core`, 2026-11-21).
 * An empty device is 4 MiB larger. Where the kernel gives huge pages to all (Debian), or to none, this changes nothing.
 *
 * @param tunables what the user has set GLIBC_TUNABLES to: it goes before
 */
export function runtimeEnv(tunables = ""): Record<string, string> {
  return { GLIBC_TUNABLES: ["glibc.malloc.hugetlb=1", tunables].filter(Boolean).join(":") };
}

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

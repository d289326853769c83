/**
 * The time that this thread has spent on a processor: the engine waits for nothing, so this is its time without the turns that
 * other programs had meanwhile.
 *
 * @module
 */

const CLOCK_THREAD_CPUTIME_ID = 3;

const libc = Deno.dlopen("libc.so.6", {
  clock_gettime: { parameters: ["i32", "buffer"], result: "i32" },
}).symbols;

const timespec = new BigInt64Array(2);
const bytes = new Uint8Array(timespec.buffer);

/** In seconds, from any start. */
export function cpuSeconds(): number {
  libc.clock_gettime(CLOCK_THREAD_CPUTIME_ID, bytes);
  return Number(timespec[0]) + Number(timespec[1]) / 1e9;
}

/**
 * The C library through FFI: exactly the calls that `io/` needs, their constants, errno.
 *
 * What an FFI call costs here (Deno 2.9.6, 2026-11-21, empty body subtracted): small integers and fixed pointer
 * objects some 10 ns; an address as a `u64` that is read straight out of a `BigUint64Array` 20 ns and no garbage (V8
 * keeps the word in a register); the same address built with bigint arithmetic 90 ns, as a number 470 ns, through
 * `Deno.UnsafePointer` 250-430 ns, as a subarray 210 ns. So addresses and offsets are `u64` here, and hot paths pass
 * `Word.set(number)` or `Arena.absolute(addr)`, both of which read such an array.
 *
 * Lengths that fit are `i32`/`u32`: no single transfer exceeds 2 GiB. A `size_t` that the callee reads in full is
 * `u64`, because the upper half of a register is undefined for a narrower parameter.
 *
 * @module
 */

import { CacheError } from "../core/errors.ts";

const symbols = {
  __errno_location: { parameters: [], result: "pointer" },
  strerror: { parameters: ["i32"], result: "pointer" },
  /** `syscall(2)` with the number first, in the shapes of two calls that have no function of their own. */
  io_uring_setup: { name: "syscall", parameters: ["i32", "u32", "u64"], result: "i32" },
  io_uring_enter: {
    name: "syscall",
    parameters: ["i32", "i32", "u32", "u32", "u32", "u64", "u64"],
    result: "i32",
  },
  mmap: { parameters: ["u64", "u64", "i32", "i32", "i32", "u64"], result: "pointer" },
  madvise: { parameters: ["u64", "u64", "i32"], result: "i32" },
  munmap: { parameters: ["u64", "u64"], result: "i32" },
  open: { parameters: ["buffer", "i32", "i32"], result: "i32" },
  close: { parameters: ["i32"], result: "i32" },
  dup2: { parameters: ["i32", "i32"], result: "i32" },
  statx: { parameters: ["i32", "buffer", "i32", "u32", "buffer"], result: "i32" },
  fstatfs: { parameters: ["i32", "buffer"], result: "i32" },
  fallocate: { parameters: ["i32", "i32", "u64", "u64"], result: "i32" },
  posix_fadvise: { parameters: ["i32", "u64", "u64", "i32"], result: "i32" },
  prctl: { parameters: ["i32", "u64", "u64", "u64", "u64"], result: "i32" },
  sched_yield: { parameters: [], result: "i32" },
  memcpy: { parameters: ["u64", "buffer", "u64"], result: "void" },
  getpagesize: { parameters: [], result: "i32" },
  lseek: { parameters: ["i32", "i64", "i32"], result: "i64" },
  ioctl: { parameters: ["i32", "u64", "buffer"], result: "i32" },
  fcntl: { parameters: ["i32", "i32", "i32"], result: "i32" },
  flock: { parameters: ["i32", "i32"], result: "i32" },
  fdatasync: { parameters: ["i32"], result: "i32" },
  pread: { parameters: ["i32", "u64", "u64", "u64"], result: "i32" },
  pread_into: {
    name: "pread",
    parameters: ["i32", "buffer", "u64", "u64"],
    result: "i32",
  },
  pwritev: { parameters: ["i32", "u64", "i32", "u64"], result: "i32" },
  poll: { parameters: ["u64", "u64", "i32"], result: "i32" },
  poll_in: { name: "poll", parameters: ["buffer", "u64", "i32"], result: "i32" },
  socket: { parameters: ["i32", "i32", "i32"], result: "i32" },
  socketpair: { parameters: ["i32", "i32", "i32", "buffer"], result: "i32" },
  bind: { parameters: ["i32", "buffer", "u32"], result: "i32" },
  listen: { parameters: ["i32", "i32"], result: "i32" },
  connect: { parameters: ["i32", "buffer", "u32"], result: "i32" },
  getsockname: { parameters: ["i32", "buffer", "buffer"], result: "i32" },
  getsockopt: {
    parameters: ["i32", "i32", "i32", "buffer", "buffer"],
    result: "i32",
  },
  setsockopt: { parameters: ["i32", "i32", "i32", "buffer", "u32"], result: "i32" },
  shutdown: { parameters: ["i32", "i32"], result: "i32" },
  accept4: { parameters: ["i32", "u64", "u64", "i32"], result: "i32" },
  recv: { parameters: ["i32", "u64", "u64", "i32"], result: "i32" },
  recv_into: { name: "recv", parameters: ["i32", "buffer", "u64", "i32"], result: "i32" },
  send: { parameters: ["i32", "buffer", "u64", "i32"], result: "i32" },
  /** Name, service, hints, where the pointer to the first result goes. */
  getaddrinfo: { parameters: ["buffer", "u64", "buffer", "buffer"], result: "i32" },
  free: { parameters: ["pointer"], result: "void" },
  freeaddrinfo: { parameters: ["pointer"], result: "void" },
  gai_strerror: { parameters: ["i32"], result: "pointer" },
  recvmsg: { parameters: ["i32", "u64", "i32"], result: "i32" },
  sendmsg: { parameters: ["i32", "u64", "i32"], result: "i32" },
} as const;

function load(): Deno.DynamicLibrary<typeof symbols>["symbols"] {
  if (Deno.build.os !== "linux") {
    throw new CacheError(`operating system ${Deno.build.os}: pcache runs on Linux`);
  }
  try {
    return Deno.dlopen("libc.so.6", symbols).symbols;
  } catch (e) {
    throw new CacheError(`libc.so.6: cannot be loaded (${(e as Error).message}): glibc is wanted`);
  }
}

/** The C library's functions. A negative result means failure: `result` makes it the error number, negated. */
export const libc = load();

const arm = Deno.build.arch === "aarch64";

export const O_RDONLY = 0;
export const O_RDWR = 2;
export const O_WRONLY = 1;
export const O_CREAT = 0o100;
export const O_APPEND = 0o2000;
export const O_EXCL = 0o200;
export const O_NONBLOCK = 0o4000;
export const O_DIRECT = arm ? 0o200000 : 0o40000;
export const O_CLOEXEC = 0o2000000;

export const LOCK_EX = 2;
export const LOCK_NB = 4;

export const AF_UNIX = 1;
export const AF_INET = 2;
export const AF_INET6 = 10;
export const SOCK_STREAM = 1;
export const SOCK_CLOEXEC = 0o2000000;
export const SOL_SOCKET = 1;
export const SO_REUSEADDR = 2;
export const SO_TYPE = 3;
export const SO_ACCEPTCONN = 30;
export const SO_KEEPALIVE = 9;
export const SO_SNDBUF = 7;
export const SO_RCVBUF = 8;
export const IPPROTO_TCP = 6;
export const TCP_NODELAY = 1;
export const TCP_KEEPIDLE = 4;
export const TCP_KEEPINTVL = 5;
export const TCP_KEEPCNT = 6;
export const IPPROTO_IPV6 = 41;
export const IPV6_V6ONLY = 26;
export const SHUT_RD = 0;
export const SHUT_WR = 1;
export const SHUT_RDWR = 2;
export const MSG_DONTWAIT = 0x40;
export const MSG_WAITALL = 0x100;
export const MSG_NOSIGNAL = 0x4000;

/** Events of poll(2). */
export const POLLIN = 1;
export const POLLOUT = 4;
export const POLLHUP = 16;
export const POLLRDHUP = 0x2000;

export const F_SETFD = 2;
export const FD_CLOEXEC = 1;
export const F_GETFL = 3;
export const F_SETFL = 4;

export const EPERM = 1;
export const EINTR = 4;
export const EAGAIN = 11;
export const EBUSY = 16;
export const ENOSYS = 38;
export const ETIME = 62;
export const EPROTO = 71;
export const EOPNOTSUPP = 95;
export const EINPROGRESS = 115;

/**
 * The calling thread's errno, seen in place: `ERRNO[0]`. To be read in the expression of the call, or the one after it, with nothing in
 * between: whatever function is entered meanwhile may let the runtime compile or collect garbage, by calls of its own that set it.
 */
export const ERRNO: { readonly 0: number } = new Int32Array(
  Deno.UnsafePointerView.getArrayBuffer(libc.__errno_location()!, 4),
) as Int32Array & { readonly 0: number };

/** A C result as the kernel states it: not negative, or the error number negated. `result(libc.close(fd), ERRNO[0])`. */
export function result(returned: number, error: number): number {
  return returned < 0 ? -error : returned;
}

/** What an error number says, as C programs print it: `No space left on device`. */
export function errorText(error_number: number): string {
  return Deno.UnsafePointerView.getCString(libc.strerror(error_number)!);
}

/** A path as C wants it. */
export function cString(text: string): Uint8Array<ArrayBuffer> {
  if (text.includes("\0")) throw new CacheError(`path ${JSON.stringify(text)}: holds a zero byte`);
  return new TextEncoder().encode(text + "\0");
}

/**
 * A 64-bit word that a number is turned into without making a bigint: `call(word.set(n))`, where nothing is done
 * with what `set` returns but passing it to a `u64` parameter. One `Word` for each parameter of a call.
 */
export class Word {
  readonly #words = new Uint32Array(2);
  readonly #big = new BigUint64Array(this.#words.buffer);

  /** The word for an integer from 0 to `Number.MAX_SAFE_INTEGER`. */
  set(n: number): bigint {
    this.#words[0] = n >>> 0;
    this.#words[1] = n / 4294967296;
    return this.#big[0]!;
  }
}

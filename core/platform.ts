/**
 * What the engine needs from the machine, and nothing else. `io/` implements these over mapped memory and
 * io_uring; the tests implement them over plain byte arrays that can crash.
 *
 * Addresses are plain numbers in one address space, so that a byte can be named without an object:
 *
 *   [0, cache_bytes)                              the cache device, byte for byte
 *   [buffer_addr, buffer_addr + buffer_bytes)     volatile transfer buffers, the engine's own
 *
 * Addresses and lengths are in bytes unless a name ends in another unit.
 *
 * @module
 */

/** The cache device, mapped, and the transfer buffers beside it (DESIGN §4: durability by medium). */
export interface Memory {
  /** Size of the cache device. */
  readonly cache_bytes: number;
  /** First address of the transfer buffers; a multiple of 4096, at or after `cache_bytes`. */
  readonly buffer_addr: number;
  /** Size of the transfer buffers; a multiple of 4096. */
  readonly buffer_bytes: number;
  /**
   * True where a barrier costs no more than a few stores (persistent memory). The log is then written as soon
   * as a kset is full; elsewhere it waits for a flush, the timer or a full staging area.
   */
  readonly barrier_is_cheap: boolean;

  /** Copies `len_bytes` from `addr` to the start of `into`. For metadata only. */
  read(addr: number, into: Uint8Array, len_bytes: number): void;
  /** Stores the first `len_bytes` of `from` at `addr`. For metadata only; not ordered, not yet persistent. */
  write(addr: number, from: Uint8Array, len_bytes: number): void;
  /** Moves `len_bytes` from one address to another, as memmove does; not ordered, not yet persistent. */
  copy(to_addr: number, from_addr: number, len_bytes: number): void;
  /** CRC-32C of the range, started from `CRC_SEED` (FORMAT, "Checksums"), as an unsigned 32-bit number. */
  crc32c(addr: number, len_bytes: number): number;
  /**
   * A hint: `[from_addr, to_addr)` is stored to next, and later stores go on from there up to `end_addr` at most. The content stays as
   * it is. So a medium where first stores are slow (page faults, blocks to be set up) does this for many at once.
   */
  aim(from_addr: number, to_addr: number, end_addr: number): void;
  /** Starts to make the stores in the range persistent. They are so once a later barrier is done. */
  persist(addr: number, len_bytes: number): void;
  /**
   * The same, and returns the checksum of what was stored there, as `crc32c` does. It may be known from where the bytes came, so it says
   * nothing of whether they have arrived whole.
   */
  persistSummed(addr: number, len_bytes: number): number;
  /**
   * Starts a barrier: everything persisted before this call is durable when it is done. True: done already.
   * False: `Engine.barrierDone` is called later. At most one barrier is under way at a time.
   * Throws when the medium failed.
   */
  barrier(): boolean;
  /** The same barrier, waited for. Only while a cache is opened or formatted. Throws when the medium failed. */
  barrierSync(): void;
}

/** A list of memory ranges that are written, one after another, to one place. Reused: copy what you need. */
export interface Gather {
  readonly count: number;
  /** Address of range `i`, in bytes. */
  addr(i: number): number;
  /** Length of range `i`, in bytes. */
  len(i: number): number;
}

/**
 * The backing device. Each call starts a request; `Engine.backingDone(id, errno)` reports its end, never from
 * inside the call. Requests end in any order. Short transfers are carried on by the implementation. Offsets and
 * lengths are multiples of 512.
 */
export interface Backing {
  readonly size_bytes: number;
  /** Reads `len_bytes` at `off_bytes` into memory at `to_addr`. */
  read(id: number, off_bytes: number, len_bytes: number, to_addr: number): void;
  /**
   * Writes the ranges of `from`, `len_bytes` in all and at most `MAX_GATHER` of them, at `off_bytes`. `is_aside`: requests wait for
   * the caller, so it is to be held up as little as can be, even if the write takes longer or costs more then.
   */
  write(id: number, off_bytes: number, len_bytes: number, from: Gather, is_aside?: boolean): void;
  /** Whether `zero` may be asked for; false also when it has turned out to be something that the device cannot do. */
  canZero(off_bytes: number, len_bytes: number, may_punch: boolean): boolean;
  /**
   * Makes the range zeroes, without a transfer. `may_punch`: reads must return zeroes, but its space may be given up. Any error
   * is right where the device cannot do it: the caller writes zeroes then. Ordered and durable as a write is.
   */
  zero(id: number, off_bytes: number, len_bytes: number, may_punch: boolean): void;
  /** Makes every write and zeroing that ended before this call durable. */
  flush(id: number): void;
}

/** Most ranges in one backing write (Linux's UIO_MAXIOV is 1024). */
export const MAX_GATHER = 256;
/** Most requests the engine has under way on the backing device at once; ids are below this. */
export const MAX_BACKING_IDS = 512;

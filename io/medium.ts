/**
 * The cache device as the engine sees it: mapped memory, made durable in the way of its medium (DESIGN §4).
 *
 * | kind | what it is | persist | barrier |
 * |---|---|---|---|
 * | `pmem` | libpmem says persistent memory: device DAX, DAX file system | cache lines written back | sfence, done at once |
 * | `file`, `block` | an ordinary file, a block device | nothing | fdatasync through the ring |
 * | `tmpfs` | a file in memory | nothing | done at once: there is nothing that would last longer |
 *
 * Metadata is read with pread(2), not from the mapping: a damaged page is an error then and no SIGBUS, and a hole of a
 * file on tmpfs is read without being filled.
 *
 * @module
 */

import { assert } from "../core/assert.ts";
import { crc32c, CRC_SEED } from "../core/crc32c.ts";
import { CacheError, ENOSPC } from "../core/errors.ts";
import type { Memory } from "../core/platform.ts";
import type { Arena } from "./arena.ts";
import { allocatedBytes, type DeviceFile, reopenPath } from "./files.ts";
import { type CrcFunction, loadIsal } from "./isal.ts";
import { EINTR, EOPNOTSUPP, ERRNO, errorText, libc, result, Word } from "./libc.ts";
import { type Libpmem, loadLibpmem, PMEM_F_STREAM } from "./libpmem.ts";
import { type Advise, PageSetup } from "./page_setup.ts";
import { ReceivedSums } from "./received_sums.ts";
import type { Ring } from "./ring.ts";
import { StreamedRuns } from "./streamed_runs.ts";

/** The optional libraries; null where they are not installed. */
export interface Libraries {
  crc: CrcFunction | null;
  libpmem: Libpmem | null;
}

/** Loads the libraries that are installed. */
export function loadLibraries(): Libraries {
  return { crc: loadIsal(), libpmem: loadLibpmem() };
}

/** How the cache device's bytes become durable: see the module's description. */
export type MediumKind = "pmem" | "file" | "block" | "tmpfs";

const TMPFS_MAGIC = 0x01021994;
const STATFS_BYTES = 120;

const PAGE_BYTES = libc.getpagesize();
const MADV_RANDOM = 1;
const POSIX_FADV_DONTNEED = 4;

/** Shorter moves stay in the caches. */
const STREAM_BYTES = 512;

const FALLOC_FL_KEEP_SIZE = 1;
const SEEK_HOLE = 4;

/** The parts of struct statfs that matter here. */
function statFileSystem(fd: number): { magic: number; total_bytes: number; free_bytes: number } {
  const bytes = new Uint8Array(STATFS_BYTES);
  const failed = result(libc.fstatfs(fd, bytes), ERRNO[0]);
  if (failed !== 0) throw new Error(`fstatfs: ${errorText(-failed)}`);
  const view = new DataView(bytes.buffer);
  const block_bytes = Number(view.getBigUint64(8, true));
  return {
    magic: view.getUint32(0, true),
    total_bytes: Number(view.getBigUint64(16, true)) * block_bytes,
    free_bytes: Number(view.getBigUint64(32, true)) * block_bytes,
  };
}

function findKind(file: DeviceFile, libpmem: Libpmem | null): MediumKind {
  if (file.kind === "block") return "block";
  if (libpmem?.isPmem(reopenPath(file.fd))) return "pmem";
  if (file.kind === "dax") {
    const why = libpmem === null ? "libpmem (Debian: libpmem1) is needed for it" : "not persistent";
    throw new CacheError(`Error opening cache device: ${file.path}: device DAX: ${why}`);
  }
  return statFileSystem(file.fd).magic === TMPFS_MAGIC ? "tmpfs" : "file";
}

/** The mapped cache device and the transfer buffers. Addresses are the arena's. */
export class Medium implements Memory {
  /** Only `grow` changes it. */
  cache_bytes: number;
  readonly buffer_addr: number;
  readonly buffer_bytes: number;
  readonly barrier_is_cheap: boolean;
  readonly kind: MediumKind;
  /** Whether payloads are summed on their way to their place, for `persistSummed`. */
  sums_received = false;
  /** Whether payloads are better received into a buffer and moved by `receive` than received into their place. */
  readonly receives_past_caches: boolean;

  readonly #arena: Arena;
  readonly #bytes: Uint8Array<ArrayBuffer>;
  readonly #buffer_end: number;
  readonly #file: DeviceFile;
  readonly #ring: Ring;
  readonly #barrier_user: number;
  /** It is mapped with MAP_SYNC. */
  readonly #is_synced: boolean;
  readonly #libpmem: Libpmem | null;
  readonly #crc: CrcFunction | null;
  readonly #len_word = new Word();
  readonly #off_word = new Word();
  /** Persistent memory: what was moved past the caches, until something else is stored or a barrier is done. */
  readonly #streamed = new StreamedRuns();
  /** And the checksums of such payloads. */
  readonly #sums = new ReceivedSums();
  readonly #pages: PageSetup;
  /** Persistent memory: the stores that are to be written back, one run of addresses not yet handed to libpmem. */
  #run_from = 0;
  #run_to = 0;

  /**
   * Maps the cache device into an arena made for its size. Writes nothing.
   *
   * @param barrier_user the ring's token for barriers: when its completion comes, `Engine.barrierDone` is due
   * @throws CacheError when it cannot be mapped
   */
  constructor(
    arena: Arena,
    file: DeviceFile,
    ring: Ring,
    barrier_user: number,
    libraries: Libraries = loadLibraries(),
  ) {
    assert(arena.cache_bytes === file.size_bytes, "the arena is made for the cache device");
    this.cache_bytes = arena.cache_bytes;
    this.buffer_addr = arena.buffer_addr;
    this.buffer_bytes = arena.buffer_bytes;
    this.#arena = arena;
    this.#bytes = arena.bytes;
    this.#buffer_end = arena.buffer_addr + arena.buffer_bytes;
    this.#file = file;
    this.#ring = ring;
    this.#barrier_user = barrier_user;
    this.#crc = libraries.crc;
    this.kind = findKind(file, libraries.libpmem);
    this.#libpmem = this.kind === "pmem" ? libraries.libpmem : null;
    this.receives_past_caches = this.#libpmem !== null;
    this.barrier_is_cheap = this.kind === "pmem" || this.kind === "tmpfs";
    const advise: Advise = (from_addr, to_addr, advice) => this.#advise(from_addr, to_addr, advice);
    this.#pages = new PageSetup(advise, this.room_bytes, PAGE_BYTES, this.barrier_is_cheap);
    // Where libpmem was told to take any mapping for persistent memory, MAP_SYNC is refused, and not needed.
    this.#is_synced = this.kind === "pmem" && arena.mapCache(file.fd, true) === 0;
    const failed = this.#is_synced ? 0 : arena.mapCache(file.fd, false);
    if (failed !== 0) {
      throw new CacheError(
        `Error opening cache device: ${file.path}: mapping it: ${errorText(failed)}`,
      );
    }
    // The page cache takes pages one by one then: see `#dropCached`.
    if (!this.barrier_is_cheap) this.#advise(0, this.cache_bytes, MADV_RANDOM);
  }

  /** How large the cache device can become without being opened anew. */
  get room_bytes(): number {
    return this.buffer_addr;
  }

  /**
   * Maps what the cache device has gained, and sets its blocks aside. Nothing is written, and nothing has changed if that fails.
   *
   * @throws CacheError when it cannot be mapped, or there is no space
   */
  grow(cache_bytes: number): void {
    const { path, fd } = this.#file;
    const before_bytes = this.cache_bytes;
    const failed = this.#arena.growCache(fd, this.#is_synced, cache_bytes);
    if (failed !== 0) {
      throw new CacheError(`cache device ${path}: mapping it: ${errorText(failed)}`);
    }
    this.cache_bytes = cache_bytes;
    try {
      this.#prepareFrom(before_bytes);
    } catch (error) {
      this.cache_bytes = before_bytes;
      throw error;
    }
    if (!this.barrier_is_cheap) this.#advise(0, cache_bytes, MADV_RANDOM);
  }

  /**
   * Makes sure that a store to any part of the cache device finds its block, and dirties no page but its own: to be called when it
   * is certain that the device will be used, and before the first store. Neither content nor size change.
   *
   * @throws CacheError when there is no space, or no way to know
   */
  prepare(): void {
    this.#prepareFrom(0);
  }

  #prepareFrom(from_bytes: number): void {
    if (this.#file.kind === "file") this.#allocate();
    if (!this.barrier_is_cheap) this.#dropCached(from_bytes);
  }

  #allocate(): void {
    const { fd } = this.#file;
    const missing_bytes = this.cache_bytes - allocatedBytes(fd);
    const { total_bytes, free_bytes } = statFileSystem(fd);
    // Asked first, because a file system that runs full half way keeps what it has set aside. A tmpfs without limit
    // says that it has no blocks at all.
    if (total_bytes > 0 && missing_bytes > free_bytes) throw this.#noSpace();
    const allocated = result(
      libc.fallocate(fd, FALLOC_FL_KEEP_SIZE, 0n, BigInt(this.cache_bytes)),
      ERRNO[0],
    );
    if (allocated === 0) return;
    if (allocated === -ENOSPC) throw this.#noSpace();
    if (allocated === -EOPNOTSUPP && missing_bytes <= 0 && !this.#hasHole()) return;
    throw new CacheError(
      `Failed to start cache dev: ${this.#file.path}: setting its blocks aside: ` +
        `${errorText(-allocated)}: a file without holes is wanted (cp --sparse=never makes one)`,
    );
  }

  /**
   * Who wrote or read the device before may have left its pages in large folios: of these a single store has a megabyte written at the
   * next barrier. What a process has mapped stays, also where that is us: pages that we bring in are single ones.
   */
  #dropCached(from_bytes: number): void {
    this.barrierSync(); // what is dirty would stay, too
    const len_bytes = this.cache_bytes - from_bytes;
    libc.posix_fadvise(
      this.#file.fd,
      BigInt(from_bytes),
      BigInt(len_bytes),
      POSIX_FADV_DONTNEED,
    );
  }

  #noSpace(): CacheError {
    return new CacheError(
      `Failed to start cache dev: ${this.#file.path}: setting aside its ${this.cache_bytes} bytes: ` +
        `${errorText(ENOSPC)}`,
    );
  }

  #hasHole(): boolean {
    const hole = libc.lseek(this.#file.fd, 0n, SEEK_HOLE);
    return Number(hole) !== this.cache_bytes;
  }

  read(addr: number, into: Uint8Array, len_bytes: number): void {
    this.#check(addr, len_bytes);
    if (addr >= this.cache_bytes || this.#file.kind === "dax") {
      into.set(this.#bytes.subarray(addr, addr + len_bytes));
      return;
    }
    for (let done = 0; done < len_bytes;) {
      const got = result(
        libc.pread_into(
          this.#file.fd,
          (done === 0 ? into : into.subarray(done)) as Uint8Array<ArrayBuffer>,
          this.#len_word.set(len_bytes - done),
          this.#off_word.set(addr + done),
        ),
        ERRNO[0],
      );
      if (got > 0) done += got;
      else if (got !== -EINTR) throw this.#readFailed(addr + done, got);
    }
  }

  #readFailed(addr: number, got: number): CacheError {
    const why = got === 0 ? "the file has become shorter" : errorText(-got);
    return new CacheError(`cache device ${this.#file.path}: reading at ${addr}: ${why}`);
  }

  write(addr: number, from: Uint8Array, len_bytes: number): void {
    this.#check(addr, len_bytes);
    assert(len_bytes <= from.length, "memory: what is stored is there");
    this.#forgetStreamed();
    // Where `Uint8Array.set` would make an object of the address, and of a part of `from`.
    libc.memcpy(
      this.#arena.absolute(addr),
      from as Uint8Array<ArrayBuffer>,
      this.#len_word.set(len_bytes),
    );
  }

  copy(to_addr: number, from_addr: number, len_bytes: number): void {
    this.#check(to_addr, len_bytes);
    this.#check(from_addr, len_bytes);
    if (this.receives_past_caches && len_bytes >= STREAM_BYTES) {
      this.#sums.clear();
      this.#stream(to_addr, from_addr, len_bytes);
      return;
    }
    this.#forgetStreamed();
    this.#bytes.copyWithin(to_addr, from_addr, from_addr + len_bytes);
  }

  crc32c(addr: number, len_bytes: number): number {
    this.#check(addr, len_bytes);
    return this.#crc32c(addr, len_bytes, CRC_SEED);
  }

  #crc32c(addr: number, len_bytes: number, seed: number): number {
    return this.#crc === null
      ? crc32c(this.#bytes, addr, addr + len_bytes, seed)
      : this.#crc(this.#arena.absolute(addr), len_bytes, seed);
  }

  /** Moves the next part of a payload from a buffer of io to the piece at `piece_addr`, which has `done_bytes` of it already. */
  receive(piece_addr: number, done_bytes: number, from_addr: number, len_bytes: number): void {
    const to_addr = piece_addr + done_bytes;
    if (!this.receives_past_caches) {
      this.#bytes.copyWithin(to_addr, from_addr, from_addr + len_bytes);
      return;
    }
    // The bytes are in the processor's caches now, and will not be.
    if (this.sums_received) this.#sum(piece_addr, done_bytes, from_addr, len_bytes);
    this.#stream(to_addr, from_addr, len_bytes);
  }

  #sum(piece_addr: number, done_bytes: number, from_addr: number, len_bytes: number): void {
    const sums = this.#sums;
    if (done_bytes > 0 && !sums.has(piece_addr, done_bytes)) return;
    const seed = done_bytes > 0 ? sums.sum >>> 0 : CRC_SEED;
    sums.set(piece_addr, done_bytes + len_bytes, this.#crc32c(from_addr, len_bytes, seed));
  }

  /**
   * Persistent memory: moves bytes past the processor's caches, which neither read the place's old bytes nor have to write lines
   * back one by one. A `persist` of just these bytes has nothing left to do.
   */
  #stream(to_addr: number, from_addr: number, len_bytes: number): void {
    this.#libpmem!.copy(
      this.#arena.absolute(to_addr),
      this.#arena.absolute(from_addr),
      this.#len_word.set(len_bytes),
      PMEM_F_STREAM,
    );
    this.#streamed.add(to_addr, to_addr + len_bytes);
  }

  /** Sets up pages and blocks ahead of a run of stores: see `page_setup.ts`. */
  aim(from_addr: number, to_addr: number, end_addr: number): void {
    this.#check(from_addr, Math.max(to_addr, end_addr) - from_addr);
    this.#pages.aim(from_addr, to_addr, end_addr);
  }

  #advise(from_addr: number, to_addr: number, advice: number): void {
    libc.madvise(this.#arena.absolute(from_addr), this.#len_word.set(to_addr - from_addr), advice);
  }

  persist(addr: number, len_bytes: number): void {
    this.#check(addr, len_bytes);
    if (this.#libpmem === null) return;
    if (this.#streamed.has(addr, addr + len_bytes)) return;
    // Neighbours and overlaps make the run longer; anything else begins a new one.
    if (addr > this.#run_to || addr + len_bytes < this.#run_from) {
      this.#flushRun();
      this.#run_from = addr;
      this.#run_to = addr + len_bytes;
      return;
    }
    if (addr < this.#run_from) this.#run_from = addr;
    if (addr + len_bytes > this.#run_to) this.#run_to = addr + len_bytes;
  }

  persistSummed(addr: number, len_bytes: number): number {
    const sum = this.#sums.has(addr, len_bytes) ? this.#sums.sum : this.crc32c(addr, len_bytes);
    // In this order: persisting may drop the bytes from the processor's caches.
    this.persist(addr, len_bytes);
    return sum;
  }

  barrier(): boolean {
    if (this.#libpmem !== null) {
      this.#flushRun();
      this.#libpmem.drain();
      this.#forgetStreamed();
      return true;
    }
    if (this.kind === "tmpfs") return true;
    this.#pages.barrier();
    this.#ring.fdatasync(this.#barrier_user, this.#file.fd);
    return false;
  }

  barrierSync(): void {
    if (this.barrier_is_cheap) {
      this.barrier();
      return;
    }
    for (;;) {
      const failed = result(libc.fdatasync(this.#file.fd), ERRNO[0]);
      if (failed === 0) return;
      if (failed !== -EINTR) {
        throw new CacheError(
          `cache device ${this.#file.path}: making it durable: ${errorText(-failed)}`,
        );
      }
    }
  }

  #forgetStreamed(): void {
    this.#streamed.clear();
    this.#sums.clear();
  }

  #flushRun(): void {
    const len_bytes = this.#run_to - this.#run_from;
    if (len_bytes === 0) return;
    this.#libpmem!.flush(this.#arena.absolute(this.#run_from), this.#len_word.set(len_bytes));
    this.#run_to = this.#run_from;
  }

  /** An address from a forged image must not reach what is not mapped: that would kill the process. */
  #check(addr: number, len_bytes: number): void {
    const end = addr + len_bytes;
    const inside = len_bytes >= 0 &&
      (addr >= 0 && end <= this.cache_bytes || addr >= this.buffer_addr && end <= this.#buffer_end);
    if (!inside) throw new RangeError(`memory: ${len_bytes} bytes at ${addr}: outside`);
  }
}

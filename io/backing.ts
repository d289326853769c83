/**
 * The backing device over the ring: a file or block device, with direct I/O wherever its alignment allows.
 *
 * Direct and buffered requests must never meet in one page of the page cache: a buffered write of a part would read the
 * page, and carry its old neighbours back over a direct write that went on meanwhile. So either everything is direct
 * (the device takes sectors of 512 bytes, which is all the engine asks for), or only whole pages are.
 *
 * Zeroing is a fallocate(2) of whole pages: the file system clears the rest of a page through the page cache, which is the same danger.
 *
 * @module
 */

import { assert } from "../core/assert.ts";
import { EINVAL, EIO } from "../core/errors.ts";
import { type Backing, type Gather, MAX_BACKING_IDS, MAX_GATHER } from "../core/platform.ts";
import type { Arena } from "./arena.ts";
import { currentBytes, type DeviceFile, openDirect } from "./files.ts";
import { EAGAIN, EINTR, ENOSYS, EOPNOTSUPP, libc } from "./libc.ts";
import type { Ring } from "./ring.ts";

const SECTOR_BYTES = 512;
const IOVEC_WORDS = 4;
const IOVECS_BYTES = MAX_GATHER * IOVEC_WORDS * 4;

const NONE = 0;
const READ = 1;
const WRITE = 2;
const FLUSH = 3;
const ZERO = 4;
const PUNCH = 5;

// Modes of fallocate(2).
const FALLOC_FL_KEEP_SIZE = 1;
const FALLOC_FL_PUNCH_HOLE = 2;
const FALLOC_FL_ZERO_RANGE = 16;

/** Who is told of the ends of requests: the engine. */
export interface BackingUser {
  backingDone(id: number, errno: number): void;
}

/** A backing device in the device's loop. */
export interface LoopBacking extends Backing {
  /** How large the whole device is now, as far as is known. */
  currentBytes(): number;
  /** So many bytes of it are used from now on: not more than there are. Nothing is under way. */
  resize(size_bytes: number): void;
  /** Why requests have to wait: the device is away for now. "": it is there. */
  readonly trouble: string;
  /** How often it has been away. */
  readonly outage_count: number;
  /** Takes a completion of the ring, with what its token holds besides the kind, and tells `user` what ended by it. */
  handle(index: number, result: number, user: BackingUser): void;
  /**
   * Looks after what time brings, and hands new requests on; to be called after the engine was pumped. True: it has told
   * `user` of ends, so the engine is to be pumped again.
   */
  turn(now_ms: number, user: BackingUser): boolean;
  /** How long the loop may sleep before the next turn. */
  nextTimerMs(now_ms: number): number;
  /** From now on requests do not wait for a device that is away, or comes to be: they fail. */
  stopWaiting(now_ms: number): void;
  /** Gives back what it has opened itself. */
  close(): void;
}

/** What `FileBacking.ended` says of a request that goes on. */
export const UNDER_WAY = -1;

/** A backing device on a file or block device. */
export class FileBacking implements LoopBacking {
  size_bytes: number;
  readonly trouble = "";
  readonly outage_count = 0;

  readonly #arena: Arena;
  readonly #ring: Ring;
  readonly #user: number;
  readonly #file: DeviceFile;
  readonly #fd: number;
  /** -1: there is no direct I/O. */
  readonly #direct_fd: number;
  /** What a direct request's offset and length, its ranges' lengths, and their addresses are multiples of. */
  #unit_bytes: number;
  readonly #range_bytes: number;
  readonly #addr_bytes: number;
  readonly #page_bytes: number;
  #can_zero = true;
  #can_punch = true;

  // The requests under way, by id.
  readonly #op = new Uint8Array(MAX_BACKING_IDS);
  readonly #request_fd = new Int32Array(MAX_BACKING_IDS);
  readonly #off_bytes = new Float64Array(MAX_BACKING_IDS);
  readonly #left_bytes = new Float64Array(MAX_BACKING_IDS);
  readonly #addr = new Float64Array(MAX_BACKING_IDS);
  /** A write's iovecs that are not written in full: the first, and how many. */
  readonly #first_iovec = new Uint16Array(MAX_BACKING_IDS);
  readonly #iovec_count = new Uint16Array(MAX_BACKING_IDS);
  readonly #is_aside = new Uint8Array(MAX_BACKING_IDS);
  readonly #iovecs_addr: number;
  readonly #iovecs: Uint32Array<ArrayBuffer>;

  /**
   * Takes 2 MiB of the arena's io area.
   *
   * @param user_kind what the ring's tokens of this device begin with; the request's id is in the lower 24 bits
   */
  constructor(arena: Arena, file: DeviceFile, ring: Ring, user_kind: number) {
    this.size_bytes = file.size_bytes - file.size_bytes % SECTOR_BYTES;
    this.#arena = arena;
    this.#ring = ring;
    this.#user = user_kind << 24;
    this.#file = file;
    this.#fd = file.fd;
    this.#direct_fd = openDirect(file);
    this.#range_bytes = file.direct_unit_bytes;
    this.#addr_bytes = file.direct_addr_bytes;
    this.#page_bytes = libc.getpagesize();
    const by_sector = Math.max(this.#range_bytes, this.#addr_bytes) <= SECTOR_BYTES;
    this.#unit_bytes = by_sector
      ? SECTOR_BYTES
      : Math.max(this.#range_bytes, this.#addr_bytes, this.#page_bytes);
    this.#iovecs_addr = arena.alloc(MAX_BACKING_IDS * IOVECS_BYTES, 4096);
    this.#iovecs = arena.words(this.#iovecs_addr, MAX_BACKING_IDS * IOVECS_BYTES);
  }

  currentBytes(): number {
    return currentBytes(this.#file);
  }

  resize(size_bytes: number): void {
    this.size_bytes = size_bytes - size_bytes % SECTOR_BYTES;
  }

  /** True when requests that are aligned go past the page cache. */
  get is_direct(): boolean {
    return this.#direct_fd >= 0 && this.#unit_bytes !== Infinity;
  }

  read(id: number, off_bytes: number, len_bytes: number, to_addr: number): void {
    this.#begin(READ, id, off_bytes, len_bytes);
    this.#addr[id] = to_addr;
    const direct = this.#isAligned(off_bytes, len_bytes) && to_addr % this.#addr_bytes === 0;
    this.#request_fd[id] = direct ? this.#direct_fd : this.#fd;
    this.#submit(id);
  }

  write(id: number, off_bytes: number, len_bytes: number, from: Gather, is_aside = false): void {
    assert(0 < from.count && from.count <= MAX_GATHER, "backing: ranges of a write");
    this.#begin(WRITE, id, off_bytes, len_bytes);
    let direct = this.#isAligned(off_bytes, len_bytes);
    let at = id * MAX_GATHER * IOVEC_WORDS;
    for (let i = 0; i < from.count; i++, at += IOVEC_WORDS) {
      const addr = from.addr(i), len = from.len(i);
      direct &&= addr % this.#addr_bytes === 0 && len % this.#range_bytes === 0;
      this.#arena.putAddress(this.#iovecs, at, addr);
      this.#iovecs[at + 2] = len;
    }
    this.#first_iovec[id] = 0;
    this.#iovec_count[id] = from.count;
    this.#is_aside[id] = Number(is_aside);
    this.#request_fd[id] = direct ? this.#direct_fd : this.#fd;
    this.#submit(id);
  }

  canZero(off_bytes: number, len_bytes: number, may_punch: boolean): boolean {
    return (may_punch ? this.#can_punch : this.#can_zero) && off_bytes % this.#page_bytes === 0 &&
      len_bytes % this.#page_bytes === 0;
  }

  zero(id: number, off_bytes: number, len_bytes: number, may_punch: boolean): void {
    this.#begin(may_punch ? PUNCH : ZERO, id, off_bytes, len_bytes);
    this.#request_fd[id] = this.#fd;
    this.#submit(id);
  }

  flush(id: number): void {
    this.#begin(FLUSH, id, 0, 0);
    this.#request_fd[id] = this.#fd;
    this.#submit(id);
  }

  /**
   * A completion of the ring with this device's kind and this id.
   *
   * @returns the request's error number, 0 for none; or `UNDER_WAY` when a part of it still is
   */
  ended(id: number, result: number): number {
    assert(this.#op[id] !== NONE, "backing: a completion for no request");
    if (result === -EINTR || result === -EAGAIN) {
      this.#submit(id);
      return UNDER_WAY;
    }
    if (result === -EINVAL && this.#request_fd[id] === this.#direct_fd) {
      this.#stopDirect(id);
      this.#submit(id);
      return UNDER_WAY;
    }
    const op = this.#op[id]!;
    if (result === -EOPNOTSUPP || result === -ENOSYS) {
      if (op === ZERO) this.#can_zero = false;
      if (op === PUNCH) this.#can_punch = false;
    }
    const is_transfer = op === READ || op === WRITE;
    const short = is_transfer && result >= 0 && result < this.#left_bytes[id]!;
    // Nothing at all: the file has become shorter than it was.
    if (short && result > 0) {
      this.#advance(id, result);
      this.#submit(id);
      return UNDER_WAY;
    }
    this.#op[id] = NONE;
    return short ? EIO : result < 0 ? -result : 0;
  }

  handle(id: number, result: number, user: BackingUser): void {
    const errno = this.ended(id, result);
    if (errno !== UNDER_WAY) user.backingDone(id, errno);
  }

  // Requests are handed on as they come, and time changes nothing.
  turn(): boolean {
    return false;
  }

  nextTimerMs(): number {
    return Infinity;
  }

  stopWaiting(): void {}

  /** Closes the device's second descriptor. */
  close(): void {
    if (this.#direct_fd >= 0) libc.close(this.#direct_fd);
  }

  #begin(op: number, id: number, off_bytes: number, len_bytes: number): void {
    assert(id < MAX_BACKING_IDS && this.#op[id] === NONE, "backing: the id is free");
    assert(off_bytes + len_bytes <= this.size_bytes, "backing: the range is on the device");
    this.#op[id] = op;
    this.#off_bytes[id] = off_bytes;
    this.#left_bytes[id] = len_bytes;
  }

  #isAligned(off_bytes: number, len_bytes: number): boolean {
    return this.#direct_fd >= 0 && off_bytes % this.#unit_bytes === 0 &&
      len_bytes % this.#unit_bytes === 0;
  }

  /** The device wants more of direct I/O than it said: no more of it. */
  #stopDirect(id: number): void {
    this.#unit_bytes = Infinity;
    this.#request_fd[id] = this.#fd;
  }

  #submit(id: number): void {
    const user = (this.#user | id) >>> 0;
    const fd = this.#request_fd[id]!, off_bytes = this.#off_bytes[id]!;
    switch (this.#op[id]!) {
      case READ:
        this.#ring.read(user, fd, this.#addr[id]!, this.#left_bytes[id]!, off_bytes);
        break;
      case WRITE: {
        const first = id * MAX_GATHER + this.#first_iovec[id]!;
        const iovec_addr = this.#iovecs_addr + first * IOVEC_WORDS * 4;
        const is_aside = this.#is_aside[id] === 1;
        this.#ring.writev(user, fd, iovec_addr, this.#iovec_count[id]!, off_bytes, is_aside);
        break;
      }
      case ZERO:
      case PUNCH: {
        const what = this.#op[id] === PUNCH ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE;
        const mode = what | FALLOC_FL_KEEP_SIZE;
        this.#ring.fallocate(user, fd, mode, off_bytes, this.#left_bytes[id]!);
        break;
      }
      case FLUSH:
        this.#ring.fdatasync(user, fd);
        break;
    }
  }

  /** Steps over the `done_bytes` of a short transfer; the rest is no longer aligned, as a rule. */
  #advance(id: number, done_bytes: number): void {
    if (done_bytes % this.#unit_bytes !== 0) this.#request_fd[id] = this.#fd;
    this.#off_bytes[id]! += done_bytes;
    this.#left_bytes[id]! -= done_bytes;
    this.#addr[id]! += done_bytes;
    if (this.#op[id] === WRITE) this.#advanceIovecs(id, done_bytes);
  }

  #advanceIovecs(id: number, done_bytes: number): void {
    const iovecs = this.#iovecs;
    let left = done_bytes;
    for (;;) {
      const at = (id * MAX_GATHER + this.#first_iovec[id]!) * IOVEC_WORDS;
      const len = iovecs[at + 2]!;
      if (left < len) {
        const low = iovecs[at]! + left;
        iovecs[at] = low;
        iovecs[at + 1]! += low >= 4294967296 ? 1 : 0;
        iovecs[at + 2] = len - left;
        return;
      }
      left -= len;
      this.#first_iovec[id]!++;
      this.#iovec_count[id]!--;
    }
  }
}

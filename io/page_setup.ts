/**
 * Sets up the pages of the mapped cache device ahead of stores, so that these meet no page fault, or one for many.
 *
 * Two runs of stores are followed, told apart by where they end: the data's and the log's.
 *
 * Where memory is the medium, pages stay once they are there: each stretch is set up once.
 *
 * Where a disk is, a barrier has all pages written and watched for stores again. To set a page up is to make it dirty, so the next barrier
 * writes it, stored to or not. Hence as many are set up at a time as were stored to between the last two barriers, and twice
 * as many while no barrier comes. Only a stretch that is met for the first time is set up whole: its blocks may be new to the file, and
 * a barrier that finds new ones has them journalled, each time. And what was stored to is unmapped before a barrier, in one call: the kernel
 * would do it page by page, and interrupt the other processors for each.
 *
 * @module
 */

const MADV_WILLNEED = 3;
const MADV_DONTNEED = 4;
const MADV_POPULATE_WRITE = 23;
/** How long a stretch is, where pages stay and where they do not: a page costs half a microsecond, or several. */
const STRETCH_BYTES = 256 * 1024;
const DISK_STRETCH_BYTES = 1024 * 1024;
const RUNS = 2;

/** What is asked of the kernel: `madvise` of a range of addresses. */
export type Advise = (from_addr: number, to_addr: number, advice: number) => void;

/** The pages of a cache device. */
export class PageSetup {
  readonly #advise: Advise;
  readonly #pages_stay: boolean;
  readonly #page_bytes: number;
  readonly #stretch_bytes: number;
  /** By stretch: whether it was set up since the start. */
  readonly #is_met: Uint8Array;
  /** By run: where it ends, how far it is set up, how far stores are aimed, how far they were at the last barrier. */
  readonly #end = new Float64Array(RUNS).fill(-1);
  readonly #ready = new Float64Array(RUNS);
  readonly #aimed = new Float64Array(RUNS);
  readonly #settled = new Float64Array(RUNS);
  /** By run, on a disk: how much is set up at a time. */
  readonly #step_bytes: Float64Array;
  #last_run = 0;

  /** `room_bytes`: how large the cache device can become. */
  constructor(advise: Advise, room_bytes: number, page_bytes: number, pages_stay: boolean) {
    this.#advise = advise;
    this.#pages_stay = pages_stay;
    this.#page_bytes = page_bytes;
    this.#stretch_bytes = pages_stay ? STRETCH_BYTES : DISK_STRETCH_BYTES;
    this.#is_met = new Uint8Array(Math.ceil(room_bytes / this.#stretch_bytes));
    this.#step_bytes = new Float64Array(RUNS).fill(page_bytes);
  }

  /** As `Memory.aim`. */
  aim(from_addr: number, to_addr: number, end_addr: number): void {
    let run = this.#last_run;
    if (end_addr !== this.#end[run]) run = 1 - run;
    if (end_addr !== this.#end[run]) {
      this.#end[run] = end_addr;
      this.#ready[run] = this.#pageOf(from_addr);
      this.#settled[run] = from_addr;
    }
    this.#last_run = run;
    this.#aimed[run] = to_addr;
    if (to_addr > this.#ready[run]!) this.#setUp(run, to_addr);
  }

  /** A barrier is about to begin, on a disk: what was set up is so no more. */
  barrier(): void {
    for (let run = 0; run < RUNS; run++) {
      const aimed = this.#aimed[run]!;
      const stored_bytes = aimed - this.#settled[run]!;
      if (stored_bytes <= 0) continue;
      this.#advise(this.#pageOf(this.#settled[run]!), this.#ready[run]!, MADV_DONTNEED);
      this.#settled[run] = aimed;
      this.#ready[run] = this.#pageOf(aimed);
      this.#step_bytes[run] = Math.min(this.#pagesUp(stored_bytes), this.#stretch_bytes);
    }
  }

  /** Sets pages up to `to_addr` up, and as many again as are worth a call. */
  #setUp(run: number, to_addr: number): void {
    const from_addr = this.#ready[run]!;
    const end_addr = this.#end[run]!;
    const stretch_bytes = this.#stretch_bytes;
    const ahead_addr = Math.min((Math.ceil(to_addr / stretch_bytes) + 1) * stretch_bytes, end_addr);
    if (this.#pages_stay) {
      this.#ready[run] = ahead_addr;
      this.#meet(from_addr, ahead_addr);
      return;
    }
    const step_bytes = this.#step_bytes[run]!;
    const ready_addr = Math.min(this.#pagesUp(Math.max(to_addr, from_addr + step_bytes)), end_addr);
    this.#ready[run] = ready_addr;
    this.#step_bytes[run] = Math.min(2 * step_bytes, stretch_bytes);
    // It is a hint: where the kernel does not know it (5.14), each first store does the work.
    this.#advise(from_addr, ready_addr, MADV_POPULATE_WRITE);
    const next_addr = Math.ceil(ready_addr / stretch_bytes) * stretch_bytes;
    if (Math.ceil(from_addr / stretch_bytes) * stretch_bytes === next_addr) return;
    this.#meet(ready_addr, ahead_addr);
    if (ahead_addr < end_addr) {
      this.#advise(ahead_addr, Math.min(ahead_addr + stretch_bytes, end_addr), MADV_WILLNEED);
    }
  }

  /** Sets up what of the range lies in stretches that are met for the first time. */
  #meet(from_addr: number, to_addr: number): void {
    const last = Math.ceil(to_addr / this.#stretch_bytes) - 1;
    for (let at = Math.floor(from_addr / this.#stretch_bytes); at <= last; at++) {
      if (this.#is_met[at] === 1) continue;
      const start_addr = Math.max(at * this.#stretch_bytes, from_addr);
      const stop_addr = Math.min((at + 1) * this.#stretch_bytes, to_addr);
      // The rest of one that two segments share is the other's to set up.
      if (stop_addr - start_addr === this.#stretch_bytes) this.#is_met[at] = 1;
      this.#advise(start_addr, stop_addr, MADV_POPULATE_WRITE);
    }
  }

  #pageOf(addr: number): number {
    return addr - addr % this.#page_bytes;
  }

  #pagesUp(bytes: number): number {
    return Math.ceil(bytes / this.#page_bytes) * this.#page_bytes;
  }
}

/**
 * Checksums of payloads that were summed on their way to their place, by the place.
 *
 * Invariant: a sum is that of the bytes which were stored there last, all at once.
 *
 * @module
 */

/** Places that share an entry lie so many blocks apart; the last one has it. */
const ENTRIES = 512;
const BLOCK_BYTES = 4096;
const NONE = -1;

/** Sums of ranges. */
export class ReceivedSums {
  readonly #addr = new Float64Array(ENTRIES).fill(NONE);
  readonly #len_bytes = new Uint32Array(ENTRIES);
  readonly #sums = new Int32Array(ENTRIES);
  #is_empty = true;
  /** What `has` found, as a signed number. */
  sum = 0;

  /** These bytes have been stored. */
  set(addr: number, len_bytes: number, sum: number): void {
    const entry = entryOf(addr);
    this.#addr[entry] = addr;
    this.#len_bytes[entry] = len_bytes;
    this.#sums[entry] = sum;
    this.#is_empty = false;
  }

  /** Whether the sum of just these bytes is known. */
  has(addr: number, len_bytes: number): boolean {
    const entry = entryOf(addr);
    this.sum = this.#sums[entry]!;
    return this.#addr[entry] === addr && this.#len_bytes[entry] === len_bytes;
  }

  /** Something else was stored, who knows where. */
  clear(): void {
    if (this.#is_empty) return;
    this.#addr.fill(NONE);
    this.#is_empty = true;
  }
}

function entryOf(addr: number): number {
  return Math.floor(addr / BLOCK_BYTES) % ENTRIES;
}

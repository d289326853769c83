/**
 * Sequential streams among reads: which reads belong to a run over the device that is longer than a cutoff.
 *
 * A stream is a stretch of the device that reads have covered without a gap. Neighbours may come in any order: several connections of
 * one client, or several requests in flight, are one stream all the same. The ones used last are remembered, in a fixed number.
 *
 * Invariants:
 * - there are at most MOST_STREAMS, in arrays of fixed size; the one that was used longest ago makes room;
 * - two streams that meet are one.
 *
 * @module
 */

/** How many are remembered. */
export const MOST_STREAMS = 32;
/** Lowest cutoff that is one: a page. */
export const SEQUENTIAL_CUTOFF_MIN_BYTES = 4096;

/** The streams of one device. */
export class Streams {
  /** A read of a stream longer than this is past the cutoff; 0: none is, and none has to be noted. */
  cutoff_bytes = 0;
  readonly #from = new Float64Array(MOST_STREAMS).fill(-1);
  readonly #to = new Float64Array(MOST_STREAMS).fill(-1);
  /** When each was used last, in reads. */
  readonly #used_at = new Float64Array(MOST_STREAMS);
  #reads = 0;

  /** Sets the cutoff, and forgets what came before. */
  setCutoff(bytes: number): void {
    this.cutoff_bytes = bytes;
    this.#from.fill(-1);
    this.#to.fill(-1);
    this.#used_at.fill(0);
  }

  /** A read comes. Returns whether the stream that it belongs to, with it, is longer than the cutoff. */
  note(off_bytes: number, len_bytes: number): boolean {
    const end_bytes = off_bytes + len_bytes;
    let before = -1;
    let after = -1;
    let oldest = 0;
    for (let stream = 0; stream < MOST_STREAMS; stream++) {
      if (this.#to[stream] === off_bytes) before = stream;
      if (this.#from[stream] === end_bytes) after = stream;
      if (this.#used_at[stream]! < this.#used_at[oldest]!) oldest = stream;
    }
    const from = before < 0 ? off_bytes : this.#from[before]!;
    const to = after < 0 ? end_bytes : this.#to[after]!;
    if (before >= 0 && after >= 0) this.#drop(after);
    const stream = before >= 0 ? before : after >= 0 ? after : oldest;
    this.#from[stream] = from;
    this.#to[stream] = to;
    this.#used_at[stream] = ++this.#reads;
    return to - from > this.cutoff_bytes;
  }

  #drop(stream: number): void {
    this.#from[stream] = -1;
    this.#to[stream] = -1;
    this.#used_at[stream] = 0;
  }
}

/**
 * What was moved past the processor's caches since the last barrier: a `persist` of it has nothing left to do.
 *
 * Payloads of several clients come in turns, and each goes on where its last part ended, so several runs are kept.
 *
 * Invariant: in a run nothing was stored but past the caches; what is forgotten is merely written back for nothing.
 *
 * @module
 */

/** More than clients whose payloads are half there, mostly. */
const MAX_RUNS = 16;

/** Runs of addresses. */
export class StreamedRuns {
  readonly #from = new Float64Array(MAX_RUNS);
  readonly #to = new Float64Array(MAX_RUNS);
  #count = 0;
  /** The one that grew last, or was asked for. */
  #last = 0;
  /** The one that the next one takes the place of, when all are in use. */
  #oldest = 0;

  /** These bytes were moved past the caches. */
  add(from: number, to: number): void {
    if (this.#count === 0 || this.#to[this.#last] !== from) this.#last = this.#endingAt(from);
    this.#to[this.#last] = to;
  }

  /** Whether all of these bytes lie in one run. */
  has(from: number, to: number): boolean {
    if (this.#count === 0) return false;
    if (this.#isIn(this.#last, from, to)) return true;
    for (let run = 0; run < this.#count; run++) {
      if (!this.#isIn(run, from, to)) continue;
      this.#last = run;
      return true;
    }
    return false;
  }

  /** Something was stored otherwise, or is durable. */
  clear(): void {
    this.#count = 0;
  }

  #isIn(run: number, from: number, to: number): boolean {
    return from >= this.#from[run]! && to <= this.#to[run]!;
  }

  /** The run that ends there, or a new one. */
  #endingAt(from: number): number {
    for (let run = 0; run < this.#count; run++) if (this.#to[run] === from) return run;
    let run = this.#count;
    if (run < MAX_RUNS) this.#count++;
    else {
      run = this.#oldest;
      this.#oldest = (run + 1) % MAX_RUNS;
    }
    this.#from[run] = from;
    return run;
  }
}

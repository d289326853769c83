/**
 * Every number below a power of two once, in an order that looks random: which blocks a bench writes, without a table.
 *
 * @module
 */

/** A bijection of `0 .. size-1` onto itself; `size` is a power of two, at most 2^30. */
export class Permutation {
  readonly size: number;
  readonly #mask: number;
  readonly #shift: number;

  /** The smallest one of at least `least` numbers. */
  constructor(least: number) {
    const bits = Math.max(2, Math.ceil(Math.log2(least)));
    this.size = 2 ** bits;
    this.#mask = this.size - 1;
    this.#shift = bits >>> 1;
  }

  /** Where `n` goes. Odd factors and shifted xors can be undone, so no two numbers meet. */
  at(n: number): number {
    let x = n & this.#mask;
    x = Math.imul(x ^ 0x2545f491, 0x9e3779b1) & this.#mask;
    x ^= x >>> this.#shift;
    x = Math.imul(x, 0x85ebca6b) & this.#mask;
    x ^= x >>> this.#shift;
    return Math.imul(x, 0xc2b2ae35) & this.#mask;
  }
}

/**
 * Random numbers of a loop that is measured: always the same ones.
 *
 * @module
 */

/** Numbers below a limit, fast and without a table (a linear congruence, its upper bits). */
export class Dice {
  #state = 12345;

  below(limit: number): number {
    this.#state = (Math.imul(this.#state, 1664525) + 1013904223) | 0;
    return Math.floor(((this.#state >>> 0) / 4294967296) * limit);
  }
}

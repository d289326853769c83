/**
 * What a check of a cache device has found.
 *
 * @module
 */

/** Most findings that are kept: a forged image has as many as it likes. */
export const MAX_FINDINGS = 1000;

/**
 * `error`: the cache is refused, or data that was flushed is lost or may be. `warning`: nothing is lost, but a second damage of this kind
 * would cost something.
 */
export type Severity = "error" | "warning";

/** One thing that is not as FORMAT says. */
export interface Finding {
  readonly severity: Severity;
  /** The structure that it is about, in FORMAT's words. */
  readonly part: FindingPart;
  /** Which one of them, and what is wrong with it. */
  readonly text: string;
}

/** The structures of a cache device. */
export type FindingPart =
  | "device"
  | "superblock"
  | "cache info"
  | "segment info"
  | "generation"
  | "key tail"
  | "dirty tail"
  | "kset"
  | "key"
  | "log"
  | "data";

/** Findings, in the order in which they were made. */
export class Findings {
  readonly list: Finding[] = [];
  errors = 0;
  warnings = 0;

  /** Something because of which the cache is refused, or data is lost. */
  error(part: FindingPart, text: string): void {
    this.errors++;
    this.#add({ severity: "error", part, text });
  }

  /** Something that costs nothing yet. */
  warn(part: FindingPart, text: string): void {
    this.warnings++;
    this.#add({ severity: "warning", part, text });
  }

  /** How many were counted but not kept. */
  get dropped(): number {
    return this.errors + this.warnings - this.list.length;
  }

  #add(finding: Finding): void {
    if (this.list.length < MAX_FINDINGS) this.list.push(finding);
  }
}

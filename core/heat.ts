/**
 * Heat: what eviction `reinsert` remembers of accesses, besides the hits that the index counts: ghosts, and the youth that suits the load.
 *
 * @module
 */

import { type ExtentIndex, MAX_HITS } from "./extent_index.ts";
import { Ghosts } from "./ghosts.ts";
import { STAYS_FROM } from "./heat_scale.ts";
import { type Segments, YOUNG } from "./segments.ts";
import { Youth } from "./youth.ts";

export class Heat {
  readonly #index: ExtentIndex;
  readonly #segments: Segments;
  readonly #ghosts: Ghosts;
  #youth: Youth;

  /** `sectors`: what the cache may hold. */
  constructor(index: ExtentIndex, segments: Segments, sectors: number) {
    this.#index = index;
    this.#segments = segments;
    this.#ghosts = new Ghosts(sectors);
    this.#youth = new Youth(sectors);
  }

  /** Sectors were read. */
  wasRead(sector: number, sectors: number): void {
    this.#youth.access(sector, sectors, true);
  }

  /** Sectors were written: how many hits their extent begins with. */
  wasWritten(sector: number, sectors: number): number {
    this.#youth.access(sector, sectors, false);
    return this.hitsOfNew(sector, sectors);
  }

  /** How many hits an extent begins with: those of the one it replaces and one more, or as many as let it stay if that was in the main part, or it has left a ghost. */
  hitsOfNew(sector: number, sectors: number): number {
    const index = this.#index;
    const extent = index.holds(sector);
    if (extent >= 0) {
      const is_young = this.#segments.part(index.segment(extent)) === YOUNG;
      return Math.min(MAX_HITS, index.hits(extent) + (is_young ? 1 : STAYS_FROM));
    }
    return this.#ghosts.has(sector, sectors) ? STAYS_FROM : 0;
  }

  /** Sectors leave the cache that were not read again. */
  leaves(sector: number, sectors: number): void {
    this.#ghosts.add(sector, sectors);
  }

  /** Whether what comes is to stay as long as in a FIFO; `sectors`: what the cache may hold. */
  is_long(sectors: number): boolean {
    if (sectors !== this.#youth.sectors) this.#youth = new Youth(sectors);
    return this.#youth.is_long;
  }
}

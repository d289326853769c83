/**
 * Keeping others from a block device that is about to go: it is opened exclusively, which fails while it is mounted or
 * part of another device. A device process must not open its own device itself: closing it may wait for requests that
 * only its loop can answer; so a thread of the kernel does both.
 *
 *   free -> opening -> held -> closing -> free
 *
 * @module
 */

import { assert } from "../core/assert.ts";
import type { Arena } from "./arena.ts";
import { cString, EBUSY, O_CLOEXEC, O_EXCL } from "./libc.ts";
import { KIND_CLAIM, tokenOf } from "./tokens.ts";
import type { UringRing } from "./uring.ts";

const USER = tokenOf(KIND_CLAIM);
const MAX_PATH_BYTES = 64;

export class Claim {
  /** Bytes of arena memory that it needs. */
  static readonly ARENA_BYTES = 128;

  readonly #ring: Pick<UringRing, "open" | "closeLater">;
  readonly #arena: Pick<Arena, "alloc" | "bytes">;
  readonly #path_addr: number;
  #state: "free" | "opening" | "held" | "closing" = "free";
  #fd = -1;
  /** What the last failed try found: busy, or that there is no node to claim; null: it is not over. */
  #found: boolean | null = null;
  /** The claim is not wanted any more. */
  #is_unwanted = false;

  constructor(
    arena: Pick<Arena, "alloc" | "bytes">,
    ring: Pick<UringRing, "open" | "closeLater">,
  ) {
    this.#ring = ring;
    this.#arena = arena;
    this.#path_addr = arena.alloc(MAX_PATH_BYTES);
  }

  /** Tries, and says whether others have the device whose node is at `path`, as far as the last try found out; null: that is not known yet. */
  isBusy(path: string): boolean | null {
    this.#is_unwanted = false;
    if (this.#state === "held") return false;
    const found = this.#found;
    if (this.#state === "free") {
      this.#found = null;
      this.#state = "opening";
      this.#arena.bytes.set(cString(path), this.#path_addr);
      this.#ring.open(USER, this.#path_addr, O_EXCL | O_CLOEXEC);
    }
    return found;
  }

  /** Gives it up. True: others may have the device, and nothing is under way. */
  drop(): boolean {
    this.#is_unwanted = true;
    if (this.#state === "held") this.#close();
    return this.#state === "free";
  }

  /** An open or a close has ended. */
  handle(result: number): void {
    if (this.#state === "closing") {
      this.#state = "free";
      this.#found = null;
      return;
    }
    assert(this.#state === "opening", "a claim ends that was not begun");
    if (result < 0) {
      this.#state = "free";
      this.#found = result === -EBUSY;
      return;
    }
    this.#fd = result;
    this.#state = "held";
    if (this.#is_unwanted) this.#close();
  }

  #close(): void {
    this.#ring.closeLater(USER, this.#fd);
    this.#state = "closing";
  }
}

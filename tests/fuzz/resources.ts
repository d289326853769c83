/**
 * What this process holds of memory and descriptors while it fuzzes.
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";

const MIB = 1024 * 1024;
/** The first looks are of a process that still grows: code is compiled, tables fill. */
const WARM_LOOKS = 20;
/** So much more memory is not a leak: the collector is not always done. */
const SLACK_BYTES = 96 * MIB;

/** To be looked at between two servers. */
export class Resources {
  #looks = 0;
  #files = 0;
  #bytes = 0;
  #most_bytes = 0;

  look(): void {
    this.#looks += 1;
    this.#most_bytes = Math.max(this.#most_bytes, ownBytes());
    if (this.#looks > WARM_LOOKS) return assertEquals(openFiles(), this.#files, "descriptors");
    this.#files = openFiles();
    this.#bytes = this.#most_bytes;
  }

  /** What there is now. */
  now(): string {
    return `${(ownBytes() / MIB).toFixed(0)} MiB, ${openFiles()} descriptors`;
  }

  /** Throws when memory has leaked; says what there was. */
  check(): string {
    const bytes = ownBytes();
    assert(bytes < this.#bytes + SLACK_BYTES, `${bytes} bytes at the end, ${this.#bytes} at first`);
    const [first, most, last] = [this.#bytes, this.#most_bytes, bytes].map((n) =>
      (n / MIB).toFixed(0)
    );
    return `memory: ${first} MiB at most at first, ${most} MiB at most, ${last} MiB in the end; ` +
      `${this.#files} descriptors throughout`;
  }
}

function ownBytes(): number {
  const status = Deno.readTextFileSync("/proc/self/status");
  return Number(/^RssAnon:\s+(\d+) kB$/m.exec(status)![1]) * 1024;
}

function openFiles(): number {
  return [...Deno.readDirSync("/proc/self/fd")].length;
}

/**
 * Content for large devices: every sector says which block it belongs to and which version of it it is, so that
 * the whole is checked against one number a block.
 *
 * @module
 */

import { fillFor } from "./random.ts";

const SECTOR = 512;
const SECTOR_WORDS = SECTOR / 4;
/** Size of a block, the unit that has a version. */
export const BLOCK_BYTES = 4096;
const BLOCK_SECTORS = BLOCK_BYTES / SECTOR;

/** The versions of a device's blocks; version 0 is zeros. */
export class Stamps {
  readonly versions: Uint32Array;
  readonly #template = new Uint32Array(SECTOR_WORDS);

  constructor(device_bytes: number) {
    this.versions = new Uint32Array(device_bytes / BLOCK_BYTES);
    fillFor(1, new Uint8Array(this.#template.buffer));
  }

  /** Fills `bytes` with what blocks from `first` on hold in `version`, which they have from now on. */
  write(first: number, bytes: Uint8Array<ArrayBuffer>, version: number): void {
    const words = new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
    for (let sector = 0; sector * SECTOR_WORDS < words.length; sector++) {
      const at = sector * SECTOR_WORDS;
      words.set(this.#template, at);
      words[at] = first * BLOCK_SECTORS + sector;
      words[at + 1] = version;
      words[at + SECTOR_WORDS - 1] = version;
    }
    this.versions.fill(version, first, first + bytes.length / BLOCK_BYTES);
  }

  /** Throws unless `bytes`, read from block `first` on, are the blocks' versions. */
  check(what: string, first: number, bytes: Uint8Array<ArrayBuffer>): void {
    const words = new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
    for (let sector = 0; sector * SECTOR_WORDS < words.length; sector++) {
      const at = sector * SECTOR_WORDS;
      const version = this.versions[first + Math.floor(sector / BLOCK_SECTORS)]!;
      if (!this.#isSector(words, at, first * BLOCK_SECTORS + sector, version)) {
        throw new Error(
          `${what}: sector ${first * BLOCK_SECTORS + sector} says sector ${words[at]}, version ` +
            `${words[at + 1]} at its start and ${words[at + SECTOR_WORDS - 1]} at its end; ` +
            `wanted version ${version}`,
        );
      }
    }
  }

  #isSector(words: Uint32Array, at: number, sector: number, version: number): boolean {
    if (version === 0) {
      for (let i = 0; i < SECTOR_WORDS; i++) if (words[at + i] !== 0) return false;
      return true;
    }
    for (let i = 2; i < SECTOR_WORDS - 1; i++) {
      if (words[at + i] !== this.#template[i]) return false;
    }
    return words[at] === sector && words[at + 1] === version &&
      words[at + SECTOR_WORDS - 1] === version;
  }

  /** Checks a whole file. */
  checkFile(path: string): void {
    using file = Deno.openSync(path);
    const bytes = new Uint8Array(1024 * 1024);
    for (let first = 0; first < this.versions.length; first += bytes.length / BLOCK_BYTES) {
      for (let at = 0; at < bytes.length;) {
        const count = file.readSync(bytes.subarray(at));
        if (count === null) throw new Error(`${path} ends at block ${first}`);
        at += count;
      }
      this.check(path, first, bytes);
    }
  }
}

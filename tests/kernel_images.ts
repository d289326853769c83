/**
 * The caches that a real kernel wrote (tests/data/kernel-images/README.md): unpacks them and says what they must hold.
 *
 * @module
 */

import { createReadStream } from "node:fs";
import { createZstdDecompress } from "node:zlib";

const FOLDER = new URL("data/kernel-images/", import.meta.url);
const SECTOR_BYTES = 512;
const PAGE_BYTES = 4096;

/** The folders, in the README's order. */
export const KERNEL_CASES = [
  "k0-fresh",
  "k1-clean",
  "k2-dirty",
  "k3-nocrc",
  "k4-gc",
  "k5-read",
  "k6-torn",
  "k7-reopen",
] as const;
export type KernelCase = typeof KERNEL_CASES[number];

/** First sector, sectors, generation: what each of these sectors holds (`fillRuns`). */
export type Run = [first: number, count: number, generation: number];

/** The fields of `expected.json` that tests use; the README describes all. */
export interface Expected {
  readonly case: KernelCase;
  readonly cache_bytes: number;
  readonly backing_bytes: number;
  readonly data_crc: boolean;
  readonly status: string | null;
  readonly status_on_reopen: string;
  readonly cache_sha256: string;
  readonly backing_sha256: string;
  /** Of the whole logical device. */
  readonly sha256: string;
  readonly pattern: { readonly unit: number };
  readonly content: readonly Run[];
  /** Only `k6-torn`: what was safe at the last flush that returned, ... */
  readonly content_at_last_flush?: readonly Run[];
  /** ... the index of that flush in `operations`, ... */
  readonly last_flush_acknowledged?: number;
  /** ... and of the last operation that may have begun. */
  readonly operations_that_may_have_started_up_to?: number;
  /** Writes and reads: name, first sector, sectors, generation. */
  readonly operations: readonly (readonly [string, ...number[]])[];
}

/** What `expected.json` of a case says. */
export function readExpected(name: KernelCase): Expected {
  return JSON.parse(Deno.readTextFileSync(new URL(`${name}/expected.json`, FOLDER)));
}

/** The fields of a status line after the target's name, in the kernel's order. */
export function statusFields(line: string): string[] {
  const [, fields] = line.split(" pcache ");
  if (fields === undefined) throw new Error(`status line "${line}" without " pcache "`);
  return fields.split(" ");
}

/** Unpacks an image into the file `path`, which is made; what is zero stays a hole. */
export async function unpackImage(
  name: KernelCase,
  image: "cache" | "backing",
  path: string,
): Promise<void> {
  const size_bytes = imageBytes(name, image);
  using file = Deno.openSync(path, { write: true, create: true, truncate: true });
  file.truncateSync(size_bytes);
  await forEachPage(name, image, (page, at) => {
    file.seekSync(at, Deno.SeekMode.Start);
    writeAll(file, page);
  });
}

/** Unpacks an image into the first bytes of `into`, which must be zero. */
export async function loadImage(
  name: KernelCase,
  image: "cache" | "backing",
  into: Uint8Array,
): Promise<void> {
  await forEachPage(name, image, (page, at) => into.set(page, at));
}

/** Size of an unpacked image. */
export function imageBytes(name: KernelCase, image: "cache" | "backing"): number {
  const expected = readExpected(name);
  return image === "cache" ? expected.cache_bytes : expected.backing_bytes;
}

/** Writes the runs' sectors into `device`, which holds the whole logical device. */
export function fillRuns(runs: readonly Run[], unit: number, device: Uint8Array): void {
  const words = new BigUint64Array(device.buffer, device.byteOffset, device.byteLength / 8);
  const words_per_sector = SECTOR_BYTES / 8;
  for (const [first, count, generation] of runs) {
    for (let lba = first; lba < first + count; lba++) {
      const stamp = BigInt(lba - lba % unit);
      const at = lba * words_per_sector;
      words[at] = stamp;
      words[at + 1] = BigInt(generation);
      for (let done = 2; done < words_per_sector; done *= 2) {
        words.copyWithin(at + done, at, at + done);
      }
    }
  }
}

/** Calls `visit` for each 4 KiB page of an unpacked image that is not all zero, in order. */
async function forEachPage(
  name: KernelCase,
  image: "cache" | "backing",
  visit: (page: Uint8Array, at: number) => void,
): Promise<void> {
  const source = createReadStream(new URL(`${name}/${image}.img.zst`, FOLDER));
  const page = new Uint8Array(PAGE_BYTES);
  const words = new Uint32Array(page.buffer);
  let at = 0;
  for await (const chunk of source.pipe(createZstdDecompress({ chunkSize: 1 << 20 }))) {
    for (let from = 0; from < chunk.length;) {
      const filled = at % PAGE_BYTES;
      const part = chunk.subarray(from, from + PAGE_BYTES - filled);
      page.set(part, filled);
      from += part.length;
      at += part.length;
      if (at % PAGE_BYTES === 0 && !isZero(words)) visit(page, at - PAGE_BYTES);
    }
  }
  const size_bytes = imageBytes(name, image);
  if (at !== size_bytes) {
    throw new Error(`${name}/${image}.img.zst: ${at} bytes unpacked, wanted ${size_bytes}`);
  }
}

/** One load for four bytes: a byte at a time takes as long as the unpacking. */
function isZero(words: Uint32Array): boolean {
  for (let i = 0; i < words.length; i++) {
    if (words[i] !== 0) return false;
  }
  return true;
}

function writeAll(file: Deno.FsFile, bytes: Uint8Array): void {
  for (let done = 0; done < bytes.length;) done += file.writeSync(bytes.subarray(done));
}

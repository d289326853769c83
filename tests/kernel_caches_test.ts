/**
 * The engine on caches that a real kernel wrote: status, content and write-back are the kernel's.
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";
import { Buffer } from "node:buffer";
import type { Engine } from "../core/engine.ts";
import {
  type Expected,
  fillRuns,
  KERNEL_CASES,
  loadImage,
  readExpected,
  type Run,
  statusFields,
} from "./kernel_images.ts";
import { Random } from "./random.ts";
import { SimBacking } from "./sim_backing.ts";
import { SimDevice } from "./sim_device.ts";
import { SimMemory } from "./sim_memory.ts";

const MIB = 1024 * 1024;
const SECTOR_BYTES = 512;
const READ_BYTES = 16 * MIB;

async function openCase(expected: Expected): Promise<SimDevice> {
  const memory = new SimMemory({ cache_bytes: expected.cache_bytes, buffer_bytes: 64 * MIB });
  const content = new Uint8Array(expected.backing_bytes);
  await loadImage(expected.case, "cache", memory.cache);
  await loadImage(expected.case, "backing", content);
  const backing = new SimBacking(content, memory.bytes, new Random(1));
  return new SimDevice(memory, backing, { data_crc: expected.data_crc });
}

/** The status line's fields, as the kernel prints them. */
function fieldsOf(engine: Engine): string[] {
  const status = engine.status();
  const positions = [status.key_head, status.dirty_tail, status.key_tail];
  return [
    status.sb_flags.toString(16),
    `${status.seg_total}`,
    `${status.cache_segs}`,
    `${status.segs_used}`,
    `${status.gc_percent}`,
    status.cache_flags.toString(16),
    ...positions.map(({ seg, off }) => `${seg}:${off}`),
  ];
}

/**
 * Write-back goes on between the status line and the power cut: a tail may be ahead of it, but not of the one that the kernel
 * shows when it has opened the images again.
 */
function assertFields(actual: string[], wanted: string[], on_reopen: string[]): void {
  const parse = (position: string) => position.split(":").map(Number) as [number, number];
  for (const tail of [7, 8]) {
    const [seg, off] = parse(actual[tail]!);
    const [first_seg, first_off] = parse(wanted[tail]!);
    const [last_seg, last_off] = parse(on_reopen[tail]!);
    const is_between = seg === first_seg && seg === last_seg && first_off <= off && off <= last_off;
    if (is_between) actual[tail] = wanted[tail]!;
  }
  assertEquals(actual, wanted);
}

/** The whole logical device that the runs describe, over what the backing device held at first. */
function contentOf(expected: Expected, runs: readonly Run[]): Uint8Array<ArrayBuffer> {
  const content = new Uint8Array(expected.backing_bytes);
  fillRuns(runs, expected.pattern.unit, content);
  return content;
}

async function sha256(bytes: Uint8Array<ArrayBuffer>): Promise<string> {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", bytes)).toHex();
}

function assertDeviceReads(device: SimDevice, wanted: Uint8Array): void {
  for (let off = 0; off < wanted.length; off += READ_BYTES) {
    const len = Math.min(READ_BYTES, wanted.length - off);
    const { errno, bytes } = device.read(off, len);
    assertEquals(errno, 0, `read of ${len} bytes at ${off}`);
    assertSame(bytes, wanted.subarray(off, off + len), off);
  }
}

/** Equality of many bytes, told by the first sector that differs. */
function assertSame(actual: Uint8Array, wanted: Uint8Array, off_bytes: number): void {
  if (Buffer.compare(actual, wanted) === 0) return;
  const at = actual.findIndex((byte, i) => byte !== wanted[i]);
  const sector = Math.floor((off_bytes + at) / SECTOR_BYTES);
  assert(false, `sector ${sector} is not what the kernel reads there`);
}

for (const name of KERNEL_CASES) {
  Deno.test(`${name} has the kernel's status`, async () => {
    const expected = readExpected(name);
    const device = await openCase(expected);
    const on_reopen = statusFields(expected.status_on_reopen);
    // Where the kernel was cut in the middle of writing, there is only the line from afterwards.
    const wanted = expected.status === null
      ? [...on_reopen.slice(0, 7), "0:0", on_reopen[8]!]
      : statusFields(expected.status);
    assertFields(fieldsOf(device.engine), wanted, on_reopen);
  });

  Deno.test(`${name} reads as the kernel reads it, and is written back whole`, async () => {
    const expected = readExpected(name);
    const device = await openCase(expected);
    const wanted = contentOf(expected, expected.content);
    assertEquals(await sha256(wanted), expected.sha256);
    assertDeviceReads(device, wanted);
    device.drain();
    assertSame(device.backing.bytes, wanted, 0);
    device.reopen();
    assertDeviceReads(device, wanted);
  });
}

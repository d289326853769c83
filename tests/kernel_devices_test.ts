/**
 * Caches that a real kernel wrote, as devices: `create` over them, read over NBD, killed, `remove --flush`.
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";
import { Buffer } from "node:buffer";
import { createReadStream } from "node:fs";
import { MIB, Rig } from "./device.ts";
import {
  fillRuns,
  KERNEL_CASES,
  readExpected,
  statusFields,
  unpackImage,
} from "./kernel_images.ts";
import { NbdClient } from "./nbd_client.ts";

const READ_BYTES = 4 * MIB;
/** Of the status line's fields, those that write-back and GC, which start at once, do not move. */
const STEADY = [0, 1, 2, 4, 5, 6];

/** Compares the whole device with `wanted`; one read is under way while another is compared. */
async function assertDeviceHolds(uri: string, wanted: Uint8Array): Promise<void> {
  await using client = await NbdClient.connect(uri);
  assertEquals(client.size_bytes, wanted.length);
  let next = client.read(0, READ_BYTES);
  for (let off = 0; off < wanted.length; off += READ_BYTES) {
    const bytes = await next;
    const next_off = off + READ_BYTES;
    if (next_off < wanted.length) next = client.read(next_off, READ_BYTES);
    assertSame(bytes, wanted, off);
  }
}

async function assertFileHolds(path: string, wanted: Uint8Array): Promise<void> {
  let off = 0;
  for await (const chunk of createReadStream(path, { highWaterMark: READ_BYTES })) {
    assertSame(chunk, wanted, off);
    off += chunk.length;
  }
  assertEquals(off, wanted.length);
}

function assertSame(actual: Uint8Array, wanted: Uint8Array, off: number): void {
  const is_same = Buffer.compare(actual, wanted.subarray(off, off + actual.length)) === 0;
  assert(
    is_same,
    `something in the ${actual.length} bytes at ${off} is not what the kernel reads there`,
  );
}

for (const name of KERNEL_CASES) {
  Deno.test(`${name}: served, killed, served again, and removed with everything written back`, async () => {
    const expected = readExpected(name);
    await using rig = Rig.make();
    const wanted = new Uint8Array(expected.backing_bytes);
    fillRuns(expected.content, expected.pattern.unit, wanted);
    const [cache, backing] = [rig.path("cache"), rig.path("backing")];
    await unpackImage(name, "cache", cache);
    await unpackImage(name, "backing", backing);
    // The kernel's own line, with our paths for its device numbers and `data_crc` for the `crc` that it prints wrongly.
    const sectors = expected.backing_bytes / 512;
    const options = `4 cache_mode writeback data_crc ${expected.data_crc}`;
    const table = `0 ${sectors} pcache ${cache} ${backing} ${options}`;

    await rig.ok("create", "kernel", "--table", table);
    const fields = statusFields((await rig.ok("status", "kernel")).trim());
    const kernel_fields = statusFields(expected.status ?? expected.status_on_reopen);
    assertEquals(STEADY.map((i) => fields[i]), STEADY.map((i) => kernel_fields[i]));
    await assertDeviceHolds(await rig.uri("kernel"), wanted);

    await rig.kill("kernel");
    await rig.ok("create", "kernel", "--table", table);
    await assertDeviceHolds(await rig.uri("kernel"), wanted);
    await rig.ok("remove", "--flush", "kernel");
    await assertFileHolds(backing, wanted);
  });
}

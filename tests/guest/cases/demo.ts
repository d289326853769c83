/**
 * In the guest: the main job, whole: written to, killed in the middle of writing, taken over, and compared byte for byte. Over NBD as
 * `deno task demo` shows it, and on the block devices of both drivers.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import { assert } from "@std/assert";
import { MIB, must, Rig } from "../../device.ts";
import { fillFor, Random } from "../../random.ts";
import { requestsOf } from "../block_device.ts";
import { kill } from "../under_load.ts";

const BACKING_BYTES = 256 * MIB;
const BLOCK_BYTES = 4096;
const BLOCKS = BACKING_BYTES / BLOCK_BYTES;
/** Writes of each part: before the kill, and around it. */
const WRITES = 600;
/** Most blocks that one write covers. */
const MAX_RUN_BLOCKS = 16;
/** Writes between two fsyncs. */
const SYNC_PERIOD = 50;

Deno.test("guest: the demo", async () => {
  console.log(await must(Deno.execPath(), "run", "-A", "--no-prompt", "tests/demo.ts"));
});

for (const way of [["--frontend", "ublk"], ["--attach"]]) {
  Deno.test(`guest: the demo on a block device, ${way.join(" ")}`, async () => {
    await using rig = Rig.make();
    const backing = rig.file("backing", BACKING_BYTES);
    const table = `pcache ${rig.file("cache", 512 * MIB)} ${backing} data_crc true`;
    await rig.ok("create", "d", ...way, "--table", table);
    const [{ node, pid }] = JSON.parse(await rig.ok("info", "--json", "d"));
    const random = new Random(1);
    const versions = new Uint32Array(BLOCKS);
    await write(node, random, versions);
    console.log(await rig.ok("status", "d"));

    let is_over = false;
    const before = requestsOf(node);
    const writing = write(node, random, versions).then(() => is_over = true);
    while (requestsOf(node) === before) await new Promise((wake) => setTimeout(wake, 5));
    await kill(pid);
    assert(!is_over, "the writer was cut short");
    await rig.ok("create", "d", "--recover", ...way, "--table", table);
    await writing;
    console.log(await rig.ok("status", "d"));

    Deno.writeTextFileSync("/proc/sys/vm/drop_caches", "3");
    compare(node, versions);
    await rig.ok("remove", "--retry", "--flush", "d");
    compare(backing, versions);
  });
}

/** Writes at random, and notes what each block holds; an fsync now and then, and in the end. */
async function write(node: string, random: Random, versions: Uint32Array): Promise<void> {
  using file = await Deno.open(node, { write: true });
  for (let i = 1; i <= WRITES; i++) {
    const count = random.between(1, MAX_RUN_BLOCKS);
    const block = random.below(random.pick([BLOCKS, BLOCKS >> 5]) - count);
    const bytes = new Uint8Array(count * BLOCK_BYTES);
    for (let k = 0; k < count; k++) {
      versions[block + k]! += 1;
      fillFor(idOf(block + k, versions), bytes.subarray(k * BLOCK_BYTES, (k + 1) * BLOCK_BYTES));
    }
    await file.seek(block * BLOCK_BYTES, Deno.SeekMode.Start);
    for (let at = 0; at < bytes.length;) at += await file.write(bytes.subarray(at));
    if (i % SYNC_PERIOD === 0) await file.sync();
  }
}

/** Every byte must be what was last written there; what was never written is zero. */
function compare(path: string, versions: Uint32Array): void {
  using file = Deno.openSync(path);
  const bytes = new Uint8Array(MIB);
  const wanted = new Uint8Array(BLOCK_BYTES);
  for (let first = 0; first < BLOCKS; first += bytes.length / BLOCK_BYTES) {
    for (let at = 0; at < bytes.length;) at += file.readSync(bytes.subarray(at))!;
    for (let off = 0; off < bytes.length; off += BLOCK_BYTES) {
      const block = first + off / BLOCK_BYTES;
      if (versions[block] === 0) wanted.fill(0);
      else fillFor(idOf(block, versions), wanted);
      assert(
        Buffer.compare(bytes.subarray(off, off + BLOCK_BYTES), wanted) === 0,
        `block ${block} of ${path}`,
      );
    }
  }
}

/** A number for each version of each block. */
function idOf(block: number, versions: Uint32Array): number {
  return versions[block]! * BLOCKS + block;
}

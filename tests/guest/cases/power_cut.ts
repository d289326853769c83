/**
 * In the guest: the disk below loses power, and with it all that was written and not flushed. What was flushed to the cached
 * device is there all the same: write-back moves its tail only behind what the disk has flushed.
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";
import { MIB, must, Rig, until } from "../../device.ts";
import { NbdClient } from "../../nbd_client.ts";
import { fillFor, Random } from "../../random.ts";
import { requestsOf } from "../block_device.ts";
import { replayWrites } from "../log_writes.ts";
import { kill } from "../under_load.ts";

const DISK_BYTES = 64 * MIB;
const BLOCK_BYTES = 4096;
const BLOCKS = DISK_BYTES / BLOCK_BYTES;
const ROUNDS = 3;
/** The moment of the power cut in the log of writes: one word. */
const MARK = "power_cut";
/** Blocks between two flushes, and flushes. */
const BURST = 100;
const BURSTS = 6;
/** Write-back's last batch takes minutes at this rate, and is cut short when so many of its writes have ended. */
const SLOW_BYTES_PER_S = 4 * BLOCK_BYTES;
const LAST_WRITES = 3;

/** A loop device of a file. */
async function loopOf(rig: Rig, path: string): Promise<string> {
  const node = (await must("/usr/sbin/losetup", "-f", "--show", path)).trim();
  rig.defer(`detach ${node}`, () => must("/usr/sbin/losetup", "-d", node));
  return node;
}

for (let round = 1; round <= ROUNDS; round++) {
  Deno.test(`guest: the backing device loses power, round ${round}`, async () => {
    await using rig = Rig.make();
    const random = new Random(round);
    const disk = await loopOf(rig, rig.file("disk", DISK_BYTES));
    const log = await loopOf(rig, rig.file("log", 512 * MIB));
    const table = `0 ${DISK_BYTES / 512} log-writes ${disk} ${log}`;
    const name = `cut${round}`;
    await must("/usr/sbin/dmsetup", "create", name, "--table", table);
    let is_there = true;
    const removeDisk = async () => {
      if (is_there) await must("/usr/sbin/dmsetup", "remove", "--retry", name);
      is_there = false;
    };
    rig.defer("remove the disk", removeDisk);

    const cache = rig.file("cache", 512 * MIB);
    await rig.ok("create", "d", "--table", `pcache ${cache} /dev/mapper/${name}`);
    const versions = new Map<number, number>();
    const uri = await rig.uri("d");
    await writeAndFlush(uri, random, versions);
    const rate = (text: string) => rig.ok("message", "d", "0", "writeback_rate", text);
    await rig.ok("message", "d", "0", "flush"); // some of it is written back for sure
    await rate("pause");
    await writeAndFlush(uri, random, versions);
    // The cut comes between writes and the flush that ends their batch.
    const pid = await rig.pid("d");
    const asked = ["info", "-c", "--noheadings", "-o", "blkdevname"];
    const node = `/dev/${(await must("/usr/sbin/dmsetup", ...asked, name)).trim()}`;
    const before = requestsOf(node);
    await rate(String(SLOW_BYTES_PER_S));
    await until("write-back goes on", () => requestsOf(node) >= before + LAST_WRITES);
    await kill(pid);
    await must("/usr/sbin/dmsetup", "message", name, "0", "mark", MARK);
    await removeDisk();

    const left = rig.file("left", DISK_BYTES);
    const replayed = replayWrites(rig.path("log"), left, MARK);
    console.log(`the disk had flushed ${replayed.flushes} times: ${JSON.stringify(replayed)}`);
    assert(replayed.writes > 0 && replayed.flushes > 0 && replayed.lost > 0);
    await rig.ok("create", "d", "--table", `pcache ${cache} ${left}`);
    await check(await rig.uri("d"), versions);
    await rig.ok("remove", "--retry", "--flush", "d");
    using file = Deno.openSync(left);
    for (const [block, version] of versions) {
      const bytes = new Uint8Array(BLOCK_BYTES);
      file.seekSync(block * BLOCK_BYTES, Deno.SeekMode.Start);
      file.readSync(bytes);
      assertEquals(bytes, contentOf(version), `block ${block} of the backing device`);
    }
  });
}

function contentOf(version: number): Uint8Array {
  const bytes = new Uint8Array(BLOCK_BYTES);
  fillFor(version, bytes);
  return bytes;
}

/** Writes at random, with flushes and pauses between, in which write-back goes on; notes what each block holds. */
async function writeAndFlush(
  uri: string,
  random: Random,
  versions: Map<number, number>,
): Promise<void> {
  await using client = await NbdClient.connect(uri);
  let version = Math.max(0, ...versions.values());
  for (let burst = 0; burst < BURSTS; burst++) {
    for (let i = 0; i < BURST; i++) {
      const block = random.below(random.chance(0.5) ? BLOCKS : 64);
      versions.set(block, ++version);
      await client.write(block * BLOCK_BYTES, contentOf(version));
    }
    await client.flush();
    await new Promise((wake) => setTimeout(wake, random.below(400)));
  }
}

async function check(uri: string, versions: Map<number, number>): Promise<void> {
  await using client = await NbdClient.connect(uri);
  for (const [block, version] of versions) {
    const bytes = await client.read(block * BLOCK_BYTES, BLOCK_BYTES);
    assertEquals(bytes, contentOf(version), `block ${block}`);
  }
}

/**
 * In the guest: a block device of the ublk driver becomes larger while a file system on it is mounted; where the kernel cannot do that
 * it is refused.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import { assert, assertEquals, assertMatch } from "@std/assert";
import { MIB, must, Rig, run } from "../../device.ts";
import { fillFor } from "../../random.ts";
import { canGrow } from "../block_device.ts";
import { kill } from "../under_load.ts";

const FIRST_BYTES = 64 * MIB;

interface Info {
  node: string;
  pid: number;
}

async function infoOf(rig: Rig): Promise<Info> {
  return (JSON.parse(await rig.ok("info", "--json", "d")) as [Info])[0];
}

function sizeOf(node: string): number {
  return 512 * Number(Deno.readTextFileSync(`/sys/block/${node.replace("/dev/", "")}/size`));
}

/** A device over ublk, its table, and what it is. */
async function makeDevice(rig: Rig): Promise<{ table: string; backing: string; info: Info }> {
  const backing = rig.file("backing", FIRST_BYTES);
  const table = `pcache ${rig.file("cache", 512 * MIB)} ${backing}`;
  await rig.ok("create", "d", "--frontend", "ublk", "--table", table);
  const info = await infoOf(rig);
  assertEquals(sizeOf(info.node), FIRST_BYTES);
  return { table, backing, info };
}

if (canGrow()) {
  Deno.test("guest: a mounted block device grows while it is served, and while it is not", async () => {
    await using rig = Rig.make();
    const { table, backing, info: { node, pid } } = await makeDevice(rig);
    const dir = rig.path("mnt");
    Deno.mkdirSync(dir);
    await must("/usr/sbin/mkfs.ext4", "-q", "-F", node);
    await must("/usr/bin/mount", node, dir);
    rig.defer("unmount", () => run("/usr/bin/umount", ["-l", dir]));
    const contents = new Map<string, Uint8Array>();
    const write = async (name: string, bytes: number) => {
      const data = new Uint8Array(bytes);
      fillFor(bytes, data);
      Deno.writeFileSync(`${dir}/${name}`, data);
      contents.set(name, data);
      await must("sync");
    };
    await write("small", 30_000);

    Deno.truncateSync(backing, 2 * FIRST_BYTES);
    await rig.ok("load", "d", "--table", table);
    await rig.ok("resume", "d");
    assertEquals(sizeOf(node), 2 * FIRST_BYTES);
    await must("/usr/sbin/resize2fs", node);
    await write("large", 70 * MIB);

    await kill(pid);
    Deno.truncateSync(backing, 3 * FIRST_BYTES);
    await rig.ok("create", "d", "--recover", "--frontend", "ublk", "--table", table);
    assertEquals([(await infoOf(rig)).node, sizeOf(node)], [node, 3 * FIRST_BYTES]);
    await must("/usr/sbin/resize2fs", node);
    await write("larger", 50 * MIB);

    await must("/usr/bin/umount", dir);
    await must("/usr/sbin/fsck.ext4", "-f", "-n", node);
    await must("/usr/bin/mount", node, dir);
    for (const [name, data] of contents) {
      assert(Buffer.compare(Deno.readFileSync(`${dir}/${name}`), data) === 0, `${name} is whole`);
    }
    await must("/usr/bin/umount", dir);
    await rig.ok("remove", "--retry", "--flush", "d");
  });
} else {
  Deno.test("guest: a block device that this kernel cannot resize keeps its size", async () => {
    await using rig = Rig.make();
    const { table, backing, info: { node } } = await makeDevice(rig);
    Deno.truncateSync(backing, 2 * FIRST_BYTES);
    const refused = await rig.pcache("load", "d", "--table", table);
    assertEquals(refused.code, 1);
    assertMatch(refused.stderr, /length 262144, but it is 131072, and this block device's cannot/);
    assertEquals(sizeOf(node), FIRST_BYTES);
    await rig.ok("remove", "--retry", "d");
  });
}

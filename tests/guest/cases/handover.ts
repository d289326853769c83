/**
 * In the guest: the process of a device with a block device is replaced by another one; whoever uses the block device notices
 * nothing but a wait.
 *
 * @module
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { isRunning, MIB, must, Rig } from "../../device.ts";
import { verifyUnder } from "../under_load.ts";

/** How often the process is replaced under fio. */
const ROUNDS = 2;

interface Info {
  node: string;
  pid: number;
  uuid: string;
}

async function infoOf(rig: Rig): Promise<Info> {
  return (JSON.parse(await rig.ok("info", "--json", "d")) as [Info])[0];
}

async function create(rig: Rig, ...options: string[]): Promise<Info> {
  const table = `pcache ${rig.path("cache")} ${rig.path("backing")}`;
  await rig.ok("create", "d", ...options, "--table", table);
  return await infoOf(rig);
}

for (const way of [["--frontend", "ublk"], ["--attach"]]) {
  Deno.test(`guest: handed over under fio, ${way.join(" ")}`, async () => {
    await using rig = Rig.make();
    const table = `pcache ${rig.file("cache", 512 * MIB)} ${rig.file("backing", 1024 * MIB)}`;
    let { node, pid } = await create(rig, "-u", "PCACHE-1", ...way);
    const readonly = ["create", "d", "--recover", ...way, "--readonly", "--table", table];
    const refused = await rig.pcache(...readonly);
    assertMatch(refused.stderr, /read_only true, but it is false/);
    assertEquals((await infoOf(rig)).pid, pid);

    const shape = ["--rw=randrw", "--bsrange=512-65536", "--fsync=16"];
    await verifyUnder(rig, node, shape, ROUNDS, async () => {
      const heir = await create(rig, "--recover", ...way);
      assertEquals([heir.node, heir.uuid], [node, "PCACHE-1"]);
      assert(heir.pid !== pid && !isRunning(pid), "another process serves it");
      pid = heir.pid;
    });
    await must("sync");
    await rig.ok("remove", "--retry", "d");
  });
}

/**
 * In the guest: the process of a block device is killed under load, and another one takes over; nobody who uses the device
 * notices but for the wait.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import { type Ended, MIB, Rig } from "../../device.ts";
import { untilScanned } from "../block_device.ts";
import { kill, killUnderFileSystem, verifyUnder } from "../under_load.ts";

/** Kills under fio's verification. */
const ROUNDS = Number(Deno.env.get("PCACHE_GUEST_ROUNDS") ?? 50);
/** The first test only. */
const IS_SHARE = Deno.env.has("PCACHE_GUEST_SHARE");

interface Info {
  node: string;
  pid: number;
}

async function infoOf(rig: Rig): Promise<Info> {
  return (JSON.parse(await rig.ok("info", "--json", "d")) as [Info])[0];
}

/** The device, made or taken over. */
async function create(rig: Rig, ...options: string[]): Promise<Ended> {
  const table = `pcache ${rig.path("cache")} ${rig.path("backing")}`;
  return await rig.pcache("create", "d", "--frontend", "ublk", ...options, "--table", table);
}

async function mustCreate(rig: Rig, ...options: string[]): Promise<Info> {
  const { code, stdout, stderr } = await create(rig, ...options);
  assertEquals(code, 0, stdout + stderr);
  return await infoOf(rig);
}

/** All block devices of the driver. */
function nodes(): string[] {
  const entries = [...Deno.readDirSync("/dev")].filter(({ name }) => /^ublkb\d+$/.test(name));
  return entries.map(({ name }) => `/dev/${name}`).sort();
}

function makeFiles(rig: Rig): void {
  rig.file("cache", 512 * MIB);
  rig.file("backing", 1024 * MIB);
}

Deno.test("guest: a file system stays mounted while its device's process is killed", async () => {
  await using rig = Rig.make();
  makeFiles(rig);
  const device = await mustCreate(rig);
  await killUnderFileSystem(rig, device, (...options) => create(rig, ...options));
});

if (!IS_SHARE) {
  Deno.test("guest: a block device that was left and that nobody uses is replaced", async () => {
    await using rig = Rig.make();
    makeFiles(rig);
    const before = nodes();
    const { node, pid } = await mustCreate(rig);
    await untilScanned(node);
    await kill(pid);
    const info = await mustCreate(rig);
    assertEquals(nodes(), [...before, info.node].sort());
    await rig.ok("remove", "--retry", "d");
  });

  Deno.test("guest: killed again and again under fio, without one wrong byte", async () => {
    await using rig = Rig.make();
    makeFiles(rig);
    let { node, pid } = await mustCreate(rig);
    const shape = ["--rw=randrw", "--rwmixread=30", "--bs=4k", "--fsync=64"];
    await verifyUnder(rig, node, shape, ROUNDS, async () => {
      await kill(pid);
      const { code, stdout, stderr } = await create(rig, "--recover");
      assertEquals(code, 0, stdout + stderr);
      pid = Number(Deno.readTextFileSync(rig.path("run/d/pid")));
    });
    await rig.ok("remove", "--retry", "d");
  });
}

/**
 * In the guest: the process of a block device is killed under load, and another one takes over; nobody who uses the device
 * notices but for the wait.
 *
 * @module
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { type Ended, isRunning, MIB, must, Rig, run, until } from "../../device.ts";
import { fillFor } from "../../random.ts";
import { requestsOf, untilScanned } from "../block_device.ts";

/** Kills under fio's verification. */
const ROUNDS = Number(Deno.env.get("PCACHE_GUEST_ROUNDS") ?? 50);
/** The first test only. */
const IS_SHARE = Deno.env.has("PCACHE_GUEST_SHARE");
/** How fio ends when it is told to, and found nothing wrong. */
const ENDED_BY_SIGNAL = 128;

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

async function kill(pid: number): Promise<void> {
  Deno.kill(pid, "SIGKILL");
  await until(`process ${pid} is gone`, () => !isRunning(pid));
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
  const { node, pid } = await mustCreate(rig);
  const dir = rig.path("mnt");
  Deno.mkdirSync(dir);
  await must("/usr/sbin/mkfs.ext4", "-q", "-F", node);
  await must("/usr/bin/mount", node, dir);
  // If the test fails, files under it must not be touched: nobody might answer.
  rig.defer("unmount", () => run("/usr/bin/umount", ["-l", dir]));
  const data = new Uint8Array(200_000);
  fillFor(1, data);
  Deno.writeFileSync(`${dir}/flushed`, data);
  await must("sync");

  await kill(pid);
  assert(Deno.statSync(node).isBlockDevice, "the block device stays");
  const writing = run("sh", ["-c", `cat ${dir}/flushed > ${dir}/late; sync; echo written`]);
  const refused = await create(rig);
  assertEquals(refused.code, 1);
  assertMatch(refused.stderr, /busy.*create --recover takes it over/);
  const again = await mustCreate(rig, "--recover");
  assertEquals(again.node, node);
  assertEquals((await writing).stdout, "written\n");
  await must("/usr/bin/umount", dir);
  await must("/usr/sbin/fsck.ext4", "-f", "-n", node);
  await must("/usr/bin/mount", node, dir);
  assertEquals(Deno.readFileSync(`${dir}/flushed`), data);
  assertEquals(Deno.readFileSync(`${dir}/late`), data);
  await must("/usr/bin/umount", dir);
  await rig.ok("remove", "--retry", "d");
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
    const job = [
      "--name=j",
      `--filename=${node}`,
      "--direct=1",
      "--ioengine=libaio",
      "--iodepth=16",
    ];
    const shape = ["--rw=randrw", "--rwmixread=30", "--bs=4k", "--size=64m", "--fsync=64"];
    const checks = ["--verify=crc32c", "--verify_backlog=256", "--verify_fatal=1", "--time_based"];
    const fio = new Deno.Command("/usr/bin/fio", {
      args: [...job, ...shape, ...checks, "--runtime=100000"],
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    const ended = fio.output();
    let is_over = false;
    ended.then(() => is_over = true);
    rig.defer("end fio", async () => {
      if (!is_over) fio.kill("SIGKILL");
      await ended;
    });
    for (let round = 1; round <= ROUNDS; round++) {
      const answered = requestsOf(node);
      await until("fio goes on", () => is_over || requestsOf(node) > answered + 100);
      if (is_over) break;
      await kill(pid);
      const { code, stdout, stderr } = await create(rig, "--recover");
      assertEquals(code, 0, stdout + stderr);
      pid = Number(Deno.readTextFileSync(rig.path("run/d/pid")));
      console.log(`round ${round}: ${requestsOf(node)} requests answered in all`);
    }
    assert(!is_over, "fio does not end by itself");
    fio.kill("SIGINT");
    const { code, stdout, stderr } = await ended;
    const text = new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);
    assertEquals(code, ENDED_BY_SIGNAL, text);
    assert(/err= 0/.test(text), text);
    await rig.ok("remove", "--retry", "d");
  });
}

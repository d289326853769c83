/**
 * In the guest: a device as a block device of the ublk driver.
 *
 * @module
 */

import { assert, assertEquals, assertMatch, assertThrows } from "@std/assert";
import { isRunning, MIB, must, Rig, run, until } from "../../device.ts";
import { untilScanned, useDevice } from "../block_device.ts";

interface Info {
  node: string;
  link: string;
  major: number;
  minor: number;
  open_count: number;
  pid: number;
}

/** A device of 1 GiB on the rig's files, over ublk. */
async function createUblk(rig: Rig, ...options: string[]): Promise<Info> {
  const table = `pcache ${rig.file("cache", 512 * MIB)} ${rig.file("backing", 1024 * MIB)}`;
  await rig.ok("create", "d", "--frontend", "ublk", ...options, "--table", table);
  return await infoOf(rig);
}

async function infoOf(rig: Rig): Promise<Info> {
  return (JSON.parse(await rig.ok("info", "--json", "d")) as [Info])[0];
}

function sysfs(info: Info, path: string): string {
  return Deno.readTextFileSync(`/sys/dev/block/${info.major}:${info.minor}/${path}`).trim();
}

Deno.test("guest: a device is a block device, and says what it is", async () => {
  await using rig = Rig.make();
  const info = await createUblk(rig);
  assertMatch(info.node, /^\/dev\/ublkb\d+$/);
  assertEquals(info.link, "/dev/pcache/d");
  assertEquals(Deno.realPathSync(info.link), info.node);
  assertEquals(Deno.statSync(info.node).isBlockDevice, true);
  assertEquals(sysfs(info, "size"), "2097152");
  assertEquals(sysfs(info, "queue/logical_block_size"), "512");
  assertEquals(sysfs(info, "queue/physical_block_size"), "4096");
  assertEquals(sysfs(info, "queue/write_cache"), "write back");
  assertEquals(sysfs(info, "queue/fua"), "1");
  assert(Number(sysfs(info, "queue/discard_max_bytes")) > 0);
  assert(Number(sysfs(info, "queue/write_zeroes_max_bytes")) > 0);

  const data = crypto.getRandomValues(new Uint8Array(65536));
  Deno.writeFileSync(rig.path("data"), data);
  for (const bytes of ["512", "4096"]) {
    const count = `count=${data.length / Number(bytes)}`;
    await dd(`if=${rig.path("data")}`, `of=${info.link}`, `bs=${bytes}`, "oflag=direct");
    const to = `of=${rig.path("copy")}`;
    await dd(`if=${info.link}`, to, `bs=${bytes}`, count, "iflag=direct");
    assertEquals(Deno.readFileSync(rig.path("copy")), data);
  }
  await checkZeroing(rig, info.node, data);

  assertMatch(await rig.ok("ls"), new RegExp(`^d\\t\\(${info.major}:${info.minor}\\)\n$`));
  assertMatch(await rig.ok("deps"), /^2 dependencies\t: \(\d+, \d+\) \(\d+, \d+\)\n$/);

  // Whoever has it open is in the way.
  const user = await useDevice(info.node);
  const refused = await rig.pcache("remove", "d");
  await user.end();
  assertEquals(refused.code, 1);
  assertMatch(refused.stderr, /remove on d failed: Device or resource busy/);

  await rig.ok("remove", "--flush", "d");
  assertEquals(readAt(rig.path("backing"), 0, data.length), data);
  for (const path of [info.node, info.link, info.node.replace("ublkb", "ublkc")]) {
    await assertGone(path);
  }
});

Deno.test("guest: file systems and partitions on a block device", async () => {
  await using rig = Rig.make();
  const info = await createUblk(rig);
  const dir = rig.path("mnt");
  Deno.mkdirSync(dir);
  // If the test fails, files under it must not be touched: nobody might answer.
  rig.defer("unmount", () => run("/usr/bin/umount", ["-l", dir]));
  for (
    const [make, check] of [["mkfs.ext4 -q -F", "fsck.ext4 -f -n"], [
      "mkfs.xfs -q -f",
      "xfs_repair -n",
    ]]
  ) {
    const [maker, ...make_args] = make!.split(" ");
    await must(`/usr/sbin/${maker}`, ...make_args, info.node);
    await must("/usr/bin/mount", info.node, dir);
    assertEquals((await infoOf(rig)).open_count, 1);
    const data = crypto.getRandomValues(new Uint8Array(60_000));
    for (let i = 0; i < 50; i++) Deno.writeFileSync(`${dir}/${i}`, data.subarray(i));
    await must("sync");
    assertMatch((await rig.pcache("remove", "d")).stderr, /busy/);
    await must("/usr/bin/umount", dir);
    await must("/usr/bin/mount", info.node, dir);
    for (let i = 0; i < 50; i++) assertEquals(Deno.readFileSync(`${dir}/${i}`), data.subarray(i));
    await must("/usr/bin/umount", dir);
    const [checker, ...check_args] = check!.split(" ");
    await must(`/usr/sbin/${checker}`, ...check_args, info.node);
  }

  await must("sh", "-c", `echo 2048,4096 | /usr/sbin/sfdisk -q ${info.node}`);
  const part = `${info.node}p1`;
  await until(`${part} is there after sfdisk`, () => isThere(part));
  await rig.ok("remove", "--retry", "d");
  await until(`${part} is gone`, async () => !await isThere(part));
  const table = `pcache ${rig.path("cache")} ${rig.path("backing")}`;
  await rig.ok("create", "d", "--frontend", "auto", "--table", table);
  // Newer kernels look for partitions after the start.
  const { node } = await infoOf(rig);
  await until(`${node}p1 is there after create`, () => isThere(`${node}p1`));
  assertEquals(sysfs(await infoOf(rig), `${node.replace("/dev/", "")}p1/start`), "2048");
  await rig.ok("remove", "--retry", "d");
});

Deno.test("guest: fio finds what it wrote on a block device", async () => {
  await using rig = Rig.make();
  const { node } = await createUblk(rig);
  const job = ["--name=j", `--filename=${node}`, "--direct=1", "--ioengine=libaio", "--iodepth=16"];
  const shape = ["--rw=randwrite", "--bsrange=512-65536", "--size=16m", "--fsync=32"];
  await must("/usr/bin/fio", ...job, ...shape, "--verify=crc32c", "--verify_fatal=1");
  await rig.ok("remove", "--retry", "d");
});

Deno.test("guest: a removal by force leaves nobody waiting", async () => {
  await using rig = Rig.make();
  const { node, link } = await createUblk(rig);
  using user = Deno.openSync(node, { write: true });
  await rig.ok("remove", "--force", "d");
  assertThrows(() => {
    user.writeSync(new Uint8Array(4096));
    user.syncSync();
  });
  for (const path of [node, link, node.replace("ublkb", "ublkc")]) await assertGone(path);
});

Deno.test("guest: what a killed process has left is removed, unless somebody uses it", async () => {
  await using rig = Rig.make();
  const { node, pid } = await createUblk(rig);
  await untilScanned(node);
  Deno.kill(pid, "SIGKILL");
  await until(`process ${pid} is gone`, () => !isRunning(pid));
  assertMatch((await rig.pcache("remove", "--flush", "d")).stderr, /its process was killed/);
  const user = await useDevice(node);
  const refused = await rig.pcache("remove", "d");
  await user.end();
  assertMatch(refused.stderr, /busy: its block device .* is in use/);
  await rig.ok("remove", "d");
  await assertGone(node);
  assertEquals([...Deno.readDirSync(rig.path("run"))].map(({ name }) => name), ["~lock"]);
  assertMatch((await rig.pcache("remove", "d")).stderr, /No such device or address/);
});

/** Discards and zeroes parts of the device, which begins with `data`, and reads them. */
async function checkZeroing(rig: Rig, node: string, data: Uint8Array): Promise<void> {
  await must("/usr/sbin/blkdiscard", "-f", "-o", "4096", "-l", "8192", node);
  await must("/usr/sbin/blkdiscard", "-f", "-z", "-o", "16384", "-l", "512", node);
  data.fill(0, 4096, 12288).fill(0, 16384, 16896);
  await dd(`if=${node}`, `of=${rig.path("copy")}`, "bs=65536", "count=1", "iflag=direct");
  assertEquals(Deno.readFileSync(rig.path("copy")), data);
}

async function dd(...args: string[]): Promise<void> {
  await must("/usr/bin/busybox", "dd", "conv=fsync", ...args);
}

function readAt(path: string, off_bytes: number, len_bytes: number): Uint8Array {
  using file = Deno.openSync(path);
  file.seekSync(off_bytes, Deno.SeekMode.Start);
  const bytes = new Uint8Array(len_bytes);
  for (let at = 0; at < len_bytes;) at += file.readSync(bytes.subarray(at)) ?? len_bytes;
  return bytes;
}

async function assertGone(path: string): Promise<void> {
  assert(!await isThere(path), `${path} is still there`);
}

function isThere(path: string): Promise<boolean> {
  return Deno.lstat(path).then(() => true, () => false);
}

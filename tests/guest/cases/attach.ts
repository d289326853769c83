/**
 * In the guest: a device with a block device of the kernel's NBD client (`create --attach`).
 *
 * @module
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { type Ended, MIB, must, Rig, run, until } from "../../device.ts";
import { killUnderFileSystem } from "../under_load.ts";

interface Info {
  frontend: string;
  uri: string;
  node: string;
  link: string;
  major: number;
  minor: number;
  open_count: number;
  pid: number;
}

async function infoOf(rig: Rig): Promise<Info> {
  return (JSON.parse(await rig.ok("info", "--json", "d")) as [Info])[0];
}

/** A device, attached to any block device or as the options say. */
async function create(rig: Rig, ...options: string[]): Promise<Ended> {
  const table = `pcache ${rig.path("cache")} ${rig.path("backing")}`;
  return await rig.pcache("create", "d", ...options, "--table", table);
}

async function mustCreate(rig: Rig, ...options: string[]): Promise<Info> {
  const { code, stdout, stderr } = await create(rig, ...options);
  assertEquals(code, 0, stdout + stderr);
  return await infoOf(rig);
}

function makeRig(): Rig {
  const rig = Rig.make();
  rig.file("cache", 512 * MIB);
  rig.file("backing", 1024 * MIB);
  return rig;
}

function sysfs(info: Info, path: string): string {
  return Deno.readTextFileSync(`/sys/dev/block/${info.major}:${info.minor}/${path}`).trim();
}

async function mustBeBusy(rig: Rig): Promise<void> {
  const { code, stderr } = await rig.pcache("remove", "d");
  assertEquals(code, 1);
  assertMatch(stderr, /remove on d failed: Device or resource busy/);
}

function exists(path: string): boolean {
  try {
    Deno.lstatSync(path);
    return true;
  } catch {
    return false;
  }
}

Deno.test("guest: --attach makes a block device, which says what it is, and goes with the device", async () => {
  await using rig = makeRig();
  const info = await mustCreate(rig, "--attach=/dev/nbd5");
  assertEquals([info.frontend, info.node, info.link], ["nbd", "/dev/nbd5", "/dev/pcache/d"]);
  assertEquals(Deno.realPathSync(info.link), info.node);
  assertEquals([info.major, info.open_count], [43, 0]);
  assertEquals(await rig.ok("ls"), `d\t(${info.major}:${info.minor})\n`);
  assertEquals(await rig.ok("ls", "-o", "blkdevname"), "d\t(nbd5)\n");
  assertEquals(sysfs(info, "size"), "2097152");
  assertEquals(sysfs(info, "queue/logical_block_size"), "512");
  assertEquals(sysfs(info, "queue/write_cache"), "write back");
  assertEquals(sysfs(info, "queue/fua"), "1");
  assertEquals(sysfs(info, "ro"), "0");
  assert(Number(sysfs(info, "queue/discard_max_bytes")) > 0);
  assertEquals(sysfs(info, "pid"), String(info.pid));
  // As many queues as connections, which are as many as processors.
  assertEquals([...Deno.readDirSync(`/sys/block/nbd5/mq`)].length, 2);

  const taken = await rig.pcache(
    "create",
    "other",
    "--attach=/dev/nbd5",
    "--table",
    `pcache ${rig.file("cache2", 512 * MIB)} ${rig.file("backing2", 512 * MIB)}`,
  );
  assertEquals(taken.code, 1);
  assertMatch(taken.stderr, /other failed: .*\/dev\/nbd5: Device or resource busy/);

  const data = crypto.getRandomValues(new Uint8Array(65536));
  Deno.writeFileSync(rig.path("data"), data);
  await dd(`if=${rig.path("data")}`, `of=${info.link}`, "bs=512", "oflag=direct");
  await must("/usr/sbin/blkdiscard", "-f", "-o", "4096", "-l", "8192", info.node);
  await must("/usr/sbin/blkdiscard", "-f", "-z", "-o", "16384", "-l", "512", info.node);
  data.fill(0, 4096, 12288).fill(0, 16384, 16896);
  await dd(`if=${info.node}`, `of=${rig.path("copy")}`, "bs=65536", "count=1", "iflag=direct");
  assertEquals(Deno.readFileSync(rig.path("copy")), data);

  const user = Deno.openSync(info.node);
  await mustBeBusy(rig);
  user.close();
  await rig.ok("remove", "--flush", "--retry", "d");
  assertEquals(Deno.readTextFileSync("/sys/block/nbd5/size"), "0\n");
  assert(!exists(info.link) && !exists("/sys/block/nbd5/pid"), "it is let go");
  using file = Deno.openSync(rig.path("backing"));
  const written = new Uint8Array(data.length);
  for (let at = 0; at < written.length;) at += file.readSync(written.subarray(at))!;
  assertEquals(written, data);
});

Deno.test("guest: a file system on an attached device; by force it goes, users or not", async () => {
  await using rig = makeRig();
  const info = await mustCreate(rig, "--attach");
  const dir = rig.path("mnt");
  Deno.mkdirSync(dir);
  rig.defer("unmount", () => run("/usr/bin/umount", ["-l", dir]));
  for (const [make, check] of [["mkfs.ext4 -q -F", "fsck.ext4 -f -n"], ["mkfs.xfs -q -f", ""]]) {
    await must("sh", "-c", `/usr/sbin/${make} ${info.node}`);
    await must("/usr/bin/mount", info.node, dir);
    assertEquals((await infoOf(rig)).open_count, 1);
    const data = crypto.getRandomValues(new Uint8Array(60_000));
    for (let i = 0; i < 5; i++) Deno.writeFileSync(`${dir}/${i}`, data.subarray(i));
    await must("sync");
    await mustBeBusy(rig);
    await must("/usr/bin/umount", dir);
    if (check !== "") await must("sh", "-c", `/usr/sbin/${check} ${info.node}`);
    await must("/usr/bin/mount", info.node, dir);
    for (let i = 0; i < 5; i++) assertEquals(Deno.readFileSync(`${dir}/${i}`), data.subarray(i));
    await must("/usr/bin/umount", dir);
  }
  const user = Deno.openSync(info.node);
  await rig.ok("remove", "--force", "d");
  let failed = false;
  try {
    user.seekSync(512 * MIB, Deno.SeekMode.Start);
    user.readSync(new Uint8Array(4096));
  } catch {
    failed = true;
  }
  user.close();
  assert(failed, "whoever has it open gets errors");
  const sys = `/sys/block/${info.node.slice(5)}`;
  await until("it is let go", () => !exists(`${sys}/pid`));
  assert(!exists(info.link));
});

Deno.test("guest: a file system stays mounted while the process of an attached device is killed", async () => {
  await using rig = makeRig();
  const device = await mustCreate(rig, "--attach");
  await killUnderFileSystem(rig, device, (way = "--attach") => create(rig, way));

  // What was answered is there, flushed or not.
  const left = await mustCreate(rig, "--attach");
  const data = crypto.getRandomValues(new Uint8Array(32768));
  Deno.writeFileSync(rig.path("data"), data);
  const write = [`if=${rig.path("data")}`, `of=${left.node}`, "bs=4096", "oflag=direct"];
  await must("/usr/bin/busybox", "dd", ...write);
  await rig.kill("d");
  await mustCreate(rig, "--recover");
  const read = [`if=${left.node}`, `of=${rig.path("copy")}`, "bs=4096", "count=8", "iflag=direct"];
  await must("/usr/bin/busybox", "dd", ...read);
  assertEquals(Deno.readFileSync(rig.path("copy")), data);

  // One that nobody uses is given up.
  await rig.kill("d");
  const next = await mustCreate(rig);
  assertEquals([next.node, exists(`/sys/block/${left.node.slice(5)}/pid`)], ["", false]);
  await rig.ok("remove", "--retry", "d");
});

Deno.test("guest: an attached device that is suspended for longer than the kernel waits", async () => {
  await using rig = makeRig();
  const { node } = await mustCreate(rig, "--attach");
  await rig.ok("suspend", "d");
  const reading = run("/usr/bin/busybox", [
    "dd",
    `if=${node}`,
    "bs=4096",
    "count=1",
    "iflag=direct",
  ]);
  // The kernel gives a connection up after 30 s, and asks on another one.
  await new Promise((wake) => setTimeout(wake, 75_000));
  await rig.ok("resume", "d");
  assertEquals((await reading).code, 0);
  await rig.ok("remove", "--retry", "d");
});

Deno.test("guest: fio verifies what it writes on an attached device", async () => {
  await using rig = makeRig();
  const { node } = await mustCreate(rig, "--attach");
  const job = ["--name=j", `--filename=${node}`, "--direct=1", "--ioengine=libaio", "--iodepth=32"];
  const shape = ["--rw=randwrite", "--bsrange=512-131072", "--size=16m", "--verify=crc32c"];
  console.log(await must("/usr/bin/fio", ...job, ...shape, "--verify_fatal=1", "--fsync=32"));
  await rig.ok("remove", "--retry", "d");
});

async function dd(...args: string[]): Promise<void> {
  await must("/usr/bin/busybox", "dd", "conv=fsync", ...args);
}

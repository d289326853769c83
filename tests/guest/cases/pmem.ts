/**
 * In the guest: a cache on emulated persistent memory, so that libpmem's real path runs: a file on ext4 mounted with
 * DAX, and the block device itself.
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";
import { MIB, must, Rig } from "../../device.ts";

Deno.test("guest: a cache file on a DAX file system is persistent memory, and survives a kill", async () => {
  await using rig = Rig.make();
  const dir = rig.path("dax");
  Deno.mkdirSync(dir);
  await must("/usr/sbin/mkfs.ext4", "-q", "-F", "/dev/pmem0");
  await must("mount", "-t", "ext4", "-o", "dax", "/dev/pmem0", dir);
  rig.defer("unmount", () => must("umount", dir));
  const cache = `${dir}/cache`;
  using file = Deno.openSync(cache, { write: true, createNew: true });
  file.truncateSync(512 * MIB);
  const table = `pcache ${cache} ${rig.file("backing", 1024 * MIB)} data_crc true`;
  await rig.ok("create", "d", "--table", table);
  const [info] = JSON.parse(await rig.ok("info", "--json", "d")) as [
    { cache_kind: string; pid: number },
  ];
  assertEquals(info.cache_kind, "pmem");
  assert(isSynchronous(info.pid, cache), "the cache file is mapped with MAP_SYNC");
  await rig.kill("d");
  await rig.ok("create", "d", "--table", table);
  await rig.ok("remove", "d");
});

/** Whether a process has a file mapped with MAP_SYNC: the flag `sf` of proc_pid_smaps(5). */
function isSynchronous(pid: number, path: string): boolean {
  const maps = Deno.readTextFileSync(`/proc/${pid}/smaps`).split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m);
  const map = maps.find((text) => text.split("\n")[0]!.endsWith(path));
  return map !== undefined && /^VmFlags:.* sf( |$)/m.test(map);
}

Deno.test("guest: /dev/pmem0 itself maps through the page cache", async () => {
  await using rig = Rig.make();
  const table = `pcache /dev/pmem0 ${rig.file("backing", 1024 * MIB)}`;
  // The last test's cache may lie somewhere in it.
  await rig.ok("create", "--format", "d", "--table", table);
  const [info] = JSON.parse(await rig.ok("info", "--json", "d")) as [{ cache_kind: string }];
  assertEquals(info.cache_kind, "block");
  await rig.ok("remove", "d");
});

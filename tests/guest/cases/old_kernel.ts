/**
 * In a guest with Linux 6.1 (Debian 12), whose ublk driver lacks what is needed, if it is there at all: said, and gone without.
 *
 * @module
 */

import { assertEquals, assertMatch } from "@std/assert";
import { MIB, Rig } from "../../device.ts";

Deno.test("guest: without a usable driver ublk is refused, and auto serves NBD", async () => {
  await using rig = Rig.make();
  const table = `pcache ${rig.file("cache", 512 * MIB)} ${rig.file("backing", 64 * MIB)}`;
  const refused = await rig.pcache("create", "d", "--frontend", "ublk", "--table", table);
  console.log(refused.stderr);
  assertEquals([refused.code, refused.stdout], [1, ""]);
  assertMatch(
    refused.stderr,
    /Failed to start frontend ublk: (the kernel's ublk driver lacks .*Linux 6\.5|\/dev\/ublk-control: )/,
  );
  assertEquals([...Deno.readDirSync(rig.path("run"))].map(({ name }) => name), ["~lock"]);

  const served = await rig.pcache("create", "d", "--frontend", "auto", "--table", table);
  assertEquals(served.code, 0, served.stderr);
  assertMatch(served.stderr, /d: served over NBD, not as a block device: /);
  assertMatch(await rig.uri("d"), /^nbd\+unix:/);
  await rig.ok("remove", "d");
});

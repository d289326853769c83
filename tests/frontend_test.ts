/**
 * Choosing a front-end where there can be no block device: without io_uring the ublk driver cannot be used anywhere. What
 * needs the driver is tested in a guest (`tests/guest/cases`).
 *
 * @module
 */

import { assertEquals, assertMatch } from "@std/assert";
import { MIB, Rig } from "./device.ts";

const WITHOUT_URING = { env: { PCACHE_LOOP: "poll" } };

function tableOf(rig: Rig): string {
  return `pcache ${rig.file("cache", 512 * MIB)} ${rig.file("backing", MIB)}`;
}

Deno.test("a block device that cannot be had is refused, and nothing was written", async () => {
  await using rig = Rig.make(WITHOUT_URING);
  const table = tableOf(rig);
  const { code, stderr } = await rig.pcache("create", "d", "--frontend", "ublk", "--table", table);
  assertEquals(code, 1);
  assertMatch(stderr, /create on d failed: Failed to start frontend ublk: ublk needs io_uring/);
  assertEquals(Deno.statSync(rig.path("cache")).blocks, 0);
  assertEquals([...Deno.readDirSync(rig.path("run"))].map((entry) => entry.name), ["~lock"]);
});

Deno.test("auto serves NBD then, and says why", async () => {
  await using rig = Rig.make(WITHOUT_URING);
  const table = tableOf(rig);
  const { code, stderr } = await rig.pcache("create", "d", "--frontend", "auto", "--table", table);
  assertEquals(code, 0);
  assertMatch(stderr, /d: served over NBD, not as a block device: ublk needs io_uring/);
  assertEquals(await rig.info("d", "Frontend"), "nbd");
  await rig.ok("remove", "d");
});

Deno.test("a front-end that is not known, or --listen without NBD, is refused", async () => {
  await using rig = Rig.make();
  const table = tableOf(rig);
  const unknown = await rig.pcache("create", "d", "--frontend", "scsi", "--table", table);
  assertMatch(unknown.stderr, /Invalid --frontend argument: "scsi", wanted nbd, ublk or auto/);
  const args = ["--frontend", "ublk", "--listen", "1", "--table", table];
  const both = await rig.pcache("create", "d", ...args);
  assertMatch(both.stderr, /--listen is for NBD, but the frontend is ublk/);
  assertEquals([unknown.code, both.code], [1, 1]);
});

Deno.test("a device that cannot be attached is refused, and nothing was written", async () => {
  await using rig = Rig.make(WITHOUT_URING);
  const table = tableOf(rig);
  const { code, stderr } = await rig.pcache("create", "d", "--attach", "--table", table);
  assertEquals(code, 1);
  assertMatch(stderr, /create on d failed: Failed to attach: io_uring is wanted/);
  assertEquals(Deno.statSync(rig.path("cache")).blocks, 0);
  assertEquals([...Deno.readDirSync(rig.path("run"))].map((entry) => entry.name), ["~lock"]);
});

Deno.test("--attach of something that is no /dev/nbdN, or of a block device, is refused", async () => {
  await using rig = Rig.make();
  const table = tableOf(rig);
  const wrong = await rig.pcache("create", "d", "--attach=/dev/sda", "--table", table);
  assertMatch(wrong.stderr, /Invalid --attach argument: "\/dev\/sda", wanted \/dev\/nbdN/);
  const args = ["--frontend", "ublk", "--attach", "--table", table];
  const both = await rig.pcache("create", "d", ...args);
  assertMatch(both.stderr, /--attach is for NBD, but the frontend is ublk/);
  assertEquals([wrong.code, both.code], [1, 1]);
});

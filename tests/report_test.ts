/**
 * Reports, trees and one-line forms of real devices (DMSETUP, "Output").
 *
 * @module
 */

import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { MIB, Rig } from "./device.ts";

const CACHE_BYTES = 512 * MIB;
const BACKING_BYTES = 64 * MIB;

/** A rig with the devices `a` and `b`; both names of files of the second hold what has to be escaped. */
async function makeDevices(): Promise<Rig> {
  const rig = Rig.make();
  const [a, b] = [["cache", "backing"], ["my cache,1", "backing;2"]].map(([cache, backing]) =>
    `pcache ${escaped(rig.file(cache!, CACHE_BYTES))} ${escaped(rig.file(backing!, BACKING_BYTES))}`
  );
  await rig.ok("create", "a", "--table", a!, "-u", "PCACHE-A", "-j", "0", "-m", "5");
  await rig.ok("create", "b", "--table", b!);
  return rig;
}

function escaped(path: string): string {
  return path.replaceAll(" ", "\\ ");
}

Deno.test("info -c: columns, choice, order and forms", async () => {
  await using rig = await makeDevices();
  const wide = "Name             Maj Min Stat Open Targ Event  UUID                            ";
  assertEquals(
    await rig.ok("info", "-c"),
    `${wide}
a                  0   5 L--w    0    1      0 PCACHE-A                        
b                  0   0 L--w    0    1      0                                 
`,
  );
  assertEquals(await rig.ok("info", "-c", "--noheadings", "-o", "name,devno", "b"), "b:0:0\n");
  assertEquals(
    await rig.ok("info", "-C", "--noheadings", "-O", "-name", "-o", "name,attr"),
    "b:L--w\na:L--w\n",
  );
  assertEquals(
    await rig.ok("info", "-c", "--noheadings", "-o", "name", "-S", "uuid=~PCACHE && minor>4"),
    "a\n",
  );
  const own = await rig.ok(
    ...["info", "-c", "--nameprefixes", "--noheadings", "-o", "uri,frontend,cache_dev", "a"],
  );
  assertEquals(
    own,
    `DM_URI='nbd+unix:///?socket=${rig.path("run/a/nbd")}':` +
      `DM_FRONTEND='nbd':DM_CACHE_DEV='${rig.path("cache")}'\n`,
  );
  const rows = JSON.parse(await rig.ok("info", "-c", "--json", "-o", "name,minor,pid"));
  assertEquals(rows[0], { name: "a", minor: 5, pid: await rig.pid("a") });
  assertEquals(
    await rig.ok("info", "-c", "--noheadings", "-o", "name", "--count", "2", "a"),
    "a\n\na\n",
  );
});

Deno.test("a device is found by its UUID and by its numbers", async () => {
  await using rig = await makeDevices();
  assertMatch(await rig.ok("status", "-u", "PCACHE-A"), /^0 131072 pcache /);
  const name = ["info", "-c", "--noheadings", "-o", "name"];
  assertEquals(await rig.ok(...name, "-j", "0", "-m", "0"), "b\n");
  const missing = await rig.pcache("remove", "-u", "nope");
  assertEquals(
    missing.stderr,
    "pcache: remove on nope failed: No such device or address\nCommand failed.\n",
  );
  const taken = await rig.pcache("create", "c", "--table", "pcache x y", "-j", "0", "-m", "5");
  assertStringIncludes(
    taken.stderr,
    "pcache: create on c failed: Device or resource busy: minor number 5 is in use",
  );
});

Deno.test("ls: names, a tree, a command for each", async () => {
  await using rig = await makeDevices();
  assertEquals(await rig.ok("ls", "-o", "devname"), "a\t(a)\nb\t(b)\n");
  assertEquals(await rig.ok("ls", "--exec", "echo is"), "is a\nis b\n");
  const failed = await rig.pcache("ls", "--exec", "test a =");
  assertEquals(
    failed.stderr,
    "pcache: ls on b failed: test ended with status 1\nCommand failed.\n",
  );
  const missing = await rig.pcache("ls", "--exec", "/none");
  assertStringIncludes(missing.stderr, "pcache: ls on a failed: /none: command not found\n");
  const tree = await rig.ok("ls", "--tree", "-o", "ascii,blkdevname,uuid");
  assertMatch(
    tree,
    /^a \(0:5\) \[PCACHE-A\]\n \|- <\S+\/cache> \(\d+:\d+\)\n `- <\S+\/backing> \(\d+:\d+\)\nb \(0:0\)\n/,
  );
  assertMatch(
    await rig.ok("ls", "--tree", "-o", "utf,nodevice,blkdevname,inverted"),
    /^<\S+\/cache>\n └─a\n/,
  );
});

Deno.test("table --concise and create --concise feed each other", async () => {
  await using rig = await makeDevices();
  const line = await rig.ok("table", "--concise");
  assertStringIncludes(line, ";b,,0,rw,0 131072 pcache ");
  assertStringIncludes(line, "/my\\\\ cache\\,1 ");
  assertStringIncludes(line, "/backing\\;2 ");
  await rig.ok("remove_all");
  assertEquals(await rig.ok("create", "--concise", line), "");
  assertEquals(await rig.ok("table", "--concise"), line);
  assertEquals(
    await rig.ok("info", "-c", "--noheadings", "-o", "name,uuid,minor"),
    "a:PCACHE-A:5\nb::0\n",
  );
});

/**
 * What changes a living device: suspend and resume, tables that are loaded, names, events, and the ways to an end (DMSETUP).
 *
 * @module
 */

import {
  assert,
  assertEquals,
  assertMatch,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { isRunning, MIB, must, Rig, until } from "./device.ts";
import { NbdClient, NbdError } from "./nbd_client.ts";

const CACHE_BYTES = 512 * MIB;
const BACKING_BYTES = 64 * MIB;
const BACKING_SECTORS = BACKING_BYTES / 512;
const EIO = 5;
const EPERM = 1;

interface Made {
  rig: Rig;
  table: string;
  cache: string;
  backing: string;
}

/** A rig with the files of one device, and its short table. */
function makeRig(): Made {
  const rig = Rig.make();
  const cache = rig.file("cache", CACHE_BYTES);
  const backing = rig.file("backing", BACKING_BYTES);
  return { rig, cache, backing, table: `pcache ${cache} ${backing}` };
}

/** The columns of `info -c` that change, for one device. */
async function facts(rig: Rig, name: string): Promise<string> {
  return (await rig.ok("info", "-c", "--noheadings", "-o", "attr,open,segments,events", name))
    .trim();
}

/** Whether it is still not settled after everybody else had a few turns. */
async function isPending(promise: Promise<unknown>): Promise<boolean> {
  let is_settled = false;
  promise.then(() => is_settled = true, () => is_settled = true);
  await new Promise((wake) => setTimeout(wake, 150));
  return !is_settled;
}

const bytesOf = (value: number, length = 4096) => new Uint8Array(length).fill(value);

Deno.test("a suspended device answers nothing, then goes on where it was", async () => {
  const { rig, table } = makeRig();
  await using _ = rig;
  await rig.ok("create", "d", "--table", table);
  // It would be an event that the cache becomes clean.
  await rig.ok("message", "d", "0", "writeback_rate", "pause");
  await using client = await NbdClient.connect(await rig.uri("d"));
  await client.write(0, bytesOf(1));
  assertEquals(await facts(rig, "d"), "L--w:1:1:1");
  assertEquals(await rig.ok("suspend", "d"), "");
  assertEquals(await facts(rig, "d"), "L-sw:1:1:2");
  assertStringIncludes(await rig.ok("info", "d"), "State:             SUSPENDED\n");
  assertEquals(await rig.ok("suspend", "d"), "");

  const written = client.write(0, bytesOf(2));
  const long = client.write(MIB, bytesOf(3, 3 * MIB));
  const flushed = client.flush();
  await using late = await NbdClient.connect(await rig.uri("d"));
  const read = late.read(0, 4096);
  for (const request of [written, long, flushed, read]) assert(await isPending(request));
  const dirty = (await rig.status("d")).dirty_tail;
  assertEquals((await rig.status("d")).dirty_tail, dirty);
  await rig.ok("message", "d", "0", "gc_percent", "30");

  assertEquals(await rig.ok("resume", "d"), "");
  await Promise.all([written, long, flushed, read]);
  assertEquals(await client.read(0, 4096), bytesOf(2));
  assertEquals(await client.read(MIB, 3 * MIB), bytesOf(3, 3 * MIB));
  assertMatch(await facts(rig, "d"), /^L--w:2:1:\d+$/);
});

Deno.test("suspend under load, again and again: nothing is lost, and nothing is answered meanwhile", async () => {
  const { rig, table } = makeRig();
  await using _ = rig;
  await rig.ok("create", "d", "--table", table);
  await using client = await NbdClient.connect(await rig.uri("d"));
  let answered = 0;
  let is_over = false;
  let is_suspended = false;
  /** What was sent after `suspend` had ended, and answered all the same. Earlier answers may still be on their way. */
  let answered_meanwhile = 0;
  const ask = async <T>(send: () => Promise<T>): Promise<T> => {
    const is_meanwhile = is_suspended;
    const answer = await send();
    if (is_meanwhile && is_suspended) answered_meanwhile++;
    return answer;
  };
  const writer = async (place: number) => {
    for (let round = 0; !is_over; round = (round + 1) % 256) {
      const bytes = bytesOf(round, place % 2 === 0 ? 4096 : 300_000);
      await ask(() => client.write(place * MIB, bytes));
      assertEquals(await ask(() => client.read(place * MIB, bytes.length)), bytes);
      answered++;
    }
  };
  const writers = Array.from({ length: 8 }, (_, place) => writer(place));
  try {
    for (const options of [[], ["--noflush"], [], ["--noflush", "--nolockfs"]]) {
      await rig.ok("suspend", ...options, "d");
      is_suspended = true;
      const late = ask(() => client.read(9 * MIB, 4096));
      assert(await isPending(late));
      assertEquals(answered_meanwhile, 0);
      is_suspended = false;
      await rig.ok("resume", "d");
      await late;
      const before = answered;
      await until("requests go on", () => answered > before);
    }
  } finally {
    is_over = true;
    await rig.ok("resume", "d");
    await Promise.all(writers);
  }
});

Deno.test("a suspended device can be removed, flushed too, and one in use stays suspended", async () => {
  const { rig, table } = makeRig();
  await using _ = rig;
  await rig.ok("create", "d", "--table", table);
  const client = await NbdClient.connect(await rig.uri("d"));
  await client.write(0, bytesOf(1));
  await rig.ok("suspend", "d");
  assertEquals((await rig.pcache("remove", "d")).code, 1);
  assertMatch(await facts(rig, "d"), /^L-sw:1:/);
  await client.close(); // noticed while it is suspended
  await until("the client is gone", async () => (await rig.info("d", "Open count")) === "0");
  assertMatch(await facts(rig, "d"), /^L-sw:0:/);
  await rig.ok("remove", "--flush", "d");
  using file = Deno.openSync(rig.path("backing"));
  const start = new Uint8Array(4096);
  file.readSync(start);
  assertEquals(start, bytesOf(1));
});

Deno.test("load and resume swap what can change, and refuse the rest", async () => {
  const { rig, table, cache, backing } = makeRig();
  await using _ = rig;
  await rig.ok("create", "d", "--table", table);
  await using client = await NbdClient.connect(await rig.uri("d"));
  await client.write(0, bytesOf(1));

  await rig.ok("load", "d", "-r", "--table", `0 ${BACKING_SECTORS} pcache ${cache} ${backing} 0`);
  assertMatch(await facts(rig, "d"), /^LI-w:/);
  assertStringIncludes(await rig.ok("info", "d"), "Tables present:    LIVE & INACTIVE\n");
  assertMatch(await rig.ok("table", "--inactive", "d"), /^0 131072 pcache /);
  await rig.ok("clear", "d");
  assertMatch(await facts(rig, "d"), /^L--w:/);
  assertEquals(await rig.ok("table", "--inactive", "d"), "\n");

  await rig.ok("reload", "d", "-r", "--table", table);
  await rig.ok("resume", "d");
  assertMatch(await facts(rig, "d"), /^L--r:/);
  const refused = await assertRejects(() => client.write(0, bytesOf(2)), NbdError);
  assertEquals(refused.errno, EPERM);
  assertEquals(await client.read(0, 4096), bytesOf(1));
  await rig.ok("load", "d", "--table", table);
  await rig.ok("resume", "d");
  await client.write(0, bytesOf(2));

  const other = rig.file("other", BACKING_BYTES);
  const bad: [table: string, what: string][] = [
    [`${table} data_crc true`, "data_crc true, but it is false"],
    [`pcache ${cache} ${other}`, `backing device ${other}, but it is ${backing}`],
    [`pcache ${other} ${backing}`, `cache device ${other}, but it is ${cache}`],
    [`0 8 pcache ${cache} ${backing} 0`, "length 8, but it is 131072 and cannot shrink"],
  ];
  for (const [bad_table, what] of bad) {
    const ended = await rig.pcache("load", "d", "--table", bad_table);
    assertEquals(ended.code, 1);
    assertStringIncludes(ended.stderr, `pcache: load on d failed: Invalid argument: ${what}`);
    assertStringIncludes(ended.stderr, "remove the device and create it with this table");
  }
  assertMatch(await facts(rig, "d"), /^L--w:/);
});

Deno.test("create --notable, load, resume: the table comes later", async () => {
  const { rig, table, cache } = makeRig();
  await using _ = rig;
  await rig.ok("create", "d", "-n", "-u", "U-1");
  assertEquals(await facts(rig, "d"), "---w:0:0:0");
  const info = await rig.ok("info", "d");
  assertStringIncludes(info, "Tables present:    None\n");
  assert(!info.includes("URI:"));
  assertEquals(await rig.ok("table", "d"), "\n");
  assertEquals(await rig.ok("status", "d"), "\n");
  assertEquals(await rig.ok("deps", "d"), "0 dependencies\t:\n");
  const empty = await rig.pcache("resume", "d");
  assertStringIncludes(empty.stderr, "pcache: resume on d failed: Invalid argument: no table is");
  const missing = await rig.pcache("load", "d", "--table", `pcache ${cache} ${rig.path("none")}`);
  assertStringIncludes(missing.stderr, "pcache: load on d failed: Error opening backing device");

  await rig.ok("load", "d", "--table", table);
  assertEquals(await facts(rig, "d"), "-I-w:0:0:0");
  assertMatch(await rig.ok("table", "--inactive", "d"), /^0 131072 pcache /);
  await rig.ok("clear", "d");
  assertEquals(await facts(rig, "d"), "---w:0:0:0");
  await rig.ok("load", "d", "--table", table);
  const waiting = rig.ok("wait", "d", "0");
  await until("it waits", () => isPending(waiting));
  await rig.ok("resume", "d");
  await waiting;
  assertEquals(await facts(rig, "d"), "L--w:0:1:1");
  assertStringIncludes(await rig.ok("info", "d"), "UUID: U-1\n");
  await using client = await NbdClient.connect(await rig.uri("d"));
  await client.write(0, bytesOf(1));
  assertEquals(await client.read(0, 4096), bytesOf(1));
});

Deno.test("a device without a table is removed like others, and a table that cannot start leaves it", async () => {
  const { rig, table, cache } = makeRig();
  await using _ = rig;
  Deno.writeTextFileSync(cache, "something else".repeat(9999)); // shorter than a cache
  await rig.ok("create", "d", "--notable");
  const pid = await rig.pid("d");
  await rig.ok("load", "d", "--table", table);
  const failed = await rig.pcache("resume", "d");
  assertStringIncludes(failed.stderr, "pcache: resume on d failed: Failed to start cache dev");
  assertEquals(await facts(rig, "d"), "-I-w:0:0:0");
  await rig.ok("remove", "d");
  assertEquals(isRunning(pid), false);
  assertEquals(await rig.ok("ls"), "No devices found\n");
});

Deno.test("wipe_table fails all I/O and lets others have the devices", async () => {
  const { rig, table } = makeRig();
  await using _ = rig;
  await rig.ok("create", "d", "--table", table);
  await using client = await NbdClient.connect(await rig.uri("d"));
  await client.write(0, bytesOf(7));
  await rig.ok("wipe_table", "d");
  for (const request of [client.read(0, 512), client.write(0, bytesOf(1)), client.flush()]) {
    assertEquals((await assertRejects(() => request, NbdError)).errno, EIO);
  }
  assertEquals(await rig.ok("table", "d"), `0 ${BACKING_SECTORS} error \n`);
  assertEquals(await rig.ok("status", "d"), `0 ${BACKING_SECTORS} error \n`);
  assertEquals(await rig.ok("ls", "--target", "error"), "d\t(0, 0)\n");
  for (const verb of ["suspend", "resume"]) await rig.ok(verb, "d");
  assertStringIncludes(
    (await rig.pcache("load", "d", "--table", table)).stderr,
    "the table was wiped; remove the device and create it anew",
  );
  await rig.ok("create", "e", "--table", table);
  {
    await using other = await NbdClient.connect(await rig.uri("e"));
    assertEquals(await other.read(0, 4096), bytesOf(7));
  }
  await client.close();
  await rig.ok("remove", "--retry", "d", "e");
});

Deno.test("remove --force drops clients, remove --deferred waits for them", async () => {
  const { rig, table } = makeRig();
  await using _ = rig;
  await rig.ok("create", "d", "--table", table);
  const client = await NbdClient.connect(await rig.uri("d"));
  await client.write(0, bytesOf(7));
  assertEquals((await rig.pcache("remove", "d")).code, 1);
  const pid = await rig.pid("d");
  await rig.ok("remove", "--deferred", "d");
  assertStringIncludes(await rig.ok("info", "d"), "State:             ACTIVE (DEFERRED REMOVE)\n");
  assertEquals(await client.read(0, 4096), bytesOf(7));
  await client.close();
  await until("the process has ended", () => !isRunning(pid));
  assertEquals(await rig.ok("ls"), "No devices found\n");

  await rig.ok("create", "d", "--table", table);
  const forced = await NbdClient.connect(await rig.uri("d"));
  assertEquals(await forced.read(0, 4096), bytesOf(7));
  await rig.ok("suspend", "d");
  const held = assertRejects(() => forced.read(0, 512), NbdError);
  await rig.ok("remove", "-f", "d");
  assertEquals((await held).errno, EIO);
  await forced.vanish();

  await rig.ok("create", "d", "--table", table);
  const last = await NbdClient.connect(await rig.uri("d"));
  await rig.ok("remove_all", "--force");
  await last.vanish();
  await rig.ok("create", "d", "--table", table);
  await rig.ok("remove", "--deferred", "d");
  assertEquals(await rig.ok("ls"), "No devices found\n");
});

Deno.test("rename moves a device, its sockets, and what is connected to them", async () => {
  const { rig, table } = makeRig();
  await using _ = rig;
  await rig.ok("create", "d", "--table", table);
  await using client = await NbdClient.connect(await rig.uri("d"));
  await client.write(0, bytesOf(7));
  const pid = await rig.pid("d");
  await rig.ok("rename", "d", "e");
  assertEquals(await rig.ok("ls"), "e\t(0:0)\n");
  assertEquals(await rig.pid("e"), pid);
  assertEquals(await client.read(0, 4096), bytesOf(7));
  const uri = await rig.uri("e");
  assertStringIncludes(uri, "/run/e/nbd");
  {
    await using late = await NbdClient.connect(uri);
    assertEquals(await late.read(0, 4096), bytesOf(7));
  }
  assertStringIncludes(await must("nbdinfo", "--list", uri), 'export="e"');
  await rig.ok("rename", "e", "--setuuid", "U-7");
  assertStringIncludes(await rig.ok("info", "-u", "U-7"), "Name:              e\n");
  const refused: [args: string[], why: string][] = [
    [["e", "--setuuid", "U-8"], 'Invalid argument: its UUID is "U-7" already'],
    [["e", "e"], "Device or resource busy"],
    [["d", "f"], "No such device or address"],
  ];
  for (const [args, why] of refused) {
    assertStringIncludes(
      (await rig.pcache("rename", ...args)).stderr,
      `pcache: rename on ${args[0]} failed: ${why}`,
    );
  }
  assertStringIncludes((await rig.pcache("rename", "e", "a/b")).stderr, 'It contains "/".');
  await client.close();
  await rig.ok("remove", "--retry", "e");
  assertEquals([...Deno.readDirSync(rig.path("run"))].map((entry) => entry.name), ["~lock"]);
});

Deno.test("of many renames and creates at once exactly one gets a name", async () => {
  const { rig, table } = makeRig();
  await using _ = rig;
  await rig.ok("create", "d", "-n");
  const away = await Promise.all(
    ["e", "f", "g", "h"].map((name) => rig.pcache("rename", "d", name)),
  );
  assertEquals(away.filter((ended) => ended.code === 0).length, 1);
  const moved = (await rig.ok("ls")).split("\t")[0]!;
  const ended = await Promise.all([
    rig.pcache("rename", moved, "x"),
    ...Array.from({ length: 3 }, () => rig.pcache("create", "x", "--table", table)),
  ]);
  assertEquals(ended.filter(({ code }) => code === 0).length, 1);
  for (const { code, stderr } of ended) {
    if (code !== 0) assertStringIncludes(stderr, "Device or resource busy\nCommand failed.\n");
  }
});

Deno.test("wait sleeps until something happens", async () => {
  const { rig, table } = makeRig();
  await using _ = rig;
  await rig.ok("create", "d", "--table", table);
  const event = async () => Number(await rig.info("d", "Event number"));
  const happens = async (what: string, act: () => Promise<unknown>) => {
    const before = await event();
    const waiting = rig.ok("wait", "--json", "d", String(before));
    assert(await isPending(waiting), what);
    await act();
    assertEquals(JSON.parse(await waiting).name, "d", what);
    assert(await event() > before, what);
  };
  await happens("a message", () => rig.ok("message", "d", "0", "gc_percent", "40"));
  await happens("suspend", () => rig.ok("suspend", "d"));
  await happens("resume", () => rig.ok("resume", "d"));
  await happens("the cache becomes clean", async () => {
    await using client = await NbdClient.connect(await rig.uri("d"));
    await client.write(0, bytesOf(1, MIB));
    await client.flush();
  });
  assertMatch(await rig.ok("wait", "-v", "d"), /^Name: {14}d\n/);
  assertStringIncludes((await rig.pcache("wait", "d", "x")).stderr, 'Invalid event number: "x"');

  const orphan = rig.pcache("wait", "d", "9999");
  assert(await isPending(orphan));
  await rig.ok("remove", "d");
  assertStringIncludes(
    (await orphan).stderr,
    "pcache: wait on d failed: No such device or address\nCommand failed.\n",
  );
});

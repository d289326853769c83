/**
 * The commands, end to end: the real program, real files, real processes (DMSETUP).
 *
 * @module
 */

import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { type Ended, isRunning, MIB, must, Rig, run, until } from "./device.ts";
import { NbdClient } from "./nbd_client.ts";

const CACHE_BYTES = 512 * MIB;
const BACKING_BYTES = 64 * MIB;
const BACKING_SECTORS = BACKING_BYTES / 512;
/** Where FORMAT puts the superblock; its magic follows 8 bytes later. */
const SUPERBLOCK_BYTES = 0x1000;
const MAIN = new URL("../cli/main.ts", import.meta.url).pathname;

/** A rig with one cache file and one backing file, both sparse and empty. */
async function makeRig(): Promise<{ rig: Rig; cache: string; backing: string }> {
  const rig = await Rig.make();
  return {
    rig,
    cache: rig.file("cache", CACHE_BYTES),
    backing: rig.file("backing", BACKING_BYTES),
  };
}

/** Runs pcache with a text on its standard input. */
async function pcacheWithInput(rig: Rig, text: string, ...args: string[]): Promise<Ended> {
  const child = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--no-prompt", MAIN, ...args],
    env: { PCACHE_RUN_DIR: rig.path("run"), NO_COLOR: "1" },
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const writer = child.stdin.getWriter();
  await writer.write(new TextEncoder().encode(text));
  await writer.close();
  const { code, stdout, stderr } = await child.output();
  const decoder = new TextDecoder();
  return { code, stdout: decoder.decode(stdout), stderr: decoder.decode(stderr) };
}

/** Processes that were started for this rig, by the variable that they inherit. */
function processesOf(rig: Rig): number[] {
  const found: number[] = [];
  for (const entry of Deno.readDirSync("/proc")) {
    const pid = Number(entry.name);
    if (!Number.isInteger(pid) || !isRunning(pid)) continue;
    try {
      const variables = Deno.readTextFileSync(`/proc/${pid}/environ`).split("\0");
      if (variables.includes(`PCACHE_RUN_DIR=${rig.path("run")}`)) found.push(pid);
    } catch {
      // It ended while we looked, or it is somebody else's.
    }
  }
  return found;
}

/** What is in the run directory, if it is there. */
function runEntries(rig: Rig): string[] {
  try {
    return [...Deno.readDirSync(rig.path("run"))].map((entry) => entry.name);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return [];
    throw error;
  }
}

function assertFailed(ended: Ended, message: string): void {
  assertStringIncludes(ended.stderr, message);
  assertEquals(ended.code, 1);
  assertEquals(ended.stdout, "");
  assert(!ended.stderr.includes("    at "), `a bare stack:\n${ended.stderr}`);
}

Deno.test("a device's life: create, look at it from all sides, remove", async () => {
  const { rig, cache, backing } = await makeRig();
  await using _ = rig;
  const table =
    `0 ${BACKING_SECTORS} pcache ${cache} ${backing} 4 cache_mode writeback data_crc true`;
  assertEquals(await rig.ok("ls"), "No devices found\n");
  assertEquals(await rig.ok("create", "d", "--table", table), "");

  assertEquals(await rig.ok("ls"), "d\t(0:0)\n");
  assertEquals(await rig.ok("ls", "--target", "pcache"), "d\t(0, 0)\n");
  assertEquals(await rig.ok("ls", "--target", "linear"), "No devices found\n");
  assertEquals(await rig.ok("table"), table + "\n");
  const fresh = `0 ${BACKING_SECTORS} pcache 0 31 31 1 70 1183 0:0 0:0 0:0\n`;
  assertEquals(await rig.ok("status", "d", "--noflush"), fresh);
  assertMatch(await rig.ok("deps", "d"), /^2 dependencies\t: \(\d+, \d+\) \(\d+, \d+\)\n$/);
  const names = `2 dependencies\t: (${cache}) (${backing})\n`;
  assertEquals(await rig.ok("deps", "-o", "devname"), names);
  const pid = await rig.pid("d");
  assertEquals(
    await rig.ok("info", "d"),
    `Name:              d
State:             ACTIVE
Read Ahead:        0
Tables present:    LIVE
Open count:        0
Event number:      0
Major, minor:      0, 0
Number of targets: 1
Frontend:          nbd
URI:               nbd+unix:///?socket=${rig.path("run/d/nbd")}
PID:               ${pid}

`,
  );

  assertEquals(await rig.ok("remove", "d"), "");
  assertEquals(isRunning(pid), false);
  assertEquals(await rig.ok("ls"), "No devices found\n");
  assertEquals(runEntries(rig), ["~lock"]);
});

Deno.test("the folder and the sockets are for their owner only", async () => {
  const { rig, cache, backing } = await makeRig();
  await using _ = rig;
  await rig.ok("create", "d", "--table", `pcache ${cache} ${backing}`);
  const mode = (path: string) => Deno.statSync(rig.path(path)).mode! & 0o777;
  assertEquals(mode("run"), 0o700);
  assertEquals(mode("run/d"), 0o700);
  assertEquals(mode("run/d/nbd"), 0o600);
  assertEquals(mode("run/d/control"), 0o600);
});

Deno.test("the table comes from the option, a file or the standard input", async () => {
  const { rig, cache, backing } = await makeRig();
  await using _ = rig;
  const printed = `0 ${BACKING_SECTORS} pcache ${cache} ${backing} 4 cache_mode writeback ` +
    "data_crc false\n";

  await rig.ok("create", "d", "--table", `pcache ${cache} ${backing} data_crc false`);
  assertEquals(await rig.ok("table", "d"), printed);
  await rig.ok("remove", "d");

  Deno.writeTextFileSync(rig.path("table"), `# the same\n\n${printed}`);
  await rig.ok("create", "d", rig.path("table"));
  assertEquals(await rig.ok("table", "d"), printed);
  await rig.ok("remove", "d");

  const ended = await pcacheWithInput(rig, printed, "create", "d");
  assertEquals(ended, { code: 0, stdout: "", stderr: "" });
  assertEquals(await rig.ok("table", "d"), printed);

  const twice = await rig.pcache("create", "e", rig.path("table"), "--table", printed);
  assertFailed(twice, "Two tables: --table and the file");
  assertFailed(
    await rig.pcache("create", "e", rig.path("none")),
    `${rig.path("none")}: open failed: No such file or directory\nCommand failed.\n`,
  );
});

Deno.test("relative paths, and paths with blanks, keep their meaning", async () => {
  const { rig } = await makeRig();
  await using _ = rig;
  rig.file("my cache", CACHE_BYTES);
  const ended = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--no-prompt", MAIN, "create", "d", "--table", "pcache my\\ cache backing"],
    cwd: rig.dir,
    env: { PCACHE_RUN_DIR: rig.path("run") },
  }).output();
  assertEquals(new TextDecoder().decode(ended.stderr), "");
  const line = await rig.ok("table", "d");
  const escaped = rig.path("my\\ cache");
  assertStringIncludes(line, `0 ${BACKING_SECTORS} pcache ${escaped} ${rig.path("backing")} 4 `);
  await rig.ok("remove", "d");
  await rig.ok("create", "d", "--table", line);
});

Deno.test("a length shorter than the backing device makes the device shorter", async () => {
  const { rig, cache, backing } = await makeRig();
  await using _ = rig;
  await rig.ok("create", "d", "--table", `0 4096 pcache ${cache} ${backing}`);
  assertMatch(await rig.ok("status", "d"), /^0 4096 pcache /);
  await using client = await NbdClient.connect(await rig.uri("d"));
  assertEquals(client.size_bytes, 4096 * 512);
});

Deno.test("-u, -r and --listen are shown and hold", async () => {
  const { rig, cache, backing } = await makeRig();
  await using _ = rig;
  // A fresh cache has to be formatted, so it is made before it is opened read-only.
  const table = `pcache ${cache} ${backing}`;
  await rig.ok("create", "d", "--table", table, "-u", "PCACHE-1", "--listen", "127.0.0.1:0");
  const uri = await rig.uri("d");
  assertMatch(uri, /^nbd:\/\/127\.0\.0\.1:\d+$/);
  assertStringIncludes(await rig.ok("info"), "\nUUID: PCACHE-1\n");
  {
    await using client = await NbdClient.connect(uri);
    assertEquals(client.size_bytes, BACKING_BYTES);
  }
  const twin = await rig.pcache("create", "e", "--table", table, "-u", "PCACHE-1");
  assertFailed(twin, "pcache: create on e failed: Device or resource busy");
  await rig.ok("remove", "--retry", "d");

  await rig.ok("create", "d", "--table", table, "-r");
  assertStringIncludes(await rig.ok("info", "d"), "State:             ACTIVE (READ-ONLY)\n");
  await using client = await NbdClient.connect(await rig.uri("d"));
  assertEquals(client.is_read_only, true);
});

Deno.test("message sets gc_percent, and it survives", async () => {
  const { rig, cache, backing } = await makeRig();
  await using _ = rig;
  const table = `pcache ${cache} ${backing}`;
  await rig.ok("create", "d", "--table", table);
  assertEquals(await rig.ok("message", "d", "0", "gc_percent", "42"), "");
  assertEquals((await rig.status("d")).gc_percent, 42);
  for (const words of [["gc_percent", "91"], ["gc_percent", "-1"], ["gc_percent"], ["nonesuch"]]) {
    assertFailed(
      await rig.pcache("message", "d", "0", "--", ...words),
      "pcache: message on d failed: Invalid argument",
    );
  }
  assertFailed(await rig.pcache("message", "d", "x", "gc_percent", "50"), "Invalid sector");
  assertFailed(
    await rig.pcache("message", "d", String(BACKING_SECTORS), "gc_percent", "50"),
    "pcache: message on d failed: Invalid argument: sector",
  );
  assertFailed(await rig.pcache("message", "d", "0"), "Incorrect number of arguments.\nUsage:");
  assertEquals((await rig.status("d")).gc_percent, 42);
  await rig.kill("d");
  await rig.ok("create", "d", "--table", table);
  assertEquals((await rig.status("d")).gc_percent, 42);
});

Deno.test("several devices are told apart, as text and as JSON", async () => {
  const { rig, cache, backing } = await makeRig();
  await using _ = rig;
  const other = [rig.file("cache2", CACHE_BYTES), rig.file("backing2", BACKING_BYTES)];
  await rig.ok("create", "b", "--table", `pcache ${cache} ${backing}`);
  await rig.ok("create", "a", "--table", `pcache ${other.join(" ")}`);

  assertEquals(await rig.ok("ls"), "a\t(0:1)\nb\t(0:0)\n");
  for (const verb of ["status", "table", "deps"]) {
    assertMatch(await rig.ok(verb), /^a: .*\nb: .*\n$/);
    assertMatch(await rig.ok(verb, "b", "a"), /^b: .*\na: .*\n$/);
  }
  const half = await rig.pcache("status", "nope", "b");
  assertEquals(half.code, 1);
  assertEquals(half.stderr, "Device does not exist.\nCommand failed.\n");
  assertMatch(half.stdout, /^b: 0 /);

  const json = async (verb: string) => JSON.parse(await rig.ok(verb, "--json"));
  assertEquals(await json("ls"), [
    { name: "a", major: 0, minor: 1 },
    { name: "b", major: 0, minor: 0 },
  ]);
  const [status] = await json("status");
  assertEquals([status.name, status.target, status.gc_percent], ["a", "pcache", 70]);
  assertEquals(status.key_head, { seg: 0, off: 0 });
  const [, table] = await json("table");
  assertEquals([table.name, table.cache_dev, table.data_crc], ["b", cache, false]);
  const [info] = await json("info");
  assertEquals([info.name, info.frontend], ["a", "nbd"]);
  const [deps] = await json("deps");
  assertEquals(deps.deps.map((dep: { path: string }) => dep.path), other);

  await rig.ok("remove_all");
  assertEquals(await json("ls"), []);
  assertEquals(processesOf(rig), []);
});

Deno.test("a name in use is busy", async () => {
  const { rig, cache, backing } = await makeRig();
  await using _ = rig;
  const table = `pcache ${cache} ${backing}`;
  await rig.ok("create", "d", "--table", table);
  assertEquals(await rig.pcache("create", "d", "--table", table), {
    code: 1,
    stdout: "",
    stderr: "pcache: create on d failed: Device or resource busy\nCommand failed.\n",
  });
  assertEquals(await rig.ok("ls"), "d\t(0:0)\n");
});

Deno.test("of several commands at once one wins, and the others are told", async () => {
  const { rig, cache, backing } = await makeRig();
  await using _ = rig;
  const table = `pcache ${cache} ${backing}`;
  const busy = "Device or resource busy\nCommand failed.\n";
  const count = 4;
  const atOnce = (...args: string[]) =>
    Promise.all(Array.from({ length: count }, () => rig.pcache(...args)));

  const created = await atOnce("create", "d", "--table", table);
  const losers = created.filter((ended) => ended.code !== 0);
  assertEquals(losers.length, count - 1);
  for (const ended of losers) assertFailed(ended, `pcache: create on d failed: ${busy}`);
  assertEquals(await rig.ok("ls"), "d\t(0:0)\n");

  const removed = await atOnce("remove", "d");
  assertEquals(removed.filter((ended) => ended.code === 0).length, 1);
  for (const ended of removed) {
    if (ended.code !== 0) {
      assertMatch(ended.stderr, /^pcache: remove on d failed: (No such d|Devi)/);
    }
  }
  assertEquals(await rig.ok("ls"), "No devices found\n");
  assertEquals(processesOf(rig), []);
});

Deno.test("a device that a client uses is busy, until the client goes", async () => {
  const { rig, cache, backing } = await makeRig();
  await using _ = rig;
  await rig.ok("create", "d", "--table", `pcache ${cache} ${backing}`);
  const client = await NbdClient.connect(await rig.uri("d"));
  const busy = "pcache: remove on d failed: Device or resource busy\nCommand failed.\n";
  assertFailed(await rig.pcache("remove", "d"), busy);
  assertEquals(await rig.info("d", "Open count"), "1");
  const removal = rig.ok("remove", "--retry", "d");
  await client.close();
  await removal;
  assertEquals(processesOf(rig), []);
});

Deno.test("several devices are removed in one go, and a missing one is reported", async () => {
  const { rig, cache, backing } = await makeRig();
  await using _ = rig;
  await rig.ok("create", "d", "--table", `pcache ${cache} ${backing}`);
  const ended = await rig.pcache("remove", "nope", "d");
  assertFailed(
    ended,
    "pcache: remove on nope failed: No such device or address\nCommand failed.\n",
  );
  assertEquals(await rig.ok("ls"), "No devices found\n");
  assertFailed(await rig.pcache("remove"), "No device specified.\nCommand failed.\n");
});

Deno.test("remove --flush writes back what is dirty, remove leaves it", async () => {
  const { rig, cache, backing } = await makeRig();
  await using _ = rig;
  const table = `pcache ${cache} ${backing} data_crc true`;
  const bytes = crypto.getRandomValues(new Uint8Array(65536));
  await rig.ok("create", "d", "--table", table);
  {
    await using client = await NbdClient.connect(await rig.uri("d"));
    await client.write(MIB, bytes);
  }
  await rig.ok("remove", "--retry", "d");
  await rig.ok("create", "d", "--table", table);
  {
    await using client = await NbdClient.connect(await rig.uri("d"));
    assertEquals(await client.read(MIB, bytes.length), bytes);
  }
  await rig.ok("remove", "--retry", "--flush", "d");
  using file = Deno.openSync(backing);
  file.seekSync(MIB, Deno.SeekMode.Start);
  const written = new Uint8Array(bytes.length);
  assertEquals(file.readSync(written), bytes.length);
  assertEquals(written, bytes);
});

Deno.test("a killed device is not there any more, and create brings it back", async () => {
  const { rig, cache, backing } = await makeRig();
  await using _ = rig;
  const table = `pcache ${cache} ${backing}`;
  await rig.ok("create", "d", "--table", table);
  await rig.kill("d");
  assertEquals(await rig.ok("ls"), "No devices found\n");
  assertEquals(await rig.ok("status"), "No devices found\n");
  assertFailed(await rig.pcache("status", "d"), "Device does not exist.\nCommand failed.\n");
  const gone = "pcache: remove on d failed: No such device or address\nCommand failed.\n";
  assertFailed(await rig.pcache("remove", "d"), gone);
  await rig.ok("create", "d", "--table", table);
  assertEquals(await rig.ok("ls"), "d\t(0:0)\n");
  await rig.kill("d");
  await rig.ok("remove_all");
  assertEquals(runEntries(rig), ["~lock"]);
});

Deno.test("verbs that need no device", async () => {
  await using rig = await Rig.make();
  assertEquals(await rig.ok("targets"), "pcache           v0.1.0\n");
  assertEquals(await rig.ok("target-version", "pcache"), "pcache           v0.1.0\n");
  assertFailed(await rig.pcache("target-version", "linear"), "target-version on linear failed");
  assertMatch(await rig.ok("version"), /^Library version: {3}\S+\nDriver version: {4}\S+\n$/);
  assertEquals(await rig.ok("--version"), await rig.ok("version"));
  assertEquals(await rig.ok("mknodes"), "");
  assertMatch(await rig.ok("help"), /^Usage:\n[^]*\tcreate <dev_name>[^]*\tversion \[--json\]\n/);
  assertMatch(await rig.ok("status", "-h"), /^Usage:\n/);
});

Deno.test("a wrong command line prints the usage", async () => {
  await using rig = await Rig.make();
  const wrong: [args: string[], message: string][] = [
    [[], "Usage:"],
    [["nonesuch"], "Unknown command.\nUsage:"],
    [["ls", "x"], "Incorrect number of arguments.\nUsage:"],
    [["create", "a", "b", "c"], "Incorrect number of arguments.\nUsage:"],
    [
      ["ls", "--nonesuch"],
      "pcache: unrecognized option '--nonesuch'\nCouldn't process command line.",
    ],
    [
      ["ls", "--flush"],
      "pcache: unrecognized option '--flush' for ls\nCouldn't process command line.",
    ],
    [["deps", "-o", "x"], "Option not recognised: x.\nCouldn't process command line."],
    [["create", "d", "--listen", "x", "--table", "pcache a b"], "Invalid --listen argument"],
  ];
  for (const [args, message] of wrong) {
    const ended = await rig.pcache(...args);
    assertFailed(ended, message);
    assert(!ended.stderr.includes("Command failed."));
  }
  const nameless = "Please provide a name for the new device.\nCommand failed.\n";
  assertFailed(await rig.pcache("create"), nameless);
  const slash = 'Name "a/b" invalid. It contains "/".\nCommand failed.\n';
  for (const verb of ["create", "remove", "status", "info", "table", "deps"]) {
    assertFailed(await rig.pcache(verb, "a/b"), slash);
  }
});

/** Tables that are refused, and what is said; C, B and D stand for the cache, the backing file and the folder. */
const BAD_TABLES: [table: string, message: string][] = [
  ["", "Empty table: it holds no target line"],
  ["0 2048", "Invalid format on line 1 of table."],
  ["0 2048 pcache", "Insufficient args"],
  ["0 2048 pcache C", "Insufficient args"],
  ["0 2048 pcache C B x", "Invalid number of cache option arguments"],
  ["0 2048 pcache C B 13 a b c d e f g h i j k l m", "Invalid number of cache option arguments"],
  ["0 2048 pcache C B 1 cache_mode", "Missing value for cache_mode"],
  ["0 2048 pcache C B 1 data_crc", "Missing value for data_crc"],
  ["0 2048 pcache C B 2 cache_mode writenone", "Invalid cache mode parameter"],
  ["0 2048 pcache C B 2 data_crc maybe", "Invalid data crc parameter"],
  ["0 2048 pcache C B 2 crc true", "Unrecognised cache option requested"],
  ["8 2048 pcache C B", "Gap in table"],
  ["0 2048 linear C 0", "Unknown target type"],
  ["pcache C B\npcache C B", "Too many targets"],
  ["pcache D/none B", "create on d failed: Error opening cache device: D/none"],
  ["pcache C D/none", "create on d failed: Error opening backing device: D/none"],
  ["pcache D B", "create on d failed: Error opening cache device: D"],
  ["pcache /dev/null B", "create on d failed: Error opening cache device: /dev/null"],
  ["pcache C D", "create on d failed: Error opening backing device: D"],
  ["pcache C /dev/null", "create on d failed: Error opening backing device: /dev/null"],
  ["pcache C C", "create on d failed: "],
  ["pcache D/small B", "create on d failed: Failed to start cache dev"],
  ["pcache C D/empty", "create on d failed: Error opening backing device"],
  [`0 ${BACKING_SECTORS + 1} pcache C B`, "create on d failed: Error opening backing device"],
  ["pcache D/foreign B", "create on d failed: Failed to start cache dev"],
];

Deno.test("a failed create says why and leaves nothing behind", async (t) => {
  const { rig, cache, backing } = await makeRig();
  await using _ = rig;
  rig.file("small", CACHE_BYTES - 1);
  rig.file("empty", 0);
  const foreign = rig.file("foreign", CACHE_BYTES);
  {
    using file = Deno.openSync(foreign, { write: true });
    file.seekSync(SUPERBLOCK_BYTES + 8, Deno.SeekMode.Start);
    file.writeSync(new TextEncoder().encode("not ours"));
  }
  const files = [cache, backing, rig.path("small"), foreign];
  for (const file of files) await must("cp", "--sparse=always", file, `${file}.before`);
  const listing = () => [...Deno.readDirSync(rig.dir)].map((entry) => entry.name).sort();
  const before = [...listing(), "run"].sort();

  for (const [table, message] of BAD_TABLES) {
    await t.step(JSON.stringify(table), async () => {
      const fill = (text: string) =>
        text.replace(/\b[CBD]\b/g, (word) => ({ C: cache, B: backing, D: rig.dir })[word]!);
      const ended = await rig.pcache("create", "d", "--table", fill(table));
      assertFailed(ended, fill(message));
      assert(ended.stderr.endsWith("Command failed.\n") || ended.stderr.includes("Usage:"));
      assertEquals(processesOf(rig), []);
      for (const entry of runEntries(rig)) assertEquals(entry, "~lock");
    });
  }
  for (const file of files) await must("cmp", file, `${file}.before`);
  assertEquals(listing(), before);
});

Deno.test("a cache is not taken for another one, and is formatted over only when asked to", async () => {
  const { rig, cache, backing } = await makeRig();
  await using _ = rig;
  const table = `pcache ${cache} ${backing} data_crc true`;
  const bytes = crypto.getRandomValues(new Uint8Array(4096));
  await rig.ok("create", "d", "--table", table);
  {
    await using client = await NbdClient.connect(await rig.uri("d"));
    await client.write(0, bytes, { fua: true });
  }
  await rig.kill("d");

  const without_crc = await rig.pcache("create", "d", "--table", `pcache ${cache} ${backing}`);
  assertFailed(without_crc, "pcache: create on d failed: Failed to start cache dev");
  assertStringIncludes(without_crc.stderr, "data_crc true");

  const superblock = new Uint8Array(4096);
  {
    using file = Deno.openSync(cache, { read: true, write: true });
    file.seekSync(SUPERBLOCK_BYTES, Deno.SeekMode.Start);
    file.readSync(superblock);
    file.seekSync(SUPERBLOCK_BYTES, Deno.SeekMode.Start);
    file.writeSync(new Uint8Array(superblock.length));
  }
  await must("cp", "--sparse=always", cache, `${cache}.before`);
  const lost = await rig.pcache("create", "d", "--table", table);
  assertFailed(lost, "pcache: create on d failed: Failed to start cache dev");
  assertStringIncludes(lost.stderr, "create --format");
  await must("cmp", cache, `${cache}.before`);

  await rig.ok("create", "d", "--format", "--table", table);
  assertEquals((await rig.status("d")).key_head, [0, 0]);
});

Deno.test("devices in use by another pcache are refused, and go on", async () => {
  const { rig, cache, backing } = await makeRig();
  await using _ = rig;
  const other_cache = rig.file("cache2", CACHE_BYTES);
  const other_backing = rig.file("backing2", BACKING_BYTES);
  Deno.symlinkSync(cache, rig.path("link"));
  Deno.linkSync(backing, rig.path("hard"));
  await rig.ok("create", "d", "--table", `pcache ${cache} ${backing}`);
  await using client = await NbdClient.connect(await rig.uri("d"));
  const bytes = crypto.getRandomValues(new Uint8Array(4096));
  await client.write(0, bytes);

  for (
    const [table, message] of [
      [`pcache ${rig.path("link")} ${other_backing}`, "Error opening cache device"],
      [`pcache ${other_cache} ${rig.path("hard")}`, "Error opening backing device"],
      [`pcache ${backing} ${other_backing}`, "Error opening cache device"],
    ] as const
  ) {
    const ended = await rig.pcache("create", "e", "--table", table);
    assertFailed(ended, `pcache: create on e failed: ${message}`);
    assertStringIncludes(ended.stderr, "Device or resource busy");
  }
  assertEquals(await client.read(0, bytes.length), bytes);
  assertEquals(await rig.ok("ls"), "d\t(0:0)\n");
});

Deno.test("an address in use by another program is refused", async () => {
  const { rig, cache, backing } = await makeRig();
  await using _ = rig;
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const listen = `127.0.0.1:${listener.addr.port}`;
  const table = `pcache ${cache} ${backing}`;
  const ended = await rig.pcache("create", "d", "--table", table, "--listen", listen);
  assertFailed(ended, listen);
  assertStringIncludes(ended.stderr, "Address already in use");
  assertEquals(Deno.statSync(cache).blocks, 0);
});

Deno.test("a create that is interrupted leaves nothing behind", async () => {
  const { rig, cache, backing } = await makeRig();
  await using _ = rig;
  // The device process cannot go on while somebody else holds the run directory's lock.
  Deno.mkdirSync(rig.path("run"), { mode: 0o700 });
  using lock = Deno.openSync(rig.path("run/~lock"), { write: true, create: true });
  lock.lockSync(true);
  const child = new Deno.Command(Deno.execPath(), {
    args: [
      "run",
      "-A",
      "--no-prompt",
      MAIN,
      "create",
      "d",
      "--table",
      `pcache ${cache} ${backing}`,
    ],
    env: { PCACHE_RUN_DIR: rig.path("run") },
    stdout: "null",
    stderr: "piped",
  }).spawn();
  await until("the device process has begun", () => processesOf(rig).length === 2);
  child.kill("SIGTERM");
  const { code, stderr } = await child.output();
  assertStringIncludes(new TextDecoder().decode(stderr), "create on d failed: ");
  assertEquals(code, 1);
  assertEquals(processesOf(rig), []);
  assertEquals(runEntries(rig), ["~lock"]);
});

Deno.test("a script's substitution does not wait for the device", async () => {
  const { rig, cache, backing } = await makeRig();
  await using _ = rig;
  const pcache = `${Deno.execPath()} run -A --no-prompt ${MAIN}`;
  const script = `x=$(${pcache} create d --table "pcache ${cache} ${backing}" 2>&1); echo "[$x]"`;
  const ended = await run("sh", ["-c", script], { PCACHE_RUN_DIR: rig.path("run") });
  assertEquals(ended, { code: 0, stdout: "[]\n", stderr: "" });
  const pid = await rig.pid("d");
  const session = Deno.readTextFileSync(`/proc/${pid}/stat`).split(") ")[1]!.split(" ")[3];
  assertEquals(Number(session), pid);
});

Deno.test("a device asks for huge pages, unless its user has said otherwise", async () => {
  const { rig, cache, backing } = await makeRig();
  await using _ = rig;
  const pcache = ["run", "-A", "--no-prompt", MAIN, "create", "d", "--table"];
  const env = {
    PCACHE_RUN_DIR: rig.path("run"),
    NO_COLOR: "1",
    GLIBC_TUNABLES: "glibc.malloc.hugetlb=0",
  };
  const ended = await run(Deno.execPath(), [...pcache, `pcache ${cache} ${backing}`], env);
  assertEquals(ended, { code: 0, stdout: "", stderr: "" });
  const environment = Deno.readTextFileSync(`/proc/${await rig.pid("d")}/environ`);
  // Of two the C library takes the last. It puts an end behind each as it reads them.
  const wanted = "GLIBC_TUNABLES=glibc.malloc.hugetlb=1:glibc.malloc.hugetlb=0";
  assertStringIncludes(environment.replaceAll("\0", ":"), wanted);
});

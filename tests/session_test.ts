/**
 * What users write in their shells, many times over and at once (DMSETUP).
 *
 * @module
 */

import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { isRunning, MIB, Rig, run, until } from "./device.ts";

const SESSION = new URL("./session.sh", import.meta.url).pathname;
const MAIN = new URL("../cli/main.ts", import.meta.url).pathname;
/** Creates of one name at once. */
const RIVALS = 20;
const ROUNDS = 100;

/** A script that is the program from source. */
function programFromSource(rig: Rig): string {
  const path = rig.path("pcache");
  const command = `exec "${Deno.execPath()}" run -A --no-prompt "${MAIN}" "$@"`;
  Deno.writeTextFileSync(path, `#!/bin/sh\n${command}\n`, { mode: 0o755 });
  return path;
}

/** Processes that were started for this rig and still run, by the variable that they inherit. */
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

function runEntries(rig: Rig): string[] {
  return [...Deno.readDirSync(rig.path("run"))].map((entry) => entry.name);
}

Deno.test("a session in POSIX sh", async () => {
  await using rig = Rig.make();
  const dir = rig.path("session");
  Deno.mkdirSync(dir);
  const PCACHE = programFromSource(rig);
  const ended = await run("sh", [SESSION, dir], { ...rig.env, PCACHE });
  assertEquals(ended, { code: 0, stdout: "session.sh: ok\n", stderr: "" });
  assertEquals([runEntries(rig), processesOf(rig)], [["~lock"], []]);
});

Deno.test(`of ${RIVALS} creates of one name exactly one wins, and the others say busy`, async () => {
  await using rig = Rig.make();
  const table = `pcache ${rig.file("cache", 512 * MIB)} ${rig.file("backing", 64 * MIB)}`;
  const ended = await Promise.all(
    Array.from({ length: RIVALS }, () => rig.pcache("create", "d", "--table", table)),
  );
  const winners = ended.filter(({ code }) => code === 0);
  assertEquals(winners, [{ code: 0, stdout: "", stderr: "" }]);
  for (const { code, stderr } of ended) {
    if (code === 0) continue;
    assertStringIncludes(stderr, "pcache: create on d failed: Device or resource busy\n");
  }
  assertEquals(await rig.ok("ls"), "d\t(0:0)\n");
  assertEquals(processesOf(rig), [await rig.pid("d")]);
  await rig.ok("remove", "d");
  assertEquals([runEntries(rig), processesOf(rig)], [["~lock"], []]);
});

Deno.test(`${ROUNDS} rounds of create and remove leave nothing behind`, async () => {
  await using rig = Rig.make();
  const table = `pcache ${rig.file("cache", 512 * MIB)} ${rig.file("backing", 64 * MIB)}`;
  await rig.ok("create", "other", "-n"); // a device that lives through all of it
  const pid = await rig.pid("other");
  const descriptors = () => [...Deno.readDirSync(`/proc/${pid}/fd`)].length;
  const files = () => [...Deno.readDirSync(rig.dir)].map((entry) => entry.name).sort();
  const [descriptors_before, files_before] = [descriptors(), files()];
  for (let round = 0; round < ROUNDS; round++) {
    await rig.ok("create", "d", "--table", table);
    await rig.ok("remove", "d");
    assertEquals(processesOf(rig), [pid], `round ${round}`);
  }
  // Before, the device may not have closed the connection of the last command yet; now neither.
  await until("all descriptors are closed", () => descriptors() <= descriptors_before);
  assertEquals(files(), files_before);
  assertEquals(runEntries(rig).sort(), ["other", "~lock"]);
  await rig.ok("remove", "other");
  assertEquals([runEntries(rig), processesOf(rig)], [["~lock"], []]);
});

Deno.test("a device that answers a thousand commands keeps its descriptors", async () => {
  await using rig = Rig.make();
  const table = `pcache ${rig.file("cache", 512 * MIB)} ${rig.file("backing", 64 * MIB)}`;
  await rig.ok("create", "d", "--table", table);
  const pid = await rig.pid("d");
  const descriptors = () => [...Deno.readDirSync(`/proc/${pid}/fd`)].length;
  const before = descriptors();
  for (let round = 0; round < 1000; round++) {
    using socket = await Deno.connect({ transport: "unix", path: rig.path("run/d/control") });
    await socket.write(new TextEncoder().encode('{"verb":"status"}\n'));
    assert((await socket.read(new Uint8Array(65536)))! > 0);
  }
  await until("all descriptors are closed", () => descriptors() <= before);
});

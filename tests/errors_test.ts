/**
 * Every way in which a command can be refused, with its text and its exit status (DMSETUP, "Exit status and messages"). What a bad
 * table says is in cli_test.ts, what dmsetup says in the same place in dmsetup_test.ts.
 *
 * @module
 */

import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { VERBS } from "../cli/verbs.ts";
import { type Ended, MIB, Rig, run } from "./device.ts";
import { NbdClient } from "./nbd_client.ts";

const MAIN = new URL("../cli/main.ts", import.meta.url).pathname;
/** What follows the device's name, for verbs that want more. */
const REST: Readonly<Record<string, string[]>> = {
  message: ["0", "gc_percent", "50"],
  rename: ["other"],
  load: ["--table", "pcache a b"],
};

function assertRefused(ended: Ended, stderr: string, what: string): void {
  assertEquals(ended, { code: 1, stdout: "", stderr }, what);
}

Deno.test("a device that is not there, for every verb that takes one", async () => {
  await using rig = Rig.make();
  for (const { name, alias, devices } of VERBS) {
    if (devices !== "first" && devices !== "all") continue;
    for (const verb of alias === undefined ? [name] : [name, alias]) {
      const ended = await rig.pcache(verb, "nope", ...(REST[name] ?? []));
      if (name === "mknodes") {
        assertEquals(ended, { code: 0, stdout: "", stderr: "" });
        continue;
      }
      const why = name === "info" || name === "status"
        ? "Device does not exist."
        : `pcache: ${name} on nope failed: No such device or address`;
      assertRefused(ended, `${why}\nCommand failed.\n`, verb);
    }
  }
});

Deno.test("names that cannot be, for every verb that takes one", async () => {
  await using rig = Rig.make();
  const long = "x".repeat(128);
  const bad: [name: string, why: string][] = [
    ["a/b", 'Name "a/b" invalid. It contains "/".'],
    [long, `Name "${long}" too long`],
    ["a b", 'Name "a b" invalid. Wanted only 0-9 A-Z a-z and #+-.:=@_'],
  ];
  for (const { name: verb, devices } of VERBS) {
    if (devices === "none" || verb === "mknodes") continue;
    for (const [name, why] of bad) {
      const ended = await rig.pcache(verb, name, ...(REST[verb] ?? []));
      assertRefused(ended, `${why}\nCommand failed.\n`, `${verb} ${name}`);
    }
  }
  const renamed = await rig.pcache("rename", "a", "b/c");
  assertRefused(renamed, 'Name "b/c" invalid. It contains "/".\nCommand failed.\n', "rename");
});

Deno.test("no device named, where one is wanted", async () => {
  await using rig = Rig.make();
  for (const verb of ["remove", "suspend", "resume", "clear", "wipe_table", "wait"]) {
    assertRefused(await rig.pcache(verb), "No device specified.\nCommand failed.\n", verb);
  }
  const create = "Please provide a name for the new device.\nCommand failed.\n";
  assertRefused(await rig.pcache("create"), create, "create");
  assertRefused(await rig.pcache("load"), "Please specify device.\nCommand failed.\n", "load");
});

Deno.test("too many arguments, or too few, show the usage", async () => {
  await using rig = Rig.make();
  for (const { name, min_args, max_args } of VERBS) {
    const counts = [...(min_args > 0 ? [min_args - 1] : []), max_args + 1].filter(Number.isFinite);
    for (const count of counts) {
      const ended = await rig.pcache(name, ...new Array(count).fill("x"));
      assertEquals([ended.code, ended.stdout], [1, ""], name);
      assert(ended.stderr.startsWith("Incorrect number of arguments.\nUsage:\n"), ended.stderr);
      assert(!ended.stderr.includes("Command failed."));
    }
  }
});

Deno.test("an option that a verb does not have, for every verb", async () => {
  await using rig = Rig.make();
  for (const { name, options } of VERBS) {
    const option = options.includes("format") ? "prometheus" : "format";
    const why = `pcache: unrecognized option '--${option}' for ${name}`;
    const ended = await rig.pcache(name, `--${option}`);
    assertRefused(ended, `${why}\nCouldn't process command line.\n`, name);
  }
});

Deno.test("a device in use, and a name in use", async () => {
  await using rig = Rig.make();
  const table = `pcache ${rig.file("cache", 512 * MIB)} ${rig.file("backing", 64 * MIB)}`;
  await rig.ok("create", "d", "--table", table);
  await rig.ok("create", "e", "-n");
  await using _ = await NbdClient.connect(await rig.uri("d"));
  const busy = "failed: Device or resource busy\nCommand failed.\n";
  assertRefused(await rig.pcache("remove", "d"), `pcache: remove on d ${busy}`, "remove");
  assertRefused(await rig.pcache("remove", "--flush", "d"), `pcache: remove on d ${busy}`, "flush");
  assertRefused(
    await rig.pcache("create", "d", "--table", table),
    `pcache: create on d ${busy}`,
    "create",
  );
  assertRefused(await rig.pcache("rename", "e", "d"), `pcache: rename on e ${busy}`, "rename");
  const all = await rig.pcache("remove_all");
  assertEquals([all.code, all.stderr], [1, `pcache: remove_all on d ${busy}`]);
});

Deno.test("table files that hold no table", async () => {
  await using rig = Rig.make();
  const path = rig.path("table");
  const bad: [text: string, why: string][] = [
    ["# nothing\n\n", `Empty table ${path}: it holds no target line`],
    ["\n# one\n  0 8  \n", `Invalid format on line 3 of table ${path}.`],
    ["0 8 linear /dev/sda 0", 'Unknown target type: "linear", wanted "pcache"'],
    ["pcache a\0b c", `Table ${path} holds a NUL character: it is not a text`],
  ];
  for (const [text, why] of bad) {
    Deno.writeTextFileSync(path, text);
    const ended = await rig.pcache("create", "d", path);
    assertEquals([ended.code, ended.stdout], [1, ""], text);
    assertStringIncludes(ended.stderr, why);
  }
  const none = await rig.pcache("create", "d", rig.path("none"));
  const why = `${rig.path("none")}: open failed: No such file or directory`;
  assertRefused(none, `${why}\nCommand failed.\n`, "no file");
});

Deno.test("whoever does not read the output is no reason for a stack, and a full disk is said", async () => {
  await using rig = Rig.make();
  const script = `"${Deno.execPath()}" run -A --no-prompt "${MAIN}" help`;
  const closed = await run("bash", ["-c", `set -o pipefail; ${script} | true`], rig.env);
  assert(!closed.stderr.includes("    at "), closed.stderr);
  const full = await run("sh", ["-c", `${script} >/dev/full`], rig.env);
  assertEquals(full.code, 1);
  assertStringIncludes(full.stderr, "Cannot write to the standard output");
});

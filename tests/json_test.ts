/**
 * What `--json` prints is what docs/JSON.md says.
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";
import { VERBS } from "../cli/verbs.ts";
import { MIB, Rig } from "./device.ts";

const DOC = Deno.readTextFileSync(new URL("../docs/JSON.md", import.meta.url));

/** The keys that the document's row for `verb` begins with, as many as there are in backquotes before a colon. */
function documented(verb: string): string[] {
  const row = DOC.split("\n").find((line) => line.split("|")[1]?.includes(`\`${verb}\``));
  if (row === undefined) throw new Error(`docs/JSON.md has no row for ${verb}`);
  const cell = row.split("|")[2]!.split(/[:;,(]/)[verb === "info -c" ? 1 : 0]!;
  return [...cell.matchAll(/`([a-z_]+)`/g)].map((match) => match[1]!);
}

Deno.test("every verb with --json prints the documented keys", async () => {
  await using rig = Rig.make();
  const table = `pcache ${rig.file("cache", 512 * MIB)} ${rig.file("backing", 64 * MIB)}`;
  await rig.ok("create", "d", "--table", table);
  await rig.ok("message", "d", "0", "gc_percent", "50"); // an event, for wait
  const unused = rig.file("unused", 512 * MIB);
  await rig.ok("format", unused);
  const commands: Record<string, string[]> = {
    check: ["check", unused],
    dump: ["dump", unused],
    repair: ["repair", unused],
    "info -c": ["info", "-c"],
    splitname: ["splitname", "a-b"],
    wait: ["wait", "d"],
  };
  for (const { name, options } of VERBS) {
    if (options.includes("json")) commands[name] ??= [name];
  }
  for (const [verb, command] of Object.entries(commands)) {
    const printed = JSON.parse(await rig.ok(...command, "--json"));
    const objects = Array.isArray(printed) ? printed : [printed];
    assertEquals(objects.length, 1, verb);
    assertEquals(Object.keys(objects[0]).sort(), documented(verb).sort(), verb);
  }
  assert(Object.keys(commands).length >= 12, "all verbs were looked at");
});

Deno.test("without a device, and without a table", async () => {
  await using rig = Rig.make();
  for (const verb of ["ls", "info", "status", "table", "deps", "stats"]) {
    assertEquals(await rig.ok(verb, "--json"), "[]\n", verb);
  }
  await rig.ok("create", "d", "-n");
  assertEquals(JSON.parse(await rig.ok("status", "--json")), [
    { name: "d", target: null, length_sectors: 0 },
  ]);
  assertEquals(JSON.parse(await rig.ok("table", "--json")), [{
    name: "d",
    table: "",
    target: null,
  }]);
  assertEquals(JSON.parse(await rig.ok("deps", "--json")), [{ name: "d", deps: [] }]);
});

/**
 * Ours beside the installed `dmsetup`, byte for byte, where that does its work without a kernel driver: it takes names
 * apart, makes reports of them, lists fields and refuses command lines. Only the program's name differs.
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";
import { type Ended, run } from "./device.ts";

const MAIN = new URL("../cli/main.ts", import.meta.url).pathname;
/** Lines that dmsetup adds because there is no driver on this machine. */
const DRIVER_LINES =
  /^(?:.*control: open failed|Failure to communicate|Check that device-mapper|Incompatible libdevmapper).*\n/gm;

async function dmsetup(...args: string[]): Promise<Ended> {
  const ended = await run("dmsetup", args, { LC_ALL: "C" });
  return {
    ...ended,
    stderr: ended.stderr.replaceAll(DRIVER_LINES, "").replaceAll(/^\S*\/dmsetup: /gm, "dmsetup: "),
  };
}

/** Ours, with the other program's name. */
async function pcache(...args: string[]): Promise<Ended> {
  const ended = await run(Deno.execPath(), ["run", "-A", "--no-prompt", MAIN, ...args]);
  const rename = (text: string) => text.replaceAll("pcache", "dmsetup");
  return { ...ended, stdout: rename(ended.stdout), stderr: rename(ended.stderr) };
}

async function assertSame(...args: string[]): Promise<void> {
  const [theirs, ours] = await Promise.all([dmsetup(...args), pcache(...args)]);
  assertEquals(ours, theirs, `dmsetup ${args.join(" ")}`);
}

Deno.test("names are taken apart alike", async () => {
  const names = ["vg-lv", "a-b-c-d", "a--b--c", "a---b", "a----b", "-a", "a-", "--", "-", "---"];
  for (const name of [...names, "a-b-", "a-b--c---d-e", "x--", "plain", "", "a/b"]) {
    await assertSame("splitname", "-o", "splitname_all", "--", name);
  }
  await assertSame("splitname", "vg-lv", "crypt", "-o", "subsystem,vg_name", "--noheadings");
});

Deno.test("reports look alike, whatever the options", async () => {
  const forms = [
    [],
    ["-c"],
    ["-C", "--noheadings"],
    ["-o", "vg_name,,lv_name"],
    ["-o", "+subsystem"],
    ["-o", "VGNAME,lv__name,vg_name"],
    ["-oselected,vg_name"],
    ["-o", "all"],
    ["--noheadings", "--separator", "|"],
    ["--separator", ""],
    ["--separator", "; ", "--nameprefixes"],
    ["--nameprefixes"],
    ["--nameprefixes", "--noheadings"],
    ["--nameprefixes", "--noheadings", "--unquoted"],
    ["--rows"],
    ["--rows", "--noheadings"],
    ["--rows", "--nameprefixes", "--separator", ","],
    ["-O", "-vg_name,+lv_name"],
    ["--count", "2"],
    ["--count", "2", "--noheadings", "--interval", "1"],
  ];
  for (const form of forms) await assertSame("splitname", "vg-lv", ...form);
});

Deno.test("selections choose alike", async () => {
  const selections = [
    "",
    "vg_name=vg",
    "vg_name = 'vg'",
    'vg_name != "vg"',
    "vg_name==vg",
    "vg_name=",
    "vg_name={vg}",
    "VGName=~v.",
    "vg_name=~^g",
    "vg_name=~(v|x)",
    "vg_name!~g",
    "vg_name=vg,lv_name=x",
    "vg_name=vg && lv_name=lv",
    "vg_name=x || lv_name=lv",
    "vg_name=x#lv_name=lv",
    "vg_name=vg||lv_name=x&&lv_name=y",
    "(vg_name=vg||lv_name=x)&&lv_name=y",
    "!(vg_name=vg)",
    "! ( vg_name = x ) ",
    "((vg_name=vg))",
    "selected=1",
  ];
  for (const selection of selections) await assertSame("splitname", "vg-lv", "-S", selection);
  await assertSame("splitname", "vg-lv", "-o", "vg_name,selected", "-S", "vg_name=x");
});

Deno.test("selections are refused alike", async () => {
  const selections = [
    " ",
    "()",
    "(",
    "!",
    "=9",
    "?=1",
    "!vg_name=vg",
    "!!(vg_name=vg)",
    "(vg_name=vg",
    "(vg_name=vg))",
    "vg_name=vg &&",
    "vg_name=vg lv_name=lv",
    "vg_name=vg & lv_name=lv",
    'vg_name="vg',
    "vg_name",
    "vg_name help",
    "vg_name>vg",
    "vg_name<>vg",
    "vg_name since 3",
    "vg_name =~",
    "vg_name=~[a-z]g",
    "selected=x",
    "selected=-1",
    "selected=1x",
    "selected=~1",
  ];
  for (const selection of selections) await assertSame("splitname", "vg-lv", "-S", selection);
});

Deno.test("the lists of fields have the same lines, where the fields are the same", async () => {
  const common = [
    "Mapped Device Name Fields",
    "Mapped Device Information Fields",
    "Mapped Device Relationship Information Fields",
    "Mapped Device Name Components Fields",
    "Special Fields",
  ];
  for (const args of [["-o", "help"], ["-S", "help"], ["-O", "nope"], ["-S", "nope=1"]]) {
    const [theirs, ours] = await Promise.all([
      dmsetup("info", "-c", ...args),
      pcache("info", "-c", ...args),
    ]);
    const sections = (text: string) =>
      new Map(text.split("\n \n").map((s) => [s.split("\n")[0]!, s]));
    const [wanted, got] = [sections(theirs.stderr), sections(ours.stderr)];
    for (const title of common) {
      assertEquals(got.get(title), wanted.get(title), `${args}: ${title}`);
    }
    const tail = (text: string) => text.split("\n \n").at(-1);
    assertEquals(tail(ours.stderr), tail(theirs.stderr), args.join(" "));
    assertEquals([ours.code, ours.stdout], [theirs.code, theirs.stdout], args.join(" "));
  }
});

Deno.test("wrong command lines are refused alike", async () => {
  const lines = [
    ["ls", "--nope"],
    ["ls", "--nope=3"],
    ["ls", "-x"],
    ["ls", "-j"],
    ["ls", "--noheadings=3"],
    ["create", "a", "--table"],
    ["--separator"],
    ["ls", "-o", "foo"],
    ["deps", "-o", "foo"],
    ["ls", "--tree", "-o", "nope"],
    ["info", "-o", "name"],
    ["info", "-j", "x"],
    ["info", "-c", "--interval", "x"],
    ["info", "-c", "--interval", "0"],
    ["info", "-c", "--count", "-1"],
    ["create"],
    ["create", "--concise", "a"],
    ["create", "--concise", "a,b,,,"],
    ["create", "--concise", ";"],
    ["create", "--concise", "a,b,c,d,e"],
    ["create", "--concise", "a,,,,0 1 error", "b"],
    ["create", "--table", "x", "--concise", "a,,,,0 1 error"],
    ["create", "--concise", ""],
  ];
  for (const line of lines) await assertSame(...line);
});

Deno.test("wrong usage shows the usage behind the same line", async () => {
  const lines = [
    [],
    ["nope"],
    ["ls", "x"],
    ["splitname"],
    ["splitname", "a", "b", "c"],
    ["message", "a"],
    ["help", "x"],
    ["remove_all", "x"],
    ["targets", "x"],
  ];
  for (const line of lines) {
    const [theirs, ours] = await Promise.all([dmsetup(...line), pcache(...line)]);
    const begin = (text: string) => text.slice(0, text.indexOf("Usage:\n\ndmsetup\n        ["));
    assert(ours.stderr.includes("Usage:\n\ndmsetup\n        ["), line.join(" "));
    assertEquals(begin(ours.stderr), begin(theirs.stderr), line.join(" "));
    assertEquals([ours.code, ours.stdout], [theirs.code, theirs.stdout], line.join(" "));
  }
});

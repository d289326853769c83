import { assertEquals, assertThrows } from "@std/assert";
import { CommandLineError } from "./failure.ts";
import { checkOptions, parseCommandLine } from "./options.ts";

Deno.test("options stand anywhere, words keep their order and stay texts", () => {
  const { words, options } = parseCommandLine(
    ["-v", "create", "7", "--table", "pcache a b", "-ru", "id", "--listen=::1:0", "-"],
  );
  assertEquals(words, ["create", "7", "-"]);
  assertEquals(options, {
    verbose: true,
    table: "pcache a b",
    readonly: true,
    uuid: "id",
    listen: "::1:0",
  });
});

Deno.test("a value may stand at its letter, be empty, look like an option, and the last one counts", () => {
  assertEquals(parseCommandLine(["-oname", "-C"]).options, { options: "name", columns: true });
  assertEquals(parseCommandLine(["--separator="]).options, { separator: "" });
  assertEquals(parseCommandLine(["--separator", ""]).options, { separator: "" });
  assertEquals(parseCommandLine(["-S", "-x", "-S", "y"]).options, { select: "y" });
});

Deno.test("a value that may be missing stands behind an equals sign, never in the next word", () => {
  const { words, options } = parseCommandLine(["create", "--attach", "/dev/nbd1"]);
  assertEquals([words, options], [["create", "/dev/nbd1"], { attach: "" }]);
  assertEquals(parseCommandLine(["--attach=/dev/nbd1"]).options, { attach: "/dev/nbd1" });
  assertEquals(parseCommandLine(["--att="]).options, { attach: "" });
});

Deno.test("the beginning of an option's name is enough when it is the only one", () => {
  assertEquals(parseCommandLine(["--nohead", "--sel=x"]).options, {
    noheadings: true,
    select: "x",
  });
});

Deno.test("after -- everything is a word", () => {
  const { words, options } = parseCommandLine(["message", "d", "0", "--", "--flush", "-r"]);
  assertEquals(words, ["message", "d", "0", "--flush", "-r"]);
  assertEquals(options, {});
});

Deno.test("what is not known is refused in getopt's words", () => {
  const refused: [args: string[], message: string][] = [
    [["ls", "--nonesuch"], "pcache: unrecognized option '--nonesuch'"],
    [["ls", "--nonesuch=3"], "pcache: unrecognized option '--nonesuch=3'"],
    [["ls", "-x"], "pcache: invalid option -- 'x'"],
    [["ls", "-vx"], "pcache: invalid option -- 'x'"],
    [["ls", "--json=false"], "pcache: option '--json' doesn't allow an argument"],
    [["create", "d", "--table"], "pcache: option '--table' requires an argument"],
    [["info", "-o"], "pcache: option requires an argument -- 'o'"],
    [
      [
        "ls",
        "--nof",
        "--no",
      ],
      "pcache: option '--no' is ambiguous; possibilities: '--noflush' '--noheadings' '--nolockfs' '--notable'",
    ],
    [["ls", "--constructor"], "pcache: unrecognized option '--constructor'"],
  ];
  for (const [args, message] of refused) {
    assertThrows(() => parseCommandLine(args), CommandLineError, message);
  }
});

Deno.test("an option of another verb is refused", () => {
  checkOptions("status", { json: true, verbose: true }, ["json"]);
  const message = "pcache: unrecognized option '--flush' for status";
  assertThrows(() => checkOptions("status", { flush: true }, ["json"]), CommandLineError, message);
});

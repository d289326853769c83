import { assertEquals, assertThrows } from "@std/assert";
import { UsageError } from "./failure.ts";
import { checkOptions, parseCommandLine } from "./options.ts";

Deno.test("options stand anywhere, words keep their order and stay texts", () => {
  const { words, options } = parseCommandLine(
    ["-v", "create", "7", "--table", "pcache a b", "-ru", "id", "--listen=::1:0"],
  );
  assertEquals(words, ["create", "7"]);
  assertEquals(options, {
    verbose: true,
    table: "pcache a b",
    readonly: true,
    uuid: "id",
    listen: "::1:0",
  });
});

Deno.test("after -- everything is a word", () => {
  const { words, options } = parseCommandLine(["message", "d", "0", "--", "--flush", "-r"]);
  assertEquals(words, ["message", "d", "0", "--flush", "-r"]);
  assertEquals(options, {});
});

Deno.test("what is not known is refused", () => {
  const refused: [args: string[], message: string][] = [
    [["ls", "--nonesuch"], "Unrecognised option: --nonesuch"],
    [["ls", "--no-json"], "Unrecognised option: --no-json"],
    [["ls", "-x"], "Unrecognised option: -x"],
    [["ls", "--json=false"], 'Option --json takes no value: "false"'],
    [["create", "d", "--table"], "Option --table needs a value"],
    [["create", "d", "--table="], "Option --table needs a value"],
  ];
  for (const [args, message] of refused) {
    assertThrows(() => parseCommandLine(args), UsageError, message);
  }
});

Deno.test("an option of another verb is refused", () => {
  checkOptions("status", { json: true, verbose: true }, ["json"]);
  const message = "Unrecognised option for status: --flush";
  assertThrows(() => checkOptions("status", { flush: true }, ["json"]), UsageError, message);
});

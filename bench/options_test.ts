/** The bench's options. */

import { assertEquals, assertThrows } from "@std/assert";
import { OptionError, parseOptions } from "./options.ts";

Deno.test("nothing asked for: everything, five rounds", () => {
  assertEquals(parseOptions([]), { rounds: 5, seconds: 1, only: [] });
});

Deno.test("a short run", () => {
  const options = parseOptions(["--rounds", "1", "--seconds=2", "--only", "randread,idle"]);
  assertEquals(options, { rounds: 1, seconds: 2, only: ["randread", "idle"] });
});

Deno.test("what is not known is refused", () => {
  assertThrows(() => parseOptions(["--round", "1"]), OptionError, "--round");
  assertThrows(() => parseOptions(["randread"]), OptionError, "randread");
  for (const bad of ["0", "-1", "1.5", "x", ""]) {
    assertThrows(() => parseOptions([`--rounds=${bad}`]), OptionError, "--rounds");
  }
});

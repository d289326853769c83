import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { usageText, VERBS } from "./verbs.ts";

Deno.test("each verb stands once in the table and has code", async () => {
  const names = VERBS.map((verb) => verb.name);
  assertEquals(new Set(names).size, names.length);
  for (const verb of VERBS) {
    assert(verb.min_args <= verb.max_args, verb.name);
    assertEquals(typeof (await verb.load()).run, "function", verb.name);
  }
});

Deno.test("the usage names each verb and each of its options", () => {
  const usage = usageText();
  for (const verb of VERBS) {
    assertStringIncludes(usage, `\n\t${verb.name}`);
    for (const option of verb.options) {
      if (verb.name !== "splitname") assertStringIncludes(verb.usage, `--${option}`);
    }
  }
});

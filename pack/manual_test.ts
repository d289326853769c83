import { assert, assertStringIncludes } from "@std/assert";
import { COMMON_OPTIONS } from "../cli/options.ts";
import { ADDRESS_OPTIONS, VERBS } from "../cli/verbs.ts";
import { TABLE_KEYS } from "../core/table.ts";
import { commandPage, tablePage } from "./manual.ts";

/** A page as it reads, without the marks of its language. */
function plain(page: string): string {
  return page.replaceAll(/\\f[BRI]/g, "").replaceAll("\\-", "-").replaceAll("\\(ti", "~")
    .replaceAll("\\(ha", "^").replaceAll("\\e", "\\").replaceAll("\\&", "");
}

Deno.test("the manual has every verb with its usage, and every option with its line", () => {
  const page = plain(commandPage());
  for (const { name, alias, usage, options } of VERBS) {
    for (const line of usage.replaceAll(/\n\t {2,}/g, " ").split("\n\t")) {
      assertStringIncludes(page, line.replaceAll(/[<>]/g, ""), name);
    }
    assertStringIncludes(page, `.TP\n${name} `, name);
    if (alias !== undefined) assertStringIncludes(page, `Also called ${alias}.`);
    for (const option of [...options, ...ADDRESS_OPTIONS, ...COMMON_OPTIONS]) {
      assert(new RegExp(`^\\.TP\n(-\\w, )*--${option}\\b`, "m").test(page), option);
    }
  }
});

Deno.test("the manual has every key of a table with its values", () => {
  for (const [key, values] of Object.entries(TABLE_KEYS)) {
    assertStringIncludes(plain(tablePage()), `.TP\n${key} ${values.join(" | ")}\n`);
  }
});

Deno.test("the manual has every variable of the environment that the program looks at", () => {
  const page = commandPage().split(".SH ENVIRONMENT")[1]!.split(".SH ")[0]!;
  const variables = new Set<string>();
  for (const room of ["core", "io", "io/nbd", "cli", "cli/report"]) {
    for (const entry of Deno.readDirSync(new URL(`../${room}`, import.meta.url))) {
      if (!entry.isFile || entry.name.endsWith("_test.ts")) continue;
      const text = Deno.readTextFileSync(new URL(`../${room}/${entry.name}`, import.meta.url));
      for (const [, name] of text.matchAll(/Deno\.env\.get\("(\w+)"\)/g)) variables.add(name!);
    }
  }
  assert(variables.has("PCACHE_RUN_DIR"));
  for (const name of variables) assertStringIncludes(page, name);
});

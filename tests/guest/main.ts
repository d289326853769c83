/**
 * `deno task test:guest [--suite SUITE] [CASE...]`: the tests that need a kernel of their own, each case in a guest of its own.
 * Emulation is slow: all of them take about an hour.
 *
 * @module
 */

import { parseArgs } from "@std/cli/parse-args";
import { installPackages } from "../packages.ts";
import { caseNames, prepareGuest, runInGuest } from "./guest.ts";

/** A case that takes longer hangs. */
const LIMIT_S = 3600;

async function main(): Promise<number> {
  const { suite, _: parts } = parseArgs(Deno.args, {
    string: ["suite", "_"],
    default: { suite: "sid" },
  });
  const cases = caseNames().filter((name) =>
    parts.length === 0 || parts.some((part: string) => name.includes(part))
  );
  if (!installPackages(new URL("../packages.txt", import.meta.url)) || !prepareGuest(suite)) {
    return 1;
  }
  let passed = 0;
  let failed = 0;
  for (const name of cases) {
    const outcome = await runInGuest({ cases: [name], suite, limit_s: LIMIT_S });
    passed += outcome?.passed ?? 0;
    failed += outcome?.failed ?? 1;
  }
  console.log(`${passed} passed, ${failed} failed`);
  return failed === 0 && passed > 0 ? 0 : 1;
}

Deno.exit(await main());

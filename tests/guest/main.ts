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
const LIMIT_S = 2 * 3600;
/** What cases look at in their environment is passed on. */
const PASSED_ON = ["PCACHE_GUEST_ROUNDS", "PCACHE_GUEST_SHARE"];
/** What most cases run on, and cases that are about another kernel. */
const NEWEST_SUITE = "sid";
const SUITES: Readonly<Record<string, string>> = { old_kernel: "bookworm" };

async function main(): Promise<number> {
  const { suite: wanted_suite, _: parts } = parseArgs(Deno.args, { string: ["suite", "_"] });
  const cases = caseNames().filter((name) =>
    parts.length === 0 || parts.some((part: string) => name.includes(part))
  );
  if (!installPackages(new URL("../packages.txt", import.meta.url))) return 1;
  const env: Record<string, string> = {};
  for (const name of PASSED_ON) {
    const value = Deno.env.get(name);
    if (value !== undefined) env[name] = value;
  }
  let passed = 0;
  let failed = 0;
  for (const name of cases) {
    const suite = wanted_suite ?? SUITES[name] ?? NEWEST_SUITE;
    if (!prepareGuest(suite)) return 1;
    const outcome = await runInGuest({ cases: [name], suite, limit_s: LIMIT_S, env });
    passed += outcome?.passed ?? 0;
    failed += outcome?.failed ?? 1;
  }
  console.log(`${passed} passed, ${failed} failed`);
  return failed === 0 && passed > 0 ? 0 : 1;
}

Deno.exit(await main());

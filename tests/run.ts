/**
 * `deno task test`: installs the packages the tests need, runs the check and every test file, and looks for
 * what a test left behind. The last line is `N passed, N failed`; the exit status is 0 only when none failed.
 *
 * Each test file runs in a process of its own, so that a crash in one (FFI can crash) is one failure and hides
 * nothing. Arguments choose files by a part of their path: `deno task test core/`.
 *
 * @module
 */

import { stopTagged, taggedProcesses } from "./leaks.ts";
import { installPackages } from "./packages.ts";

const ROOT = new URL("..", import.meta.url).pathname;
const PACKAGES = new URL("packages.txt", import.meta.url);
/** Test files running at once. */
const WORKERS = 2;
/** A test file that takes longer hangs. */
const FILE_LIMIT_MS = 15 * 60_000;
/** The files that take longest, longest first: started first, so that the last to end is a short one. */
const LONG_FILES = [
  "tests/guest_test.ts",
  "tests/backing_test.ts",
  "tests/crash/canaries_test.ts",
  "tests/model_test.ts",
  "tests/crash/crash_test.ts",
  "tests/clients_test.ts",
  "tests/kernel_devices_test.ts",
  "tests/many_clients_test.ts",
];

interface Outcome {
  passed: number;
  failed: number;
}

/** Every `x_test.ts` of the repository, relative to its root. */
function testFiles(): string[] {
  const found: string[] = [];
  const walk = (folder: string) => {
    for (const entry of Deno.readDirSync(ROOT + folder)) {
      const path = `${folder}/${entry.name}`;
      if (entry.isDirectory) walk(path);
      else if (entry.name.endsWith("_test.ts")) found.push(path);
    }
  };
  for (const folder of ["core", "io", "cli", "pack", "tests", "bench"]) walk(folder);
  const rank = (path: string) =>
    (LONG_FILES.indexOf(path) + LONG_FILES.length + 1) % (LONG_FILES.length + 1);
  return found.sort((a, b) => rank(a) - rank(b) || (a < b ? -1 : 1));
}

/** Counts of the last summary line that `deno test` printed; undefined when it never came to one. */
function summary(output: string): Outcome | undefined {
  const lines = [...output.matchAll(/^(?:ok|FAILED) \| (\d+) passed.*? \| (\d+) failed(.*)$/gm)];
  const last = lines.at(-1);
  if (last === undefined) return undefined;
  const ignored = Number(/(\d+) ignored/.exec(last[3]!)?.[1] ?? 0); // nothing is skipped silently
  return { passed: Number(last[1]), failed: Number(last[2]) + ignored };
}

async function runFile(path: string, env: Record<string, string>): Promise<Outcome> {
  const started_ms = Date.now();
  const child = new Deno.Command(Deno.execPath(), {
    args: ["test", "-A", "--no-prompt", "--no-check", path],
    cwd: ROOT,
    env: { ...env, NO_COLOR: "1" },
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  let hung = false;
  const limit = setTimeout(() => {
    hung = true;
    child.kill("SIGKILL");
  }, FILE_LIMIT_MS);
  const { code, signal, stdout, stderr } = await child.output();
  clearTimeout(limit);

  const text = new TextDecoder();
  const output = text.decode(stdout);
  console.log(
    `\n=== ${path} (${((Date.now() - started_ms) / 1000).toFixed(1)} s)\n${output.trimEnd()}`,
  );
  if (code !== 0) console.log(text.decode(stderr).trimEnd());
  const counts = summary(output);
  if (counts === undefined) {
    const why = hung
      ? "hangs"
      : signal
      ? `died of ${signal}`
      : `ended with status ${code}, no summary`;
    console.log(`${path}: ${why}`);
    return { passed: 0, failed: 1 };
  }
  if (counts.passed + counts.failed === 0) console.log(`${path}: holds no test`);
  const uncounted = counts.failed === 0 && (code !== 0 || counts.passed === 0) ? 1 : 0;
  return { passed: counts.passed, failed: counts.failed + uncounted };
}

/** Format, lint and types, counted as one test. */
function runCheck(): Outcome {
  const { success } = new Deno.Command(Deno.execPath(), {
    args: ["task", "check"],
    cwd: ROOT,
    stdin: "null",
    stdout: "inherit",
    stderr: "inherit",
  }).outputSync();
  console.log(success ? "check: ok" : "check: FAILED");
  return { passed: success ? 1 : 0, failed: success ? 0 : 1 };
}

/** Looks for processes, mounts, loop devices and files that the tests left, reports and removes them. */
async function runLeakCheck(tag: string, temp_dir: string): Promise<Outcome> {
  const left = taggedProcesses(tag).map(({ pid, command }) => `process ${pid}: ${command}`);
  await stopTagged(tag);
  for (const line of Deno.readTextFileSync("/proc/mounts").split("\n")) {
    if (line.split(" ")[1]?.startsWith(temp_dir)) left.push(`mount: ${line}`);
  }
  for (const entry of Deno.readDirSync("/sys/block")) {
    const file = `/sys/block/${entry.name}/loop/backing_file`;
    try {
      const backing = Deno.readTextFileSync(file).trim();
      if (backing.startsWith(temp_dir)) left.push(`loop device ${entry.name}: ${backing}`);
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error; // no loop device, or a free one
    }
  }
  if (left.every((line) => line.startsWith("process"))) {
    for (const entry of Deno.readDirSync(temp_dir)) left.push(`file: ${temp_dir}/${entry.name}`);
    Deno.removeSync(temp_dir, { recursive: true });
  }
  for (const line of left) console.log(`left behind: ${line}`);
  console.log(left.length === 0 ? "nothing left behind: ok" : "nothing left behind: FAILED");
  return { passed: left.length === 0 ? 1 : 0, failed: left.length === 0 ? 0 : 1 };
}

async function main(): Promise<number> {
  const total: Outcome = { passed: 0, failed: 0 };
  const count = (outcome: Outcome) => {
    total.passed += outcome.passed;
    total.failed += outcome.failed;
  };
  const files = testFiles().filter((path) =>
    Deno.args.length === 0 || Deno.args.some((part) => path.includes(part))
  );
  if (!installPackages(PACKAGES)) {
    console.log("0 passed, 1 failed");
    return 1;
  }
  if (Deno.args.length === 0) count(runCheck());

  const temp_dir = Deno.makeTempDirSync({ dir: "/var/tmp", prefix: "pcache-test-" });
  const tag = temp_dir;
  const env = { TMPDIR: temp_dir, PCACHE_TEST_TAG: tag };
  const worker = async () => {
    for (let path = files.shift(); path !== undefined; path = files.shift()) {
      count(await runFile(path, env));
    }
  };
  await Promise.all(Array.from({ length: WORKERS }, worker));
  count(await runLeakCheck(tag, temp_dir));
  console.log(`${total.passed} passed, ${total.failed} failed`);
  return total.failed === 0 ? 0 : 1;
}

Deno.exit(await main());

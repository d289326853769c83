/**
 * The guest of tests: a virtual machine with Debian's kernel, this program and Deno in it (`run-guest` boots it). On the
 * host: brings the program there, runs test files in it with `deno test`, and counts.
 *
 * @module
 */

const ROOT = new URL("../..", import.meta.url).pathname;
const RUN_GUEST = new URL("run-guest", import.meta.url).pathname;
/** What the program and its tests need of the repository. */
const PARTS = ["cli", "core", "io", "tests", "mod.ts", "deno.json", "deno.lock"];
/** The one npm package that is needed, as it lies in Deno's cache. */
const NPM = "npm/registry.npmjs.org/deno-std";
/** What run-guest ends with when the guest cannot be had at all. */
const CANNOT_PREPARE = 126;
/** And when the guest ended without a status, as it does when its kernel panics. */
const NO_STATUS = 125;
/** Emulation on a busy machine is too much for a kernel now and then: so often one is booted that dies before it runs anything. */
const MAX_BOOTS = 3;

/** How test files fared; null: there is no guest to be had here, and why was said. */
export interface GuestOutcome {
  readonly passed: number;
  readonly failed: number;
}

/** One start of the guest. */
export interface GuestRun {
  /** Files of `tests/guest/cases`, without `.ts`. */
  readonly cases: readonly string[];
  /** Debian suite that the kernel is from. */
  readonly suite: string;
  readonly limit_s: number;
  /** What the cases find in their environment. */
  readonly env?: Readonly<Record<string, string>>;
}

/** The names of all cases, sorted. */
export function caseNames(): string[] {
  const names: string[] = [];
  for (const entry of Deno.readDirSync(new URL("cases", import.meta.url))) {
    if (entry.isFile) names.push(entry.name.replace(/\.ts$/, ""));
  }
  return names.sort();
}

/** Boots a guest and runs cases in it; what they print is printed. Null: there is no guest to be had here. */
export async function runInGuest(run: GuestRun): Promise<GuestOutcome | null> {
  const dir = Deno.makeTempDirSync({ dir: "/var/tmp", prefix: "pcache-guest-" });
  try {
    const share = `${dir}/share`;
    fillShare(share);
    Deno.writeTextFileSync(`${dir}/script`, script(run));
    let { code, output } = await boot(dir, share, run);
    for (let boots = 1; code === NO_STATUS && output === "" && boots < MAX_BOOTS; boots++) {
      console.log("guest: its kernel did not come up, and is booted again");
      ({ code, output } = await boot(dir, share, run));
    }
    if (code === CANNOT_PREPARE) return null;
    return count(output, run, code);
  } finally {
    Deno.removeSync(dir, { recursive: true });
  }
}

/** Downloads and builds the guest. False: it cannot be had here; why was printed. */
export function prepareGuest(suite: string): boolean {
  const { code } = new Deno.Command(RUN_GUEST, {
    args: ["--prepare"],
    env: { PCACHE_GUEST_SUITE: suite },
    stdin: "null",
    stdout: "null",
    stderr: "inherit",
  }).outputSync();
  return code === 0;
}

/** Puts together what the guest gets: Deno, the program, the package that it uses. */
function fillShare(share: string): void {
  Deno.mkdirSync(`${share}/pcache`, { recursive: true });
  Deno.copyFileSync(Deno.execPath(), `${share}/deno`);
  for (const part of PARTS) copy(`${ROOT}${part}`, `${share}/pcache/${part}`);
  const packed = new Deno.Command(Deno.execPath(), {
    args: [
      "run",
      "-A",
      "--no-prompt",
      "pack/compile.ts",
      "--carry",
      "--output",
      `${share}/program`,
    ],
    cwd: ROOT,
    stdin: "null",
    stdout: "null",
    stderr: "inherit",
  }).outputSync();
  if (!packed.success) throw new Error("pack/compile.ts failed");
  const npm = `${denoDir()}/${NPM}`;
  copy(npm, `${share}/deno-dir/${NPM}`);
}

function denoDir(): string {
  const { stdout } = new Deno.Command(Deno.execPath(), { args: ["info", "--json"] }).outputSync();
  const { denoDir } = JSON.parse(new TextDecoder().decode(stdout)) as { denoDir: string };
  return denoDir;
}

function copy(from: string, to: string): void {
  if (!Deno.statSync(from).isDirectory) return Deno.copyFileSync(from, to);
  Deno.mkdirSync(to, { recursive: true });
  for (const entry of Deno.readDirSync(from)) {
    // Images of kernel caches are large, and tests of the host use them.
    if (entry.name !== "data") copy(`${from}/${entry.name}`, `${to}/${entry.name}`);
  }
}

/** The shell script that runs the cases, one after another, each to its end. */
function script({ cases, env = {} }: GuestRun): string {
  const lines = [
    "#!/bin/sh",
    "uname -r",
    "export DENO_DIR=/share/deno-dir NO_COLOR=1",
    "export PCACHE_PROGRAM=/share/program",
  ];
  for (const [name, value] of Object.entries(env)) lines.push(`export ${name}='${value}'`);
  lines.push("cd /share/pcache", "failed=0");
  for (const name of cases) {
    const file = `tests/guest/cases/${name}.ts`;
    lines.push(`echo "=== ${file}"`);
    lines.push(`/share/deno test -A --no-prompt --no-check --cached-only ${file} || failed=1`);
  }
  return [...lines, "exit $failed", ""].join("\n");
}

async function boot(dir: string, share: string, run: GuestRun) {
  const child = new Deno.Command(RUN_GUEST, {
    args: [
      "--share",
      share,
      "--timeout",
      String(run.limit_s),
      "--log",
      `${dir}/log`,
      `${dir}/script`,
    ],
    env: { PCACHE_GUEST_SUITE: run.suite, TMPDIR: dir },
    stdin: "null",
    stdout: "piped",
    stderr: "inherit",
  }).spawn();
  let output = "";
  for await (const text of child.stdout.pipeThrough(new TextDecoderStream())) {
    output += text;
    await Deno.stdout.write(new TextEncoder().encode(text));
  }
  const { code } = await child.status;
  if (code !== 0 && code !== CANNOT_PREPARE) console.log(kernelComplaints(`${dir}/log`));
  return { code, output };
}

/** The end of what the guest's kernel said. */
function kernelComplaints(path: string): string {
  const lines = Deno.readTextFileSync(path).trimEnd().split("\n");
  return `--- the guest's kernel, last lines:\n${lines.slice(-40).join("\n")}`;
}

/** Adds up the summaries. A case without one, or a guest that ended badly, is a failure. */
function count(output: string, { cases }: GuestRun, code: number): GuestOutcome {
  let passed = 0;
  let failed = 0;
  let summaries = 0;
  for (const line of output.matchAll(/^(?:ok|FAILED) \| (\d+) passed.*? \| (\d+) failed(.*)$/gm)) {
    summaries += 1;
    passed += Number(line[1]);
    failed += Number(line[2]) + Number(/(\d+) ignored/.exec(line[3]!)?.[1] ?? 0);
  }
  if (summaries < cases.length) {
    failed += cases.length - summaries;
    console.log(`guest: ${summaries} of ${cases.length} cases came to their end (status ${code})`);
  } else if (code !== 0 && failed === 0) failed = 1;
  return { passed, failed };
}

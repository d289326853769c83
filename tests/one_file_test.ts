/**
 * `dist/pcache`: the one file is built, and used as on a machine that has nothing else.
 *
 * @module
 */

import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { type Ended, MIB, must, Rig, run } from "./device.ts";
import { NbdClient } from "./nbd_client.ts";

const COMPILE = new URL("../pack/compile.ts", import.meta.url).pathname;
const CACHE_BYTES = 512 * MIB;
const BACKING_BYTES = 64 * MIB;
/** Debian's `nobody` and `nogroup`. */
const NOBODY = 65534;

/** Builds the file in a folder that every user can reach; with `--carry`, else in the way that is possible here. */
async function build(folder: string, ...args: string[]): Promise<string> {
  const path = `${folder}/pcache`;
  await must(Deno.execPath(), "run", "-A", "--no-prompt", COMPILE, "--output", path, ...args);
  return path;
}

/** A rig that other users can reach, with a path that has blanks in it, and the one file in it. */
async function makeRig(): Promise<{ rig: Rig; pcache: string }> {
  const rig = Rig.make({ parent: "/var/tmp" });
  try {
    Deno.chmodSync(rig.dir, 0o755);
    const folder = rig.path("a folder with  blanks");
    Deno.mkdirSync(folder);
    return { rig, pcache: await build(folder, "--carry") };
  } catch (error) {
    await rig[Symbol.asyncDispose]();
    throw error;
  }
}

/** Runs the file in an empty directory with nothing in the environment but `env`, not even PATH or HOME. */
async function runBare(
  rig: Rig,
  pcache: string,
  args: string[],
  env: Record<string, string> = {},
  as: { uid: number; gid: number } | undefined = undefined,
): Promise<Ended> {
  const empty = rig.path("empty");
  Deno.mkdirSync(empty, { recursive: true });
  const { code, stdout, stderr } = await new Deno.Command(pcache, {
    args,
    cwd: empty,
    clearEnv: true,
    env,
    ...as,
    stdin: "null",
  }).output();
  assertEquals([...Deno.readDirSync(empty)], []);
  const text = new TextDecoder();
  return { code, stdout: text.decode(stdout), stderr: text.decode(stderr) };
}

function quoted(path: string): string {
  return path.replaceAll(" ", "\\ ");
}

Deno.test("one file: a device's life in an empty directory and environment", async () => {
  const { rig, pcache } = await makeRig();
  await using _ = rig;
  const env = { PCACHE_RUN_DIR: rig.path("run"), PCACHE_TEST_TAG: tag() };
  const ok = async (...args: string[]) => {
    const ended = await runBare(rig, pcache, args, env);
    assertEquals([ended.code, ended.stderr], [0, ""], args.join(" "));
    return ended.stdout;
  };
  assertEquals((await runBare(rig, pcache, ["version"])).stdout, await rig.ok("version"));
  assertEquals((await runBare(rig, pcache, ["help"])).stdout, await rig.ok("help"));
  // The runtime has more to say at a terminal.
  const at_terminal = await run("script", ["-qec", `'${pcache}' version`, "/dev/null"]);
  assertEquals(at_terminal.stdout.replaceAll("\r", ""), await rig.ok("version"));

  const cache = rig.file("the cache", CACHE_BYTES);
  const backing = rig.file("the backing", BACKING_BYTES);
  const table = `pcache ${quoted(cache)} ${quoted(backing)} data_crc true`;
  assertEquals(await ok("create", "d", "--table", table), "");
  const pid = await rig.pid("d");
  assertEquals(Deno.readLinkSync(`/proc/${pid}/exe`), pcache);
  const bytes = crypto.getRandomValues(new Uint8Array(60_000));
  {
    await using client = await NbdClient.connect(await rig.uri("d"));
    await client.write(512, bytes, { fua: true });
  }
  // Made by one form of the program, read by the other.
  await rig.kill("d");
  await rig.ok("create", "d", "--table", table);
  assertEquals(await ok("status"), await rig.ok("status"));
  assertEquals(await ok("message", "d", "0", "gc_percent", "50"), "");
  assertMatch(await ok("ls"), /^d\t\(/);
  {
    await using client = await NbdClient.connect(await rig.uri("d"));
    assertEquals(await client.read(512, bytes.length), bytes);
  }
  assertEquals(await ok("table"), await rig.ok("table"));
  assertEquals((await runBare(rig, pcache, ["remove", "--flush", "d"], env)).code, 0);
  assertEquals(await ok("ls"), "No devices found\n");

  const failed = await runBare(rig, pcache, ["remove", "d"], env);
  const message = "pcache: remove on d failed: No such device or address\nCommand failed.\n";
  assertEquals(failed, { code: 1, stdout: "", stderr: message });
});

Deno.test("one file: the session in POSIX sh that also runs from source", async () => {
  const { rig, pcache } = await makeRig();
  await using _ = rig;
  const dir = rig.path("session");
  Deno.mkdirSync(dir);
  const session = new URL("./session.sh", import.meta.url).pathname;
  const env = { PCACHE: pcache, PCACHE_RUN_DIR: rig.path("run"), PCACHE_TEST_TAG: tag() };
  const ended = await run("sh", [session, dir], env);
  assertEquals(ended, { code: 0, stdout: "session.sh: ok\n", stderr: "" });
});

Deno.test("one file: another user, twenty at once, and one that may not read it", async () => {
  const { rig, pcache } = await makeRig();
  await using _ = rig;
  const as = { uid: NOBODY, gid: NOBODY };
  const home = rig.path("home of nobody");
  Deno.mkdirSync(home, { mode: 0o700 });
  Deno.chownSync(home, NOBODY, NOBODY);
  const cache = `${home}/cache`;
  const backing = `${home}/backing`;
  for (const [path, bytes] of [[cache, CACHE_BYTES], [backing, BACKING_BYTES]] as const) {
    Deno.writeFileSync(path, new Uint8Array());
    Deno.truncateSync(path, bytes);
    Deno.chownSync(path, NOBODY, NOBODY);
  }
  const theirs = { XDG_RUNTIME_DIR: home, PCACHE_TEST_TAG: tag() };
  const ours = { PCACHE_RUN_DIR: rig.path("run"), PCACHE_TEST_TAG: tag() };
  const table = `pcache ${quoted(cache)} ${quoted(backing)}`;

  const creates = Array.from(
    { length: 10 },
    () => runBare(rig, pcache, ["create", "d", "--table", table], theirs, as),
  );
  const lists = Array.from({ length: 10 }, () => runBare(rig, pcache, ["ls"], ours));
  const created = await Promise.all(creates);
  for (const ended of await Promise.all(lists)) {
    assertEquals(ended, { code: 0, stdout: "No devices found\n", stderr: "" });
  }
  assertEquals(created.filter((ended) => ended.code === 0).length, 1);
  for (const ended of created) {
    if (ended.code !== 0) assertStringIncludes(ended.stderr, "Device or resource busy");
  }
  const listed = await runBare(rig, pcache, ["ls"], theirs, as);
  assertEquals(listed, { code: 0, stdout: "d\t(0:0)\n", stderr: "" });
  assertEquals(await runBare(rig, pcache, ["remove", "d"], theirs, as), {
    code: 0,
    stdout: "",
    stderr: "",
  });
  const left = [...Deno.readDirSync(home)].map((entry) => entry.name).sort();
  assertEquals(left, ["backing", "cache", "pcache"]);
  assertEquals([...Deno.readDirSync(`${home}/pcache`)].map((entry) => entry.name), ["~lock"]);

  Deno.chmodSync(pcache, 0o711);
  const unread = await runBare(rig, pcache, ["ls"], theirs, as);
  assertEquals([unread.code, unread.stdout], [1, ""]);
  assertMatch(unread.stderr, /^pcache: cannot read its own file: Permission denied.*\n$/);
});

Deno.test("one file: with the C library and nothing else", async () => {
  const { rig, pcache } = await makeRig();
  await using _ = rig;
  const root = rig.path("root");
  for (const folder of ["proc", "dev", "bin", "run"]) {
    Deno.mkdirSync(`${root}/${folder}`, { recursive: true });
  }
  const libraries = [pcache, "/bin/sh"].map((program) => must("ldd", program));
  const files = (await Promise.all(libraries)).join("").matchAll(/(?:=> |^\t)(\/\S+) \(/gm);
  for (const [, file] of files) await must("cp", "-L", "--parents", file!, root);
  await must("cp", "/bin/sh", `${root}/bin/sh`);
  await must("cp", pcache, `${root}/bin/pcache`);
  rig.file("root/cache", CACHE_BYTES);
  rig.file("root/backing", BACKING_BYTES);
  const before = await must("find", root, "-mindepth", "1", "!", "-path", `${root}/run/*`);

  // A mount namespace of its own: its mounts go with its last process. So do the processes, by the other one.
  const inside = `
    set -eu
    pcache create d --table "pcache /cache /backing"
    pcache status d
    pcache remove d
    pcache ls
  `;
  const outside = `
    set -eu
    mount -t proc proc "$0/proc"
    mount --bind /dev "$0/dev"
    exec env -i PATH=/bin "$(command -v chroot)" "$0" /bin/sh -c "$1"
  `;
  const flags = ["--mount", "--pid", "--fork", "--kill-child"];
  const ended = await run("unshare", [...flags, "sh", "-c", outside, root, inside]);
  assertEquals([ended.code, ended.stderr], [0, ""]);
  assertMatch(ended.stdout, /^0 131072 pcache 0 31 31 .*\nNo devices found\n$/);
  const after = await must("find", root, "-mindepth", "1", "!", "-path", `${root}/run/*`);
  assertEquals(after, before);
});

Deno.test("one file: made in the way that is possible here, and over one that is in use", async () => {
  await using rig = Rig.make();
  const path = await build(rig.dir);
  const inode = Deno.statSync(path).ino;
  const running = new Deno.Command(path, {
    args: ["create", "d"], // waits for its table
    env: rig.env,
    stdin: "piped",
    stdout: "null",
    stderr: "null",
  }).spawn();
  assertEquals(await build(rig.dir), path);
  await running.stdin.close();
  assertEquals((await running.status).code, 1);
  assert(Deno.statSync(path).ino !== inode);
  const { stdout } = await run(path, ["version"]);
  assertEquals(stdout, await rig.ok("version"));
  const args = ["run", "-A", COMPILE, "--output", path];
  const refused = await run(Deno.execPath(), args, { DENORT_BIN: rig.path("none") });
  assertEquals([refused.code, refused.stdout], [1, ""]);
  assertEquals(
    refused.stderr,
    `DENORT_BIN ${rig.path("none")}: No such file or directory (os error 2)\n`,
  );
  assertEquals([...Deno.readDirSync(rig.dir)].map((entry) => entry.name), ["pcache"]);
});

/** What a test run finds its processes by (leaks.ts). */
function tag(): string {
  return Deno.env.get("PCACHE_TEST_TAG") ?? "none";
}

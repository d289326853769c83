/**
 * What `deno task install` puts where, and that others can use it: man, systemd.
 *
 * @module
 */

import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { MIB, must, Rig, run } from "./device.ts";

const pack = (name: string) => new URL(`../pack/${name}`, import.meta.url).pathname;
const FILES = [
  "bin/pcache",
  "lib/systemd/system/pcache@.service",
  "lib/systemd/system/pcache@.socket",
  "share/bash-completion/completions/pcache",
  "share/fish/vendor_completions.d/pcache.fish",
  "share/man/man5/pcache.5",
  "share/man/man8/pcache.8",
  "share/zsh/site-functions/_pcache",
];

/** Runs `deno task install` or `uninstall`, with a program that need not be a real one. */
function act(action: string, args: string[], env: Record<string, string> = {}) {
  return run(Deno.execPath(), ["run", "-A", pack("install.ts"), action, ...args], env);
}

/** The files under a folder, relative to it. */
async function listing(dir: string): Promise<string[]> {
  return (await must("find", dir, "-type", "f", "-printf", "%P\n")).split("\n").slice(0, -1).sort();
}

Deno.test("install puts everything under DESTDIR and the prefix, uninstall removes it", async () => {
  await using rig = Rig.make();
  const program = rig.file("program", 100);
  const args = ["--prefix", "/opt/p c", "--program", program];
  const env = { DESTDIR: rig.path("stage") };
  const umask = Deno.umask(0o077);
  try {
    assertEquals((await act("install", args, env)).code, 0);
    assertEquals((await act("install", args, env)).code, 0); // over itself
  } finally {
    Deno.umask(umask);
  }
  const prefix = rig.path("stage/opt/p c");
  assertEquals(await listing(rig.path("stage")), FILES.map((file) => `opt/p c/${file}`));
  for (const file of FILES) {
    const mode = Deno.statSync(`${prefix}/${file}`).mode! & 0o777;
    assertEquals(mode, file.startsWith("bin/") ? 0o755 : 0o644, file);
  }
  const unit = Deno.readTextFileSync(`${prefix}/lib/systemd/system/pcache@.service`);
  assertStringIncludes(
    unit,
    "\nExecStart=/opt/p\\x20c/bin/pcache create --recover $PCACHE_CREATE_OPTIONS %i ",
  );
  assertEquals((await act("uninstall", args, env)).code, 0);
  assertEquals(await listing(rig.path("stage")), []);
  assertEquals(await act("uninstall", args, env), { code: 0, stdout: "", stderr: "" });
});

Deno.test("install says what is wrong", async () => {
  await using rig = Rig.make();
  const wrong: [args: string[], message: string][] = [
    [["--prefix", "x"], '--prefix "x": wanted a path'],
    [["--prefix", rig.path("p"), "--program", rig.path("none")], "none is not there: run"],
    [["x"], "Unknown argument: x"],
    [["--x"], "Unknown argument: --x"],
  ];
  for (const [args, message] of wrong) {
    const ended = await act("install", args);
    assertEquals([ended.code, ended.stdout], [1, ""]);
    assert(ended.stderr.includes(message) && !ended.stderr.includes("    at "), ended.stderr);
  }
  assertEquals([...Deno.readDirSync(rig.dir)], []);
});

Deno.test("man has nothing to say about the manual, nor systemd about the units", async () => {
  await using rig = Rig.make();
  const program = rig.path("program");
  Deno.writeTextFileSync(program, "#!/bin/sh\n", { mode: 0o755 });
  for (const prefix of [rig.path("plain"), rig.path("with a blank")]) {
    const { code, stderr } = await act("install", ["--prefix", prefix, "--program", program]);
    assertEquals([code, stderr], [0, ""]);
    for (const page of ["5", "8"]) {
      const file = `${prefix}/share/man/man${page}/pcache.${page}`;
      const args = ["--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", file];
      const shown = await run("man", args, { MANWIDTH: "80", LC_ALL: "C.UTF-8" });
      assertEquals([shown.code, shown.stderr], [0, ""]);
      assertStringIncludes(shown.stdout, "pcache");
    }
    const units = ["service", "socket"].map((kind) =>
      `${prefix}/lib/systemd/system/pcache@.${kind}`
    );
    const env = { MANPATH: `${prefix}/share/man` }; // it looks for what Documentation= names
    assertEquals(await run("systemd-analyze", ["verify", ...units], env), {
      code: 0,
      stdout: "",
      stderr: "",
    });
  }
});

/** What systemd would run for `pcache@boot-1`, with the file that it finds the process by. */
function unitOf(prefix: string) {
  const text = Deno.readTextFileSync(`${prefix}/lib/systemd/system/pcache@.service`);
  const value = (name: string) =>
    new RegExp(`^${name}=(.*)$`, "m").exec(text)![1]!.replaceAll("%i", "boot-1");
  return {
    start: value("ExecStart"),
    reload: value("ExecReload"),
    stop: value("ExecStop"),
    pid_file: value("PIDFile"),
  };
}

Deno.test("the unit's commands start, reload, stop and restart a device, also one that was busy", async () => {
  await using rig = Rig.make();
  const program = rig.path("pcache");
  const compile = ["run", "-A", pack("compile.ts"), "--carry", "--output", program];
  await must(Deno.execPath(), ...compile);
  const args = ["--prefix", rig.path("prefix"), "--program", program];
  assertEquals((await act("install", args)).code, 0);
  const { start, reload, stop, pid_file } = unitOf(rig.path("prefix"));
  const cache = rig.file("cache", 512 * MIB);
  const backing = rig.file("backing", 64 * MIB);

  const inside = `
    set -eu
    PCACHE_CREATE_OPTIONS=
    mount -t proc proc /proc
    mount -t tmpfs none /run
    mount -t tmpfs none /etc
    mkdir /etc/pcache
    echo "pcache ${cache} ${backing} data_crc true" >/etc/pcache/boot-1.table
    begin() {
      ${start}
      pid=$(cat ${pid_file})
      test "$(readlink "/proc/$pid/exe")" = ${rig.path("prefix/bin/pcache")}
    }
    gone() { while kill -0 "$pid" 2>/dev/null; do sleep 0.1; done }
    begin
    ${reload}
    gone
    heir=$(cat ${pid_file})
    test "$(readlink "/proc/$heir/exe")" = ${rig.path("prefix/bin/pcache")}
    pid=$heir
    echo reloaded
    ${stop}
    gone
    test ! -e ${pid_file}
    echo stopped

    begin
    mkfifo /run/hold
    qemu-io -f raw "nbd+unix:///?socket=/run/pcache/boot-1/nbd" </run/hold >/dev/null &
    client=$!
    exec 9>/run/hold
    until ${start.split(" ")[0]} info boot-1 | grep -q '^Open count: *1'; do sleep 0.1; done
    if ${reload} 2>/run/said; then exit 1; fi
    test "$(cat ${pid_file})" = "$pid"
    if ${stop} 2>/run/said; then exit 1; fi
    grep -q 'remove on boot-1 failed: Device or resource busy' /run/said
    kill "$pid"
    gone
    exec 9>&-
    wait "$client" || true
    echo killed

    begin
    ${stop}
    gone
    echo again
  `;
  const flags = ["--mount", "--pid", "--fork", "--kill-child"];
  const ended = await run("unshare", [...flags, "sh", "-c", inside]);
  assertEquals(ended.stdout, "reloaded\nstopped\nkilled\nagain\n", ended.stderr);
  assertEquals(ended.code, 0);
});

/**
 * Socket activation: sockets that were open before `create` was started, handed on to the device's process, by
 * systemd-socket-activate, which does what systemd would.
 *
 * @module
 */

import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { makeProofs } from "../io/tls/testing.ts";
import { isRunning, MIB, must, Rig, run, until } from "./device.ts";
import { heldPort } from "./ports.ts";

const MAIN = new URL("../cli/main.ts", import.meta.url).pathname;

/** Waits for the first client and starts `create d` with the sockets then. Its standard error goes to a file. */
async function activate(
  rig: Rig,
  sockets: string[],
  options: string[],
): Promise<Deno.ChildProcess> {
  const table = `pcache ${rig.path("cache")} ${rig.path("backing")}`;
  const create = ["run", "-A", "--no-prompt", MAIN, "create", "d", "--table", table, ...options];
  const passed = ["PATH", "HOME", "DENO_DIR"].filter((name) => Deno.env.has(name));
  const env = [...passed, `PCACHE_RUN_DIR=${rig.env.PCACHE_RUN_DIR}`].flatMap((e) => ["-E", e]);
  const command = ["systemd-socket-activate", ...sockets, ...env, Deno.execPath(), ...create];
  const script = `exec "$@" 2>${rig.path("said")}`;
  const child = rig.start("sh", ["-c", script, "sh", ...command]);
  const count = sockets.filter((word) => word === "-l").length;
  await until(
    "the sockets are open",
    () => said(rig).split("\n").filter((line) => line.startsWith("Listening on")).length === count,
  );
  return child;
}

function said(rig: Rig): string {
  try {
    return Deno.readTextFileSync(rig.path("said"));
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return "";
    throw error;
  }
}

function makeRig(env: Record<string, string> = {}): Rig {
  const rig = Rig.make({ env });
  rig.file("cache", 512 * MIB);
  rig.file("backing", 64 * MIB);
  return rig;
}

/** A client that is there before the device, and is served when it is. */
async function checkServed(...uris: string[]): Promise<void> {
  for (const uri of uris) assertEquals(await must("nbdinfo", "--size", uri), `${64 * MIB}\n`);
}

Deno.test("a device takes the sockets that systemd has opened, of both kinds, and leaves them to it", async () => {
  await using rig = makeRig();
  const path = rig.path("socket");
  const port = heldPort(rig);
  const sockets = ["-l", path, "-l", `127.0.0.1:${port}`, "-l", `[::1]:${port}`];
  const child = await activate(rig, sockets, ["--listen", "systemd"]);
  const uri = `nbd+unix:///?socket=${path}`;
  await checkServed(uri, `nbd://127.0.0.1:${port}`, `nbd://[::1]:${port}`);
  assertEquals((await child.status).code, 0);
  assertEquals(await rig.uri("d"), uri);
  // Its own socket is not made, and there is one process that holds the others.
  const { stdout } = await run("ls", [rig.path("run/d")]);
  assert(!stdout.split("\n").includes("nbd"), stdout);
  const pid = await rig.pid("d");
  await rig.ok("remove", "d");
  assert(!isRunning(pid));
  assert(Deno.statSync(path).isSocket, "systemd's socket is gone");
});

for (const loop of ["io_uring", "poll"]) {
  Deno.test(`${loop}: of several sockets the one with the name, under TLS`, async () => {
    await using rig = makeRig();
    const proofs = makeProofs(rig.dir);
    const port = heldPort(rig);
    const sockets = ["-l", rig.path("other"), "-l", `127.0.0.1:${port}`, "--fdname=other:nbd"];
    const options = ["--listen", "systemd:nbd", "--tls-psk", proofs.psk_path];
    await activate(rig, [...sockets, "-E", `PCACHE_LOOP=${loop}`], options);
    await checkServed(`nbds://alice@localhost:${port}/?tls-psk-file=${proofs.psk_path}`);
    assertEquals(await rig.uri("d"), `nbds://127.0.0.1:${port}`);
    // Nobody listens on the other one any more.
    const { code } = await run("nbdinfo", ["--size", `nbd+unix:///?socket=${rig.path("other")}`]);
    assertEquals(code, 1);
    await rig.ok("remove", "d");
  });
}

Deno.test("sockets that are not served are refused with a reason", async () => {
  await using rig = makeRig();
  const port = heldPort(rig);
  const cases: [sockets: string[], why: string, connect: string[]][] = [
    [["-l", `0.0.0.0:${port}`], `listening on 0.0.0.0:${port}: whoever reaches it`, []],
    [["--seqpacket", "-l", rig.path("seqpacket")], "a listening stream socket is wanted", []],
    [["-l", `127.0.0.1:${port}`, "--fdname=x"], "the sockets are called x", ["systemd:y"]],
  ];
  for (const [sockets, why, [listen = "systemd"]] of cases) {
    const child = await activate(rig, sockets, ["--listen", listen]);
    const is_tcp = !sockets.includes("--seqpacket");
    // Whoever comes is let go again.
    const client = is_tcp ? run("nbdinfo", [`nbd://127.0.0.1:${port}`]) : run("/usr/bin/python3", [
      "-c",
      `
import socket
socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).connect("${rig.path("seqpacket")}")`,
    ]);
    assertEquals((await child.status).code, 1, said(rig));
    assertStringIncludes(said(rig), why);
    await client;
    await Deno.remove(rig.path("said"));
  }
  const table = `pcache ${rig.path("cache")} ${rig.path("backing")}`;
  const { code, stderr } = await rig.pcache("create", "d", "--table", table, "--listen", "systemd");
  assertEquals(code, 1);
  assertStringIncludes(stderr, "--listen systemd: this process was given no sockets");
  assertEquals(await rig.ok("ls"), "No devices found\n");
});

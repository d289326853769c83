import { assertEquals, assertThrows } from "@std/assert";
import { CacheError } from "../core/errors.ts";
import { BUSY } from "./control_protocol.ts";
import {
  checkName,
  checkUuid,
  clearLeftovers,
  isPublished,
  ProcessEnd,
  publishedNames,
  reserveDevice,
  runRoot,
} from "./run_dir.ts";

/** Runs a test in a run directory of its own, which does not exist yet. */
function withRoot(name: string, test: (root: string) => void | Promise<void>): void {
  Deno.test(name, async () => {
    const dir = Deno.makeTempDirSync();
    try {
      await test(`${dir}/run`);
    } finally {
      Deno.removeSync(dir, { recursive: true });
    }
  });
}

/** Makes a reservation in a process that then dies without letting go. */
async function reserveAndDie(root: string, name: string): Promise<void> {
  const module = new URL("./run_dir.ts", import.meta.url);
  const code = `import { reserveDevice } from ${JSON.stringify(module.href)};
    reserveDevice(${JSON.stringify(root)}, ${JSON.stringify(name)}, "").publish();
    Deno.kill(Deno.pid, "SIGKILL");`;
  const { signal } = await new Deno.Command(Deno.execPath(), { args: ["eval", code] }).output();
  assertEquals(signal, "SIGKILL");
}

/** Makes a reservation in a process that ends when its standard input does. */
function holdUntilTold(root: string, name: string) {
  const module = new URL("./run_dir.ts", import.meta.url);
  const code = `import { reserveDevice } from ${JSON.stringify(module.href)};
    const reservation = reserveDevice(${JSON.stringify(root)}, ${JSON.stringify(name)}, "");
    reservation.publish();
    Deno.stdin.readSync(new Uint8Array(1));
    reservation.release();`;
  return new Deno.Command(Deno.execPath(), { args: ["eval", code], stdin: "piped" }).spawn();
}

Deno.test("checkName takes what device-mapper takes", () => {
  for (const name of ["a", "vg-lv_0", "A.b:c=d@e#f+g", ".hidden", "x".repeat(127)]) checkName(name);
});

Deno.test("checkName refuses the others in dmsetup's words", () => {
  const refused: [name: string, message: string][] = [
    ["a/b", 'Name "a/b" invalid. It contains "/".'],
    ["../x", 'Name "../x" invalid. It contains "/".'],
    ["x".repeat(128), `Name "${"x".repeat(128)}" too long`],
    ["", 'Name "" invalid. It is empty.'],
    [".", 'Name "." invalid. It names a directory.'],
    ["..", 'Name ".." invalid. It names a directory.'],
    ["a b", 'Name "a b" invalid. Wanted only'],
    ["ä", 'Name "ä" invalid. Wanted only'],
    ["a\n", 'Name "a\\n" invalid. Wanted only'],
    ["~lock", 'Name "~lock" invalid. Wanted only'],
  ];
  for (const [name, message] of refused) {
    assertThrows(() => checkName(name), CacheError, message);
  }
});

Deno.test("checkUuid refuses what does not fit a line", () => {
  checkUuid("CRYPT-LUKS2-0123");
  checkUuid("u".repeat(128));
  assertThrows(() => checkUuid("u".repeat(129)), CacheError, "too long: 129 characters");
  assertThrows(() => checkUuid("a b"), CacheError, 'UUID "a b" invalid');
  assertThrows(() => checkUuid(""), CacheError, 'UUID "" invalid');
});

Deno.test("runRoot is absolute", () => {
  const before = Deno.env.get("PCACHE_RUN_DIR");
  try {
    Deno.env.set("PCACHE_RUN_DIR", "./some/dir");
    assertEquals(runRoot(), `${Deno.cwd()}/some/dir`);
    Deno.env.set("PCACHE_RUN_DIR", "/some/dir/");
    assertEquals(runRoot(), "/some/dir");
  } finally {
    if (before === undefined) Deno.env.delete("PCACHE_RUN_DIR");
    else Deno.env.set("PCACHE_RUN_DIR", before);
  }
});

withRoot("a reservation makes a private folder and takes it away again", (root) => {
  const reservation = reserveDevice(root, "d", "");
  assertEquals(reservation.run_dir, `${root}/d`);
  assertEquals(Deno.statSync(root).mode! & 0o777, 0o700);
  assertEquals(Deno.statSync(`${root}/d`).mode! & 0o777, 0o700);
  reservation.release();
  assertEquals([...Deno.readDirSync(root)].map((entry) => entry.name), ["~lock"]);
});

withRoot("a device is shown from the moment it is published", (root) => {
  assertEquals(publishedNames(root), []);
  const b = reserveDevice(root, "b", "");
  const a = reserveDevice(root, "a", "");
  assertEquals(publishedNames(root), []);
  b.publish();
  a.publish();
  assertEquals(publishedNames(root), ["a", "b"]);
  assertEquals(isPublished(root, "a"), true);
  a.release();
  assertEquals(publishedNames(root), ["b"]);
  assertEquals(isPublished(root, "a"), false);
});

withRoot("minor numbers are the lowest that are free", async (root) => {
  assertEquals(reserveDevice(root, "a", "").minor, 0);
  const b = reserveDevice(root, "b", "");
  assertEquals(b.minor, 1);
  assertEquals(reserveDevice(root, "c", "").minor, 2);
  b.release();
  assertEquals(reserveDevice(root, "d", "").minor, 1);
  await reserveAndDie(root, "e");
  assertEquals(reserveDevice(root, "f", "").minor, 3);
});

withRoot("a name in use is busy, and its folder is left alone", (root) => {
  reserveDevice(root, "d", "");
  assertThrows(() => reserveDevice(root, "d", ""), CacheError, BUSY);
  clearLeftovers(root, "d");
  assertEquals(Deno.statSync(`${root}/d/lock`).isFile, true);
});

withRoot("a UUID in use is busy", (root) => {
  reserveDevice(root, "d", "u1");
  const message = `${BUSY}: UUID "u1" belongs to device d`;
  assertThrows(() => reserveDevice(root, "e", "u1"), CacheError, message);
  reserveDevice(root, "e", "u2");
});

withRoot("an export in use as a backing device is busy", (root) => {
  reserveDevice(root, "d", "", null, "nbd://h/x");
  const message = `Error opening backing device: nbd://h/x: ${BUSY}: it belongs to device d`;
  assertThrows(() => reserveDevice(root, "e", "", null, "nbd://h/x"), CacheError, message);
  reserveDevice(root, "e", "", null, "nbd://h/y");
  reserveDevice(root, "f", "");
  reserveDevice(root, "g", "");
});

withRoot("a device takes another name, unless it is in use", async (root) => {
  const device = reserveDevice(root, "d", "u1", null, "nbd://h/x");
  device.publish();
  reserveDevice(root, "e", "");
  await reserveAndDie(root, "dead");
  for (const name of ["e", "d"]) assertThrows(() => device.rename(name), CacheError, BUSY);
  assertThrows(() => device.rename("a/b"), CacheError, 'It contains "/".');
  assertThrows(() => device.rename("n".repeat(127)), CacheError, "Socket path too long");
  assertEquals(device.run_dir, `${root}/d`);
  device.rename("dead");
  assertEquals([device.name, device.run_dir], ["dead", `${root}/dead`]);
  assertEquals([isPublished(root, "d"), isPublished(root, "dead")], [false, true]);
  // Its old name is free, what else it holds is not.
  assertEquals(reserveDevice(root, "d", "").minor, 2);
  assertThrows(() => reserveDevice(root, "f", "u1"), CacheError, "belongs to device dead");
  assertThrows(() => reserveDevice(root, "f", "", null, "nbd://h/x"), CacheError, "device dead");
});

withRoot("a UUID is given once, a server's export can be changed", (root) => {
  const device = reserveDevice(root, "d", "");
  const other = reserveDevice(root, "e", "u1", null, "nbd://h/x");
  assertThrows(() => device.setUuid("u1"), CacheError, 'UUID "u1" belongs to device e');
  assertThrows(() => device.setUuid("a b"), CacheError, "Wanted printable characters");
  device.setUuid("u2");
  assertThrows(() => device.setUuid("u3"), CacheError, 'its UUID is "u2" already');
  assertThrows(() => device.claimServer("nbd://h/x"), CacheError, "it belongs to device e");
  other.claimServer("");
  device.claimServer("nbd://h/x");
  assertThrows(() => other.claimServer("nbd://h/x"), CacheError, "it belongs to device d");
  assertThrows(() => reserveDevice(root, "f", "u2"), CacheError, 'UUID "u2" belongs to device d');
});

withRoot("what a killed process left is cleared by the next one of that name", async (root) => {
  await reserveAndDie(root, "d");
  Deno.writeTextFileSync(`${root}/d/log`, "its last words");
  assertEquals(publishedNames(root), ["d"]);
  const reservation = reserveDevice(root, "d", "");
  assertEquals(publishedNames(root), []);
  assertEquals([...Deno.readDirSync(`${root}/d`)].map((entry) => entry.name), ["lock"]);
  reservation.release();
});

withRoot("clearLeftovers removes a dead folder", async (root) => {
  await reserveAndDie(root, "d");
  clearLeftovers(root, "d");
  assertEquals(publishedNames(root), []);
  clearLeftovers(root, "never-there");
});

withRoot("the end of a process is waited for", async (root) => {
  assertThrows(() => new ProcessEnd(root, "d"), Deno.errors.NotFound);
  const child = holdUntilTold(root, "d");
  const is_published = () => publishedNames(root).length === 1;
  while (!is_published()) await new Promise((wake) => setTimeout(wake, 5));
  using end = new ProcessEnd(root, "d");
  let has_ended = false;
  const waiting = end.wait().then(() => has_ended = true);
  await new Promise((wake) => setTimeout(wake, 50));
  assertEquals(has_ended, false);
  await child.stdin.close();
  await waiting;
  assertEquals((await child.status).success, true);
});

withRoot("a socket path that does not fit is refused before anything is made", (root) => {
  const long = `${root}/${"x".repeat(60)}`;
  const message = "Socket path too long";
  assertThrows(() => reserveDevice(long, "n".repeat(60), ""), CacheError, message);
  assertThrows(() => Deno.statSync(root), Deno.errors.NotFound);
});

withRoot("a run directory that others can write to is refused", (root) => {
  Deno.mkdirSync(root);
  Deno.chmodSync(root, 0o777);
  const message = "mode 777; wanted one that only user";
  assertThrows(() => reserveDevice(root, "d", ""), CacheError, message);
});

withRoot("a run directory that is a file is refused", (root) => {
  Deno.writeTextFileSync(root, "");
  assertThrows(() => reserveDevice(root, "d", ""), CacheError, "not a directory");
  assertThrows(() => publishedNames(root), CacheError, "Cannot use run directory");
});

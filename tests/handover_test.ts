/**
 * Going on with a device in a new process while the old one lives (`create --recover`). With a block device that waits meanwhile
 * it is tested in a guest (`tests/guest/cases/handover.ts`).
 *
 * @module
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { isRunning, MIB, Rig, until } from "./device.ts";
import { NbdClient } from "./nbd_client.ts";

const SIZE_BYTES = 64 * 1024;

/** A client is gone when the device's process has seen that. */
async function leave(rig: Rig, client: NbdClient): Promise<void> {
  await client.close();
  await until("the client is gone", async () => await rig.info("d", "Open count") === "0");
}

/** Reads the device's begin as a client. */
async function read(rig: Rig): Promise<Uint8Array> {
  const client = await NbdClient.connect(await rig.uri("d"));
  const data = await client.read(0, SIZE_BYTES);
  await leave(rig, client);
  return data;
}

Deno.test("a living device goes on in a new process: name, UUID and every answered write", async () => {
  await using rig = Rig.make();
  const table = `pcache ${rig.file("cache", 512 * MIB)} ${rig.file("backing", 64 * MIB)}`;
  await rig.ok("create", "d", "-u", "PCACHE-7", "--table", table);
  const old_pid = await rig.pid("d");
  const data = crypto.getRandomValues(new Uint8Array(SIZE_BYTES));
  const client = await NbdClient.connect(await rig.uri("d"));
  await client.write(0, data); // and no flush
  await leave(rig, client);
  await rig.ok("create", "d", "--recover", "--table", table);
  const pid = await rig.pid("d");
  assert(pid !== old_pid && !isRunning(old_pid), "another process serves it");
  assertEquals(await read(rig), data);
  assertMatch(await rig.ok("info", "d"), /^UUID: PCACHE-7$/m);
  await rig.ok("remove", "--retry", "d");
  assert(!isRunning(pid));
});

Deno.test("a device goes on in its old process when another one cannot go on with it", async () => {
  await using rig = Rig.make();
  const [cache, backing] = [rig.file("cache", 512 * MIB), rig.file("backing", 64 * MIB)];
  const table = `pcache ${cache} ${backing}`;
  await rig.ok("create", "d", "--table", table);
  const pid = await rig.pid("d");
  const refused = async (error: RegExp, ...args: string[]) => {
    const { code, stderr } = await rig.pcache("create", "d", "--recover", ...args);
    assertEquals(code, 1);
    assertMatch(stderr, error);
    assertEquals(await rig.pid("d"), pid);
  };
  await refused(/data_crc true, but it is false/, "--table", `${table} data_crc true`);
  await refused(/read_only true, but it is false/, "--readonly", "--table", table);
  await refused(/its frontend is nbd, not ublk/, "--frontend", "ublk", "--table", table);
  const client = await NbdClient.connect(await rig.uri("d"));
  await refused(/busy: NBD clients are connected: 1/, "--table", table);
  await leave(rig, client);
  await rig.ok("suspend", "d");
  await refused(/busy: it is suspended: resume it first/, "--table", table);
  await rig.ok("resume", "d");
  await rig.ok("load", "d", "--table", table);
  await refused(/busy: it has an inactive table: resume or clear it first/, "--table", table);
  await rig.ok("clear", "d");
  await rig.ok("create", "d", "--recover", "--table", table);
  assert(await rig.pid("d") !== pid);
  await rig.ok("remove", "--retry", "d");
});

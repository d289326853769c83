import { assertEquals, assertThrows } from "@std/assert";
import { CacheError } from "../core/errors.ts";
import { closeDevice, openDevice } from "./files.ts";
import { isLeaving } from "./leaving.ts";
import { reserveDevice } from "./run_dir.ts";
import { sparseFile } from "./testing.ts";

const ROUNDS = 5;

/** Locks the file that it is told, and has much memory to give back when it is killed. */
const HOLDER = `
  const memory = new Uint8Array(1 << 28).fill(1);
  const file = Deno.openSync(Deno.args[0], { read: true, write: true });
  file.lockSync(true);
  console.log("held");
  await new Promise((wake) => setTimeout(wake, 600_000, memory, file));
`;

/** Runs `whileHeld` while another process holds the lock of a file, and `afterwards` at the moment that process has been killed. */
async function withHolder(
  path: string,
  whileHeld: () => void,
  afterwards: () => void,
): Promise<void> {
  const holder = new Deno.Command(Deno.execPath(), {
    args: ["eval", "--no-config", HOLDER, path],
    stdin: "null",
    stdout: "piped",
  }).spawn();
  const reader = holder.stdout.getReader();
  try {
    await reader.read();
    whileHeld();
  } finally {
    holder.kill("SIGKILL");
  }
  afterwards();
  await reader.cancel();
  await holder.status;
}

Deno.test("a device whose user was killed can be opened at once, one whose user lives cannot", async () => {
  const dir = Deno.makeTempDirSync({ dir: "/var/tmp" });
  try {
    const path = sparseFile(`${dir}/cache`, 4096);
    for (let round = 0; round < ROUNDS; round++) {
      await withHolder(
        path,
        () => assertThrows(() => openDevice("cache", path), CacheError, "resource busy"),
        () => closeDevice(openDevice("cache", path)),
      );
    }
  } finally {
    Deno.removeSync(dir, { recursive: true });
  }
});

Deno.test("a name whose process was killed can be taken at once, one whose process lives cannot", async () => {
  const root = Deno.makeTempDirSync({ dir: "/var/tmp" });
  try {
    for (let round = 0; round < ROUNDS; round++) {
      Deno.mkdirSync(`${root}/d`);
      Deno.writeTextFileSync(`${root}/d/lock`, "0\n\n\n");
      await withHolder(
        `${root}/d/lock`,
        () => assertThrows(() => reserveDevice(root, "d", ""), CacheError, "resource busy"),
        () => reserveDevice(root, "d", "").release(),
      );
    }
  } finally {
    Deno.removeSync(root, { recursive: true });
  }
});

Deno.test("a process that is not there is not leaving", () => {
  assertEquals(isLeaving(2 ** 22 + 1), false); // past the most that Linux gives
});

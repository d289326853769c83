/**
 * Users of a block device in the guest who must notice nothing of what becomes of its process: fio, which verifies what it reads, and a
 * file system.
 *
 * @module
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { type Ended, isRunning, must, type Rig, run, until } from "../device.ts";
import { fillFor } from "../random.ts";
import { requestsOf } from "./block_device.ts";

/** How fio ends when it is told to, and found nothing wrong. */
const ENDED_BY_SIGNAL = 128;

/** Kills a process, and waits until it is gone. */
export async function kill(pid: number): Promise<void> {
  Deno.kill(pid, "SIGKILL");
  await until(`process ${pid} is gone`, () => !isRunning(pid));
}

/**
 * Runs fio with verification on a block device, and `disturb` so often, each time when some more requests have been answered. Fails
 * if fio finds a wrong byte, or ends.
 *
 * @param shape fio's options for what it reads and writes
 */
export async function verifyUnder(
  rig: Rig,
  node: string,
  shape: readonly string[],
  rounds: number,
  disturb: () => Promise<void>,
): Promise<void> {
  const job = ["--name=j", `--filename=${node}`, "--direct=1", "--ioengine=libaio"];
  const checks = ["--verify=crc32c", "--verify_backlog=256", "--verify_fatal=1", "--time_based"];
  const fio = new Deno.Command("/usr/bin/fio", {
    args: [...job, "--iodepth=16", "--size=64m", ...shape, ...checks, "--runtime=100000"],
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const ended = fio.output();
  let is_over = false;
  ended.then(() => is_over = true);
  rig.defer("end fio", async () => {
    if (!is_over) fio.kill("SIGKILL");
    await ended;
  });
  for (let round = 1; round <= rounds; round++) {
    const answered = requestsOf(node);
    await until("fio goes on", () => is_over || requestsOf(node) > answered + 100);
    if (is_over) break;
    await disturb();
    console.log(`round ${round}: ${requestsOf(node)} requests answered in all`);
  }
  assert(!is_over, "fio does not end by itself");
  fio.kill("SIGINT");
  const { code, stdout, stderr } = await ended;
  const text = new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);
  assertEquals(code, ENDED_BY_SIGNAL, text);
  assert(/err= 0/.test(text), text);
}

/**
 * Mounts a file system on a block device, kills the device's process while a file is about to be written, and takes the device over. Fails
 * unless the file system is whole then, with all that was written.
 *
 * @param create makes the device anew, which must be refused, and with `--recover` takes it over
 */
export async function killUnderFileSystem(
  rig: Rig,
  { node, pid }: { readonly node: string; readonly pid: number },
  create: (...options: string[]) => Promise<Ended>,
): Promise<void> {
  const dir = rig.path("mnt");
  Deno.mkdirSync(dir);
  await must("/usr/sbin/mkfs.ext4", "-q", "-F", node);
  await must("/usr/bin/mount", node, dir);
  // If the test fails, files under it must not be touched: nobody might answer.
  rig.defer("unmount", () => run("/usr/bin/umount", ["-l", dir]));
  const data = new Uint8Array(200_000);
  fillFor(1, data);
  Deno.writeFileSync(`${dir}/flushed`, data);
  await must("sync");

  await kill(pid);
  assert(Deno.statSync(node).isBlockDevice, "the block device stays");
  const writing = run("sh", ["-c", `cat ${dir}/flushed > ${dir}/late; sync; echo written`]);
  const refused = await create();
  assertEquals(refused.code, 1);
  assertMatch(refused.stderr, /busy.*create --recover takes it over/);
  const again = await create("--recover");
  assertEquals(again.code, 0, again.stdout + again.stderr);
  const [info] = JSON.parse(await rig.ok("info", "--json", "d"));
  assertEquals(info.node, node);
  assertEquals((await writing).stdout, "written\n");
  await must("/usr/bin/umount", dir);
  await must("/usr/sbin/fsck.ext4", "-f", "-n", node);
  await must("/usr/bin/mount", node, dir);
  assertEquals(Deno.readFileSync(`${dir}/flushed`), data);
  assertEquals(Deno.readFileSync(`${dir}/late`), data);
  await must("/usr/bin/umount", dir);
  await rig.ok("remove", "--retry", "d");
}

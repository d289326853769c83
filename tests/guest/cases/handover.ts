/**
 * In the guest: the process of a device with a block device is replaced by another one; whoever uses the block device notices
 * nothing but a wait.
 *
 * @module
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { isRunning, MIB, must, Rig, until } from "../../device.ts";

/** How often the process is replaced under fio. */
const ROUNDS = 2;

/** How fio ends when it is told to, and found nothing wrong. */
const ENDED_BY_SIGNAL = 128;

interface Info {
  node: string;
  pid: number;
  uuid: string;
}

async function infoOf(rig: Rig): Promise<Info> {
  return (JSON.parse(await rig.ok("info", "--json", "d")) as [Info])[0];
}

async function create(rig: Rig, ...options: string[]): Promise<Info> {
  const table = `pcache ${rig.path("cache")} ${rig.path("backing")}`;
  await rig.ok("create", "d", ...options, "--table", table);
  return await infoOf(rig);
}

for (const way of [["--frontend", "ublk"], ["--attach"]]) {
  Deno.test(`guest: handed over under fio, ${way.join(" ")}`, async () => {
    await using rig = Rig.make();
    const table = `pcache ${rig.file("cache", 512 * MIB)} ${rig.file("backing", 1024 * MIB)}`;
    let { node, pid } = await create(rig, "-u", "PCACHE-1", ...way);
    const readonly = ["create", "d", "--recover", ...way, "--readonly", "--table", table];
    const refused = await rig.pcache(...readonly);
    assertMatch(refused.stderr, /read_only true, but it is false/);
    assertEquals((await infoOf(rig)).pid, pid);

    const job = ["--name=j", `--filename=${node}`, "--direct=1", "--ioengine=libaio"];
    const shape = [
      "--rw=randrw",
      "--bsrange=512-65536",
      "--size=64m",
      "--fsync=16",
      "--iodepth=16",
    ];
    const checks = ["--verify=crc32c", "--verify_backlog=256", "--verify_fatal=1", "--time_based"];
    const fio = new Deno.Command("/usr/bin/fio", {
      args: [...job, ...shape, ...checks, "--runtime=100000"],
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
    for (let round = 1; round <= ROUNDS; round++) {
      const answered = requestsOf(node);
      const goesOn = () => is_over || requestsOf(node) > answered + 100;
      await until("fio goes on", goesOn);
      if (is_over) break;
      const heir = await create(rig, "--recover", ...way);
      assertEquals([heir.node, heir.uuid], [node, "PCACHE-1"]);
      assert(heir.pid !== pid && !isRunning(pid), "another process serves it");
      pid = heir.pid;
      console.log(`round ${round}: ${requestsOf(node)} requests answered in all`);
    }
    assert(!is_over, "fio does not end by itself");
    fio.kill("SIGINT");
    const { code, stdout, stderr } = await ended;
    const text = new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);
    assertEquals(code, ENDED_BY_SIGNAL, text);
    assert(/err= 0/.test(text), text);
    await must("sync");
    await rig.ok("remove", "--retry", "d");
  });
}

/** Requests that the block device has answered: fields 1 and 5 of its `stat`, reads and writes. */
function requestsOf(node: string): number {
  const name = node.replace("/dev/", "");
  const fields = Deno.readTextFileSync(`/sys/block/${name}/stat`).trim().split(/\s+/);
  return Number(fields[0]) + Number(fields[4]);
}

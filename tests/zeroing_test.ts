/**
 * Zeroing and trimming by clients that nobody here wrote, on a real device: what reads back, what comes to the backing file and
 * what it costs there and in the cache.
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";
import { GIB, MIB, must, Rig } from "./device.ts";

const CACHE_BYTES = 512 * MIB;
const VARIANTS = [
  { loop: "io_uring", data_crc: true },
  { loop: "poll", data_crc: false },
];

/** Debian's, whatever else is on the PATH: nbdsh is a module of it. */
const PYTHON = "/usr/bin/python3";

/** Runs Python in nbdsh, connected to `uri`. */
function nbdsh(uri: string, ...lines: string[]): Promise<string> {
  return must(PYTHON, "-m", "nbd", "-u", uri, ...lines.flatMap((line) => ["-c", line]));
}

/** Blocks of 512 bytes that a file holds. */
function blocksOf(path: string): number {
  return Deno.statSync(path).blocks!;
}

async function create(rig: Rig, bytes: number, data_crc: boolean) {
  const cache = rig.file("cache", CACHE_BYTES);
  const backing = rig.file("backing", bytes);
  const table = `pcache ${cache} ${backing} 2 data_crc ${data_crc}`;
  await rig.ok("create", "d", "--table", table);
  return { backing, table, uri: await rig.uri("d") };
}

async function counters(rig: Rig): Promise<Record<string, number>> {
  return JSON.parse(await rig.ok("stats", "--json", "d"))[0].counters;
}

for (const { loop, data_crc } of VARIANTS) {
  const options = { env: { PCACHE_LOOP: loop } };

  Deno.test(`nbdsh: zero and trim with every flag, to the byte, over a kill, ${loop}`, async () => {
    await using rig = Rig.make(options);
    const { uri, table } = await create(rig, 64 * MIB, data_crc);
    await nbdsh(
      uri,
      "h.set_strict_mode(0)", // it would refuse what is unaligned
      "h.pwrite(b'x' * 8388608, 0)",
      "h.zero(100, 50)",
      "h.zero(4096, 4096, nbd.CMD_FLAG_NO_HOLE)",
      "h.zero(1000000, 1000001, nbd.CMD_FLAG_FAST_ZERO | nbd.CMD_FLAG_FUA)",
      "h.trim(65536, 4194304)",
      "h.trim(4096, 8388608 - 4096, nbd.CMD_FLAG_FUA)",
      "h.pwrite(b'y' * 512, 2097152, nbd.CMD_FLAG_FUA)",
    );
    await rig.kill("d");
    await rig.ok("create", "d", "--table", table);
    await nbdsh(
      await rig.uri("d"),
      "want = bytearray(b'x' * 8388608)",
      "want[50:150] = bytes(100)",
      "want[4096:8192] = bytes(4096)",
      "want[1000001:2000001] = bytes(1000000)",
      "want[4194304:4259840] = bytes(65536)",
      "want[8384512:] = bytes(4096)",
      "want[2097152:2097664] = b'y' * 512",
      "assert h.pread(8388608, 0) == want",
    );
  });

  Deno.test(`zeroes cost no space in the cache, and punch holes in the backing file, ${loop}`, async () => {
    await using rig = Rig.make(options);
    const { uri, backing } = await create(rig, 4 * GIB, data_crc);
    await nbdsh(uri, "h.pwrite(b'x' * 1048576, 1048576)", "h.flush()");
    await rig.ok("remove", "--flush", "d");
    assert(blocksOf(backing) >= 2048);

    const table = `pcache ${rig.path("cache")} ${backing} 2 data_crc ${data_crc}`;
    await rig.ok("create", "d", "--table", table);
    // Eight times the cache, in one request; and what has to keep its space.
    await nbdsh(
      await rig.uri("d"),
      "h.trim(4294967296 - 1024, 512)",
      "h.zero(67108864, 4294967296 - 67108864, nbd.CMD_FLAG_NO_HOLE)",
      "h.trim(4194304, 0)",
      "h.flush()",
    );
    const { zeroed_bytes, trimmed_bytes } = await counters(rig);
    assertEquals([zeroed_bytes, trimmed_bytes], [64 * MIB, 4 * GIB - 1024 + 4 * MIB]);
    const { segs_used } = JSON.parse(await rig.ok("status", "--json", "d"))[0];
    assert(segs_used <= 6, `${segs_used} segments`);
    await rig.ok("remove", "--flush", "d");
    // The last 64 MiB are zeroes that have their space, the rest is a hole.
    const kept = blocksOf(backing) * 512;
    assert(kept >= 64 * MIB && kept < 66 * MIB, `${kept} bytes`);
    const sparse = rig.file("zeroes", 4 * GIB);
    await must("cmp", backing, sparse);
  });

  Deno.test(`qemu-io discards and writes zeroes, qemu-img finds the holes' content, ${loop}`, async () => {
    await using rig = Rig.make(options);
    const { uri, backing } = await create(rig, 64 * MIB, data_crc);
    const commands = [
      "write -P 0x11 0 32M",
      "discard 1M 2M",
      "write -z 4M 1M",
      "write -z -u 6M 1M",
      "write -z 8388900 700",
      "write -P 0x22 1536k 64k",
      "flush",
      "read -P 0 1M 512k",
      "read -P 0x22 1536k 64k",
      "read -P 0 1600k 1472k",
      "read -P 0 4M 1M",
      "read -P 0x11 5M 1M",
      "read -P 0 6M 1M",
      "read -P 0 8388900 700",
      "read -P 0x11 8389600 4096",
    ];
    const args = ["-f", "raw", "-d", "unmap", ...commands.flatMap((c) => ["-c", c])];
    await must("qemu-io", ...args, uri);
    const copy = rig.path("copy");
    await must("nbdcopy", uri, copy);
    await rig.ok("remove", "--flush", "d");
    await must("cmp", copy, backing);
  });

  Deno.test(`fio trims and verifies, ${loop}`, async () => {
    await using rig = Rig.make(options);
    const { uri } = await create(rig, 1 * GIB, data_crc);
    const job = [
      ...["--ioengine=nbd", `--uri=${uri}`, "--iodepth=16", "--bs=4k", "--randseed=7"],
      ...["--allow_file_create=0", `--aux-path=${rig.dir}`],
    ];
    // Four jobs at once, each in a part of its own, trimming, writing and comparing.
    await must(
      "fio",
      ...[
        "--name=verify",
        ...job,
        "--size=32m",
        "--numjobs=4",
        "--offset_increment=64m",
        "--rw=randtrimwrite",
        "--verify=crc32c",
      ],
      ...["--verify_fatal=1", "--verify_state_save=0"],
    );
    await must("fio", "--name=trim", ...job, "--size=256m", "--rw=trim");
    await must("qemu-io", "-f", "raw", "-c", "read -P 0 0 256M", uri);
    assert((await counters(rig)).trims! >= 81_920);
  });
}

/**
 * The device under NBD clients that nobody here wrote: libnbd's tools, QEMU's, fio, and the kernel's ext4 over
 * nbdfuse and a loop device.
 *
 * @module
 */

import { assertEquals, assertMatch } from "@std/assert";
import { GIB, MIB, must, Rig, run, until } from "./device.ts";
import { fillFor } from "./random.ts";

const CACHE_BYTES = 512 * MIB;

/** Ways to run a device: the medium of the cache, checksums or not, with io_uring and without. */
const VARIANTS = [
  { variant: "cache on a file", data_crc: true, options: {} },
  {
    variant: "cache on what libpmem takes for persistent memory, no checksums",
    data_crc: false,
    options: { parent: "/dev/shm", env: { PMEM_IS_PMEM_FORCE: "1" } },
  },
  { variant: "no io_uring", data_crc: true, options: { env: { PCACHE_LOOP: "poll" } } },
];

/** A device named `d`. */
interface Served {
  readonly uri: string;
  readonly backing: string;
  /** The table it was created with. */
  readonly table: string;
}

/** Makes device `d` with a backing file of `bytes`. */
async function createDevice(rig: Rig, bytes: number, data_crc = true): Promise<Served> {
  const cache = rig.file("cache", CACHE_BYTES);
  const backing = rig.file("backing", bytes);
  const table = `pcache ${cache} ${backing} 2 data_crc ${data_crc}`;
  await rig.ok("create", "d", "--table", table);
  return { uri: await rig.uri("d"), backing, table };
}

/** Makes a file of content that repeats nowhere. */
function contentFile(rig: Rig, name: string, bytes: number): string {
  const path = rig.path(name);
  using file = Deno.openSync(path, { write: true, createNew: true });
  const chunk = new Uint8Array(1 * MIB);
  for (let at = 0, id = 1; at < bytes; id++) {
    fillFor(id, chunk);
    at += file.writeSync(chunk.subarray(0, Math.min(chunk.length, bytes - at)));
  }
  return path;
}

Deno.test("nbdinfo sees the export, its size, its block sizes and what it can do", async () => {
  await using rig = Rig.make();
  const { uri } = await createDevice(rig, 1 * GIB);
  const { protocol, exports } = JSON.parse(await must("nbdinfo", "--json", uri));
  assertEquals(protocol, "newstyle-fixed");
  assertEquals(exports.length, 1);
  const seen = exports[0];
  assertEquals(seen["export-size"], 1 * GIB);
  assertEquals(seen["block_size_minimum"], 512);
  assertEquals(seen["block_size_preferred"], 4096);
  assertEquals(seen["block_size_maximum"], 32 * MIB);
  const abilities = ["can_flush", "can_fua", "can_multi_conn", "can_cache", "can_df", "can_trim"];
  for (const ability of [...abilities, "can_zero", "can_fast_zero"]) {
    assertEquals(seen[ability], true, ability);
  }
  assertEquals(seen["is_read_only"], false);
  const listed = await must("nbdinfo", "--list", uri);
  assertMatch(listed, /^export="d":/m);
  assertMatch(listed, /^\tdescription: pcache device d$/m);
  assertMatch(listed, /^\tcontexts:\n\t\tbase:allocation\n\t\tpcache:dirty$/m);
});

Deno.test("nbdinfo sees that a read-only device is one, and cannot write", async () => {
  await using rig = Rig.make();
  const cache = rig.file("cache", CACHE_BYTES);
  const backing = contentFile(rig, "backing", 64 * MIB);
  await rig.ok("create", "d", "-r", "--table", `pcache ${cache} ${backing}`);
  const uri = await rig.uri("d");
  assertEquals((await run("nbdinfo", ["--is", "read-only", uri])).code, 0);
  assertEquals((await run("qemu-io", ["-f", "raw", "-c", "write 0 4k", uri])).code, 1);
  await must("qemu-img", "compare", "-f", "raw", "-F", "raw", uri, backing);
});

Deno.test("nbdcopy in and out, and what remove --flush leaves on the backing file, are equal", async () => {
  await using rig = Rig.make();
  const bytes = 192 * MIB;
  const { uri, backing } = await createDevice(rig, bytes);
  const content = contentFile(rig, "content", bytes);
  const copy = rig.path("copy");
  await must("nbdcopy", "--flush", content, uri);
  await must("nbdcopy", uri, copy);
  await must("cmp", content, copy);
  await rig.ok("remove", "--flush", "d");
  await must("cmp", content, backing);
});

Deno.test("nbdcopy of more than the cache holds, and back", async () => {
  await using rig = Rig.make();
  const bytes = 768 * MIB;
  const { uri, backing } = await createDevice(rig, bytes);
  const content = contentFile(rig, "content", bytes);
  await must("nbdcopy", "--flush", content, uri);
  await must("qemu-img", "compare", "-f", "raw", "-F", "raw", uri, content);
  await rig.ok("remove", "--flush", "d");
  await must("cmp", content, backing);
});

Deno.test("qemu-io patterns: overlaps, odd sizes, FUA, many at once, over connections", async () => {
  await using rig = Rig.make();
  const { uri } = await createDevice(rig, 64 * MIB);
  const qemuIo = (...commands: string[]) =>
    must("qemu-io", "-f", "raw", ...commands.flatMap((command) => ["-c", command]), uri);
  await qemuIo(
    "read -P 0 0 64M", // a sparse backing file reads as zeros
    "write -P 0x11 0 1M",
    "write -P 0x22 4k 4k",
    "write -P 0x33 6k 3k", // over the end of the one before
    "write -f -P 0x44 100k 512",
    "write -P 0x55 4190208 8k", // over a 4 MiB boundary
    "write -P 0x66 8M 12M",
    "write -P 0x77 33553920 512", // below 32 MiB
    "flush",
    "read -P 0x11 0 4k",
    "read -P 0x22 4k 2k",
    "read -P 0x33 6k 3k",
    "read -P 0x11 9k 91k",
    "read -P 0x44 100k 512",
    "read -P 0x11 102912 921088",
    "read -P 0 1M 1M",
    "read -P 0x55 4190208 8k",
    "read -P 0x66 8M 12M",
    "read -P 0x77 33553920 512",
  );
  await qemuIo( // another connection sees the same
    "read -P 0x22 4k 2k",
    "read -P 0x66 8M 12M",
    ...Array.from({ length: 32 }, (_, i) => `aio_write -P ${i + 1} ${40960 + i * 36}k 36k`),
    "aio_flush",
    ...Array.from({ length: 32 }, (_, i) => `aio_read -P ${i + 1} ${40960 + i * 36}k 36k`),
    "aio_flush",
    "writev -P 0x99 60M 512 1k 4k 512",
    "readv -P 0x99 60M 4k 2k",
    "write -P 0xaa 62914303 3", // unaligned: QEMU reads, changes and writes
    "read -P 0xaa 62914303 3",
  );
  await qemuIo(
    ...Array.from({ length: 32 }, (_, i) => `read -P ${i + 1} ${40960 + i * 36}k 36k`),
    "read -P 0x99 60M 6k",
  );
});

Deno.test("qemu-img converts an image onto the device and finds it equal", async () => {
  await using rig = Rig.make();
  const bytes = 96 * MIB;
  const { uri, backing, table } = await createDevice(rig, bytes);
  const content = contentFile(rig, "content", bytes);
  await must("qemu-img", "compare", "-f", "raw", "-F", "raw", uri, backing);
  await must("qemu-img", "convert", "-n", "-W", "-m", "8", "-f", "raw", "-O", "raw", content, uri);
  await must("qemu-img", "compare", "-f", "raw", "-F", "raw", uri, content);
  await rig.kill("d");
  await rig.ok("create", "d", "--table", table);
  await must("qemu-img", "compare", "-f", "raw", "-F", "raw", await rig.uri("d"), content);
});

for (const loop of ["io_uring", "poll"]) {
  Deno.test(`nbdkit's nbd plugin in front: its clients find everything that ours do, ${loop}`, async () => {
    await using rig = Rig.make({ env: { PCACHE_LOOP: loop } });
    const bytes = 256 * MIB;
    const { uri, backing } = await createDevice(rig, bytes);
    const socket = rig.path("front");
    const nbdkit = rig.start("nbdkit", ["--foreground", "--unix", socket, "nbd", `uri=${uri}`]);
    const front = `nbd+unix:///?socket=${socket}`;
    await until("nbdkit serves", async () => (await run("nbdinfo", ["--size", front])).code === 0);
    const seen = JSON.parse(await must("nbdinfo", "--json", front)).exports[0];
    assertEquals(seen["export-size"], bytes);
    for (const can of ["flush", "fua", "trim", "zero", "fast_zero", "cache", "multi_conn"]) {
      assertEquals(seen[`can_${can}`], true, can);
    }

    const job = [
      ...["--name=front", "--ioengine=nbd", `--uri=${front}`, "--numjobs=2", "--iodepth=16"],
      ...["--size=64m", "--offset_increment=64m", "--bsrange=512-64k", "--randseed=7"],
      ...["--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0", "--group_reporting"],
      ...["--allow_file_create=0", `--aux-path=${rig.dir}`],
    ];
    await must("fio", ...job, "--rw=randrw", "--fsync=64");
    await must(
      "qemu-io",
      ...["-f", "raw", "-d", "unmap", "-c", "write -P 7 128M 32M", "-c", "discard 132M 8M"],
      ...["-c", "write -z 144M 4M", "-c", "read -P 0 132M 8M", "-c", "read -P 0 144M 4M", front],
    );
    const map = await must("nbdinfo", "--map", front);
    assertMatch(map, /^ +138412032 +8388608 +3 +hole,zero$/m);
    assertMatch(map, /^ +150994944 +4194304 +2 +zero$/m);
    await must("qemu-img", "compare", "-f", "raw", "-F", "raw", front, uri);
    const copy = rig.path("copy");
    await must("nbdcopy", front, copy);
    nbdkit.kill("SIGTERM");
    await nbdkit.status;
    await rig.ok("remove", "--flush", "d");
    await must("cmp", copy, backing);
  });
}

for (const { variant, data_crc, options } of VARIANTS) {
  Deno.test(`fio verifies random mixed sizes, depth 32, four connections, ${variant}`, async () => {
    await using rig = Rig.make(options);
    const { uri } = await createDevice(rig, 1 * GIB, data_crc);
    const job = [
      ...["--name=verify", "--ioengine=nbd", `--uri=${uri}`, "--numjobs=4", "--iodepth=32"],
      ...["--size=128m", "--offset_increment=128m", "--bsrange=512-128k", "--randseed=7"],
      ...["--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0", "--group_reporting"],
      ...["--allow_file_create=0", `--aux-path=${rig.dir}`],
    ];
    const output = await must("fio", ...job, "--rw=randrw", "--fsync=64");
    assertEquals(output.match(/connected to NBD server/g)?.length, 4);
    await must("fio", ...job, "--rw=randwrite", "--bsrange=4k-4k", "--number_ios=8192");
  });
}

Deno.test("ext4 on a loop device over nbdfuse keeps every fsynced file when the device is killed", async () => {
  await using rig = Rig.make();
  const { uri, backing, table } = await createDevice(rig, 1 * GIB);
  const fuse = rig.path("fuse");
  const mnt = rig.path("mnt");
  Deno.mkdirSync(fuse);
  Deno.mkdirSync(mnt);
  /** The paths in the file system, and what an fsync has made durable in them. */
  const synced = new Map<string, Uint8Array>();

  {
    await using first = await attach(rig, fuse, uri);
    await must("mkfs.ext4", "-q", first.device);
    await must("mount", first.device, mnt);
    first.defer(() => must("umount", mnt));
    for (let i = 0; i < 120; i++) {
      const name = `file-${i % 90}`; // some are written again
      const content = new Uint8Array(1 + (i * 7919 * 64) % (3 * MIB));
      fillFor(i + 1, content);
      using file = Deno.openSync(`${mnt}/${name}`, { write: true, create: true, truncate: true });
      for (let at = 0; at < content.length;) at += file.writeSync(content.subarray(at));
      file.syncSync();
      synced.set(name, content);
    }
    const unsynced = new Uint8Array(8 * MIB).fill(0xee);
    for (let i = 0; i < 8; i++) Deno.writeFileSync(`${mnt}/unsynced-${i}`, unsynced);
    await rig.kill("d");
  }

  await rig.ok("create", "d", "--table", table);
  {
    await using second = await attach(rig, fuse, await rig.uri("d"));
    // The journal is replayed, as a mount would do it; nothing else may need repair.
    const replayed = await run("e2fsck", ["-y", "-E", "journal_only", second.device]);
    assertEquals(replayed.code & ~1, 0, replayed.stdout + replayed.stderr);
    await must("e2fsck", "-fn", second.device);
    await must("mount", second.device, mnt);
    second.defer(() => must("umount", mnt));
    for (const [name, content] of synced) {
      const found = Deno.readFileSync(`${mnt}/${name}`);
      assertEquals(found.length, content.length, `size of ${name}`);
      assertEquals(found.every((byte, i) => byte === content[i]), true, `content of ${name}`);
    }
  }
  await rig.ok("remove", "--flush", "d");
  await must("e2fsck", "-fn", backing);
});

/** A loop device over nbdfuse over NBD. */
interface Attached extends AsyncDisposable {
  readonly device: string;
  /** Something to undo before it is taken apart. */
  defer(undo: () => unknown): void;
}

/** Makes a block device of an NBD export with nbdfuse on the folder `fuse`, and a loop device. */
async function attach(rig: Rig, fuse: string, uri: string): Promise<Attached> {
  await using steps = new AsyncDisposableStack();
  const child = rig.start("nbdfuse", [`${fuse}/`, uri]);
  steps.defer(async () => void await child.status); // ends once it is unmounted
  await until(
    "nbdfuse is mounted",
    () => Deno.readTextFileSync("/proc/mounts").includes(` ${fuse} `),
  );
  steps.defer(async () => void await must("fusermount3", "-u", "-z", fuse));
  const device = (await must("losetup", "-f", "--show", `${fuse}/nbd`)).trim();
  steps.defer(async () => void await must("losetup", "-d", device));
  const kept = steps.move();
  return {
    device,
    defer: (undo) => kept.defer(async () => void await undo()),
    [Symbol.asyncDispose]: () => kept.disposeAsync(),
  };
}

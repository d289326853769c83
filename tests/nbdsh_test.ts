/**
 * Features of the protocol, one by one, by clients that nobody here wrote: scripts for nbdsh, nbdinfo's maps, qemu-img's.
 * Extended headers, which Debian 12's clients do not have, are tested with our own client (tests/nbd_test.ts).
 *
 * @module
 */

import { assertEquals, assertMatch } from "@std/assert";
import { GIB, MIB, must, Rig } from "./device.ts";

/** Debian's, whatever else is on the PATH: nbdsh is a module of it. */
const PYTHON = "/usr/bin/python3";

/** What the scripts have: a handle `h`, and `expect`. */
const PRELUDE = `
import errno
def expect(wanted, got):
    assert wanted == got, "%r wanted, not %r" % (wanted, got)
def refused(what, act):
    try:
        act()
    except nbd.Error as e:
        expect(what, e.errno)
        return e.string
    raise AssertionError("not refused")
`;

const SIZE_BYTES = 1 * GIB;

// [what, options of create, before it is connected, script]
const SCRIPTS: [string, string[], string, string][] = [
  [
    "structured replies: data in one chunk, errors with a text",
    [],
    "",
    `
expect(True, h.get_structured_replies_negotiated())
expect(True, h.can_df())
h.pwrite(b"x" * 8192, 4096)
chunks = []
def chunk(data, offset, status, error):
    chunks.append((len(data), offset, status))
for flags in (0, nbd.CMD_FLAG_DF):
    expect(b"x" * 8192 + b"\\0" * 512, h.pread_structured(8704, 4096, chunk, flags))
expect([(8704, 4096, nbd.READ_DATA)] * 2, chunks)
h.set_strict_mode(0)
refused("EINVAL", lambda: h.pread(512, ${SIZE_BYTES}))
refused("ENOSPC", lambda: h.pwrite(b"y" * 512, ${SIZE_BYTES}))
refused("EINVAL", lambda: h.pwrite(b"y" * 512, 0, nbd.CMD_FLAG_DF))
refused("EINVAL", lambda: h.trim(512, ${SIZE_BYTES}))
refused("ENOSPC", lambda: h.zero(512, ${SIZE_BYTES}))
refused("EINVAL", lambda: h.trim(512, 0, nbd.CMD_FLAG_NO_HOLE))
expect(b"x" * 8192, h.pread(8192, 4096))
`,
  ],
  [
    "simple replies, where a client does not want others",
    [],
    "h.set_request_structured_replies(False)",
    `
expect(False, h.get_structured_replies_negotiated())
expect(False, h.can_df())
h.pwrite(b"x" * 8192, 4096, nbd.CMD_FLAG_FUA)
h.flush()
expect(b"x" * 8192, h.pread(8192, 4096))
h.set_strict_mode(0)
refused("EINVAL", lambda: h.pread(512, ${SIZE_BYTES}))
refused("EINVAL", lambda: h.pread(512, 0, nbd.CMD_FLAG_DF))
h.cache(4096, 0)
`,
  ],
  [
    "CACHE brings ranges into the cache, block status tells which are",
    [],
    'h.add_meta_context("base:allocation"); h.add_meta_context("pcache:dirty")',
    `
expect(True, h.can_cache())
expect(True, h.can_meta_context("base:allocation"))
expect(True, h.can_meta_context("pcache:dirty"))
M = 1 << 20
def status(count, offset, flags=0):
    found = {}
    def extent(context, offset, entries, error):
        expect(None, found.get(context))
        found[context] = list(zip(entries[0::2], entries[1::2]))
    h.block_status(count, offset, extent, flags)
    return found
expect({"base:allocation": [(M, 0)], "pcache:dirty": [(M, 0)]}, status(M, 0))
h.cache(2 * M, 4 * M)
expect([(M, 0), (2 * M, 1), (M, 0)], status(4 * M, 3 * M)["pcache:dirty"])
expect([(M, 0)], status(4 * M, 3 * M, nbd.CMD_FLAG_REQ_ONE)["pcache:dirty"])
expect([(4 * M, 0)], status(4 * M, 3 * M, nbd.CMD_FLAG_REQ_ONE)["base:allocation"])
h.pwrite(b"d" * 512, 5 * M)
assert status(512, 5 * M)["pcache:dirty"][0] in ((512, 3), (512, 1))
expect(b"\\0" * 512 + b"d" * 512, h.pread(1024, 5 * M - 512))
h.set_strict_mode(0)
refused("EINVAL", lambda: status(1024, ${SIZE_BYTES} - 512))
refused("EINVAL", lambda: h.cache(64 * M, 0))
`,
  ],
  [
    "what was zeroed or trimmed is a hole in reads and in maps, until it is written",
    [],
    'h.add_meta_context("base:allocation")',
    `
K = 1024
h.pwrite(b"x" * (1024 * K), 0)
h.zero(256 * K, 256 * K)
h.zero(100 * K, 600 * K, nbd.CMD_FLAG_NO_HOLE)
h.trim(128 * K, 768 * K)
want = bytearray(b"x" * (1024 * K))
for at, count in ((256, 256), (600, 100), (768, 128)):
    want[at * K:(at + count) * K] = bytes(count * K)
def status():
    found = []
    def extent(context, offset, entries, error):
        found.extend(zip(entries[0::2], entries[1::2]))
    h.block_status(1024 * K, 0, extent)
    return found
D, H = nbd.READ_DATA, nbd.READ_HOLE
chunks = []
def chunk(data, offset, status, error):
    chunks.append((len(data) // K, offset // K, status))
expect(want, h.pread_structured(1024 * K, 0, chunk))
expect([(256, 0, D), (256, 256, H), (88, 512, D), (100, 600, H), (68, 700, D), (128, 768, H), (128, 896, D)], chunks)
expect([(256 * K, 0), (256 * K, 3), (88 * K, 0), (100 * K, 2), (68 * K, 0), (128 * K, 3), (128 * K, 0)], status())
chunks = []
expect(want, h.pread_structured(1024 * K, 0, chunk, nbd.CMD_FLAG_DF))
expect([(1024, 0, D)], chunks)
h.pwrite(b"y" * 512 * K, 256 * K)
expect([(768 * K, 0), (128 * K, 3), (128 * K, 0)], status())
`,
  ],
  [
    "block status without a context is refused, and the connection goes on",
    [],
    "",
    `
h.set_strict_mode(0)
refused("EINVAL", lambda: h.block_status(512, 0, lambda *a: 0))
h.pread(512, 0)
`,
  ],
  [
    "options one by one: contexts are listed, selected, refused; an unknown export is",
    [],
    "h.set_opt_mode(True)",
    `
def listed():
    found = []
    h.opt_list_meta_context(found.append)
    return sorted(found)
expect(["base:allocation", "pcache:dirty"], listed())
h.add_meta_context("pcache:")
h.add_meta_context("other:thing")
expect(["pcache:dirty"], listed())
h.set_export_name("other")
refused("ENOENT", lambda: h.opt_info())
h.set_export_name("d")
h.opt_info()
expect(${SIZE_BYTES}, h.get_size())
h.clear_meta_contexts()
h.add_meta_context("base:allocation")
h.opt_go()
expect(True, h.can_meta_context("base:allocation"))
expect(False, h.can_meta_context("pcache:dirty"))
`,
  ],
  [
    "a read-only device",
    ["-r"],
    "",
    `
expect(True, h.is_read_only())
h.set_strict_mode(0)
refused("EPERM", lambda: h.pwrite(b"y" * 70000, 0))
h.pread(512, 0)
h.cache(4096, 0)
`,
  ],
];

for (const [what, options, before, script] of SCRIPTS) {
  for (const loop of ["io_uring", "poll"]) {
    Deno.test(`nbdsh, ${loop}: ${what}`, async () => {
      await using rig = Rig.make({ env: { PCACHE_LOOP: loop } });
      const table = `pcache ${rig.file("cache", 512 * MIB)} ${rig.file("backing", SIZE_BYTES)}`;
      await rig.ok("create", "d", ...options, "--table", table);
      const connect = `h.connect_uri("${await rig.uri("d")}")`;
      const parts = [PRELUDE, before, connect, script, "h.shutdown()"].flatMap((c) => ["-c", c]);
      await must(PYTHON, "-m", "nbd", ...parts);
      await rig.ok("remove", "d");
    });
  }
}

Deno.test("maps of nbdinfo and qemu-img", async () => {
  await using rig = Rig.make();
  const table = `pcache ${rig.file("cache", 512 * MIB)} ${rig.file("backing", 64 * MIB)}`;
  await rig.ok("create", "d", "--table", table);
  const uri = await rig.uri("d");
  await must("qemu-io", "-f", "raw", "-c", "write -P 1 8M 4k", "-c", "write -P 2 20M 8k", uri);
  const map = async (context: string) =>
    JSON.parse(await must("nbdinfo", `--map=${context}`, "--json", uri));
  assertEquals(
    (await map("base:allocation")).map((
      e: Record<string, unknown>,
    ) => [e.offset, e.length, e.type]),
    [[0, 64 * MIB, 0]],
  );
  const dirty: { offset: number; length: number; type: number }[] = await map("pcache:dirty");
  const cached = dirty.filter((e) => e.type !== 0).map((e) => [e.offset, e.length]);
  assertEquals(cached, [[8 * MIB, 4096], [20 * MIB, 8192]]);
  assertEquals(dirty.reduce((sum, e) => sum + e.length, 0), 64 * MIB);
  assertMatch(await must("nbdinfo", "--map", uri), /^ +0 +67108864 +0 +data$/m);

  const map_of_image = async () =>
    JSON.parse(await must("qemu-img", "map", "-f", "raw", "--output=json", uri))
      .map((e: Record<string, unknown>) => [e.start, e.length, e.data, e.zero]);
  assertEquals(await map_of_image(), [[0, 64 * MIB, true, false]]);
  await must("qemu-io", "-f", "raw", "-d", "unmap", "-c", "discard 8M 16M", uri);
  await must("qemu-io", "-f", "raw", "-c", "write -z 40M 1M", uri);
  assertEquals(await map_of_image(), [
    [0, 8 * MIB, true, false],
    [8 * MIB, 16 * MIB, false, true],
    [24 * MIB, 16 * MIB, true, false],
    [40 * MIB, MIB, true, true],
    [41 * MIB, 23 * MIB, true, false],
  ]);
  assertMatch(await must("nbdinfo", "--map", uri), /^ +8388608 +16777216 +3 +hole,zero$/m);
});

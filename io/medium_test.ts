import { assert, assertEquals, assertThrows } from "@std/assert";
import { crc32c, CRC_SEED } from "../core/crc32c.ts";
import { CacheError } from "../core/errors.ts";
import { Arena } from "./arena.ts";
import { allocatedBytes, closeDevice, openDevice } from "./files.ts";
import { loadIsal } from "./isal.ts";
import { loadLibpmem } from "./libpmem.ts";
import { type Libraries, Medium } from "./medium.ts";
import { BARRIER_USER, CACHE_BYTES, checkMedium, withMedium } from "./medium_check.ts";
import { PollRing } from "./poll_ring.ts";
import { pattern, sparseFile, withDir, withFileSystem, withLoop, withTmpfs } from "./testing.ts";

Deno.test("Medium: an ordinary file, fdatasync for a barrier", () => {
  withDir("/var/tmp", (dir) => checkMedium(sparseFile(`${dir}/c`, CACHE_BYTES), "file"));
});

Deno.test("Medium: tmpfs, nothing to wait for", () => {
  withDir("/dev/shm", (dir) => checkMedium(sparseFile(`${dir}/c`, CACHE_BYTES), "tmpfs"));
});

Deno.test("Medium: a block device, fdatasync for a barrier", () => {
  withDir("/var/tmp", (dir) => {
    withLoop(sparseFile(`${dir}/image`, CACHE_BYTES), 512, (path) => checkMedium(path, "block"));
  });
});

Deno.test("Medium: a file that libpmem is told to take for persistent memory", () => {
  for (const parent of ["/var/tmp", "/dev/shm"]) {
    withDir(parent, (dir) => {
      const program = new URL("medium_check.ts", import.meta.url).pathname;
      const { success, stderr } = new Deno.Command(Deno.execPath(), {
        args: ["run", "-A", program, sparseFile(`${dir}/c`, CACHE_BYTES), "pmem"],
        env: { PMEM_IS_PMEM_FORCE: "1" },
      }).outputSync();
      if (!success) throw new Error(new TextDecoder().decode(stderr));
    });
  }
});

Deno.test("Medium: what stores are aimed at has its pages, and its content", () => {
  withDir("/dev/shm", (dir) => {
    const path = sparseFile(`${dir}/c`, CACHE_BYTES);
    withMedium(path, (medium) => {
      const blocks = () => Deno.statSync(path).blocks! * 512;
      medium.write(8192, pattern(4096, 1), 4096);
      assertEquals(blocks(), 4096);
      medium.aim(4096, 4100, 16 * 4096); // runs end where they are said to
      assertEquals(blocks(), 15 * 4096);
      medium.aim(0, 4096, CACHE_BYTES);
      const prepared = blocks();
      assert(prepared > 16 * 4096 && prepared < CACHE_BYTES);
      medium.aim(4096, 2 * 4096, CACHE_BYTES); // prepared already, by either run
      medium.aim(5 * 4096, 6 * 4096, 16 * 4096);
      assertEquals(blocks(), prepared);
      medium.aim(4096, CACHE_BYTES, CACHE_BYTES);
      assertEquals(blocks(), CACHE_BYTES);
      const bytes = new Uint8Array(4096);
      medium.read(8192, bytes, 4096);
      assertEquals(bytes, pattern(4096, 1));
    });
  });
});

Deno.test("Medium: what is stored is there, also when it is small and V8 keeps it among its objects", () => {
  withDir("/dev/shm", (dir) => {
    withMedium(sparseFile(`${dir}/c`, CACHE_BYTES), (medium) => {
      const got = new Uint8Array(24);
      // Often enough that it is compiled, and its calls with it.
      for (let i = 0; i < 100_000; i++) {
        const bytes = new Uint8Array(24).fill(i);
        medium.write(4096, bytes, 24);
        if (i % 100 !== 0) continue;
        medium.read(4096, got, 24);
        assertEquals(got, bytes);
      }
      assertThrows(() => medium.write(4096, got, 25), Error, "what is stored is there");
    });
  });
});

Deno.test("Medium: addresses outside are refused before they are touched", () => {
  withDir("/dev/shm", (dir) => {
    withMedium(sparseFile(`${dir}/c`, CACHE_BYTES + 512), (medium) => {
      const bytes = new Uint8Array(8192);
      const end = medium.buffer_addr + medium.buffer_bytes;
      const outside: [number, number][] = [
        [-1, 2],
        [CACHE_BYTES + 512 - 4095, 4096],
        [CACHE_BYTES + 512, 1],
        [medium.buffer_addr - 1, 1],
        [medium.buffer_addr - 1, 2],
        [end - 4095, 4096],
        [end, 1],
        [0, -1],
        [2 ** 50, 1],
        [NaN, 1],
      ];
      for (const [addr, len] of outside) {
        const calls = {
          read: () => medium.read(addr, bytes, len),
          write: () => medium.write(addr, bytes, len),
          copy_to: () => medium.copy(addr, 0, len),
          copy_from: () => medium.copy(0, addr, len),
          crc32c: () => medium.crc32c(addr, len),
          persist: () => medium.persist(addr, len),
        };
        for (const [name, call] of Object.entries(calls)) {
          assertThrows(call, RangeError, "outside", `${name} of ${len} at ${addr}`);
        }
      }
      medium.read(CACHE_BYTES + 511, bytes, 1);
      medium.read(medium.buffer_addr, bytes, 1);
      medium.read(end - 1, bytes, 1);
    });
  });
});

Deno.test("Medium: the checksum is the format's, with ISA-L and without", () => {
  const crc = loadIsal();
  assert(crc !== null, "libisal2 is not installed: the tests need it");
  checkSums({ crc, libpmem: null });
  checkSums({ crc: null, libpmem: null });
});

function checkSums(libraries: Libraries): void {
  withDir("/dev/shm", (dir) => {
    const path = sparseFile(`${dir}/c`, CACHE_BYTES);
    const bytes = pattern(CACHE_BYTES, 3);
    Deno.writeFileSync(path, bytes);
    withMedium(path, (medium) => {
      for (let i = 0; i < 300; i++) {
        const len = i < 70 ? i : (i * 7919) % 70_001;
        const addr = (i * 104_729) % (CACHE_BYTES - len);
        assertEquals(medium.crc32c(addr, len), crc32c(bytes, addr, addr + len));
      }
      medium.copy(medium.buffer_addr, 0, 1 << 20);
      assertEquals(medium.crc32c(medium.buffer_addr, 1 << 20), crc32c(bytes, 0, 1 << 20));
      assertEquals(medium.crc32c(0, 0), CRC_SEED);
    }, libraries);
  });
}

Deno.test("Medium: libpmem is there, and knows that a disk is no persistent memory", () => {
  const libpmem = loadLibpmem();
  if (libpmem === null) throw new Error("libpmem1 is not installed: the tests need it");
  withDir("/var/tmp", (dir) => {
    assertEquals(libpmem.isPmem(sparseFile(`${dir}/c`, 1 << 20)), false);
    assertEquals(libpmem.isPmem(`${dir}/missing`), false);
  });
});

Deno.test("Medium: prepare sets every block aside and changes nothing that can be read", () => {
  for (const parent of ["/var/tmp", "/dev/shm"]) {
    withDir(parent, (dir) => {
      const path = sparseFile(`${dir}/c`, CACHE_BYTES + 512);
      const content = pattern(4096, 4);
      const file = Deno.openSync(path, { write: true });
      file.seekSync(1 << 20, Deno.SeekMode.Start);
      file.writeSync(content);
      file.close();
      withMedium(path, (medium, _ring, fd) => {
        assert(allocatedBytes(fd) < CACHE_BYTES, "opening and mapping fill no hole");
        medium.read(0, new Uint8Array(4096), 4096);
        assert(allocatedBytes(fd) < 1 << 20, "reading metadata fills no hole");
        medium.prepare();
        assert(allocatedBytes(fd) >= CACHE_BYTES + 512);
        medium.prepare();
      });
      const expected = new Uint8Array(CACHE_BYTES + 512);
      expected.set(content, 1 << 20);
      assertEquals(Deno.readFileSync(path), expected);
    });
  }
});

/** Bytes of pages that this process has made dirty, so far. */
function dirtiedBytes(): number {
  return Number(/^write_bytes: (\d+)$/m.exec(Deno.readTextFileSync("/proc/self/io"))![1]);
}

Deno.test("Medium: a store makes one page dirty, however the file came into the page cache", () => {
  withDir("/var/tmp", (dir) => {
    const path = `${dir}/c`;
    using file = Deno.openSync(path, { write: true, create: true });
    file.writeSync(pattern(CACHE_BYTES, 5)); // in large folios, where the file system has them
    file.syncDataSync();
    withMedium(path, (medium) => {
      medium.prepare();
      const before_bytes = dirtiedBytes();
      medium.write(CACHE_BYTES / 2, pattern(100, 6), 100);
      assertEquals(dirtiedBytes() - before_bytes, 4096);
    });
  });
});

Deno.test("Medium: prepare on a file system without the space says so and takes none", () => {
  // One of its own: others would miss the space meanwhile, or give some back.
  withTmpfs(2 * CACHE_BYTES, (mounted) => {
    Deno.writeFileSync(`${mounted}/other`, new Uint8Array(1.5 * CACHE_BYTES));
    withMedium(sparseFile(`${mounted}/c`, CACHE_BYTES), (medium, _ring, fd) => {
      assertThrows(() => medium.prepare(), CacheError, "No space left on device");
      assertEquals(allocatedBytes(fd), 0);
    });
  });
});

Deno.test("Medium: where blocks cannot be set aside, a file must have no holes", () => {
  withFileSystem("ext3", (mounted) => {
    withMedium(sparseFile(`${mounted}/sparse`, CACHE_BYTES), (medium) => {
      assertThrows(() => medium.prepare(), CacheError, "a file without holes is wanted");
    });
    Deno.writeFileSync(`${mounted}/full`, pattern(CACHE_BYTES, 5));
    withMedium(`${mounted}/full`, (medium) => medium.prepare());
    // Enough blocks in all, but one of them is the file system's own.
    Deno.writeFileSync(`${mounted}/holed`, pattern(CACHE_BYTES, 5));
    const file = openDevice("cache", `${mounted}/holed`);
    Deno.truncateSync(`${mounted}/holed`, CACHE_BYTES - 4096);
    Deno.truncateSync(`${mounted}/holed`, CACHE_BYTES);
    assert(allocatedBytes(file.fd) >= CACHE_BYTES, "the case this test is about");
    closeDevice(file);
    withMedium(`${mounted}/holed`, (medium) => {
      assertThrows(() => medium.prepare(), CacheError, "a file without holes is wanted");
    });
  });
});

Deno.test("Medium: a cache file that became shorter is an error, not the end of the process", () => {
  withDir("/var/tmp", (dir) => {
    const path = sparseFile(`${dir}/c`, CACHE_BYTES);
    withMedium(path, (medium) => {
      Deno.truncateSync(path, 4096);
      assertThrows(
        () => medium.read(8192, new Uint8Array(16), 16),
        CacheError,
        `cache device ${path}: reading at 8192: the file has become shorter`,
      );
    });
  });
});

Deno.test("Medium: a barrier that fails is reported, waited for or not", () => {
  withDir("/var/tmp", (dir) => {
    const file = openDevice("cache", sparseFile(`${dir}/c`, CACHE_BYTES));
    const arena = new Arena({ cache_bytes: CACHE_BYTES, buffer_bytes: 4096, io_bytes: 1 << 20 });
    const ring = new PollRing(arena, 8);
    const medium = new Medium(arena, file, ring, BARRIER_USER);
    closeDevice(file);
    assertThrows(() => medium.barrierSync(), CacheError, "Bad file descriptor");
    assertEquals(medium.barrier(), false);
    ring.wait(0);
    assert(ring.next());
    assertEquals([ring.user, ring.result], [BARRIER_USER, -9]);
    ring.close();
    arena.close();
  });
});

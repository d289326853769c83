import { assert, assertEquals, assertThrows } from "@std/assert";
import { AssertionFailure } from "../core/assert.ts";
import { CacheError } from "../core/errors.ts";
import { Arena, MAX_CACHE_BYTES } from "./arena.ts";
import { cString, libc, O_CLOEXEC, O_RDWR } from "./libc.ts";
import { sparseFile, withDir } from "./testing.ts";

Deno.test("Arena: cache device, transfer buffers and io's area in one buffer", () => {
  withDir("/var/tmp", (dir) => {
    const path = sparseFile(`${dir}/cache`, 3 * 4096 + 512);
    Deno.writeFileSync(path, new Uint8Array(512).fill(7));
    Deno.truncateSync(path, 3 * 4096 + 512);
    const fd = libc.open(cString(path), O_RDWR | O_CLOEXEC, 0);
    const arena = new Arena({ cache_bytes: 3 * 4096 + 512, buffer_bytes: 8192, io_bytes: 8192 });
    try {
      assertEquals(arena.buffer_addr % (2 << 20), 0);
      assert(arena.buffer_addr >= arena.cache_bytes);
      assertEquals(arena.mapCache(fd, false), 0);
      assertEquals(arena.bytes.slice(0, 512), new Uint8Array(512).fill(7));
      arena.bytes[arena.cache_bytes - 1] = 9;
      arena.bytes.copyWithin(arena.buffer_addr, 0, 512);
      arena.bytes.copyWithin(4096, arena.buffer_addr, arena.buffer_addr + 512);
      const file = Deno.readFileSync(path);
      assertEquals(file.length, 3 * 4096 + 512);
      assertEquals(file[file.length - 1], 9);
      assertEquals(file.slice(4096, 4096 + 512), new Uint8Array(512).fill(7));
    } finally {
      arena.close();
      libc.close(fd);
    }
  });
});

Deno.test("Arena: a mapping that the medium refuses is an error number", () => {
  withDir("/var/tmp", (dir) => {
    const fd = libc.open(cString(sparseFile(`${dir}/cache`, 4096)), O_RDWR | O_CLOEXEC, 0);
    const arena = new Arena({ cache_bytes: 4096, buffer_bytes: 4096, io_bytes: 0 });
    assertEquals(arena.mapCache(fd, true), 95, "MAP_SYNC on a disk's file system: EOPNOTSUPP");
    assertEquals(arena.mapCache(100_000, false), 9, "no such descriptor: EBADF");
    arena.close();
    libc.close(fd);
  });
});

Deno.test("Arena: alloc gives out aligned, zeroed pieces and stops at the end", () => {
  const arena = new Arena({ cache_bytes: 0, buffer_bytes: 4096, io_bytes: 3 * 4096 });
  const first = arena.alloc(100), second = arena.alloc(100), third = arena.alloc(4096, 4096);
  assertEquals(first, arena.io_addr);
  assertEquals(second, first + 128);
  assertEquals(third, arena.io_addr + 4096);
  assertEquals(arena.bytes.slice(first, third + 4096), new Uint8Array(8192));
  arena.alloc(4096);
  assertThrows(() => arena.alloc(1), AssertionFailure, "1 bytes asked for, 0 left");
  arena.close();
});

Deno.test("Arena: absolute addresses, as words and as a bigint", () => {
  const arena = new Arena({ cache_bytes: 2 ** 35, buffer_bytes: 4096, io_bytes: 4096 });
  const base = BigInt(Deno.UnsafePointer.value(Deno.UnsafePointer.of(arena.bytes)));
  assertEquals(base % BigInt(2 << 20), 0n);
  const words = new Uint32Array(4);
  for (const addr of [0, 1, 2 ** 32 - 1, 2 ** 32, 2 ** 35 + 17]) {
    assertEquals(arena.absolute(addr), base + BigInt(addr));
    arena.putAddress(words, 1, addr);
    assertEquals(BigInt(words[1]!) + (BigInt(words[2]!) << 32n), base + BigInt(addr));
    assertEquals([words[0], words[3]], [0, 0]);
  }
  arena.close();
});

Deno.test("Arena: a terabyte less the slack is reserved, more is refused", () => {
  const arena = new Arena({ cache_bytes: MAX_CACHE_BYTES, buffer_bytes: 1 << 20, io_bytes: 4096 });
  arena.bytes[arena.io_addr + 4095] = 1;
  assertEquals(arena.bytes[arena.io_addr + 4095], 1);
  arena.close();
  assertThrows(
    () => new Arena({ cache_bytes: MAX_CACHE_BYTES + 1, buffer_bytes: 4096, io_bytes: 4096 }),
    CacheError,
    `${MAX_CACHE_BYTES + 1} bytes: at most`,
  );
});

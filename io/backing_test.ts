import { assert, assertEquals, assertThrows } from "@std/assert";
import { AssertionFailure } from "../core/assert.ts";
import { EIO } from "../core/errors.ts";
import { type Gather, MAX_BACKING_IDS, MAX_GATHER } from "../core/platform.ts";
import { Arena } from "./arena.ts";
import { FileBacking, UNDER_WAY } from "./backing.ts";
import { closeDevice, type DeviceFile, openDevice } from "./files.ts";
import { EAGAIN, EINTR, EOPNOTSUPP } from "./libc.ts";
import { PollRing } from "./poll_ring.ts";
import type { Ring } from "./ring.ts";
import { pattern, sparseFile, withDir, withLoop } from "./testing.ts";
import { UringRing } from "./uring.ts";

const KIND = 0x81;
const DEVICE_BYTES = 8 << 20;
const EBADF = 9;

interface Rig {
  arena: Arena;
  ring: Ring;
  backing: FileBacking;
  path: string;
  /** Waits for `count` requests to end; returns their error numbers by id. */
  collect(count: number): Map<number, number>;
}

function openRing(kind: "io_uring" | "poll", arena: Arena): Ring {
  if (kind === "poll") return new PollRing(arena, 256);
  const ring = UringRing.open(arena, 256);
  if (ring instanceof UringRing) return ring;
  throw new Error(`io_uring is refused here: errno ${ring}`);
}

/** Opens the device at `path` and runs `body`; `see` may change what the device says about itself. */
function withBacking(
  ring_kind: "io_uring" | "poll",
  path: string,
  body: (rig: Rig) => void,
  see: (file: DeviceFile) => DeviceFile = (file) => file,
): void {
  const file = openDevice("backing", path);
  const arena = new Arena({ cache_bytes: 0, buffer_bytes: 16 << 20, io_bytes: 16 << 20 });
  const ring = openRing(ring_kind, arena);
  const backing = new FileBacking(arena, see(file), ring, KIND);
  const collect = (count: number) => {
    const errors = new Map<number, number>();
    for (let turns = 0; errors.size < count; turns++) {
      assert(turns < 10_000, `${errors.size} of ${count} requests ended`);
      ring.wait(10_000);
      while (ring.next()) {
        assertEquals(ring.user >>> 24, KIND);
        const id = ring.user & 0xffffff;
        const error = backing.ended(id, ring.result);
        if (error !== UNDER_WAY) errors.set(id, error);
      }
    }
    return errors;
  };
  try {
    body({ arena, ring, backing, path, collect });
  } finally {
    ring.close();
    backing.close();
    arena.close();
    closeDevice(file);
  }
}

/** Runs `body` on both rings, on every kind of backing device. */
function backingTest(name: string, body: (rig: Rig) => void): void {
  for (const ring_kind of ["io_uring", "poll"] as const) {
    for (const parent of ["/var/tmp", "/dev/shm"]) {
      Deno.test(`FileBacking: ${name} (${ring_kind}, file in ${parent})`, () => {
        withDir(parent, (dir) => {
          const path = sparseFile(`${dir}/backing`, DEVICE_BYTES);
          withBacking(ring_kind, path, body);
        });
      });
    }
    for (const sector_bytes of [512, 4096]) {
      Deno.test(`FileBacking: ${name} (${ring_kind}, block device of ${sector_bytes})`, () => {
        withDir("/var/tmp", (dir) => {
          const image = sparseFile(`${dir}/image`, DEVICE_BYTES);
          withLoop(image, sector_bytes, (path) => withBacking(ring_kind, path, body));
        });
      });
    }
  }
}

function gather(ranges: [addr: number, len: number][]): Gather {
  return { count: ranges.length, addr: (i) => ranges[i]![0], len: (i) => ranges[i]![1] };
}

function sum(ranges: [addr: number, len: number][]): number {
  return ranges.reduce((total, [, len]) => total + len, 0);
}

backingTest(
  "zeroes, with holes and without, whole pages only, or it says that it cannot",
  (rig) => {
    const { arena, backing, collect, path } = rig;
    const model = pattern(1 << 20, 1);
    arena.bytes.set(model, 0);
    backing.write(0, 0, model.length, gather([[0, model.length]]));
    assertEquals([...collect(1)], [[0, 0]]);
    for (const may_punch of [false, true]) {
      const off = may_punch ? 65536 : 262144;
      for (const [shift, less] of [[512, 0], [0, 512], [512, 512]]) {
        assertEquals(backing.canZero(off + shift!, 8192 - less!, may_punch), false);
      }
      assert(backing.canZero(off, 131072, may_punch));
      backing.zero(1, off, 131072, may_punch);
      const error = collect(1).get(1);
      // Not all file systems can: the engine writes zeroes then, and does not ask again.
      if (error === 0) model.fill(0, off, off + 131072);
      else assertEquals([error, backing.canZero(off, 4096, may_punch)], [EOPNOTSUPP, false]);
      assert(error === 0 || !may_punch, "files and block devices can be punched");
    }
    backing.flush(2);
    assertEquals([...collect(1)], [[2, 0]]);
    assertEquals(Deno.readFileSync(path).subarray(0, model.length), model);
  },
);

backingTest("what is written gathered is read back, any sector alignment", (rig) => {
  const { arena, backing, collect, path } = rig;
  assertEquals(backing.size_bytes, DEVICE_BYTES);
  const model = new Uint8Array(DEVICE_BYTES);
  const source = pattern(4 << 20, 1);
  arena.bytes.set(source, 0);
  // One range, page-aligned; odd sectors; many small ranges; ranges of unlike alignment; the last sector.
  const writes: [off: number, ranges: [number, number][]][] = [
    [0, [[4096, 65_536]]],
    [100 * 512, [[512 * 3, 512]]],
    [1 << 20, Array.from({ length: MAX_GATHER }, (_, i) => [i * 1024, 512])],
    [(2 << 20) + 512, [[0, 512], [8192, 4096], [512 * 31, 512 * 7]]],
    [3 << 20, [[1 << 20, 1 << 20], [0, 4096]]],
    [DEVICE_BYTES - 512, [[512, 512]]],
  ];
  writes.forEach(([off, ranges], id) => {
    backing.write(id, off, sum(ranges), gather(ranges));
    // One after another where they overlap.
    assertEquals(collect(1), new Map([[id, 0]]));
    for (const [addr, len] of ranges) {
      model.set(source.subarray(addr, addr + len), off);
      off += len;
    }
  });
  backing.flush(MAX_BACKING_IDS - 1);
  assertEquals(collect(1), new Map([[MAX_BACKING_IDS - 1, 0]]));
  assertEquals(Deno.readFileSync(path), model);

  const to = 8 << 20;
  const reads: [number, number][] = [[0, 65_536], [512, 512], [1 << 20, 3 << 20], [
    DEVICE_BYTES - 1024,
    1024,
  ]];
  for (const [off, len] of reads) {
    for (const shift of [0, 512, 4096]) {
      backing.read(7, off, len, to + shift);
      assertEquals(collect(1), new Map([[7, 0]]));
      assertEquals(arena.bytes.slice(to + shift, to + shift + len), model.slice(off, off + len));
    }
  }
});

backingTest("as many at once as there are ids, each its own", (rig) => {
  const { arena, backing, collect, path } = rig;
  const source = pattern(MAX_BACKING_IDS * 4096, 2);
  arena.bytes.set(source, 0);
  for (let id = 0; id < MAX_BACKING_IDS; id++) {
    // The last comes first on the device.
    backing.write(
      id,
      (MAX_BACKING_IDS - 1 - id) * 4096,
      4096,
      gather([[id * 4096, 512], [
        id * 4096 + 512,
        3584,
      ]]),
    );
  }
  assertThrows(() => backing.flush(3), AssertionFailure, "the id is free");
  const errors = collect(MAX_BACKING_IDS);
  assert([...errors.values()].every((e) => e === 0));
  const file = Deno.readFileSync(path);
  for (let id = 0; id < MAX_BACKING_IDS; id++) {
    const at = (MAX_BACKING_IDS - 1 - id) * 4096;
    assertEquals(file.slice(at, at + 4096), source.slice(id * 4096, id * 4096 + 4096));
  }
  for (let id = 0; id < MAX_BACKING_IDS; id++) backing.read(id, id * 4096, 4096, id * 4096);
  collect(MAX_BACKING_IDS);
  assertEquals(arena.bytes.slice(0, 2 << 20), file.slice(0, 2 << 20));
});

for (const ring_kind of ["io_uring", "poll"] as const) {
  Deno.test(`FileBacking: a file that became shorter answers with EIO (${ring_kind})`, () => {
    withDir("/var/tmp", (dir) => {
      const path = sparseFile(`${dir}/backing`, DEVICE_BYTES);
      withBacking(ring_kind, path, ({ backing, collect, arena }) => {
        Deno.truncateSync(path, 1 << 20);
        arena.bytes.fill(1, 0, 8192);
        backing.read(1, (1 << 20) - 4096, 8192, 0);
        backing.read(2, 2 << 20, 4096, 16_384);
        backing.read(3, (1 << 20) - 4096, 4096, 32_768);
        assertEquals(collect(3), new Map([[1, EIO], [2, EIO], [3, 0]]));
      });
    });
  });

  Deno.test(`FileBacking: an error is the request's (${ring_kind})`, () => {
    withDir("/var/tmp", (dir) => {
      const path = sparseFile(`${dir}/backing`, DEVICE_BYTES);
      const body = ({ backing, collect }: Rig) => {
        backing.read(1, 0, 4096, 0);
        backing.write(2, 0, 512, gather([[0, 512]]));
        backing.flush(3);
        assertEquals(collect(3), new Map([[1, EBADF], [2, EBADF], [3, EBADF]]));
      };
      // No direct I/O, and a descriptor that is not open.
      withBacking(ring_kind, path, body, (file) => ({ ...file, fd: 100_000 }));
    });
  });

  Deno.test(`FileBacking: direct I/O is given up where it wants more than was said (${ring_kind})`, () => {
    withDir("/var/tmp", (dir) => {
      const image = sparseFile(`${dir}/image`, DEVICE_BYTES);
      withLoop(image, 4096, (path) => {
        const body = ({ backing, collect, arena }: Rig) => {
          assert(backing.is_direct);
          const source = pattern(1024, 3);
          arena.bytes.set(source, 0);
          backing.write(1, 512, 1024, gather([[0, 512], [512, 512]]));
          assertEquals(collect(1), new Map([[1, 0]]));
          assert(!backing.is_direct);
          backing.read(2, 512, 1024, 4096);
          assertEquals(collect(1), new Map([[2, 0]]));
          assertEquals(arena.bytes.slice(4096, 5120), source);
        };
        withBacking(ring_kind, path, body, (file) => ({
          ...file,
          direct_unit_bytes: 512,
          direct_addr_bytes: 512,
        }));
      });
    });
  });
}

Deno.test("FileBacking: what was interrupted is asked for again", () => {
  withDir("/var/tmp", (dir) => {
    const path = sparseFile(`${dir}/backing`, DEVICE_BYTES);
    withBacking("poll", path, ({ backing, ring, collect, arena }) => {
      const source = pattern(4096, 4);
      arena.bytes.set(source, 0);
      for (const error of [EINTR, EAGAIN]) {
        backing.write(1, 4096, 4096, gather([[0, 4096]]));
        ring.wait(0);
        assert(ring.next());
        Deno.truncateSync(path, 0);
        Deno.truncateSync(path, DEVICE_BYTES);
        assertEquals(backing.ended(1, -error), UNDER_WAY);
        assertEquals(collect(1), new Map([[1, 0]]));
        assertEquals(Deno.readFileSync(path).slice(4096, 8192), source);
      }
    });
  });
});

/** A ring that transfers as little as `part_bytes` at a time, as a signal or a full pipe may do. */
class ShortRing extends PollRing {
  #turn = 0;
  readonly #part_bytes: number;
  readonly #words: (addr: number) => Uint32Array;
  /** Of each write, whether it was to be done aside. */
  readonly asides: boolean[] = [];

  constructor(arena: Arena, part_bytes: number) {
    super(arena, 256);
    this.#part_bytes = part_bytes;
    this.#words = (addr) => arena.words(addr, 16);
  }

  override read(user: number, fd: number, addr: number, len_bytes: number, off: number): void {
    if (++this.#turn % 3 === 0) super.read(user, fd, addr, len_bytes, off);
    else super.read(user, fd, addr, Math.min(len_bytes, this.#part_bytes), off);
  }

  override writev(
    user: number,
    fd: number,
    iovec_addr: number,
    count: number,
    off: number,
    is_aside = false,
  ): void {
    this.asides.push(is_aside);
    const words = this.#words(iovec_addr);
    const len = words[2]!;
    if (len <= this.#part_bytes) {
      super.writev(user, fd, iovec_addr, 1 + (count - 1) % 2, off);
      return;
    }
    words[2] = this.#part_bytes;
    super.writev(user, fd, iovec_addr, 1, off);
    super.wait(0);
    words[2] = len;
  }
}

Deno.test("FileBacking: short transfers are carried on, iovec by iovec", () => {
  for (const part_bytes of [512, 1536, 4096, 5000]) {
    withDir("/var/tmp", (dir) => {
      const path = sparseFile(`${dir}/backing`, DEVICE_BYTES);
      const file = openDevice("backing", path);
      const arena = new Arena({ cache_bytes: 0, buffer_bytes: 4 << 20, io_bytes: 16 << 20 });
      const ring = new ShortRing(arena, part_bytes);
      const backing = new FileBacking(arena, file, ring, KIND);
      const end = (id: number) => {
        for (let turns = 0; turns < 1000; turns++) {
          ring.wait(1000);
          while (ring.next()) {
            assertEquals(ring.user, (KIND << 24 | id) >>> 0);
            const error = backing.ended(id, ring.result);
            if (error !== UNDER_WAY) return error;
          }
        }
        throw new Error("the request never ended");
      };
      const source = pattern(1 << 20, part_bytes);
      arena.bytes.set(source, 0);
      const ranges: [number, number][] = [[0, 512], [4096, 8192], [65_536, 512], [66_560, 4096]];
      const is_aside = part_bytes > 1000;
      backing.write(5, 8192, sum(ranges), gather(ranges), is_aside);
      assertEquals(end(5), 0);
      assert(ring.asides.length > 1 && ring.asides.every((was) => was === is_aside));
      const expected = new Uint8Array(sum(ranges));
      let at = 0;
      for (const [addr, len] of ranges) {
        expected.set(source.subarray(addr, addr + len), at);
        at += len;
      }
      assertEquals(Deno.readFileSync(path).slice(8192, 8192 + at), expected);
      backing.read(6, 8192, at, 2 << 20);
      assertEquals(end(6), 0);
      assertEquals(arena.bytes.slice(2 << 20, (2 << 20) + at), expected);
      ring.close();
      backing.close();
      arena.close();
      closeDevice(file);
    });
  }
});

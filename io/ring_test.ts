import { assert, assertEquals, assertThrows } from "@std/assert";
import { AssertionFailure } from "../core/assert.ts";
import { CacheError } from "../core/errors.ts";
import { Arena } from "./arena.ts";
import {
  AF_UNIX,
  cString,
  libc,
  O_CLOEXEC,
  O_RDWR,
  POLLHUP,
  POLLIN,
  POLLOUT,
  SHUT_RDWR,
  SOCK_STREAM,
} from "./libc.ts";
import { PollRing } from "./poll_ring.ts";
import { openRing, type Ring } from "./ring.ts";
import { UringRing } from "./uring.ts";

const ENTRIES = 8;
const EBADF = 9;
const EPIPE = 32;
const NO_SUCH_FD = 100_000;

/** A ring, an arena of 4 MiB beside it, and what they need to be cleaned up. */
interface Rig {
  arena: Arena;
  ring: Ring;
  /** Two ends of a stream socket. */
  pair(): [number, number];
  /** An empty file, open for reading and writing. */
  file(): { fd: number; path: string };
}

const KINDS: [string, (arena: Arena) => Ring][] = [
  ["io_uring", (arena) => {
    const ring = UringRing.open(arena, ENTRIES);
    if (ring instanceof UringRing) return ring;
    throw new Error(`io_uring is refused here: errno ${ring}`);
  }],
  ["poll", (arena) => new PollRing(arena, ENTRIES)],
];

/** One test on each kind of ring. */
function ringTest(name: string, body: (rig: Rig) => void): void {
  for (const [kind, open] of KINDS) {
    Deno.test(`${kind} ring: ${name}`, () => {
      const arena = new Arena({ cache_bytes: 0, buffer_bytes: 4 << 20, io_bytes: 1 << 20 });
      const ring = open(arena);
      const fds: number[] = [];
      const dir = Deno.makeTempDirSync({ dir: "/var/tmp", prefix: "pcache-ring-" });
      try {
        body({
          arena,
          ring,
          pair() {
            const two = new Int32Array(2);
            assertEquals(libc.socketpair(AF_UNIX, SOCK_STREAM, 0, new Uint8Array(two.buffer)), 0);
            fds.push(two[0]!, two[1]!);
            return [two[0]!, two[1]!];
          },
          file() {
            const path = `${dir}/file`;
            Deno.writeFileSync(path, new Uint8Array(0));
            const fd = libc.open(cString(path), O_RDWR | O_CLOEXEC, 0);
            assert(fd >= 0);
            fds.push(fd);
            return { fd, path };
          },
        });
      } finally {
        ring.close();
        for (const fd of fds) libc.close(fd);
        arena.close();
        Deno.removeSync(dir, { recursive: true });
      }
    });
  }
}

/** Waits until `count` completions have come; returns their results by user. */
function collect(ring: Ring, count: number): Map<number, number> {
  const results = new Map<number, number>();
  let turns = 0;
  while (results.size < count) {
    assert(turns++ < 10_000, `${results.size} of ${count} completions came`);
    ring.wait(10_000);
    while (ring.next()) {
      assert(!results.has(ring.user), `user ${ring.user} came twice`);
      results.set(ring.user, ring.result);
    }
  }
  return results;
}

function only(ring: Ring): number {
  return collect(ring, 1).values().next().value!;
}

/** Writes a `struct msghdr` with these ranges of the arena; returns its address. */
function msghdr(arena: Arena, ranges: [addr: number, len: number][]): number {
  const iovec_addr = arena.alloc(16 * ranges.length);
  const iovecs = arena.words(iovec_addr, 16 * ranges.length);
  ranges.forEach(([addr, len], i) => {
    arena.putAddress(iovecs, 4 * i, addr);
    iovecs[4 * i + 2] = len;
  });
  const addr = arena.alloc(56);
  const words = arena.words(addr, 56);
  arena.putAddress(words, 4, iovec_addr);
  words[6] = ranges.length;
  return addr;
}

function fill(arena: Arena, addr: number, len: number, seed: number): Uint8Array {
  const part = arena.bytes.subarray(addr, addr + len);
  for (let i = 0; i < len; i++) part[i] = (i * 31 + seed * 17 + (i >> 8)) & 0xff;
  return part.slice();
}

ringTest("sends gathered, receives what is there", ({ arena, ring, pair }) => {
  const [a, b] = pair();
  const first = fill(arena, 0, 100, 1), second = fill(arena, 5000, 77, 2);
  ring.sendmsg(1, a, msghdr(arena, [[0, 100], [5000, 77]]));
  ring.recv(2, b, 10_000, 4096);
  assertEquals(collect(ring, 2), new Map([[1, 177], [2, 177]]));
  assertEquals(arena.bytes.slice(10_000, 10_100), first);
  assertEquals(arena.bytes.slice(10_100, 10_177), second);
});

ringTest("receives ahead, whether or not something had come", ({ arena, ring, pair }) => {
  const [a, b] = pair();
  const sent = fill(arena, 0, 100, 5);
  const header = msghdr(arena, [[0, 100]]);
  ring.recv(1, b, 10_000, 4096, true);
  ring.wait(0);
  assert(!ring.next());
  ring.sendmsg(2, a, header);
  assertEquals(collect(ring, 2), new Map([[1, 100], [2, 100]]));

  ring.sendmsg(3, a, header);
  assertEquals(only(ring), 100);
  ring.recv(4, b, 20_000, 4096, true);
  assertEquals(only(ring), 100);
  for (const addr of [10_000, 20_000]) assertEquals(arena.bytes.slice(addr, addr + 100), sent);

  ring.recv(5, b, 10_000, 4096, true);
  libc.shutdown(a, SHUT_RDWR);
  assertEquals(only(ring), 0);
});

ringTest("receives into several places", ({ arena, ring, pair }) => {
  const [a, b] = pair();
  const sent = fill(arena, 0, 300, 3);
  ring.recvmsg(7, b, msghdr(arena, [[20_000, 100], [30_000, 200]]));
  ring.wait(0);
  assert(!ring.next());
  ring.sendmsg(8, a, msghdr(arena, [[0, 300]]));
  assertEquals(collect(ring, 2), new Map([[7, 300], [8, 300]]));
  assertEquals(arena.bytes.slice(20_000, 20_100), sent.slice(0, 100));
  assertEquals(arena.bytes.slice(30_000, 30_200), sent.slice(100));
});

ringTest("a send larger than the socket's buffer ends when the peer reads", (rig) => {
  const { arena, ring, pair } = rig;
  const [a, b] = pair();
  const total = 1 << 20;
  const sent = fill(arena, 0, total, 4);
  let header = msghdr(arena, [[0, total]]);
  let left_to_send = total, received = 0;
  ring.sendmsg(1, a, header);
  ring.recv(2, b, 2 * total, total);
  while (received < total || left_to_send > 0) {
    ring.wait(10_000);
    while (ring.next()) {
      assert(ring.result > 0, `user ${ring.user}: ${ring.result}`);
      if (ring.user === 1) {
        left_to_send -= ring.result;
        header = msghdr(arena, [[total - left_to_send, left_to_send]]);
        if (left_to_send > 0) ring.sendmsg(1, a, header);
      } else {
        received += ring.result;
        if (received < total) ring.recv(2, b, 2 * total + received, total - received);
      }
    }
  }
  assertEquals(arena.bytes.slice(2 * total, 3 * total), sent);
});

ringTest("a vanished peer: 0 to who receives, EPIPE to who sends", ({ arena, ring, pair }) => {
  const [a, b] = pair();
  ring.recv(1, a, 0, 100);
  ring.wait(0);
  assert(!ring.next());
  libc.shutdown(b, SHUT_RDWR);
  assertEquals(only(ring), 0);
  ring.sendmsg(2, a, msghdr(arena, [[0, 100]]));
  assertEquals(only(ring), -EPIPE);
});

ringTest("shutdown ends an accept and a receive that wait", ({ arena, ring, pair }) => {
  const [a] = pair();
  const dir = Deno.makeTempDirSync({ dir: "/var/tmp", prefix: "pcache-ring-" });
  const listening = libc.socket(AF_UNIX, SOCK_STREAM, 0);
  try {
    const address = new Uint8Array(110);
    address[0] = AF_UNIX;
    address.set(new TextEncoder().encode(`${dir}/s`), 2);
    assertEquals(libc.bind(listening, address, 110), 0);
    assertEquals(libc.listen(listening, 4), 0);
    ring.accept(1, listening);
    ring.recv(2, a, 0, 100);
    ring.wait(0);
    assert(!ring.next());

    const client = libc.socket(AF_UNIX, SOCK_STREAM, 0);
    assertEquals(libc.connect(client, address, 110), 0);
    const accepted = only(ring);
    assert(accepted > 0);
    ring.sendmsg(3, accepted, msghdr(arena, [[0, 5]]));
    ring.recv(4, client, 200, 100);
    assertEquals(collect(ring, 2), new Map([[3, 5], [4, 5]]));
    libc.close(client);
    libc.close(accepted);

    ring.accept(5, listening);
    ring.wait(0);
    assert(!ring.next());
    libc.shutdown(listening, SHUT_RDWR);
    libc.shutdown(a, SHUT_RDWR);
    const ended = collect(ring, 2);
    assert(ended.get(5)! < 0, `accept: ${ended.get(5)}`);
    assertEquals(ended.get(2), 0);
  } finally {
    libc.close(listening);
    Deno.removeSync(dir, { recursive: true });
  }
});

ringTest("writes ranges to a file, syncs it, reads it back", ({ arena, ring, file }) => {
  const { fd, path } = file();
  const first = fill(arena, 0, 512, 5), second = fill(arena, 8192, 1024, 6);
  const iovec_addr = arena.alloc(32), iovecs = arena.words(iovec_addr, 32);
  arena.putAddress(iovecs, 0, 0);
  iovecs[2] = 512;
  arena.putAddress(iovecs, 4, 8192);
  iovecs[6] = 1024;
  const off = 2 ** 32 + 512;
  ring.writev(1, fd, iovec_addr, 2, off);
  assertEquals(only(ring), 1536);
  ring.fdatasync(2, fd);
  assertEquals(only(ring), 0);
  assertEquals(Deno.statSync(path).size, off + 1536);
  ring.read(3, fd, 100_000, 4096, off);
  assertEquals(only(ring), 1536);
  assertEquals(arena.bytes.slice(100_000, 100_512), first);
  assertEquals(arena.bytes.slice(100_512, 101_536), second);
  ring.read(4, fd, 100_000, 4096, off + 1536);
  assertEquals(only(ring), 0);
});

ringTest(
  "punches holes, above 4 GiB too, and says when that cannot be",
  ({ arena, ring, file }) => {
    const { fd, path } = file();
    const bytes = fill(arena, 0, 3 * 4096, 5);
    const iovec_addr = arena.alloc(16), iovecs = arena.words(iovec_addr, 16);
    iovecs[2] = bytes.length;
    arena.putAddress(iovecs, 0, 0);
    const off = 2 ** 32 + 4096;
    ring.writev(1, fd, iovec_addr, 1, off);
    assertEquals(only(ring), bytes.length);
    const PUNCH_HOLE_KEEP_SIZE = 3;
    ring.fallocate(2, fd, PUNCH_HOLE_KEEP_SIZE, off + 4096, 4096);
    assertEquals(only(ring), 0);
    ring.read(3, fd, 100_000, bytes.length, off);
    assertEquals(only(ring), bytes.length);
    bytes.fill(0, 4096, 8192);
    assertEquals(arena.bytes.slice(100_000, 100_000 + bytes.length), bytes);
    ring.fallocate(4, fd, PUNCH_HOLE_KEEP_SIZE, 0, 2 ** 32 + 4096);
    assertEquals(only(ring), 0);
    assertEquals(Deno.statSync(path).size, off + bytes.length);
    const EOPNOTSUPP = 95;
    ring.fallocate(5, fd, 1 << 30, 0, 4096);
    assertEquals(only(ring), -EOPNOTSUPP);
  },
);

ringTest("poll says when there is something to read", ({ arena, ring, pair }) => {
  const [a, b] = pair();
  ring.poll(1, b, POLLIN);
  ring.wait(0);
  assert(!ring.next());
  ring.sendmsg(2, a, msghdr(arena, [[0, 1]]));
  const results = collect(ring, 2);
  assertEquals(results.get(1), POLLIN);
});

ringTest("poll says when there is room to write, or the socket was shut down", ({ ring, pair }) => {
  const [a, b] = pair();
  ring.poll(1, b, POLLOUT);
  assertEquals(only(ring), POLLOUT);
  ring.poll(2, a, POLLIN);
  ring.wait(0);
  assert(!ring.next());
  libc.shutdown(a, SHUT_RDWR);
  assertEquals(only(ring) & (POLLIN | POLLHUP), POLLIN | POLLHUP);
});

ringTest("a wait ends with its time, also when nothing is under way", ({ ring, pair }) => {
  ring.wait(3);
  assert(!ring.next());
  const [a] = pair();
  ring.recv(1, a, 0, 10);
  ring.wait(3);
  assert(!ring.next());
  libc.shutdown(a, SHUT_RDWR);
  assertEquals(only(ring), 0);
});

ringTest("sleeping for ever with nothing under way is a bug", ({ ring }) => {
  assertThrows(() => ring.wait(Infinity), AssertionFailure, "sleep for ever");
});

ringTest("more requests than places: none is lost, and one too many is a bug", (rig) => {
  const { ring, file, arena } = rig;
  const { fd } = file();
  assertEquals(ring.capacity, 16 * ENTRIES);
  // Rounds, so that every index wraps; each request reads a byte of its own.
  const content = fill(arena, 0, 128, 7);
  const iovec_addr = arena.alloc(16), iovecs = arena.words(iovec_addr, 16);
  arena.putAddress(iovecs, 0, 0);
  iovecs[2] = 128;
  ring.writev(0, fd, iovec_addr, 1, 0);
  assertEquals(only(ring), 128);
  for (let round = 0; round < 20; round++) {
    arena.bytes.fill(0, 1000, 1128);
    const count = 1 + (round * 7) % ring.capacity;
    for (let i = 0; i < count; i++) ring.read(0xff000000 + i, fd, 1000 + i, 1, i);
    const results = collect(ring, count);
    for (let i = 0; i < count; i++) assertEquals(results.get(0xff000000 + i), 1);
    assertEquals(arena.bytes.slice(1000, 1000 + count), content.slice(0, count));
  }
  for (let i = 0; i < ring.capacity; i++) ring.read(i, fd, 1000, 1, 0);
  assertThrows(() => ring.read(99, fd, 1000, 1, 0), AssertionFailure, "capacity");
  collect(ring, ring.capacity);
});

ringTest("an error belongs to its request alone", ({ arena, ring, pair, file }) => {
  const { fd } = file();
  const [a, b] = pair();
  const header = msghdr(arena, [[0, 10]]);
  ring.read(1, NO_SUCH_FD, 0, 10, 0);
  ring.recv(2, NO_SUCH_FD, 0, 10);
  ring.sendmsg(3, a, header);
  ring.fdatasync(4, fd);
  ring.recv(5, b, 100, 10);
  assertEquals(
    collect(ring, 5),
    new Map([[1, -EBADF], [2, -EBADF], [3, 10], [4, 0], [5, 10]]),
  );
});

/** Runs `body` with `$PCACHE_LOOP` set to `value`. */
function withLoop(value: string | undefined, body: (arena: Arena) => void): void {
  const before = Deno.env.get("PCACHE_LOOP");
  const arena = new Arena({ cache_bytes: 0, buffer_bytes: 4096, io_bytes: 1 << 20 });
  const set = (v: string | undefined) =>
    v === undefined ? Deno.env.delete("PCACHE_LOOP") : Deno.env.set("PCACHE_LOOP", v);
  try {
    set(value);
    body(arena);
  } finally {
    set(before);
    arena.close();
  }
}

Deno.test("openRing: PCACHE_LOOP chooses, and is refused when it is nonsense", () => {
  for (
    const [value, name] of [[undefined, "io_uring"], ["io_uring", "io_uring"], ["poll", "poll"]]
  ) {
    withLoop(value, (arena) => {
      const ring = openRing(arena, ENTRIES);
      assertEquals(ring.name as string, name);
      ring.close();
    });
  }
  withLoop("epoll", (arena) => {
    assertThrows(() => openRing(arena, ENTRIES), CacheError, 'PCACHE_LOOP "epoll"');
  });
});

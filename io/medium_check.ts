/**
 * What holds for a cache device on every medium. A module of its own, because libpmem reads `PMEM_IS_PMEM_FORCE`
 * once, when it is loaded: the tests run it as a program with that set.
 *
 *     deno run -A io/medium_check.ts PATH KIND
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";
import { crc32c } from "../core/crc32c.ts";
import { Arena } from "./arena.ts";
import { closeDevice, openDevice } from "./files.ts";
import { type Libraries, loadLibraries, Medium, type MediumKind } from "./medium.ts";
import { PollRing } from "./poll_ring.ts";
import type { Ring } from "./ring.ts";
import { pattern } from "./testing.ts";
import { UringRing } from "./uring.ts";

export const CACHE_BYTES = 8 << 20;
export const BARRIER_USER = 0x42000001;

/** Opens the cache device at `path` as a process would, runs `body`, and closes everything. */
export function withMedium(
  path: string,
  body: (medium: Medium, ring: Ring, fd: number, arena: Arena) => void,
  libraries: Libraries = loadLibraries(),
): void {
  const file = openDevice("cache", path);
  const arena = new Arena({
    cache_bytes: file.size_bytes,
    buffer_bytes: 1 << 20,
    io_bytes: 1 << 20,
  });
  const opened = UringRing.open(arena, 8);
  const ring = opened instanceof UringRing ? opened : new PollRing(arena, 8);
  try {
    body(new Medium(arena, file, ring, BARRIER_USER, libraries), ring, file.fd, arena);
  } finally {
    ring.close();
    arena.close();
    closeDevice(file);
  }
}

/** Writes, reads and makes durable in every way, and compares the file. It must be `CACHE_BYTES` long. */
export function checkMedium(path: string, kind: MediumKind): void {
  for (const sums_received of [false, true]) checkReceive(path, sums_received);
  const before = pattern(CACHE_BYTES, 1);
  Deno.writeFileSync(path, before, { create: false });
  const later = pattern(5000, 2);
  withMedium(path, (medium, ring) => {
    assertEquals(medium.kind, kind);
    assertEquals(medium.cache_bytes, CACHE_BYTES);
    medium.prepare();

    const into = new Uint8Array(6000);
    medium.read(4096, into, 5000);
    assertEquals(into.slice(0, 5000), before.slice(4096, 4096 + 5000));
    assertEquals(into.slice(5000), new Uint8Array(1000));

    medium.write(12_345, later, 5000);
    medium.write(40_000, later, 100);
    medium.copy(medium.buffer_addr + 7, 12_345, 5000);
    medium.copy(100_000, medium.buffer_addr + 7, 5000);
    medium.read(medium.buffer_addr + 7, into, 5000);
    assertEquals(into.slice(0, 5000), later);
    medium.read(100_000, into, 5000);
    assertEquals(into.slice(0, 5000), later);
    // Apart, adjacent, overlapping, and enclosed.
    medium.persist(12_345, 2000);
    medium.persist(14_345, 3000);
    medium.persist(100_000, 3000);
    medium.persist(99_999, 5001);
    medium.persist(101_000, 1);
    medium.persist(40_000, 100);

    const done = medium.barrier();
    assertEquals(done, kind === "pmem" || kind === "tmpfs");
    assertEquals(medium.barrier_is_cheap, done);
    if (!done) {
      while (!ring.next()) ring.wait(60_000);
      assertEquals([ring.user, ring.result], [BARRIER_USER, 0]);
    }
    assert(!ring.next());
    medium.barrierSync();
  });
  const expected = before.slice();
  expected.set(later, 12_345);
  expected.set(later.slice(0, 100), 40_000);
  expected.set(later, 100_000);
  assertEquals(Deno.readFileSync(path), expected);
}

/** Payloads come from io's buffers, in parts, persisted at once or stored over in between, summed on their way or not. */
function checkReceive(path: string, sums_received: boolean): void {
  const payload = pattern(9000, 3);
  withMedium(path, (medium, _ring, _fd, arena) => {
    medium.sums_received = sums_received;
    const from = arena.alloc(payload.length);
    arena.bytes.set(payload, from);
    const to = 200_001;
    medium.receive(to, 0, from, 4000);
    medium.receive(to, 4000, from + 4000, 5000);
    medium.copy(to + 100, to + 200, 50);
    const first = payload.slice();
    first.copyWithin(100, 200, 250);
    assertEquals(medium.persistSummed(to, 9000) >>> 0, crc32c(first, 0, 9000));
    medium.receive(to + 20_000, 0, from, 4000);
    medium.receive(to + 40_000, 0, from + 20, 2000);
    medium.receive(to + 20_000, 4000, from + 4000, 5000);
    assertEquals(medium.persistSummed(to + 20_000, 9000) >>> 0, crc32c(payload, 0, 9000));
    assertEquals(medium.persistSummed(to + 40_000, 2000) >>> 0, crc32c(payload, 20, 2020));
    // Not a whole payload, not from its start, and stored over.
    assertEquals(medium.persistSummed(to + 20_000, 8000) >>> 0, crc32c(payload, 0, 8000));
    assertEquals(medium.persistSummed(to + 20_100, 8900) >>> 0, crc32c(payload, 100, 9000));
    medium.write(to + 20_000, payload.subarray(1), 10);
    const over = payload.slice();
    over.set(payload.subarray(1, 11));
    assertEquals(medium.persistSummed(to + 20_000, 9000) >>> 0, crc32c(over, 0, 9000));
    medium.barrierSync();
    const seen = Deno.readFileSync(path);
    assertEquals(seen.slice(to, to + 9000), first);
    assertEquals(seen.slice(to + 20_000, to + 29_000), over);
    assertEquals(seen.slice(to + 40_000, to + 42_000), payload.subarray(20, 2020));
  });
}

if (import.meta.main) checkMedium(Deno.args[0]!, Deno.args[1] as MediumKind);

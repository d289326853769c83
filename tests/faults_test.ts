/**
 * The engine when something breaks: damaged bytes on the cache device, errors of the backing device. Only who asks for
 * the broken range may notice; everything else goes on.
 *
 * @module
 */

import { assert, assertEquals, assertNotEquals } from "@std/assert";
import { EIO } from "../core/errors.ts";
import { fillFor } from "./random.ts";
import { SmallDevice } from "./small_device.ts";

const KIB = 1024;
const MIB = 1024 * KIB;

function content(id: number, bytes: number): Uint8Array {
  const made = new Uint8Array(bytes);
  fillFor(id, made);
  return made;
}

/** Writes `bytes` in all, in pieces of 128 KiB round and round in [from, to), and checks the last round. */
function churn(device: SmallDevice, from: number, to: number, bytes: number): void {
  const step = 128 * KIB;
  const last = new Map<number, number>();
  for (let done = 0, off = from; done < bytes; done += step) {
    const id = 1000 + done / step;
    assertEquals(device.write(off, content(id, step)), 0);
    last.set(off, id);
    off = off + 2 * step > to ? from : off + step;
  }
  for (const [off, id] of last) {
    assertEquals(device.read(off, step), { errno: 0, bytes: content(id, step) });
  }
}

for (const read_len of [512, 4 * KIB, 64 * KIB]) {
  Deno.test(`a damaged clean range is read from the backing device and healed, ${read_len} bytes`, () => {
    const device = new SmallDevice();
    const written = content(7, 64 * KIB);
    device.write(1 * MIB, written);
    device.drain();
    device.damage(written, 100);
    const answer = device.read(1 * MIB, read_len);
    assertEquals(answer, { errno: 0, bytes: written.subarray(0, read_len).slice() });
    assertEquals(device.engine.counters.checksum_failures >= 1, true);
    assertEquals(device.engine.counters.healed >= 1, true);
    const { ended } = device.backing;
    const reads = ended.read;
    const failures = device.engine.counters.checksum_failures;
    assertEquals(device.read(1 * MIB, read_len), answer);
    assertEquals(ended.read, reads, "the second read is a hit");
    assertEquals(device.engine.counters.checksum_failures, failures);
    device.flush();
    device.reopen();
    assertEquals(device.read(1 * MIB, 64 * KIB), { errno: 0, bytes: written });
  });
}

Deno.test("a clean range that came from a read is healed, too", () => {
  const device = new SmallDevice();
  const wanted = device.read(2 * MIB, 32 * KIB);
  assertEquals(wanted.errno, 0);
  device.damage(wanted.bytes, 20 * KIB);
  assertEquals(device.read(2 * MIB, 32 * KIB), wanted);
});

Deno.test("a damaged dirty range is an error for its reader, and for nobody else", () => {
  const device = new SmallDevice();
  const broken = content(7, 4 * KIB);
  device.write(1 * MIB, broken);
  device.write(1 * MIB + 4 * KIB, content(8, 4 * KIB));
  device.damage(broken, 0); // before the flush: write-back cannot have begun
  device.flush();
  assertEquals(device.read(1 * MIB, 4 * KIB).errno, EIO);
  assertEquals(device.read(1 * MIB, 8 * KIB).errno, EIO);
  assertEquals(device.read(1 * MIB + 4 * KIB, 4 * KIB), { errno: 0, bytes: content(8, 4 * KIB) });
  assert(device.engine.counters.checksum_failures > 0);
  const before = device.engine.status();
  churn(device, 4 * MIB, 12 * MIB, 48 * MIB); // six times the cache: write-back and GC go on
  assertNotEquals(device.engine.status().key_tail, before.key_tail, "GC has moved the key tail");
  assertEquals(device.read(1 * MIB, 4 * KIB).errno, EIO, "never forgotten");
  assertEquals(device.read(1 * MIB + 4 * KIB, 4 * KIB).errno, 0);
  device.flush();
  device.reopen();
  assertEquals(device.read(1 * MIB, 4 * KIB).errno, EIO, "nor by a restart");
  assertEquals(device.write(1 * MIB, broken), 0);
  assertEquals(device.read(1 * MIB, 8 * KIB).errno, 0, "a new write ends it");
  device.drain();
  assertEquals(device.backing.bytes.slice(1 * MIB, 1 * MIB + 4 * KIB), broken);
});

Deno.test("a damaged dirty range keeps the cache from being clean, and nothing else from being drained", () => {
  const device = new SmallDevice();
  const broken = content(7, 4 * KIB);
  assertEquals(device.write(1 * MIB, broken), 0);
  assertEquals(device.write(2 * MIB, content(8, 64 * KIB)), 0);
  device.damage(broken, 0);
  device.engine.setDraining(true);
  device.runUntil("it was tried again", () => device.engine.counters.writeback_relogged >= 3);
  assertEquals(device.backing.bytes.slice(2 * MIB, 2 * MIB + 64 * KIB), content(8, 64 * KIB));
  assertEquals(device.engine.isClean(), false);
  assertEquals(device.read(1 * MIB, 4 * KIB).errno, EIO);
  assertEquals(device.write(1 * MIB, broken), 0);
  device.drain();
  assertEquals(device.backing.bytes.slice(1 * MIB, 1 * MIB + 4 * KIB), broken);
});

Deno.test("a damaged dirty range that was cut by later writes", () => {
  const device = new SmallDevice();
  const written = content(7, 32 * KIB);
  device.write(1 * MIB, written);
  device.write(1 * MIB + 8 * KIB, content(8, 16 * KIB));
  device.damage(written, 0);
  device.flush();
  assertEquals(device.read(1 * MIB, 8 * KIB).errno, EIO);
  assertEquals(device.read(1 * MIB + 8 * KIB, 16 * KIB), { errno: 0, bytes: content(8, 16 * KIB) });
  churn(device, 4 * MIB, 12 * MIB, 24 * MIB);
  assertEquals(device.read(1 * MIB, 8 * KIB).errno, EIO);
  assertEquals(device.read(1 * MIB + 8 * KIB, 16 * KIB), { errno: 0, bytes: content(8, 16 * KIB) });
});

Deno.test("an error of the backing device is an error for who reads there, once", () => {
  const device = new SmallDevice();
  device.backing.fault = (kind, off) => kind === "read" && off < 1 * MIB ? EIO : 0;
  assertEquals(device.read(0, 4 * KIB).errno, EIO);
  assertEquals(device.read(1 * MIB - 4 * KIB, 8 * KIB).errno, EIO);
  assertEquals(device.read(1 * MIB, 4 * KIB).errno, 0);
  assertEquals(device.engine.counters.backing_read_errors > 0, true);
  assertEquals(device.write(0, content(1, 4 * KIB)), 0);
  assertEquals(device.read(0, 4 * KIB), { errno: 0, bytes: content(1, 4 * KIB) });
  device.backing.fault = () => 0;
  const wanted = new Uint8Array(16 * MIB);
  fillFor(0, wanted);
  assertEquals(device.read(8 * KIB, 4 * KIB), {
    errno: 0,
    bytes: wanted.slice(8 * KIB, 12 * KIB),
  });
});

Deno.test("a range that the backing device does not take is retried, and the rest goes on", () => {
  const device = new SmallDevice();
  const bad_off = 1 * MIB;
  device.backing.fault = (kind, off, len) =>
    kind === "write" && off < bad_off + 4 * KIB && bad_off < off + len ? EIO : 0;
  assertEquals(device.write(bad_off, content(7, 4 * KIB)), 0);
  assertEquals(device.write(bad_off - 4 * KIB, content(8, 4 * KIB)), 0);
  churn(device, 4 * MIB, 12 * MIB, 48 * MIB);
  assert(device.engine.counters.backing_write_errors > 0);
  assertEquals(device.read(bad_off, 4 * KIB), { errno: 0, bytes: content(7, 4 * KIB) });
  device.flush();
  device.reopen();
  assertEquals(device.read(bad_off, 4 * KIB), { errno: 0, bytes: content(7, 4 * KIB) });
  device.backing.fault = () => 0;
  device.drain();
  assertEquals(device.backing.bytes.slice(bad_off, bad_off + 4 * KIB), content(7, 4 * KIB));
  assertEquals(device.backing.bytes.slice(bad_off - 4 * KIB, bad_off), content(8, 4 * KIB));
});

Deno.test("a backing device that cannot flush keeps everything dirty until it can", () => {
  const device = new SmallDevice();
  device.backing.fault = (kind) => kind === "flush" ? EIO : 0;
  const tail = device.engine.status().dirty_tail;
  for (let i = 0; i < 20; i++) device.write(i * 64 * KIB, content(i + 1, 64 * KIB));
  assertEquals(device.flush(), 0, "a flush needs the cache device only");
  device.engine.setDraining(true);
  device.runUntil("write-back has failed", () => device.engine.counters.backing_flush_errors >= 2);
  assertEquals(device.engine.status().dirty_tail, tail);
  assertEquals(device.engine.isClean(), false);
  device.backing.fault = () => 0;
  device.drain();
  for (let i = 0; i < 20; i++) {
    const at = i * 64 * KIB;
    assertEquals(device.backing.bytes.slice(at, at + 64 * KIB), content(i + 1, 64 * KIB));
  }
});

for (const data_crc of [true, false]) {
  Deno.test(`a backing device that is gone for a while fails no write, data_crc ${data_crc}`, () => {
    const device = new SmallDevice({ data_crc });
    device.backing.fault = (kind) => kind === "read" ? 0 : EIO;
    for (let i = 0; i < 40; i++) {
      assertEquals(device.write(i * 128 * KIB, content(i + 1, 128 * KIB)), 0);
    }
    for (let i = 0; i < 40; i++) {
      assertEquals(device.read(i * 128 * KIB, 128 * KIB), {
        errno: 0,
        bytes: content(i + 1, 128 * KIB),
      });
    }
    device.backing.fault = () => 0;
    device.drain();
    assertEquals(
      device.backing.bytes.slice(39 * 128 * KIB, 40 * 128 * KIB),
      content(40, 128 * KIB),
    );
  });
}

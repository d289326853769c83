/**
 * What fio's log proves, and what may be read after a kill.
 *
 * @module
 */

import { assertEquals, assertThrows } from "@std/assert";
import { FIO_BLOCK_BYTES, fioSector, FioSectors, parseLog } from "./fio_load.ts";

const OFF_BYTES = 8 * FIO_BLOCK_BYTES;
const HEAD = "fio version 3 iolog\n1 load.0.0 add\n2 load.0.0 open\n";

function block(round: number, off_bytes: number): Uint8Array {
  const bytes = new Uint8Array(FIO_BLOCK_BYTES);
  for (let at = 0; at < bytes.length; at += 512) bytes.set(fioSector(round, off_bytes + at), at);
  return bytes;
}

Deno.test("a flush in fio's log counts as answered once two requests follow", () => {
  const close = "9 load.0.0 close\n";
  const flush = HEAD + "3 load.0.0 write 4096 4096\n4 load.0.0 sync 4096 0\n";
  const one_more = flush + "5 load.0.0 write 8192 4096\n";
  const two_more = one_more + "6 load.0.0 sync 8192 0\n";
  assertEquals(parseLog(HEAD + close), { flushed: [], unflushed: [] });
  assertEquals(parseLog(flush + close), { flushed: [], unflushed: [4096] });
  assertEquals(parseLog(one_more + close), { flushed: [], unflushed: [4096, 8192] });
  assertEquals(parseLog(two_more + close), { flushed: [4096], unflushed: [8192] });
  assertThrows(() => parseLog(two_more), Error, "not whole");
  assertThrows(() => parseLog(two_more + "7 load.0.0 trim 0 4096\n" + close), Error, "trim");
});

Deno.test("a flushed block of fio must be there, an unflushed one sector by sector old or new", () => {
  const sectors = new FioSectors(OFF_BYTES, 2 * FIO_BLOCK_BYTES);
  const [first, second] = [OFF_BYTES, OFF_BYTES + FIO_BLOCK_BYTES];
  sectors.note(1, { flushed: [first], unflushed: [second] });
  const mixed = block(1, second);
  mixed.set(new Uint8Array(512), 512);
  assertEquals(sectors.adopt(first, block(1, first), "here"), 0);
  assertEquals(sectors.adopt(second, mixed, "here"), 7);
  assertThrows(() => sectors.adopt(second, block(1, second), "here"), Error, "here: the sector");

  sectors.note(2, { flushed: [first], unflushed: [first] });
  const others = { before: block(1, first), elsewhere: block(2, second), torn: block(2, first) };
  others.torn[4095]! ^= 1;
  for (const bytes of Object.values(others)) {
    assertThrows(() => sectors.adopt(first, bytes, "here"), Error, "flushed round 2");
  }
  sectors.adopt(first, block(2, first), "here");
  assertThrows(() => sectors.note(3, { flushed: [0], unflushed: [] }), Error, "no block");
});

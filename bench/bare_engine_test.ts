/** The bare engine keeps the promises that the NBD server relies on. */

import { assertEquals } from "@std/assert";
import { BareEngine } from "./bare_engine.ts";

Deno.test("a read is answered at once, from its place in the mapping", () => {
  const engine = new BareEngine(1 << 20);
  const slot = engine.beginRead(8192, 4096);
  assertEquals(engine.takePlaced(), -1);
  assertEquals(engine.takeAnswered(), slot);
  assertEquals(engine.takeAnswered(), -1);
  const piece = engine.firstPiece(slot);
  assertEquals([engine.pieceAddr(piece), engine.pieceLen(piece)], [(1 << 20) + 8192, 4096]);
  assertEquals(engine.nextPiece(), -1);
});

Deno.test("a write is placed, then answered when its payload is there", () => {
  const engine = new BareEngine(0);
  const slot = engine.beginWrite(512, 512);
  assertEquals(engine.takeAnswered(), -1);
  assertEquals(engine.takePlaced(), slot);
  assertEquals(engine.pieceAddr(engine.firstPiece(slot)), 512);
  engine.payloadArrived(slot);
  assertEquals(engine.takeAnswered(), slot);
});

Deno.test("slots are used again, and run out", () => {
  const engine = new BareEngine(0, 2);
  const flush = engine.beginFlush();
  assertEquals(engine.firstPiece(flush), -1);
  const write = engine.beginWrite(0, 1);
  assertEquals(engine.beginRead(0, 1), -1);
  assertEquals([engine.takeAnswered(), engine.takePlaced()], [flush, write]);
  engine.release(flush);
  engine.payloadLost(write);
  assertEquals([engine.beginRead(0, 1), engine.beginRead(0, 1)], [flush, write]);
  assertEquals(engine.beginFlush(), -1);
});

import { assert, assertEquals, assertThrows } from "@std/assert";
import { AssertionFailure } from "../../core/assert.ts";
import { EIO, ENOSPC, OK } from "../../core/errors.ts";
import * as failures from "./failures.ts";
import { FakeArena } from "./fakes.ts";
import * as nbd from "./protocol.ts";

/** The commands that reach the engine, and what the text of their failure begins with. */
const COMMANDS: [type: number, text: string][] = [
  [nbd.CMD_READ, "read: "],
  [nbd.CMD_WRITE, "write: "],
  [nbd.CMD_FLUSH, "flush: "],
  [nbd.CMD_TRIM, "write zeroes or trim: "],
  [nbd.CMD_WRITE_ZEROES, "write zeroes or trim: "],
  [nbd.CMD_CACHE, "cache: "],
];

function payloadOf(failed: number): { errno: number; text: string } {
  const arena = new FakeArena(0, failures.FailurePayloads.SIZE_BYTES + 64);
  const payloads = new failures.FailurePayloads(arena);
  const [addr, len] = [payloads.addr(failed), payloads.len(failed)];
  assertEquals(arena.view.getUint16(addr + 4), len - 6);
  const text = new TextDecoder().decode(arena.bytes.subarray(addr + 6, addr + len));
  return { errno: arena.view.getUint32(addr), text };
}

Deno.test("what the engine fails with is said for each command, in the words of the protocol", () => {
  for (const [type, text] of COMMANDS) {
    const failed = failures.engineFailure(type, EIO);
    assertEquals(failures.errnoOf(failed), EIO);
    const payload = payloadOf(failed);
    assertEquals(payload.errno, EIO);
    assert(payload.text.startsWith(text), payload.text);
  }
});

Deno.test("another error of the engine's, or none, is a bug", () => {
  for (const errno of [OK, ENOSPC]) {
    assertThrows(() => failures.engineFailure(nbd.CMD_READ, errno), AssertionFailure);
  }
});

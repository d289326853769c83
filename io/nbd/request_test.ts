import { assertEquals } from "@std/assert";
import { EINVAL, EIO, ENOSPC, OK } from "../../core/errors.ts";
import { errnoOf } from "./failures.ts";
import type { Export } from "./handshake.ts";
import {
  CMD_BLOCK_STATUS,
  CMD_CACHE,
  CMD_DISC,
  CMD_FLAG_DF,
  CMD_FLAG_FUA,
  CMD_FLAG_NO_HOLE,
  CMD_FLAG_PAYLOAD_LEN,
  CMD_FLAG_REQ_ONE,
  CMD_FLUSH,
  CMD_READ,
  CMD_TRIM,
  CMD_WRITE,
  CMD_WRITE_ZEROES,
  EOVERFLOW,
  EPERM,
} from "./protocol.ts";
import { lacksPayload, payloadBytes, validateRequest } from "./request.ts";
import { EXTENDED, PLAIN_SESSION, type Session, SIMPLE, STRUCTURED } from "./session.ts";

const SIZE = 1 << 30;
const MAX = 32 << 20;
/** The highest offset that the wire can carry, as the parser makes it. */
const HUGE = 0xffffffff * 0x100000000 + 0xffffffff;

// [what, type, flags, off, len, read_only, wanted]
const CASES: [string, number, number, number, number, boolean, number][] = [
  ["read", CMD_READ, 0, 0, 512, false, OK],
  ["read of one byte at an odd place", CMD_READ, 0, 12345, 1, false, OK],
  ["read up to the end", CMD_READ, 0, SIZE - 1, 1, false, OK],
  ["read of the longest length", CMD_READ, 0, 0, MAX, false, OK],
  ["read with FUA, which says nothing", CMD_READ, CMD_FLAG_FUA, 0, 512, false, OK],
  ["read of a read-only device", CMD_READ, 0, 0, 512, true, OK],
  ["read past the end", CMD_READ, 0, SIZE - 511, 512, false, EINVAL],
  ["read at the end", CMD_READ, 0, SIZE, 1, false, EINVAL],
  ["read at the highest offset", CMD_READ, 0, HUGE, 512, false, EINVAL],
  ["read whose end wraps in 64 bits", CMD_READ, 0, HUGE, MAX, false, EINVAL],
  ["read of nothing", CMD_READ, 0, 0, 0, false, EINVAL],
  ["read longer than announced", CMD_READ, 0, 0, MAX + 1, false, EINVAL],
  ["read of the highest length", CMD_READ, 0, 0, 0xffffffff, false, EINVAL],
  ["read with unknown flags", CMD_READ, 1 << 2, 0, 512, false, EINVAL],
  ["write", CMD_WRITE, 0, 0, 512, false, OK],
  ["write of one byte at an odd place", CMD_WRITE, 0, 12345, 1, false, OK],
  ["write with FUA", CMD_WRITE, CMD_FLAG_FUA, 0, 512, false, OK],
  ["write up to the end", CMD_WRITE, 0, SIZE - 512, 512, false, OK],
  ["write past the end", CMD_WRITE, 0, SIZE - 511, 512, false, ENOSPC],
  ["write at the highest offset", CMD_WRITE, 0, HUGE, 512, false, ENOSPC],
  ["write of nothing", CMD_WRITE, 0, 0, 0, false, EINVAL],
  ["write longer than announced", CMD_WRITE, 0, 0, MAX + 1, false, EINVAL],
  ["write to a read-only device", CMD_WRITE, 0, 0, 512, true, EPERM],
  ["write with unknown flags", CMD_WRITE, 0x8000, 0, 512, false, EINVAL],
  ["flush", CMD_FLUSH, 0, 0, 0, false, OK],
  ["flush of a read-only device", CMD_FLUSH, 0, 0, 0, true, OK],
  ["flush with FUA", CMD_FLUSH, CMD_FLAG_FUA, 0, 0, false, OK],
  ["flush with a length", CMD_FLUSH, 0, 0, 512, false, EINVAL],
  ["flush with an offset", CMD_FLUSH, 0, 512, 0, false, EINVAL],
  ["flush with unknown flags", CMD_FLUSH, 2, 0, 0, false, EINVAL],
  ["trim", CMD_TRIM, 0, 0, 512, false, OK],
  ["trim with FUA, of bytes", CMD_TRIM, CMD_FLAG_FUA, 7, 9, false, OK],
  ["trim longer than any write", CMD_TRIM, 0, 0, SIZE, false, OK],
  ["trim of nothing", CMD_TRIM, 0, 0, 0, false, EINVAL],
  ["trim past the end", CMD_TRIM, 0, SIZE - 511, 512, false, EINVAL],
  ["trim of the highest length", CMD_TRIM, 0, 0, 0xffffffff, false, EINVAL],
  ["trim of a read-only device", CMD_TRIM, 0, 0, 512, true, EPERM],
  ["trim with a flag of write zeroes", CMD_TRIM, CMD_FLAG_NO_HOLE, 0, 512, false, EINVAL],
  ["write zeroes", CMD_WRITE_ZEROES, 0, 0, 512, false, OK],
  ["write zeroes with all its flags", CMD_WRITE_ZEROES, 1 | 2 | 16, 1, SIZE - 1, false, OK],
  ["write zeroes of nothing", CMD_WRITE_ZEROES, 0, 0, 0, false, EINVAL],
  ["write zeroes past the end", CMD_WRITE_ZEROES, 0, SIZE - 511, 512, false, ENOSPC],
  ["write zeroes to a read-only device", CMD_WRITE_ZEROES, 0, 0, 512, true, EPERM],
  ["write zeroes with a payload", CMD_WRITE_ZEROES, CMD_FLAG_PAYLOAD_LEN, 0, 512, false, EINVAL],
  ["disconnect, which the connection handles itself", CMD_DISC, 0, 0, 0, false, EINVAL],
  ["an unknown command", 0xffff, 0, 0, 512, false, EINVAL],
];

const SERVED: Export = {
  name: "fast",
  description: "",
  size_bytes: SIZE,
  max_request_bytes: MAX,
  read_only: false,
  is_rotational: false,
  is_failing: false,
};

Deno.test("validateRequest", () => {
  for (const [what, type, flags, off, len, read_only, wanted] of CASES) {
    const served = { ...SERVED, read_only };
    const judge = (by: Export) =>
      errnoOf(validateRequest(type, flags, off, len, by, PLAIN_SESSION));
    assertEquals(judge(served), wanted, what);
    assertEquals(judge({ ...served, is_failing: true }), EIO, what);
  }
});

const STRUCT: Session = { style: STRUCTURED, contexts: 0 };
const TOLD: Session = { style: STRUCTURED, contexts: 1 };
const EXT: Session = { style: EXTENDED, contexts: 2 };
const PAYLOAD = CMD_FLAG_PAYLOAD_LEN;

// [what, session, type, flags, off, len, wanted]
const AGREED: [string, Session, number, number, number, number, number][] = [
  ["DF without structured replies", PLAIN_SESSION, CMD_READ, CMD_FLAG_DF, 0, 512, EINVAL],
  ["DF", STRUCT, CMD_READ, CMD_FLAG_DF, 0, 512, OK],
  ["DF of the longest length", EXT, CMD_READ, CMD_FLAG_DF, 0, MAX, OK],
  ["DF of more", STRUCT, CMD_READ, CMD_FLAG_DF, 0, MAX + 1, EOVERFLOW],
  ["more without DF", STRUCT, CMD_READ, 0, 0, MAX + 1, EINVAL],
  ["DF on a write", STRUCT, CMD_WRITE, CMD_FLAG_DF, 0, 512, EINVAL],
  ["status without a context", STRUCT, CMD_BLOCK_STATUS, 0, 0, 512, EINVAL],
  ["status", TOLD, CMD_BLOCK_STATUS, 0, 0, 512, OK],
  ["status of everything, longer than a request", TOLD, CMD_BLOCK_STATUS, 0, 0, SIZE, OK],
  ["status past the end", TOLD, CMD_BLOCK_STATUS, 0, 1, SIZE, EINVAL],
  ["status of nothing", TOLD, CMD_BLOCK_STATUS, 0, 0, 0, EINVAL],
  ["status, one extent", TOLD, CMD_BLOCK_STATUS, CMD_FLAG_REQ_ONE, 0, 512, OK],
  ["status with a payload", EXT, CMD_BLOCK_STATUS, PAYLOAD, 0, 12, EINVAL],
  ["one extent of a read", TOLD, CMD_READ, CMD_FLAG_REQ_ONE, 0, 512, EINVAL],
  ["cache", PLAIN_SESSION, CMD_CACHE, 0, 0, MAX, OK],
  ["cache of more", STRUCT, CMD_CACHE, 0, 0, MAX + 1, EINVAL],
  ["cache past the end", STRUCT, CMD_CACHE, 0, SIZE, 1, EINVAL],
  ["cache of nothing", STRUCT, CMD_CACHE, 0, 0, 0, EINVAL],
  ["cache in one chunk", STRUCT, CMD_CACHE, CMD_FLAG_DF, 0, 512, EINVAL],
  ["write that says its payload", EXT, CMD_WRITE, PAYLOAD | CMD_FLAG_FUA, 0, 512, OK],
  ["the same where nobody asked", STRUCT, CMD_WRITE, PAYLOAD, 0, 512, EINVAL],
  ["read with a payload", EXT, CMD_READ, PAYLOAD, 0, 512, EINVAL],
  ["flush with a payload", EXT, CMD_FLUSH, PAYLOAD, 0, 0, EINVAL],
  ["read of 64 bits", EXT, CMD_READ, 0, 0, 2 ** 32, EINVAL],
  ["status of the highest length", EXT, CMD_BLOCK_STATUS, 0, HUGE, HUGE, EINVAL],
];

Deno.test("validateRequest, by what was agreed on", () => {
  for (const [what, session, type, flags, off, len, wanted] of AGREED) {
    const got = errnoOf(validateRequest(type, flags, off, len, SERVED, session));
    assertEquals(got, wanted, what);
  }
});

Deno.test("where a payload follows", () => {
  for (const session of [PLAIN_SESSION, STRUCT]) {
    assertEquals(payloadBytes(CMD_WRITE, 0, 700, session), 700);
    assertEquals(payloadBytes(CMD_READ, PAYLOAD, 700, session), 0);
    assertEquals(lacksPayload(CMD_WRITE, 0, session), false);
  }
  assertEquals(payloadBytes(CMD_WRITE, PAYLOAD, 700, EXT), 700);
  assertEquals(payloadBytes(99, PAYLOAD, 700, EXT), 700);
  assertEquals(payloadBytes(99, 0, 700, EXT), 0);
  assertEquals(lacksPayload(CMD_WRITE, CMD_FLAG_FUA, EXT), true);
  assertEquals(lacksPayload(CMD_WRITE, PAYLOAD, EXT), false);
  assertEquals(PLAIN_SESSION, { style: SIMPLE, contexts: 0 });
});

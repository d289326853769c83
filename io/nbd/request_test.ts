import { assertEquals } from "@std/assert";
import { EINVAL, EIO, ENOSPC, OK } from "../../core/errors.ts";
import { CMD_DISC, CMD_FLAG_FUA, CMD_FLUSH, CMD_READ, CMD_WRITE, EPERM } from "./protocol.ts";
import { validateRequest } from "./request.ts";

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
  ["trim, which is not announced", 4, 0, 0, 512, false, EINVAL],
  ["write zeroes, which is not announced", 6, 0, 0, 512, false, EINVAL],
  ["disconnect, which the connection handles itself", CMD_DISC, 0, 0, 0, false, EINVAL],
  ["an unknown command", 0xffff, 0, 0, 512, false, EINVAL],
];

Deno.test("validateRequest", () => {
  for (const [what, type, flags, off, len, read_only, wanted] of CASES) {
    const served = {
      name: "fast",
      description: "",
      size_bytes: SIZE,
      max_request_bytes: MAX,
      read_only,
      is_failing: false,
    };
    assertEquals(validateRequest(type, flags, off, len, served), wanted, what);
    const failing = { ...served, is_failing: true };
    assertEquals(validateRequest(type, flags, off, len, failing), EIO, what);
  }
});

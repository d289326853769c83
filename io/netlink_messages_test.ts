import { assertEquals, assertThrows } from "@std/assert";
import {
  CONTROL_FAMILY,
  CONTROL_FAMILY_NAME,
  CONTROL_GET_FAMILY,
  NetlinkFormatError,
  numberOf,
  parseMessages,
  request,
  text,
  u32,
  u64,
} from "./netlink_messages.ts";

/** Bytes as they stand in a dump. */
function hex(bytes: string): Uint8Array {
  return Uint8Array.from(bytes.trim().split(/\s+/), (byte) => parseInt(byte, 16));
}

Deno.test("netlink: a question for a family, byte for byte", () => {
  const bytes = request(CONTROL_FAMILY, CONTROL_GET_FAMILY, 7, [[
    CONTROL_FAMILY_NAME,
    text("nbd"),
  ]]);
  assertEquals(
    bytes,
    hex(`
      1c 00 00 00  10 00  05 00  07 00 00 00  00 00 00 00
      03 01 00 00
      08 00 02 00  6e 62 64 00`),
  );
});

Deno.test("netlink: values of every kind are filled up, nested ones say so", () => {
  const bytes = request(0x1f, 1, 0x01020304, [
    [2, u64(0x1_0000_0200)],
    [10, text("pcache")],
    [7, [[1, [[1, u32(9)]]], [1, [[1, u32(10)]]]]],
  ]);
  assertEquals(
    bytes,
    hex(`
      48 00 00 00  1f 00  05 00  04 03 02 01  00 00 00 00
      01 01 00 00
      0c 00 02 00  00 02 00 00  01 00 00 00
      0b 00 0a 00  70 63 61 63  68 65 00 00
      1c 00 07 80
        0c 00 01 80  08 00 01 00  09 00 00 00
        0c 00 01 80  08 00 01 00  0a 00 00 00`),
  );
});

const REPLY = `
  20 00 00 00  1f 00  00 00  02 00 00 00  99 00 00 00
  01 01 00 00
  06 00 01 00  1c 00 00 00
  04 00 05 00`;
const END = `
  24 00 00 00  02 00  00 01  02 00 00 00  99 00 00 00
  f0 ff ff ff  14 00 00 00 1f 00 05 00 02 00 00 00 00 00 00 00`;

Deno.test("netlink: an answer and the end behind it", () => {
  const [reply, end, ...others] = parseMessages(hex(REPLY + END));
  assertEquals(others, []);
  assertEquals(end, { kind: "end", seq: 2, errno: 16 });
  assertEquals(reply?.kind, "reply");
  if (reply?.kind !== "reply") return;
  assertEquals(numberOf(reply.attributes, 1, 2), 0x1c);
  assertEquals([...reply.attributes.keys()], [1, 5]);
  assertThrows(() => numberOf(reply.attributes, 5, 2), NetlinkFormatError, "0 bytes");
  assertThrows(() => numberOf(reply.attributes, 9, 4), NetlinkFormatError, "no bytes");
});

Deno.test("netlink: success is an end without an error; netlink's other messages say nothing", () => {
  const done = hex(`
    14 00 00 00  03 00  00 00  02 00 00 00  00 00 00 00  00 00 00 00
    14 00 00 00  02 00  00 00  02 00 00 00  00 00 00 00  00 00 00 00`);
  assertEquals(parseMessages(done), [{ kind: "end", seq: 2, errno: 0 }]);
});

Deno.test("netlink: whatever is cut off or does not fit is refused", () => {
  const whole = hex(REPLY);
  for (let len = 1; len < whole.length; len++) {
    assertThrows(() => parseMessages(whole.subarray(0, len)), NetlinkFormatError);
  }
  for (
    const [at, value] of [
      [0, 15], // shorter than its header
      [20, 3], // an attribute shorter than its header
      [20, 200], // or longer than the message
    ] as const
  ) {
    const changed = whole.slice();
    changed[at] = value;
    assertThrows(() => parseMessages(changed), NetlinkFormatError);
  }
  assertThrows(
    () => parseMessages(hex("10 00 00 00 02 00 00 00 01 00 00 00 00 00 00 00")),
    NetlinkFormatError,
    "without an error number",
  );
});

import { assert, assertEquals, assertThrows } from "@std/assert";
import {
  ClientHandshake,
  HandshakeError,
  type RemoteExport,
  whyUnusable,
} from "./client_handshake.ts";

/** Big-endian numbers: [bytes, value]. */
function message(...parts: ([1 | 2 | 4 | 8, number | bigint] | string)[]): number[] {
  return parts.flatMap((part) => {
    if (typeof part === "string") return [...new TextEncoder().encode(part)];
    const [len, value] = part;
    return Array.from(
      { length: len },
      (_, i) => Number(BigInt(value) >> BigInt(8 * (len - 1 - i)) & 255n),
    );
  });
}

const GREETING = message("NBDMAGICIHAVEOPT", [2, 3]);
const reply = (type: number, data: number[]) =>
  message([8, 0x3e889045565a9n], [4, 7], [4, type], [4, data.length]).concat(data);
const EXPORT = reply(3, message([2, 0], [8, 1 << 20], [2, 0x5]));
const BLOCKS = reply(3, message([2, 3], [4, 512], [4, 4096], [4, 65536]));
const ACK = reply(1, []);

function feed(handshake: ClientHandshake, ...parts: number[][]): RemoteExport | null {
  return handshake.feed(Uint8Array.from(parts.flat()));
}

Deno.test("ClientHandshake: flags and one GO, then the export as the server has it", () => {
  const handshake = new ClientHandshake("d\u00e4", false);
  assertEquals(feed(handshake, GREETING), null);
  const go = message([4, 3], "IHAVEOPT", [4, 7], [4, 11], [4, 3], "d\u00e4", [2, 1], [2, 3]);
  assertEquals([...handshake.takeOutput()!], go);
  assertEquals(handshake.takeOutput(), null);
  assertEquals(feed(handshake, BLOCKS), null);
  // What was not asked for changes nothing.
  assertEquals(feed(handshake, reply(3, message([2, 1], "name"))), null);
  assertEquals(feed(handshake, EXPORT, ACK), {
    size_bytes: 1 << 20,
    flags: 5,
    min_block_bytes: 512,
    max_block_bytes: 65536,
  });
});

Deno.test("ClientHandshake: byte by byte is the same as at once", () => {
  const handshake = new ClientHandshake("", false);
  const all = [...GREETING, ...EXPORT, ...ACK];
  const results = all.map((byte) => feed(handshake, [byte]));
  assertEquals(results.pop()?.size_bytes, 1 << 20);
  assert(results.every((result) => result === null));
});

Deno.test("ClientHandshake: NO_ZEROES only where it is offered", () => {
  const handshake = new ClientHandshake("", false);
  feed(handshake, message("NBDMAGICIHAVEOPT", [2, 1]));
  assertEquals([...handshake.takeOutput()!.slice(0, 4)], [0, 0, 0, 1]);
});

const HOSTILE: [name: string, parts: number[][], why: string][] = [
  [
    "no NBD at all",
    [message("SSH-2.0-OpenSSH_9.2p1 Debian")],
    "it does not answer as an NBD server",
  ],
  ["another second magic", [message("NBDMAGICIHAVEOPS", [2, 3])], "it does not answer as an NBD"],
  ["oldstyle", [message("NBDMAGIC", [8, 0x420281861253n], [2, 3])], "the server is too old"],
  ["not fixed", [message("NBDMAGICIHAVEOPT", [2, 2])], "the server is too old"],
  [
    "another reply magic",
    [GREETING, message([8, 1], [4, 7], [4, 1], [4, 0])],
    "does not answer as",
  ],
  [
    "another option",
    [GREETING, message([8, 0x3e889045565a9n], [4, 6], [4, 1], [4, 0])],
    "does not",
  ],
  [
    "a reply too long",
    [GREETING, reply(3, []).slice(0, 16), message([4, 16385])],
    "with 16385 bytes",
  ],
  ["replies for ever", [GREETING, ...Array(33).fill(EXPORT)], "more than 32 times"],
  ["no size", [GREETING, BLOCKS, ACK], "does not tell the size"],
  ["a short export", [GREETING, reply(3, message([2, 0], [8, 0]))], "information 0 has 10 bytes"],
  [
    "a long block size",
    [GREETING, reply(3, message([2, 3], [8, 0], [8, 0]))],
    "information 3 has 18",
  ],
  ["no information", [GREETING, reply(3, [0])], "information -1 has 1 bytes"],
  ["an unknown reply", [GREETING, reply(2, [])], "answers 2, which is unknown"],
  ["GO unknown", [GREETING, reply(0x80000001, [])], "it does not know NBD_OPT_GO"],
  [
    "TLS wanted",
    [GREETING, reply(0x80000005, [])],
    "the server wants TLS: nbds:// or nbds+unix:// is wanted",
  ],
  [
    "no such export, with a text for the terminal",
    [GREETING, reply(0x80000006, message("no\u001b[2J 'x'\n"))],
    "the server has no export of that name: no [2J 'x'",
  ],
  [
    "an endless text",
    [GREETING, reply(0x80000002, message("x".repeat(999)))],
    `${"x".repeat(200)}...`,
  ],
  ["an error of its own", [GREETING, reply(0x80001234, [])], "refuses (error 0x80001234)"],
];

for (const [name, parts, why] of HOSTILE) {
  Deno.test(`ClientHandshake refuses: ${name}`, () => {
    const at_once = new ClientHandshake("x", false);
    assertThrows(() => feed(at_once, ...parts), HandshakeError, why);
    const one_by_one = new ClientHandshake("x", false);
    assertThrows(
      () => parts.flat().forEach((byte) => feed(one_by_one, [byte])),
      HandshakeError,
      why,
    );
  });
}

Deno.test("ClientHandshake refuses: a server that talks before it was asked", () => {
  const handshake = new ClientHandshake("x", false);
  const why = "talks before it was asked";
  assertThrows(() => feed(handshake, GREETING, EXPORT, ACK, [0]), HandshakeError, why);
});

const USABLE: RemoteExport = {
  size_bytes: 1 << 20,
  flags: 5,
  min_block_bytes: 1,
  max_block_bytes: 0xffffffff,
};

const UNUSABLE: [change: Partial<RemoteExport>, why: string][] = [
  [{}, ""],
  [{ min_block_bytes: 512, max_block_bytes: 512 }, ""],
  [{ flags: 0 }, "does not say what the export can do"],
  [{ flags: 7 }, "the export is read-only"],
  [{ size_bytes: 511 }, "511 bytes long"],
  [{ size_bytes: 2 ** 64 }, "are too many"],
  [{ min_block_bytes: 0 }, "make no sense"],
  [{ min_block_bytes: 384 }, "make no sense"],
  [{ max_block_bytes: 0 }, "make no sense"],
  [{ min_block_bytes: 4096 }, "its requests have 4096 to 4294967295 bytes"],
  [{ max_block_bytes: 256 }, "its requests have 1 to 256 bytes"],
];

for (const [change, why] of UNUSABLE) {
  Deno.test(`whyUnusable: ${JSON.stringify(change)}`, () => {
    const said = whyUnusable({ ...USABLE, ...change });
    assert(why === "" ? said === "" : said.includes(why), said);
  });
}

const TLS_REPLY = (type: number, data: number[] = []) =>
  message([8, 0x3e889045565a9n], [4, 5], [4, type], [4, data.length]).concat(data);

Deno.test("ClientHandshake: STARTTLS first where TLS is wanted, and GO under it", () => {
  const handshake = new ClientHandshake("x", true);
  assertEquals(feed(handshake, GREETING), null);
  assertEquals(
    [...handshake.takeOutput()!],
    message([4, 3], "IHAVEOPT", [4, 5], [4, 0]),
  );
  assert(!handshake.starts_tls);
  assertEquals(feed(handshake, TLS_REPLY(1)), null);
  assert(handshake.starts_tls);
  assertEquals(handshake.takeOutput(), null);
  handshake.secured();
  assert(!handshake.starts_tls);
  const go = message("IHAVEOPT", [4, 7], [4, 9], [4, 1], "x", [2, 1], [2, 3]);
  assertEquals([...handshake.takeOutput()!], go);
  assertEquals(feed(handshake, EXPORT, ACK)?.size_bytes, 1 << 20);
});

Deno.test("ClientHandshake: where TLS is wanted there is no way on without", () => {
  const cases: [number[][], string][] = [
    [[TLS_REPLY(0x80000001)], "the server has no TLS"],
    [[TLS_REPLY(0x80000002, message("no"))], "the server has no TLS: no"],
    [[TLS_REPLY(3, message([2, 0]))], "it does not answer as an NBD server"],
    [[ACK], "it does not answer as an NBD server"],
    [[EXPORT, ACK], "it does not answer as an NBD server"],
    [[TLS_REPLY(1), EXPORT], "the server talks before it was asked anything"],
    [[TLS_REPLY(1), [0]], "the server talks before it was asked anything"],
  ];
  for (const [parts, why] of cases) {
    const handshake = new ClientHandshake("x", true);
    feed(handshake, GREETING);
    assertThrows(() => feed(handshake, ...parts), HandshakeError, why);
  }
});

import { assertEquals, assertNotEquals } from "@std/assert";
import { type Export, Handshake, type TlsPolicy, transmissionFlags } from "./handshake.ts";
import * as nbd from "./protocol.ts";
import { EXTENDED, type Session, SIMPLE, STRUCTURED } from "./session.ts";

const SERVED: Export = {
  name: "fast",
  description: "a test",
  size_bytes: 5 * 2 ** 32 + 512,
  max_request_bytes: 2 ** 25,
  read_only: false,
  is_rotational: false,
  is_failing: false,
};

const encoder = new TextEncoder();
const CLIENT_FLAGS = u32(nbd.FLAG_FIXED_NEWSTYLE | nbd.FLAG_NO_ZEROES);

function u32(...values: number[]): number[] {
  return values.flatMap((v) => [v >>> 24, (v >>> 16) & 255, (v >>> 8) & 255, v & 255]);
}
function u16(...values: number[]): number[] {
  return values.flatMap((v) => [v >>> 8, v & 255]);
}
function text(s: string): number[] {
  return [...encoder.encode(s)];
}
function option(number: number, data: number[], len = data.length): number[] {
  return [...u32(nbd.OPTION_MAGIC_HI, nbd.OPTION_MAGIC_LO, number, len), ...data];
}
function named(name: string, ...types: number[]): number[] {
  return [...u32(encoder.encode(name).length), ...text(name), ...u16(types.length, ...types)];
}

interface Outcome {
  /** "type" or "type:data in hex" for each option reply; other bytes as they are, in hex. */
  replies: string[];
  end: "continue" | "serve" | "close" | "tls";
  unread_bytes: number;
  session: Session;
}

/** Feeds the bytes in chunks of `chunk` until the handshake ends or wants more. */
function converse(bytes: number[], chunk = bytes.length, served = SERVED): Outcome {
  return goOn(new Handshake(served, "off"), bytes, chunk);
}

function goOn(handshake: Handshake, bytes: number[], chunk = bytes.length): Outcome {
  const replies: string[] = [];
  let buffer: number[] = [];
  let at = 0;
  for (;;) {
    const step = handshake.step(new Uint8Array(buffer));
    if (step === null) {
      if (at === bytes.length) {
        const { session } = handshake;
        return { replies, end: "continue", unread_bytes: buffer.length, session };
      }
      buffer = buffer.concat(bytes.slice(at, at + chunk));
      at = Math.min(bytes.length, at + chunk);
      continue;
    }
    buffer = buffer.slice(step.consumed_bytes);
    replies.push(...describe(step.reply));
    if (step.then === "continue") continue;
    const { session } = handshake;
    return { replies, end: step.then, unread_bytes: buffer.length + bytes.length - at, session };
  }
}

function describe(reply: Uint8Array): string[] {
  const found: string[] = [];
  const view = new DataView(reply.buffer, reply.byteOffset, reply.byteLength);
  let at = 0;
  while (at + 20 <= reply.length && view.getUint32(at) === nbd.OPTION_REPLY_MAGIC_HI) {
    assertEquals(view.getUint32(at + 4), nbd.OPTION_REPLY_MAGIC_LO);
    const type = view.getUint32(at + 12);
    const len = view.getUint32(at + 16);
    const data = reply.subarray(at + 20, at + 20 + len);
    assertEquals(data.length, len);
    const is_error = type >= 0x80000000;
    if (is_error) assertNotEquals(len, 0, "an error reply explains itself");
    found.push(is_error || len === 0 ? `${hexOf(type)}` : `${hexOf(type)}:${data.toHex()}`);
    at += 20 + len;
  }
  if (at < reply.length) found.push(reply.subarray(at).toHex());
  return found;
}

function hexOf(n: number): string {
  return n.toString(16);
}

function contexts(name: string, ...queries: string[]): number[] {
  const counted = (s: string) => [...u32(encoder.encode(s).length), ...text(s)];
  return [...counted(name), ...u32(queries.length), ...queries.flatMap(counted)];
}

const UNSUP = hexOf(nbd.REP_ERR_UNSUP);
const INVALID = hexOf(nbd.REP_ERR_INVALID);
const UNKNOWN = hexOf(nbd.REP_ERR_UNKNOWN);
const TOO_BIG = hexOf(nbd.REP_ERR_TOO_BIG);
const EXT_REQD = hexOf(nbd.REP_ERR_EXT_HEADER_REQD);
const ACK = "1";
const BASE = encoder.encode("base:allocation").toHex();
const DIRTY = encoder.encode("pcache:dirty").toHex();
const SIZE_AND_FLAGS = "0000000500000200" + "0d6d";
const EXPORT = `3:0000${SIZE_AND_FLAGS}`;
const NAME = `3:0001${encoder.encode("fast").toHex()}`;
const DESCRIPTION = `3:0002${encoder.encode("a test").toHex()}`;
const BLOCK_SIZE = "3:0003" + "00000200" + "00001000" + "02000000";

Deno.test("the server greets with its magics, fixed newstyle and no zeroes", () => {
  const greeting = new Handshake(SERVED, "off").greeting();
  assertEquals(greeting.toHex(), encoder.encode("NBDMAGICIHAVEOPT").toHex() + "0003");
});

Deno.test("transmission flags", () => {
  // HAS_FLAGS 1, SEND_FLUSH 4, SEND_FUA 8, SEND_TRIM 32, SEND_WRITE_ZEROES 64, CAN_MULTI_CONN 256,
  // SEND_CACHE 1024, SEND_FAST_ZERO 2048.
  const always = 1 + 4 + 8 + 32 + 64 + 256 + 1024 + 2048;
  assertEquals(transmissionFlags(SERVED, SIMPLE), always);
  assertEquals(transmissionFlags({ ...SERVED, read_only: true }, SIMPLE), always + 2);
  assertEquals(transmissionFlags({ ...SERVED, is_rotational: true }, SIMPLE), always + 16);
  assertEquals(transmissionFlags(SERVED, STRUCTURED), always + 128);
  assertEquals(transmissionFlags(SERVED, EXTENDED), always + 128);
});

// [what, bytes after the client flags, replies, end]
const CASES: [string, number[], string[], Outcome["end"]][] = [
  ["GO", option(nbd.OPT_GO, named("fast")), [EXPORT, ACK], "serve"],
  ["GO, default export", option(nbd.OPT_GO, named("")), [EXPORT, ACK], "serve"],
  [
    "GO with every information, one asked twice, one unknown",
    option(nbd.OPT_GO, named("", 3, 2, 1, 0, 3, 99)),
    [EXPORT, BLOCK_SIZE, DESCRIPTION, NAME, ACK],
    "serve",
  ],
  ["GO, unknown export", option(nbd.OPT_GO, named("other")), [UNKNOWN], "continue"],
  ["GO, name with a NUL", option(nbd.OPT_GO, named("fast\0")), [UNKNOWN], "continue"],
  ["INFO", option(nbd.OPT_INFO, named("", 3)), [EXPORT, BLOCK_SIZE, ACK], "continue"],
  ["INFO, unknown export", option(nbd.OPT_INFO, named("other")), [UNKNOWN], "continue"],
  [
    "INFO, then an unknown option, then GO",
    [
      ...option(nbd.OPT_INFO, named("")),
      ...option(77, text("whatever")),
      ...option(nbd.OPT_GO, named("")),
    ],
    [EXPORT, ACK, UNSUP, EXPORT, ACK],
    "serve",
  ],
  [
    "PEEK_EXPORT, unknown options",
    [4, 12, 0, 0xffffffff].flatMap((n) => option(n, [])),
    new Array(4).fill(UNSUP),
    "continue",
  ],
  [
    "LIST",
    option(nbd.OPT_LIST, []),
    ["2:00000004" + encoder.encode("fasta test").toHex(), ACK],
    "continue",
  ],
  ["LIST with data", option(nbd.OPT_LIST, [1]), [INVALID], "continue"],
  ["ABORT", option(nbd.OPT_ABORT, []), [ACK], "close"],
  ["EXPORT_NAME", option(nbd.OPT_EXPORT_NAME, text("fast")), [SIZE_AND_FLAGS], "serve"],
  ["EXPORT_NAME, default", option(nbd.OPT_EXPORT_NAME, []), [SIZE_AND_FLAGS], "serve"],
  ["EXPORT_NAME, unknown", option(nbd.OPT_EXPORT_NAME, text("slow")), [], "close"],
  ["GO without data", option(nbd.OPT_GO, []), [INVALID], "continue"],
  ["GO cut short", option(nbd.OPT_GO, named("fast", 3).slice(0, -1)), [INVALID], "continue"],
  ["GO with a byte too many", option(nbd.OPT_GO, [...named("fast", 3), 0]), [INVALID], "continue"],
  [
    "GO whose name is longer than its data",
    option(nbd.OPT_GO, [...u32(5), ...text("fas"), ...u16(0)]),
    [INVALID],
    "continue",
  ],
  ["GO whose name length is huge", option(nbd.OPT_GO, u32(0xffffffff, 0)), [INVALID], "continue"],
  ["GO whose name is too long", option(nbd.OPT_GO, named("x".repeat(4097))), [TOO_BIG], "continue"],
  [
    "an option with too much data, then GO",
    [
      ...option(nbd.OPT_INFO, new Array(nbd.MAX_OPTION_BYTES + 1).fill(7)),
      ...option(nbd.OPT_GO, named("")),
    ],
    [TOO_BIG, EXPORT, ACK],
    "serve",
  ],
  ["an option with far too much data", option(nbd.OPT_INFO, [], 0x7fffffff), [], "close"],
  [
    "EXPORT_NAME with too much data",
    option(nbd.OPT_EXPORT_NAME, [], nbd.MAX_OPTION_BYTES + 1),
    [],
    "close",
  ],
  ["wrong option magic", [...u32(nbd.OPTION_MAGIC_HI, 1, nbd.OPT_GO, 0)], [], "close"],
  [
    "options without end",
    new Array(nbd.MAX_OPTIONS + 1).fill(option(77, [])).flat(),
    new Array(nbd.MAX_OPTIONS).fill(UNSUP),
    "close",
  ],
  [
    "oversized options without end",
    new Array(nbd.MAX_OPTIONS + 1).fill(
      option(77, new Array(nbd.MAX_OPTION_BYTES + 1).fill(0)),
    ).flat(),
    new Array(nbd.MAX_OPTIONS).fill(TOO_BIG),
    "close",
  ],
];

Deno.test("options are answered as the protocol says", () => {
  for (const [what, bytes, replies, end] of CASES) {
    const outcome = converse([...CLIENT_FLAGS, ...bytes]);
    assertEquals([outcome.replies, outcome.end], [replies, end], what);
  }
});

Deno.test("options that come a few bytes at a time are answered the same", () => {
  for (const chunk of [1, 7]) {
    for (const [what, bytes, replies, end] of CASES) {
      if (bytes.length > 5000) continue;
      const outcome = converse([...CLIENT_FLAGS, ...bytes], chunk);
      assertEquals([outcome.replies, outcome.end], [replies, end], `${what}, ${chunk} at a time`);
    }
  }
});

Deno.test("what follows GO is left to the transmission phase", () => {
  const bytes = [...CLIENT_FLAGS, ...option(nbd.OPT_GO, named("")), 1, 2, 3];
  assertEquals(converse(bytes).unread_bytes, 3);
});

Deno.test("unknown client flags end the connection", () => {
  assertEquals(converse([...u32(4), ...option(nbd.OPT_GO, named(""))]).end, "close");
  assertEquals(converse([...u32(0x80000001), ...option(nbd.OPT_GO, named(""))]).end, "close");
});

Deno.test("a client without NO_ZEROES gets 124 zeroes after EXPORT_NAME", () => {
  const bytes = [...u32(nbd.FLAG_FIXED_NEWSTYLE), ...option(nbd.OPT_EXPORT_NAME, [])];
  assertEquals(converse(bytes).replies, [SIZE_AND_FLAGS + "00".repeat(124)]);
});

Deno.test("a client without fixed newstyle may only name its export", () => {
  assertEquals(converse([...u32(0), ...option(nbd.OPT_EXPORT_NAME, [])]).end, "serve");
  assertEquals(converse([...u32(0), ...option(nbd.OPT_GO, named(""))]).end, "close");
  assertEquals(converse([...u32(0), ...option(77, [])]).end, "close");
});

const STRUCT = option(nbd.OPT_STRUCTURED_REPLY, []);
const EXT = option(nbd.OPT_EXTENDED_HEADERS, []);
const SET = nbd.OPT_SET_META_CONTEXT;
const LIST = nbd.OPT_LIST_META_CONTEXT;

// [what, bytes after the client flags, replies, style, contexts]
const AGREED: [string, number[], string[], number, number][] = [
  ["structured", STRUCT, [ACK], STRUCTURED, 0],
  ["structured twice", [...STRUCT, ...STRUCT], [ACK, INVALID], STRUCTURED, 0],
  ["structured with data", option(nbd.OPT_STRUCTURED_REPLY, [0]), [INVALID], SIMPLE, 0],
  ["extended", EXT, [ACK], EXTENDED, 0],
  ["extended after structured", [...STRUCT, ...EXT], [ACK, ACK], EXTENDED, 0],
  ["structured after extended", [...EXT, ...STRUCT], [ACK, EXT_REQD], EXTENDED, 0],
  ["extended twice", [...EXT, ...EXT], [ACK, INVALID], EXTENDED, 0],
  ["extended with data", option(nbd.OPT_EXTENDED_HEADERS, [0]), [INVALID], SIMPLE, 0],
  [
    "contexts without structured replies",
    [...option(SET, contexts("", "base:allocation")), ...option(LIST, contexts(""))],
    [INVALID, INVALID],
    SIMPLE,
    0,
  ],
  [
    "every context there is",
    [...STRUCT, ...option(LIST, contexts("fast"))],
    [ACK, `4:00000000${BASE}`, `4:00000000${DIRTY}`, ACK],
    STRUCTURED,
    0,
  ],
  [
    "contexts by namespace, unknown ones, one twice",
    [...STRUCT, ...option(LIST, contexts("", "pcache:", "qemu:", "pcache:dirty", "base:x"))],
    [ACK, `4:00000000${DIRTY}`, ACK],
    STRUCTURED,
    0,
  ],
  [
    "select both, one twice",
    [...EXT, ...option(SET, contexts("fast", "pcache:dirty", "base:allocation", "pcache:dirty"))],
    [ACK, `4:00000001${BASE}`, `4:00000002${DIRTY}`, ACK],
    EXTENDED,
    3,
  ],
  [
    "select one, then by a namespace, which selects none",
    [
      ...STRUCT,
      ...[["base:allocation"], ["base:"]].flatMap((q) => option(SET, contexts("", ...q))),
    ],
    [ACK, `4:00000001${BASE}`, ACK, ACK],
    STRUCTURED,
    0,
  ],
  [
    "select one, then fail: none is left",
    [
      ...STRUCT,
      ...option(SET, contexts("", "base:allocation")),
      ...option(SET, contexts("other", "base:allocation")),
    ],
    [ACK, `4:00000001${BASE}`, ACK, UNKNOWN],
    STRUCTURED,
    0,
  ],
  ["select nothing", [...STRUCT, ...option(SET, contexts(""))], [ACK, ACK], STRUCTURED, 0],
  [
    "malformed queries",
    [
      ...STRUCT,
      ...option(SET, contexts("", "nocolon")),
      ...option(SET, contexts("", "base:allocation").slice(0, -1)),
      ...option(SET, [...contexts("", "base:allocation"), 0]),
      ...option(SET, u32(0, 0xffffffff)),
      ...option(SET, u32(0xffffffff, 0)),
      ...option(SET, u32(0, 1, 0xffffffff)),
      ...option(SET, u32(0)),
    ],
    [ACK, ...new Array(7).fill(INVALID)],
    STRUCTURED,
    0,
  ],
  [
    "a name that is too long",
    [...STRUCT, ...option(SET, contexts("x".repeat(4097), "base:allocation"))],
    [ACK, TOO_BIG],
    STRUCTURED,
    0,
  ],
];

Deno.test("styles of replies and metadata contexts are agreed on as the protocol says", () => {
  for (const [what, bytes, replies, style, selected] of AGREED) {
    const outcome = converse([...CLIENT_FLAGS, ...bytes]);
    assertEquals([outcome.replies, outcome.end], [replies, "continue"], what);
    assertEquals(outcome.session, { style, contexts: selected }, what);
  }
});

Deno.test("structured replies come with DF; extended headers end a connection that goes on with EXPORT_NAME", () => {
  const go = option(nbd.OPT_GO, named(""));
  const df = `3:0000${SIZE_AND_FLAGS.slice(0, -4)}0ded`;
  assertEquals(converse([...CLIENT_FLAGS, ...STRUCT, ...go]).replies, [ACK, df, ACK]);
  assertEquals(converse([...CLIENT_FLAGS, ...EXT, ...go]).replies, [ACK, df, ACK]);
  const by_name = converse([...CLIENT_FLAGS, ...EXT, ...option(nbd.OPT_EXPORT_NAME, [])]);
  assertEquals([by_name.replies, by_name.end], [[ACK], "close"]);
});

const TLS_REQD = hexOf(nbd.REP_ERR_TLS_REQD);
const POLICY = hexOf(nbd.REP_ERR_POLICY);
const STARTTLS = option(nbd.OPT_STARTTLS, []);

// [what, policy, bytes after the client flags, replies, end]
const TLS_CASES: [string, TlsPolicy, number[], string[], Outcome["end"]][] = [
  ["off: STARTTLS", "off", STARTTLS, [POLICY], "continue"],
  ["on: STARTTLS", "on", STARTTLS, [ACK], "tls"],
  ["on: STARTTLS with data", "on", option(nbd.OPT_STARTTLS, [1]), [INVALID], "continue"],
  ["on: without", "on", option(nbd.OPT_GO, named("")), [EXPORT, ACK], "serve"],
  ["require: STARTTLS", "require", STARTTLS, [ACK], "tls"],
  ["require: GO", "require", option(nbd.OPT_GO, named("")), [TLS_REQD], "continue"],
  ["require: INFO", "require", option(nbd.OPT_INFO, named("")), [TLS_REQD], "continue"],
  ["require: LIST", "require", option(nbd.OPT_LIST, []), [TLS_REQD], "continue"],
  ["require: an unknown option", "require", option(99, [1, 2]), [TLS_REQD], "continue"],
  ["require: a long one", "require", option(99, [], 100_000), [TLS_REQD], "continue"],
  [
    "require: structured replies",
    "require",
    option(nbd.OPT_STRUCTURED_REPLY, []),
    [TLS_REQD],
    "continue",
  ],
  ["require: EXPORT_NAME", "require", option(nbd.OPT_EXPORT_NAME, []), [], "close"],
  ["require: ABORT", "require", option(nbd.OPT_ABORT, []), [ACK], "close"],
];

for (const [what, policy, bytes, replies, end] of TLS_CASES) {
  Deno.test(`TLS ${what}`, () => {
    const outcome = goOn(new Handshake(SERVED, policy), [...CLIENT_FLAGS, ...bytes]);
    assertEquals([outcome.replies, outcome.end], [replies, end]);
  });
}

Deno.test("under TLS all is as it is without, and nothing said before counts", () => {
  const before = new Handshake(SERVED, "on");
  const agreed = [
    ...CLIENT_FLAGS,
    ...option(nbd.OPT_STRUCTURED_REPLY, []),
    ...option(nbd.OPT_SET_META_CONTEXT, contexts("", "base:allocation")),
  ];
  assertEquals(goOn(before, [...agreed, ...STARTTLS]).session, { style: STRUCTURED, contexts: 1 });
  const after = before.secured();
  assertEquals(after.session, { style: SIMPLE, contexts: 0 });
  const again = goOn(after, [...STARTTLS, ...option(nbd.OPT_STRUCTURED_REPLY, [])]);
  assertEquals(again.replies, [INVALID, ACK]);
  const served = goOn(before.secured(), option(nbd.OPT_GO, named("fast")));
  assertEquals([served.replies, served.end], [[EXPORT, ACK], "serve"]);
});

Deno.test("options before STARTTLS count among those that a client may send", () => {
  const half = Array.from({ length: nbd.MAX_OPTIONS - 1 }, () => option(nbd.OPT_LIST, [])).flat();
  const before = new Handshake(SERVED, "on");
  assertEquals(goOn(before, [...CLIENT_FLAGS, ...half, ...STARTTLS]).end, "tls");
  assertEquals(goOn(before.secured(), option(nbd.OPT_LIST, [])).end, "close");
});

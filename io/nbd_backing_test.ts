import { assert, assertEquals, assertThrows } from "@std/assert";
import { CacheError, EIO, ENOSPC, ESHUTDOWN } from "../core/errors.ts";
import { type Gather, MAX_BACKING_IDS, MAX_GATHER } from "../core/platform.ts";
import { Random, seedOr } from "../tests/random.ts";
import { Arena } from "./arena.ts";
import {
  AF_UNIX,
  EAGAIN,
  EINTR,
  ERRNO,
  libc,
  MSG_DONTWAIT,
  MSG_NOSIGNAL,
  result,
  SOCK_CLOEXEC,
  SOCK_STREAM,
} from "./libc.ts";
import { Iovecs } from "./nbd/iovecs.ts";
import { NbdBacking, READ_WAIT_S } from "./nbd_backing.ts";
import { PollRing } from "./poll_ring.ts";
import type { Ring } from "./ring.ts";
import * as sockets from "./sockets.ts";
import { pattern } from "./testing.ts";
import { UringRing } from "./uring.ts";

const KIND = 0x81;
/** With a server that lies. */
const CONVERSATIONS = 60;
const EXPORT_BYTES = 8 << 20;
const SCRATCH_BYTES = 2 << 20;
const ECONNREFUSED = 111;
const EPIPE = 32;
const ECONNRESET = 104;
const SEND_FLUSH = 0x5;
const [READ, WRITE, DISC, FLUSH] = [0, 1, 2, 3];
const RINGS = ["io_uring", "poll"] as const;

/** A request as the server sees it. */
interface Request {
  readonly command: number;
  readonly serial: number;
  readonly row: number;
  readonly off: number;
  readonly len: number;
  readonly payload: Uint8Array;
}

/** How the server presents its export. */
interface Face {
  size: number;
  flags: number;
  blocks: [min: number, preferred: number, max: number] | null;
}

function words(...values: number[]): Uint8Array {
  const view = new DataView(new ArrayBuffer(4 * values.length));
  values.forEach((value, i) => view.setUint32(4 * i, value));
  return new Uint8Array(view.buffer);
}

function join(...parts: Uint8Array[]): Uint8Array {
  const joined = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    joined.set(part, at);
    at += part.length;
  }
  return joined;
}

/** All that a server says until the transmission phase; it need not wait to be asked. */
function greeting({ size, flags, blocks }: Face): Uint8Array {
  const info = (data: Uint8Array) => join(words(0x3e889, 0x45565a9, 7, 3, data.length), data);
  return join(
    new TextEncoder().encode("NBDMAGICIHAVEOPT"),
    Uint8Array.of(0, 3),
    info(join(Uint8Array.of(0, 0), words(0, size), Uint8Array.of(0, flags))),
    blocks === null ? new Uint8Array(0) : info(join(Uint8Array.of(0, 3), words(...blocks))),
    words(0x3e889, 0x45565a9, 7, 1, 0),
  );
}

/** The server's end of one connection, moved along by hand. */
class Peer {
  #got = new Uint8Array(0);

  constructor(readonly rig: Rig, readonly fd: number) {}

  /** The next `count` bytes; the client goes on meanwhile. */
  take(count: number): Uint8Array {
    this.rig.until(`${count} bytes from the client`, () => {
      this.#pull();
      return this.#got.length >= count;
    });
    const bytes = this.#got.slice(0, count);
    this.#got = this.#got.slice(count);
    return bytes;
  }

  /** Whether nothing has come that was not taken. */
  get is_silent(): boolean {
    return this.there === 0;
  }

  /** How many bytes have come that were not taken. */
  get there(): number {
    this.#pull();
    return this.#got.length;
  }

  /** Whether a whole request has come. */
  get has_request(): boolean {
    if (this.there < 28) return false;
    const view = new DataView(this.#got.buffer);
    return view.getUint32(4) !== WRITE || this.#got.length >= 28 + view.getUint32(24);
  }

  #pull(): void {
    const { arena, scratch_addr } = this.rig;
    const address = arena.absolute(scratch_addr);
    const len = result(libc.recv(this.fd, address, BigInt(SCRATCH_BYTES), MSG_DONTWAIT), ERRNO[0]);
    if (len <= 0) return;
    const grown = new Uint8Array(this.#got.length + len);
    grown.set(this.#got);
    grown.set(arena.bytes.subarray(scratch_addr, scratch_addr + len), this.#got.length);
    this.#got = grown;
  }

  /** Sends all of it, or what the client takes before it hangs up. At most `part_bytes` at a time. */
  put(bytes: Uint8Array, part_bytes = Infinity): void {
    const { arena, scratch_addr, iovecs } = this.rig;
    let at = 0;
    this.rig.until("the client takes what it is sent", () => {
      const part = bytes.subarray(at, at + Math.min(part_bytes, SCRATCH_BYTES));
      arena.bytes.set(part, scratch_addr);
      iovecs.clear();
      iovecs.add(scratch_addr, part.length);
      iovecs.seal();
      const address = arena.absolute(iovecs.msghdr_addr);
      const sent = result(libc.sendmsg(this.fd, address, MSG_DONTWAIT | MSG_NOSIGNAL), ERRNO[0]);
      at += Math.max(0, sent);
      return at === bytes.length || sent === -EPIPE || sent === -ECONNRESET;
    });
  }

  /** Takes the client's flags and its GO. */
  takeGo(name = "x"): void {
    const data = new TextEncoder().encode(name);
    assertEquals(
      this.take(4 + 16 + 8 + data.length),
      join(words(3, 0x49484156, 0x454f5054, 7, 8 + data.length, data.length), data, words(0x10003)),
    );
  }

  request(): Request {
    const view = new DataView(this.take(28).buffer);
    assertEquals(view.getUint32(0), 0x25609513);
    const command = view.getUint32(4);
    const len = view.getUint32(24);
    return {
      command,
      serial: view.getUint32(8),
      row: view.getUint32(12),
      off: view.getUint32(16) * 2 ** 32 + view.getUint32(20),
      len,
      payload: command === WRITE ? this.take(len) : new Uint8Array(0),
    };
  }

  answer({ serial, row }: Request, errno = 0, payload = new Uint8Array(0)): void {
    this.put(join(words(0x67446698, errno, serial, row), payload));
  }

  close(): void {
    libc.close(this.fd);
  }
}

/** A backing device, its memory, its ring, and its server's ends of the connections. Time passes when the test says so. */
class Rig {
  now_ms = 1e6;
  /** Connections made so far, and when each was tried. */
  readonly peers: Peer[] = [];
  readonly tries_ms: number[] = [];
  is_refusing = false;
  /** What becomes of a greeting on its way. */
  mutate = (bytes: Uint8Array) => bytes;
  is_greeting = true;
  readonly face: Face = { size: EXPORT_BYTES, flags: SEND_FLUSH, blocks: null };
  /** How requests ended, in order. */
  readonly ends: [id: number, errno: number][] = [];
  readonly arena = new Arena({ cache_bytes: 0, buffer_bytes: 16 << 20, io_bytes: 16 << 20 });
  readonly scratch_addr = this.arena.alloc(SCRATCH_BYTES);
  readonly iovecs = new Iovecs(this.arena, this.arena.alloc(Iovecs.sizeBytes(1)), 1);
  readonly ring: Ring;
  #backing: NbdBacking | null = null;

  constructor(ring_kind: "io_uring" | "poll", change: Partial<Face> = {}) {
    Object.assign(this.face, change);
    const ring = ring_kind === "poll"
      ? new PollRing(this.arena, 256)
      : UringRing.open(this.arena, 256);
    if (typeof ring === "number") throw new Error(`io_uring is refused here: errno ${ring}`);
    this.ring = ring;
  }

  open(): void {
    this.#backing = NbdBacking.open({
      arena: this.arena,
      ring: this.#flakyRing(),
      sockets,
      user_kind: KIND,
      uri: "nbd://h/x",
      export_name: "x",
      tls: null,
      connect: () => this.#connect(),
      address_count: 1,
    });
    this.peers[0]!.takeGo();
  }

  get backing(): NbdBacking {
    return this.#backing!;
  }

  /** The server's end of the newest connection. */
  get peer(): Peer {
    return this.peers.at(-1)!;
  }

  #connect(): number {
    this.tries_ms.push(this.now_ms);
    if (this.is_refusing) return -ECONNREFUSED;
    const fds = new Int32Array(2);
    const bytes = new Uint8Array(fds.buffer);
    assertEquals(libc.socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, bytes), 0);
    const peer = new Peer(this, fds[1]!);
    this.peers.push(peer);
    if (this.is_greeting) peer.put(this.mutate(greeting(this.face)));
    return fds[0]!;
  }

  backingDone(id: number, errno: number): void {
    this.ends.push([id, errno]);
  }

  /** Some receives and sends are interrupted. */
  interrupts: Random | null = null;
  readonly #interrupted: number[] = [];

  #isInterrupted(user: number): boolean {
    const is_so = this.interrupts?.chance(0.3) ?? false;
    if (is_so) this.#interrupted.push(user);
    return is_so;
  }

  /** The ring, but for what is interrupted. */
  #flakyRing(): Ring {
    const ring = this.ring;
    const flaky: Partial<Ring> = {
      recv: (user, fd, addr, len) => this.#isInterrupted(user) || ring.recv(user, fd, addr, len),
      recvmsg: (user, fd, addr) => this.#isInterrupted(user) || ring.recvmsg(user, fd, addr),
      sendmsg: (user, fd, addr) => this.#isInterrupted(user) || ring.sendmsg(user, fd, addr),
    };
    return new Proxy(ring, {
      get: (_, name) => {
        if (name in flaky) return flaky[name as keyof Ring];
        const value = ring[name as keyof Ring];
        return typeof value === "function" ? value.bind(ring) : value;
      },
    });
  }

  /** A turn of the loop that does not sleep. */
  spin(): void {
    if (this.#backing === null) return;
    this.backing.turn(this.now_ms, this);
    this.ring.wait(0);
    while (this.ring.next()) {
      assertEquals(this.ring.user >>> 24, KIND);
      this.backing.handle(this.ring.user & 0xffffff, this.ring.result, this);
    }
    for (const [i, user] of this.#interrupted.splice(0).entries()) {
      this.backing.handle(user & 0xffffff, i % 2 === 0 ? -EINTR : -EAGAIN, this);
    }
    this.backing.turn(this.now_ms, this);
  }

  until(what: string, done: () => boolean): void {
    for (let turns = 0; !done(); turns++) {
      if (turns === 100_000) throw new Error(`still not so after ${turns} turns: ${what}`);
      this.spin();
    }
  }

  /** Lets the loop run until nothing more happens. */
  settle(): void {
    for (let i = 0; i < 50; i++) this.spin();
  }

  pass(ms: number): void {
    for (const end_ms = this.now_ms + ms; this.now_ms < end_ms;) {
      this.now_ms = Math.min(end_ms, this.now_ms + 100);
      this.settle();
    }
  }

  /** Breaks the connection; the next one is made at once, and has done its negotiation. */
  reconnect(): void {
    const before = this.peers.length;
    this.peer.close();
    this.until("the loss is seen", () => this.backing.trouble !== "");
    this.until("the client comes again", () => {
      this.now_ms += 10;
      return this.peers.length > before;
    });
    this.peer.takeGo();
    this.until("it is served", () => this.backing.trouble === "");
  }

  /** The ends of requests since the last call, by id. */
  ended(): [id: number, errno: number][] {
    this.settle();
    return this.ends.splice(0).sort(([a], [b]) => a - b);
  }

  close(): void {
    this.#backing?.close();
    for (let i = 0; i < 10 && this.#backing !== null; i++) {
      this.ring.wait(0);
      while (this.ring.next()) {
        this.backing.handle(this.ring.user & 0xffffff, this.ring.result, this);
      }
    }
    this.ring.close();
    for (const peer of this.peers) peer.close();
    this.arena.close();
  }
}

function gather(...ranges: [addr: number, len: number][]): Gather {
  return { count: ranges.length, addr: (i) => ranges[i]![0], len: (i) => ranges[i]![1] };
}

/** Runs `body` on both rings. */
function rigTest(name: string, body: (rig: Rig) => void, face: Partial<Face> = {}): void {
  for (const ring_kind of RINGS) {
    Deno.test(`NbdBacking: ${name} (${ring_kind})`, () => {
      const rig = new Rig(ring_kind, face);
      try {
        rig.open();
        body(rig);
      } finally {
        rig.close();
      }
    });
  }
}

rigTest("a read, a write and a flush as they look on the wire", (rig) => {
  const { arena, backing } = rig;
  assertEquals(backing.size_bytes, EXPORT_BYTES);
  const content = pattern(4096, 1);
  arena.bytes.set(content, 0);
  backing.write(7, 1 << 20, 1536, gather([512, 512], [2048, 1024]));
  backing.read(511, EXPORT_BYTES - 512, 512, 8192);
  backing.flush(0);
  const [write, read, flush] = [rig.peer.request(), rig.peer.request(), rig.peer.request()];
  assertEquals([write.command, write.off, write.len], [WRITE, 1 << 20, 1536]);
  assertEquals(write.payload, join(content.slice(512, 1024), content.slice(2048, 3072)));
  assertEquals([read.command, read.off, read.len], [READ, EXPORT_BYTES - 512, 512]);
  assertEquals([flush.command, flush.off, flush.len], [FLUSH, 0, 0]);
  assertEquals(rig.ended(), []);
  rig.peer.answer(read, 0, pattern(512, 2));
  rig.peer.answer(write, ENOSPC);
  assertEquals(rig.ended(), [[7, ENOSPC], [511, 0]]);
  assertEquals(arena.bytes.slice(8192, 8704), pattern(512, 2));
  rig.peer.answer(flush, EIO);
  assertEquals(rig.ended(), [[0, EIO]]);
  assertEquals(backing.nextTimerMs(rig.now_ms) > 0, true);
});

/** An honest server over a byte array: takes all requests that are there and answers some, in any order. */
class Honest {
  readonly bytes = new Uint8Array(EXPORT_BYTES);
  readonly #open: Request[] = [];
  largest = 0;

  constructor(readonly rig: Rig, readonly random: Random) {}

  serve(): void {
    const { peer } = this.rig;
    while (!peer.is_silent) this.#open.push(peer.request());
    for (let count = this.random.below(this.#open.length + 1); count > 0; count--) {
      const at = this.random.below(this.#open.length);
      const [request] = this.#open.splice(at, 1);
      const { command, off, len, payload } = request!;
      this.largest = Math.max(this.largest, len);
      if (command === WRITE) this.bytes.set(payload, off);
      const data = command === READ ? this.bytes.slice(off, off + len) : new Uint8Array(0);
      const { serial, row } = request!;
      const part_bytes = this.random.below(3) === 0 ? 1 + this.random.below(5000) : Infinity;
      peer.put(join(words(0x67446698, 0, serial, row), data), part_bytes);
    }
  }
}

function runMany(rig: Rig, rounds: number, breaks: boolean): void {
  const random = new Random(rounds);
  const { arena, backing } = rig;
  const server = new Honest(rig, random);
  let honest = server;
  const model = new Uint8Array(EXPORT_BYTES);
  const slots = 16;
  const slot_bytes = EXPORT_BYTES / slots;
  const to = 8 << 20;
  arena.bytes.set(pattern(2 << 20, 3), 0);
  for (let round = 0; round < rounds; round++) {
    const checks: (() => void)[] = [];
    let started = 0;
    // One request for each part of the device: they do not overlap.
    for (let slot = 0; slot < slots; slot++) {
      const id = (round * 31 + slot) % MAX_BACKING_IDS;
      const len = 512 * (1 + random.below(round % 4 === 0 ? slot_bytes / 512 - 1 : 16));
      const off = slot * slot_bytes + 512 * random.below((slot_bytes - len) / 512 + 1);
      started++;
      if (random.below(2) === 0) {
        backing.read(id, off, len, to + slot * slot_bytes);
        const place = to + slot * slot_bytes;
        checks.push(() =>
          assertEquals(arena.bytes.slice(place, place + len), model.slice(off, off + len))
        );
        continue;
      }
      const ranges: [number, number][] = [];
      for (let left = len; left > 0;) {
        const part = ranges.length === MAX_GATHER - 1
          ? left
          : Math.min(left, 512 * (1 + random.below(8)));
        const addr = 512 * random.below(((2 << 20) - part) / 512);
        ranges.push([addr, part]);
        model.set(arena.bytes.subarray(addr, addr + part), off + len - left);
        left -= part;
      }
      backing.write(id, off, len, gather(...ranges));
    }
    let has_broken = false;
    rig.until("all requests end", () => {
      if (breaks && !has_broken && random.below(4) === 0) {
        has_broken = true;
        rig.reconnect();
        const bytes = honest.bytes;
        honest = new Honest(rig, random);
        honest.bytes.set(bytes);
      }
      honest.serve();
      return rig.ends.length === started;
    });
    assert(rig.ends.every(([, errno]) => errno === 0));
    assertEquals(new Set(rig.ends.map(([id]) => id)).size, started);
    rig.ends.length = 0;
    for (const check of checks) check();
    assert(honest.largest <= (rig.face.blocks?.[2] ?? 32 << 20), `a part of ${honest.largest}`);
    assertEquals(honest.bytes, model);
  }
}

rigTest("many requests, answers in any order and in pieces", (rig) => runMany(rig, 12, false));
rigTest("receives and sends that are interrupted are asked for again", (rig) => {
  rig.interrupts = new Random(1);
  runMany(rig, 6, false);
  rig.interrupts = null;
});
rigTest("requests are cut to the server's longest", (rig) => runMany(rig, 4, false), {
  blocks: [512, 4096, 5000],
});
rigTest("what is under way when the connection breaks is done again", (rig) => {
  runMany(rig, 12, true);
});
rigTest("cut requests are done again as a whole", (rig) => runMany(rig, 5, true), {
  blocks: [1, 512, 2048],
});

rigTest("as many requests as there are ids", (rig) => {
  const { backing, arena } = rig;
  for (let id = 0; id < MAX_BACKING_IDS; id++) backing.read(id, id * 4096, 4096, id * 4096);
  for (let id = 0; id < MAX_BACKING_IDS; id++) {
    const request = rig.peer.request();
    rig.peer.answer(request, 0, pattern(4096, request.off / 4096));
  }
  assertEquals(rig.ended(), Array.from({ length: MAX_BACKING_IDS }, (_, id) => [id, 0]));
  for (let id = 0; id < MAX_BACKING_IDS; id += 17) {
    assertEquals(arena.bytes.slice(id * 4096, (id + 1) * 4096), pattern(4096, id));
  }
});

rigTest("a write that is answered before it has left ends when it has", (rig) => {
  rig.backing.write(1, 0, 1 << 20, gather([0, 1 << 20]));
  const head = new DataView(rig.peer.take(28).buffer);
  const answer = { serial: head.getUint32(8), row: head.getUint32(12) } as Request;
  rig.peer.answer(answer);
  assertEquals(rig.ended(), []);
  rig.peer.take(1 << 20);
  assertEquals(rig.ended(), [[1, 0]]);
});

// Flushes and outages: a step is a letter. w: a write is answered; f: a flush is answered; x: the connection breaks;
// W: a write that breaks off unanswered, is done again and answered; F: a flush that does.
const FLUSHES: [steps: string, then: [first: number, second: number], why: string][] = [
  ["", [0, 0], "nothing was written"],
  ["w", [0, 0], "no outage"],
  ["x", [0, 0], "nothing was written before the outage"],
  ["wx", [EIO, 0], "an answered write may be lost"],
  ["wfx", [0, 0], "the write was flushed"],
  ["wfwx", [EIO, 0], "the second write was not"],
  ["W", [0, 0], "the write was answered after the outage"],
  ["wW", [EIO, 0], "the first one before it"],
  ["wxw", [EIO, 0], "the write after the outage does not save the one before it"],
  ["wxxx", [EIO, 0], "however many outages"],
  ["xw", [0, 0], "all writes are of this connection"],
];

for (const flags of [SEND_FLUSH, 0x1]) {
  for (const [steps, [first, second], why] of FLUSHES) {
    const server = flags === SEND_FLUSH ? "" : ", from a server without flushes";
    rigTest(`after "${steps}"${server} a flush gives ${first}: ${why}`, (rig) => {
      const { backing } = rig;
      const flush = (wanted: number) => {
        backing.flush(100);
        if (wanted === 0 && flags === SEND_FLUSH) {
          const request = rig.peer.request();
          assertEquals(request.command, FLUSH);
          rig.peer.answer(request);
        }
        assertEquals(rig.ended(), [[100, wanted]]);
        assert(rig.peer.is_silent);
      };
      for (const step of steps) {
        if (step === "x") rig.reconnect();
        if (step === "f") flush(0);
        if (step === "w" || step === "W") {
          backing.write(1, 0, 512, gather([0, 512]));
          const request = rig.peer.request();
          if (step === "w") rig.peer.answer(request);
          else {
            rig.reconnect();
            rig.peer.answer(rig.peer.request());
          }
          assertEquals(rig.ended(), [[1, 0]]);
        }
      }
      flush(first);
      flush(second);
    }, { flags });
  }
}

rigTest(
  "a flush under way when the connection breaks: sent again if nothing is at stake, else failed",
  (rig) => {
    const { backing } = rig;
    backing.flush(3);
    assertEquals(rig.peer.request().command, FLUSH);
    rig.reconnect();
    rig.peer.answer(rig.peer.request());
    assertEquals(rig.ended(), [[3, 0]]);

    backing.write(1, 0, 512, gather([0, 512]));
    rig.peer.answer(rig.peer.request());
    assertEquals(rig.ended(), [[1, 0]]);
    backing.flush(3);
    rig.peer.request();
    rig.reconnect();
    assertEquals(rig.ended(), [[3, EIO]]);
    assert(rig.peer.is_silent);
  },
);

rigTest("a flush covers what was answered when it was sent, and no more", (rig) => {
  const { backing } = rig;
  backing.flush(3);
  const flush = rig.peer.request();
  backing.write(1, 0, 512, gather([0, 512]));
  rig.peer.answer(rig.peer.request());
  assertEquals(rig.ended(), [[1, 0]]);
  rig.peer.answer(flush);
  assertEquals(rig.ended(), [[3, 0]]);
  rig.reconnect();
  backing.flush(3);
  assertEquals(rig.ended(), [[3, EIO]]);
});

rigTest("of a cut write all parts are sent again, the answered one too", (rig) => {
  rig.backing.write(1, 0, 2048, gather([0, 2048]));
  const parts = [rig.peer.request(), rig.peer.request()];
  rig.peer.answer(parts[1]!);
  assertEquals(rig.ended(), []);
  rig.reconnect();
  const again = [rig.peer.request(), rig.peer.request()];
  assertEquals(again.map(({ off }) => off), [0, 1024]);
  for (const part of again) rig.peer.answer(part);
  assertEquals(rig.ended(), [[1, 0]]);
  rig.backing.flush(2);
  assertEquals(rig.peer.request().command, FLUSH);
}, { blocks: [1, 512, 1024] });

const BREAKS: [where: string, said: (request: Request) => Uint8Array][] = [
  ["in an answer's header", ({ serial, row }) => words(0x67446698, 0, serial, row).slice(0, 7)],
  ["after a header", ({ serial, row }) => words(0x67446698, 0, serial, row)],
  [
    "in a read's bytes",
    ({ serial, row }) => join(words(0x67446698, 0, serial, row), pattern(9000, 8)),
  ],
];

for (const [where, said] of BREAKS) {
  rigTest(`a connection that breaks ${where} leaves nothing to the next one`, (rig) => {
    rig.backing.read(1, 512, 65_536, 4096);
    rig.peer.put(said(rig.peer.request()));
    rig.settle();
    rig.reconnect();
    rig.peer.answer(rig.peer.request(), 0, pattern(65_536, 2));
    assertEquals(rig.ended(), [[1, 0]]);
    assertEquals(rig.arena.bytes.slice(4096, 4096 + 65_536), pattern(65_536, 2));
  });
}

const LIES: [name: string, lie: (request: Request) => Uint8Array, why: string][] = [
  ["another magic", ({ serial, row }) => words(0x668e33ef, 0, serial, row), "was not asked"],
  ["another serial", ({ serial, row }) => words(0x67446698, 0, serial + 1, row), "was not asked"],
  [
    "a row without a request",
    ({ serial, row }) => words(0x67446698, 0, serial, row + 1),
    "was not",
  ],
  ["a row that does not exist", ({ serial }) => words(0x67446698, 0, serial, 1 << 31), "was not"],
  [
    "an answer twice",
    ({ serial, row }) => words(0x67446698, 22, serial, row, 0x67446698, 22, serial, row),
    "was not asked",
  ],
  [
    "that it stops",
    ({ serial, row }) => words(0x67446698, ESHUTDOWN, serial, row),
    "about to stop",
  ],
];

for (const [name, lie, why] of LIES) {
  rigTest(`a server that sends ${name} loses its connection`, (rig) => {
    const { backing, arena } = rig;
    backing.read(1, 0, 4096, 0);
    backing.read(2, 4096, 4096, 8192);
    const [first] = [rig.peer.request(), rig.peer.request()];
    rig.peer.put(lie(first));
    rig.until("the connection is dropped", () => backing.trouble.includes(why));
    assertEquals(backing.outage_count, 1);
    rig.until("the client comes again", () => {
      rig.now_ms += 10;
      return rig.peers.length === 2;
    });
    rig.peer.takeGo();
    const left = rig.ended().some(([id]) => id === 1) ? [2] : [1, 2];
    for (const id of left) {
      const request = rig.peer.request();
      assertEquals(request.off, (id - 1) * 4096);
      rig.peer.answer(request, 0, pattern(4096, id));
    }
    assertEquals(rig.ended(), left.map((id) => [id, 0]));
    assertEquals(arena.bytes.slice(8192, 8192 + 4096), pattern(4096, 2));
  });
}

rigTest("the client comes again after 100 ms, then twice as long, at most 5 s", (rig) => {
  rig.peer.close();
  rig.is_refusing = true;
  rig.tries_ms.length = 0;
  rig.until("the loss is seen", () => rig.backing.trouble === "the server closed the connection");
  let last_ms = rig.now_ms;
  const pauses: number[] = [];
  while (pauses.length < 9) {
    const timer_ms = rig.backing.nextTimerMs(rig.now_ms);
    assert(timer_ms > 0 && timer_ms <= 5000, `the loop sleeps ${timer_ms} ms`);
    rig.now_ms += timer_ms;
    rig.spin();
    if (rig.tries_ms.length === 0) continue;
    pauses.push(rig.tries_ms.pop()! - last_ms);
    last_ms = rig.now_ms;
  }
  assertEquals(pauses, [100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000]);
  assertEquals(rig.backing.trouble, "Connection refused");

  // A server that drops everybody at once is not run at; one that has answered is.
  rig.is_refusing = false;
  rig.pass(5000);
  rig.peer.takeGo();
  assertEquals(rig.backing.trouble, "");
  rig.peer.close();
  rig.settle();
  assertEquals(rig.backing.nextTimerMs(rig.now_ms), 5000);
  rig.pass(5000);
  rig.peer.takeGo();
  rig.backing.flush(1);
  rig.peer.answer(rig.peer.request());
  assertEquals(rig.ended(), [[1, 0]]);
  rig.peer.close();
  rig.settle();
  assertEquals(rig.backing.nextTimerMs(rig.now_ms), 100);
  assertEquals(rig.backing.outage_count, 3);
});

rigTest("a server that accepts and says nothing is given up after 10 s", (rig) => {
  rig.peer.close();
  rig.is_greeting = false;
  rig.pass(200);
  assertEquals(rig.peers.length, 2);
  rig.pass(9800);
  assertEquals([rig.peers.length, rig.backing.trouble], [2, "the server closed the connection"]);
  rig.pass(300);
  assertEquals(rig.backing.trouble, "no answer within 10 s");
  rig.is_greeting = true;
  rig.pass(400);
  assertEquals([rig.peers.length, rig.backing.trouble], [3, ""]);
});

rigTest("an export that has become shorter, or read-only, is not taken", (rig) => {
  rig.backing.resize(EXPORT_BYTES - 512);
  rig.backing.read(1, 0, 512, 0);
  rig.peer.request();
  rig.peer.close();
  rig.face.size = EXPORT_BYTES - 513;
  rig.pass(200);
  const wanted = EXPORT_BYTES - 512;
  assertEquals(rig.backing.trouble, `the export has ${wanted - 1} bytes now, ${wanted} are wanted`);
  rig.face.size = wanted;
  rig.face.flags = 7;
  rig.pass(300);
  assert(rig.backing.trouble.startsWith("the export is read-only"), rig.backing.trouble);
  rig.face.flags = SEND_FLUSH;
  rig.pass(1000);
  assertEquals(rig.backing.trouble, "");
  rig.peer.takeGo();
  rig.peer.answer(rig.peer.request(), 0, pattern(512, 9));
  assertEquals(rig.ended(), [[1, 0]]);
});

rigTest(
  "reads wait half a minute for a server that is away, writes and flushes for ever",
  (rig) => {
    const { backing, arena } = rig;
    arena.bytes.fill(7, 0, 4096);
    backing.read(1, 0, 512, 0);
    rig.peer.request();
    rig.peer.close();
    rig.is_refusing = true;
    rig.pass(1000);
    backing.read(2, 512, 512, 512);
    backing.write(3, 1024, 512, gather([1024, 512]));
    backing.flush(4);
    rig.pass((READ_WAIT_S - 2) * 1000);
    assertEquals(rig.ended(), []);
    rig.pass(5000);
    assertEquals(rig.ended(), [[1, EIO], [2, EIO]]);
    rig.pass(600_000);
    assertEquals(rig.ended(), []);
    // A read with the id of one that was given up is another one.
    backing.read(1, 2048, 512, 2048);
    rig.is_refusing = false;
    rig.pass(5000);
    rig.peer.takeGo();
    const requests = [rig.peer.request(), rig.peer.request(), rig.peer.request()];
    assertEquals(requests.map(({ command }) => command).sort(), [READ, WRITE, FLUSH]);
    for (const request of requests) {
      rig.peer.answer(request, 0, request.command === READ ? pattern(512, 5) : new Uint8Array(0));
    }
    assertEquals(rig.ended(), [[1, 0], [3, 0], [4, 0]]);
    assertEquals(arena.bytes.slice(0, 1024), new Uint8Array(1024).fill(7));
    assertEquals(arena.bytes.slice(2048, 2560), pattern(512, 5));
  },
);

rigTest(
  "a read that a connected server does not answer fails; its late answer is thrown away",
  (rig) => {
    const { backing, arena } = rig;
    const place = 1 << 20;
    backing.read(1, 0, 300_000 - 300_000 % 512, place);
    const late = rig.peer.request();
    rig.pass((READ_WAIT_S + 2) * 1000);
    assertEquals(rig.ended(), [[1, EIO]]);
    assertEquals([backing.trouble, backing.outage_count], ["", 0]);
    arena.bytes.fill(9, place, place + (1 << 20));
    backing.read(1, 512, 512, place);
    const next = rig.peer.request();
    rig.peer.answer(late, 0, pattern(late.len, 4));
    rig.peer.answer(next, 0, pattern(512, 6));
    assertEquals(rig.ended(), [[1, 0]]);
    assertEquals(arena.bytes.slice(place, place + 512), pattern(512, 6));
    assertEquals(
      arena.bytes.slice(place + 512, place + (1 << 20)),
      new Uint8Array((1 << 20) - 512).fill(9),
    );
  },
);

rigTest("a server that stops in the middle of a read's bytes loses its connection", (rig) => {
  const { backing } = rig;
  backing.read(1, 0, 65_536, 0);
  const request = rig.peer.request();
  rig.peer.put(join(words(0x67446698, 0, request.serial, request.row), pattern(5000, 1)));
  rig.is_refusing = true;
  rig.pass((READ_WAIT_S + 1) * 1000);
  assertEquals(backing.trouble === "", false);
  rig.pass(2000);
  assertEquals(rig.ended(), [[1, EIO]]);
  assertEquals(backing.outage_count, 1);
});

rigTest("without a timer when there is nothing to wait for", (rig) => {
  assertEquals(rig.backing.nextTimerMs(rig.now_ms), Infinity);
  rig.backing.write(1, 0, 512, gather([0, 512]));
  assertEquals(rig.backing.nextTimerMs(rig.now_ms), 0);
  rig.peer.answer(rig.peer.request());
  assertEquals(rig.ended(), [[1, 0]]);
  assertEquals(rig.backing.nextTimerMs(rig.now_ms), Infinity);
});

rigTest("stopWaiting: away, everything fails at once, what comes later too", (rig) => {
  const { backing } = rig;
  rig.peer.close();
  rig.is_refusing = true;
  rig.settle();
  backing.write(1, 0, 512, gather([0, 512]));
  backing.read(2, 0, 512, 0);
  backing.flush(3);
  assertEquals(rig.ended(), []);
  backing.stopWaiting(rig.now_ms);
  assertEquals(rig.ended(), [[1, EIO], [2, EIO], [3, EIO]]);
  backing.write(1, 0, 512, gather([0, 512]));
  assertEquals(rig.ended(), [[1, EIO]]);
});

rigTest("stopWaiting: a server that is there has 5 s for what is under way", (rig) => {
  const { backing } = rig;
  backing.write(1, 0, 512, gather([0, 512]));
  backing.write(2, 0, 512, gather([512, 512]));
  const first = rig.peer.request();
  rig.peer.request();
  backing.stopWaiting(rig.now_ms);
  rig.pass(4900);
  rig.peer.answer(first);
  assertEquals(rig.ended(), [[1, 0]]);
  rig.pass(200);
  assertEquals(rig.ended(), [[2, EIO]]);
  assertEquals(rig.peers.length, 1);
});

rigTest("the server is told when the device goes", (rig) => {
  const { peer, backing } = rig;
  backing.close();
  const request = peer.request();
  assertEquals([request.command, request.off, request.len], [DISC, 0, 0]);
  assertEquals(backing.trouble, "the device lets go of it");
});

const UNUSABLE: [name: string, change: (rig: Rig) => void, why: string][] = [
  ["nobody listens", (rig) => rig.is_refusing = true, "nbd://h/x: Connection refused"],
  ["read-only", (rig) => rig.face.flags = 3, "nbd://h/x: the export is read-only"],
  ["too large blocks", (rig) => rig.face.blocks = [4096, 4096, 65536], "requests have 4096 to"],
  ["no bytes", (rig) => rig.face.size = 0, "nbd://h/x: 0 bytes long"],
];

for (const ring_kind of RINGS) {
  for (const [name, change, why] of UNUSABLE) {
    Deno.test(`NbdBacking refuses: ${name} (${ring_kind})`, () => {
      const rig = new Rig(ring_kind);
      change(rig);
      try {
        const error = assertThrows(() => rig.open(), CacheError, why);
        assert(error.message.startsWith("Error opening backing device: "), error.message);
        assertEquals(rig.tries_ms.length, 1);
      } finally {
        rig.close();
      }
    });
  }
}

/** What a server says, changed: bits, bytes that are missing, bytes that are too many, or the end. */
function mutated(bytes: Uint8Array, random: Random): Uint8Array {
  const copy = bytes.slice();
  const at = random.below(copy.length);
  switch (random.below(5)) {
    case 0:
      copy[at]! ^= 1 << random.below(8);
      return copy;
    case 1:
      copy[at] = random.below(256);
      return copy;
    case 2:
      return copy.slice(0, at);
    case 3:
      return join(copy.slice(0, at), pattern(1 + random.below(40), random.u32()), copy.slice(at));
    default:
      return join(copy, copy);
  }
}

/** A server that lies now and then: requests are taken and answered, rightly or not. */
class Liar {
  readonly #open: Request[] = [];
  #peer: Peer;

  constructor(readonly rig: Rig, readonly random: Random, public odds: number) {
    this.#peer = rig.peer;
  }

  serve(): void {
    const { peer } = this.rig;
    const is_new = peer !== this.#peer;
    // The first words of a client are its flags and its GO.
    if (is_new && peer.there < 29) return;
    if (is_new) peer.take(29);
    if (is_new) this.#open.length = 0;
    this.#peer = peer;
    while (peer.has_request) this.#open.push(peer.request());
    for (let count = this.random.below(this.#open.length + 1); count > 0; count--) {
      const at = this.random.below(this.#open.length);
      const [{ command, off, len, serial, row }] = this.#open.splice(at, 1) as [Request];
      const data = command === READ ? pattern(len, off) : new Uint8Array(0);
      const answer = join(words(0x67446698, 0, serial, row), data);
      const is_lie = this.random.chance(this.odds);
      peer.put(is_lie ? mutated(answer, this.random) : answer);
      if (is_lie && this.random.below(8) === 0) libc.shutdown(peer.fd, 2);
    }
  }
}

for (const ring_kind of RINGS) {
  Deno.test(`NbdBacking: conversations with a server that lies now and then (${ring_kind})`, () => {
    const first = seedOr(1);
    for (let seed = first; seed < first + CONVERSATIONS; seed++) {
      const random = new Random(seed);
      const blocks: Face["blocks"] = random.below(2) === 0
        ? null
        : [1, 512, 512 << random.below(8)];
      const rig = new Rig(ring_kind, { blocks });
      try {
        rig.open();
        converse(rig, random);
      } catch (error) {
        throw new Error(`seed ${seed}: ${(error as Error).message}`, { cause: error });
      } finally {
        rig.close();
      }
    }
  });
}

function converse(rig: Rig, random: Random): void {
  const { arena, backing } = rig;
  const liar = new Liar(rig, random, 0.1);
  rig.mutate = (bytes) => random.chance(0.3) ? mutated(bytes, random) : bytes;
  // The places of reads lie between bytes that nobody may touch.
  const place_bytes = 96 << 10;
  const guard_bytes = 4096;
  const places = 12;
  const end = places * (place_bytes + guard_bytes) + guard_bytes;
  arena.bytes.fill(0xee, 0, end);
  const addrOf = (id: number) => guard_bytes + id * (place_bytes + guard_bytes);
  const reads = new Map<number, [off: number, len: number]>();
  const begin = (id: number) => {
    const len = 512 * (2 + random.below(place_bytes / 512 - 1));
    const off = 512 * random.below((EXPORT_BYTES - len) / 512);
    const kind = random.below(5);
    reads.delete(id);
    if (kind === 0) backing.flush(id);
    else if (kind === 1) backing.write(id, off, len, gather([4 << 20, 512], [5 << 20, len - 512]));
    else {
      backing.read(id, off, len, addrOf(id));
      reads.set(id, [off, len]);
    }
  };
  for (let id = 0; id < places; id++) begin(id);
  for (let step = 0; step < 60; step++) {
    rig.now_ms += 50;
    rig.spin();
    liar.serve();
    for (const [id] of rig.ends.splice(0)) begin(id);
  }
  // From now on it is honest: everything ends, and rightly.
  liar.odds = 0;
  rig.mutate = (bytes) => bytes;
  const before = rig.peers.length;
  rig.peer.close();
  rig.until("the loss is seen", () => backing.trouble !== "");
  for (const [id] of rig.ends.splice(0)) begin(id);
  const ended = new Set<number>();
  rig.until("all requests end", () => {
    rig.now_ms += 50;
    if (rig.peers.length > before) liar.serve();
    for (const [id, errno] of rig.ends.splice(0)) {
      assert(!ended.has(id), `request ${id} ends twice`);
      ended.add(id);
      const [off, len] = reads.get(id) ?? [0, 0];
      if (len === 0 || errno !== 0) continue;
      const whole = blocks(off, len, rig.face.blocks?.[2] ?? len);
      assertEquals(arena.bytes.slice(addrOf(id), addrOf(id) + len), whole);
    }
    return ended.size === places;
  });
  for (let id = 0; id <= places; id++) {
    const guard = arena.bytes.subarray(addrOf(id) - guard_bytes, addrOf(id));
    assert(guard.every((byte) => byte === 0xee), `bytes before the place of read ${id} changed`);
  }
}

/** What an honest server sends for a read that is cut into parts. */
function blocks(off: number, len: number, part_bytes: number): Uint8Array {
  const parts: Uint8Array[] = [];
  for (let at = 0; at < len; at += part_bytes) {
    parts.push(pattern(Math.min(part_bytes, len - at), off + at));
  }
  return join(...parts);
}

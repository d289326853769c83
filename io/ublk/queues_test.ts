import { assertEquals } from "@std/assert";
import { EIO } from "../../core/errors.ts";
import type { RequestEngine } from "../request_engine.ts";
import { KIND_SHIFT, KIND_UBLK_COPY } from "../tokens.ts";
import * as ublk from "./protocol.ts";
import { type QueueArena, type QueueRing, Queues } from "./queues.ts";

const DEPTH = 4;
const SIZE_BYTES = 1024 * 1024;
const DEVICE_FD = 9;
const ENODEV = 19;
const BASE = 0x10_0000_0000;

/** An engine whose requests the test moves on, with pieces of the lengths it says. */
class FakeEngine implements RequestEngine {
  readonly max_requests = 6;
  readonly log: string[] = [];
  readonly placed: number[] = [];
  readonly answered: number[] = [];
  readonly errors = new Map<number, number>();
  /** Lengths of the pieces of the next requests; a piece is 4096 * its number away. */
  piece_lens: number[] = [];
  slots = 6;
  #next = 0;
  #begin(text: string): number {
    if (this.slots === 0) return -1;
    this.slots -= 1;
    this.log.push(`${text} -> ${this.#next}`);
    return this.#next++;
  }
  beginRead = (off: number, len: number) => this.#begin(`read ${off} ${len}`);
  beginWrite = (off: number, len: number, fua: boolean) =>
    this.#begin(`write ${off} ${len} ${fua}`);
  beginZero = (off: number, len: number, may_punch: boolean, fua: boolean) =>
    this.#begin(`zero ${off} ${len} ${may_punch} ${fua}`);
  beginFlush = () => this.#begin("flush");
  takePlaced = () => this.placed.shift() ?? -1;
  takeAnswered = () => this.answered.shift() ?? -1;
  payloadArrived = (slot: number) => void this.log.push(`arrived ${slot}`);
  payloadLost = (slot: number) => void this.log.push(`lost ${slot}`);
  release = (slot: number) => {
    this.slots += 1;
    this.log.push(`release ${slot}`);
  };
  error = (slot: number) => this.errors.get(slot) ?? 0;
  firstPiece = () => this.piece_lens.length === 0 ? -1 : 0;
  nextPiece = (piece: number) => piece + 1 < this.piece_lens.length ? piece + 1 : -1;
  pieceAddr = (piece: number) => piece * 4096;
  pieceLen = (piece: number) => this.piece_lens[piece]!;
}

/** Memory of its own, at an address above 4 GiB. */
class FakeArena implements QueueArena {
  readonly #bytes = new ArrayBuffer(Queues.ARENA_BYTES);
  alloc = () => 0;
  words = (addr: number, len: number) => new Uint32Array(this.#bytes, addr, len / 4);
  putAddress(words: Uint32Array, index: number, addr: number): void {
    words[index] = BASE + addr;
    words[index + 1] = (BASE + addr) / 2 ** 32;
  }
  /** The ranges that a copy names, as offsets from the base, and lengths. */
  iovecs(addr: number, count: number): [addr: number, len: number][] {
    const words = this.words(addr, count * 16);
    return Array.from({ length: count }, (_, i) => {
      const at = words[4 * i]! + words[4 * i + 1]! * 2 ** 32;
      return [at - BASE, words[4 * i + 2]!];
    });
  }
}

class FakeRing implements QueueRing {
  readonly log: unknown[] = [];
  readonly #arena: FakeArena;
  constructor(arena: FakeArena) {
    this.#arena = arena;
  }
  command(user: number, fd: number, op: number, name: number, result: number): void {
    assertEquals(fd, DEVICE_FD);
    const what = op === ublk.IO_FETCH ? "fetch" : op === ublk.IO_COMMIT_AND_FETCH ? "commit" : "?";
    this.log.push([what, user & 0xff, name & 0xffff, name >>> 16, result]);
  }
  readv = this.#copy.bind(this, "in");
  writev = this.#copy.bind(this, "out");
  #copy(way: string, user: number, fd: number, addr: number, count: number, off: number): void {
    assertEquals([user >>> KIND_SHIFT, fd], [KIND_UBLK_COPY, DEVICE_FD]);
    this.log.push([way, user & 0xff, off - ublk.DATA_OFF_BYTES, this.#arena.iovecs(addr, count)]);
  }
}

/** Two queues of `DEPTH` requests, fetched. */
function makeRig() {
  const arena = new FakeArena();
  const ring = new FakeRing(arena);
  const engine = new FakeEngine();
  const served = {
    size_bytes: SIZE_BYTES,
    max_request_bytes: 65536,
    read_only: false,
    is_failing: false,
  };
  const descriptors = [0, 1].map(() => new Uint32Array(DEPTH * ublk.DESC_BYTES / 4));
  const target = { fd: DEVICE_FD, depth: DEPTH, descriptors };
  const queues = new Queues({ arena, ring, engine, served, target });
  queues.start();
  const fetched = ring.log.splice(0);
  /** The driver hands out a request. */
  const ask = (tag: number, op: number, sector: number, sectors: number, flags = 0) => {
    const words = descriptors[Math.floor(tag / DEPTH)]!;
    words.set([op | flags, sectors, sector, sector / 2 ** 32], (tag % DEPTH) * 6);
    queues.requested(tag, 0);
    queues.turn();
  };
  const take = () => [ring.log.splice(0), engine.log.splice(0)];
  return { queues, engine, served, ask, take, fetched };
}

Deno.test("every tag of every queue is fetched under its name", () => {
  const { fetched } = makeRig();
  const wanted = Array.from({ length: 8 }, (_, tag) => ["fetch", tag, tag >> 2, tag & 3, 0]);
  assertEquals(fetched, wanted);
});

Deno.test("a write's bytes go to its pieces, in as many copies as it takes, and it is answered after that", () => {
  const { queues, engine, ask, take } = makeRig();
  ask(5, ublk.OP_WRITE, 8, 16, ublk.FLAG_FUA);
  assertEquals(take(), [[], ["write 4096 8192 true -> 0"]]);
  engine.piece_lens = [4096, 1024, 3072];
  engine.placed.push(0);
  queues.turn();
  const place = ublk.QUEUE_BYTES + ublk.TAG_BYTES;
  assertEquals(take(), [[["in", 5, place, [[0, 4096], [4096, 1024], [8192, 3072]]]], []]);
  queues.copied(5, 4608);
  assertEquals(take(), [[["in", 5, place + 4608, [[4608, 512], [8192, 3072]]]], []]);
  queues.copied(5, 3584);
  assertEquals([take(), queues.turn()], [[[], ["arrived 0"]], true]);
  engine.answered.push(0);
  queues.turn();
  assertEquals(take(), [[["commit", 5, 1, 1, 8192]], ["release 0"]]);
  assertEquals(queues.unanswered_count, 0);
});

Deno.test("a read's pieces are copied out before it is answered, 32 at a time", () => {
  const { queues, engine, ask, take } = makeRig();
  ask(0, ublk.OP_READ, 0, 40);
  engine.piece_lens = Array(40).fill(512);
  engine.answered.push(0);
  queues.turn();
  const [[first]] = take() as [[unknown[]], string[]];
  assertEquals((first!.at(-1) as unknown[]).length, 32);
  queues.copied(0, 32 * 512);
  const [[second]] = take() as [[unknown[]], string[]];
  assertEquals(second!.slice(0, 3), ["out", 0, 32 * 512]);
  assertEquals((second!.at(-1) as unknown[])[0], [32 * 4096, 512]);
  queues.copied(0, 8 * 512);
  assertEquals(take(), [[["commit", 0, 0, 0, 40 * 512]], ["release 0"]]);
});

Deno.test("flush, discard and both kinds of write zeroes", () => {
  const { queues, engine, ask, take } = makeRig();
  ask(0, ublk.OP_FLUSH, 0, 0);
  ask(1, ublk.OP_DISCARD, 1, 2);
  ask(2, ublk.OP_WRITE_ZEROES, 1, 2, ublk.FLAG_NOUNMAP);
  ask(3, ublk.OP_WRITE_ZEROES, 1, 2, ublk.FLAG_FUA);
  const begun = [
    "flush -> 0",
    "zero 512 1024 true false -> 1",
    "zero 512 1024 false false -> 2",
    "zero 512 1024 true true -> 3",
  ];
  assertEquals(take(), [[], begun]);
  engine.errors.set(1, EIO);
  engine.answered.push(0, 1);
  queues.turn();
  const commits = [["commit", 0, 0, 0, 0], ["commit", 1, 0, 1, -EIO]];
  assertEquals(take(), [commits, ["release 0", "release 1"]]);
});

Deno.test("memory that cannot be copied is an error for its request alone", () => {
  const { queues, engine, ask, take } = makeRig();
  engine.piece_lens = [512];
  ask(0, ublk.OP_WRITE, 0, 1);
  ask(1, ublk.OP_READ, 0, 1);
  engine.placed.push(0);
  engine.answered.push(1);
  queues.turn();
  take();
  queues.copied(0, -14);
  queues.copied(1, 0);
  const commits = [["commit", 0, 0, 0, -EIO], ["commit", 1, 0, 1, -EIO]];
  assertEquals(take(), [commits, ["lost 0", "release 1"]]);
  assertEquals(queues.unanswered_count, 0);
});

Deno.test("what is not valid never reaches the engine", () => {
  const { served, ask, take } = makeRig();
  const end = SIZE_BYTES / 512;
  const fails = (op: number, sector: number, sectors: number) => {
    ask(0, op, sector, sectors);
    const [[commit], log] = take() as [[number[]], string[]];
    assertEquals(log, []);
    return -commit![4]!;
  };
  assertEquals(fails(ublk.OP_READ, end - 1, 2), 22);
  assertEquals(fails(ublk.OP_READ, 2 ** 54, 1), 22);
  assertEquals(fails(ublk.OP_WRITE, 0, 129), 22);
  assertEquals(fails(ublk.OP_WRITE, 0, 0), 22);
  assertEquals(fails(15, 0, 1), 95);
  served.read_only = true;
  assertEquals(fails(ublk.OP_DISCARD, 0, 1), 1);
  served.is_failing = true;
  assertEquals(fails(ublk.OP_FLUSH, 0, 0), EIO);
});

Deno.test("requests wait for slots, and while the device is suspended, in their order", () => {
  const { queues, engine, ask, take } = makeRig();
  engine.slots = 1;
  for (let tag = 0; tag < 3; tag++) ask(tag, ublk.OP_READ, tag, 1);
  assertEquals(take(), [[], ["read 0 512 -> 0"]]);
  engine.slots = 1;
  queues.hold("requests");
  queues.turn();
  assertEquals(take(), [[], []]);
  queues.hold(null);
  queues.turn();
  assertEquals(take(), [[], ["read 512 512 -> 1"]]);
  engine.slots = 1;
  queues.hold("requests and answers");
  engine.errors.set(0, EIO);
  engine.answered.push(0);
  queues.turn();
  assertEquals(take(), [[], []]);
  queues.hold(null);
  queues.turn();
  assertEquals(take(), [[["commit", 0, 0, 0, -EIO]], ["read 1024 512 -> 2", "release 0"]]);
});

Deno.test("a stopped device gives every tag back", () => {
  const { queues } = makeRig();
  for (let tag = 0; tag < 8; tag++) {
    assertEquals(queues.is_gone, false);
    queues.requested(tag, -ENODEV);
  }
  assertEquals([queues.is_gone, queues.failure], [true, 0]);
});

Deno.test("a command that fails in another way is told", () => {
  const { queues } = makeRig();
  queues.requested(0, -22);
  assertEquals(queues.failure, 22);
});

/**
 * The fuzzer of the NBD server: mutated conversations over a fake machine (io/nbd/rig.ts), one after another on the same
 * server, so that what one leaves behind the next ones meet.
 *
 * After each conversation: nothing was thrown; the client's connection, its requests and their slots are gone after a bounded
 * number of turns; a witness on a connection of its own was served meanwhile, and rightly; the client got nothing of the
 * witness's requests and nothing of memory that is not in use; and what it got are whole replies in the style agreed on.
 *
 * @module
 */

import { assert } from "@std/assert";
import { Buffer } from "node:buffer";
import { OK } from "../../core/errors.ts";
import { type FakeEngine, Random } from "../../io/nbd/fakes.ts";
import type { TlsPolicy } from "../../io/nbd/handshake.ts";
import * as nbd from "../../io/nbd/protocol.ts";
import { type Client, Rig, type RigOptions, STYLES } from "../../io/nbd/rig.ts";
import type { NbdServer } from "../../io/nbd/server.ts";
import { type Conversation, converse, MAX_BYTES, SIZE_BYTES } from "./conversations.ts";
import { RealRig, type RealSocket } from "./real_rig.ts";
import { checkReplies } from "./replies.ts";

/** So many conversations meet the same server. */
const PER_RIG = 500;
const SLOTS = 6;
/** A conversation that is not over by then never will be. */
const MAX_TURNS = 20_000;

/** What servers with the fake ring do with TLS (the fake one). */
const TLS_POLICIES: readonly TlsPolicy[] = ["off", "off", "on", "require"];
/** When so many turns have done nothing, there is no answer to come. */
const ANSWER_TURNS = 4;
/** When nothing is left and nothing has moved for so long, a conversation is over. */
const QUIET_TURNS = 3;

/** In what the witness sends: no reply to anybody else may hold it. The device never gives it back, see `FakeEngine`. */
const SECRET = [0xf1, 0xe2, 0xd3, 0xc4, 0xb5, 0xa6, 0x97, 0x88];
const SECRET_BYTES = Buffer.from(SECRET);
const SECRET_OFF = SIZE_BYTES - 512;
/** What every cookie of the witness begins with. */
const WITNESS_COOKIE = Buffer.from([0xab, 0xcd, 0xef, 0x01, 0, 0]);
/** Memory that is not in use, as the fake engine leaves it. */
const UNUSED = Buffer.alloc(16, 0xdd);

/** Every so many servers, one has a ring of the kernel's and real sockets: of the one kind and of the other. */
const REAL_EVERY = 20;

/** What has been done. */
export interface Tally {
  conversations: number;
  /** Conversations by the ring that they were held over. */
  readonly loops: Record<Loop, number>;
  /** Conversations by the state in which the server met the first change, and the kind of change. */
  readonly reached: Map<string, number>;
}

export type Loop = "fake" | "io_uring" | "poll";

/** What a server is fuzzed with: a `Rig` or a `RealRig`. */
interface Stage {
  readonly engine: FakeEngine;
  readonly server: NbdServer;
  connect(): Socket;
  forget(socket: Socket): void;
  turn(): boolean;
  client(style: number): Client<Socket>;
  end(): void;
}

type Socket = Omit<RealSocket, "turn">;

/** Runs so many conversations from a seed. Throws at the first that goes wrong, and says how to have it again. */
export function fuzz(seed: number, conversations: number, told: (tally: Tally) => void): Tally {
  const tally: Tally = {
    conversations: 0,
    loops: { fake: 0, io_uring: 0, poll: 0 },
    reached: new Map(),
  };
  for (let rig_seed = seed; tally.conversations < conversations; rig_seed++) {
    const count = Math.min(PER_RIG, conversations - tally.conversations);
    const fuzzer = new Fuzzer(rig_seed);
    for (let nth = 1; nth <= count; nth++) {
      try {
        const { reached } = fuzzer.next();
        if (reached !== null) tally.reached.set(reached, (tally.reached.get(reached) ?? 0) + 1);
      } catch (error) {
        const again = `deno task fuzz --seed ${rig_seed} --conversations ${nth}`;
        const where = `${fuzzer.loop} ring, conversation ${nth}`;
        throw new Error(`${where}; again: ${again}`, { cause: error });
      }
      tally.conversations += 1;
      tally.loops[fuzzer.loop] += 1;
    }
    fuzzer.end();
    told(tally);
  }
  return tally;
}

function loopOf(seed: number): Loop {
  if (seed % REAL_EVERY === 1) return "io_uring";
  return seed % REAL_EVERY === 2 ? "poll" : "fake";
}

function openStage(loop: Loop, options: Required<RigOptions>, chop_bytes: number): Stage {
  if (loop !== "fake") return new RealRig(loop, socketPath(), options);
  const rig = new Rig(options);
  rig.ring.chop_bytes = chop_bytes;
  return {
    engine: rig.engine,
    server: rig.server,
    connect: () => rig.ring.connect(),
    forget: (socket) => void rig.ring.sockets.delete(socket.fd),
    turn: () => rig.turn(),
    client: (style) => rig.client(style),
    end: () => rig.assertIdle(),
  };
}

let paths = 0;

function socketPath(): string {
  const folder = Deno.env.get("TMPDIR") ?? "/tmp";
  return `${folder}/pcache-fuzz-${Deno.pid}-${paths++}`;
}

class Fuzzer {
  readonly loop: Loop;
  readonly #random: Random;
  readonly #rig: Stage;
  readonly #witness: Client<Socket>;
  readonly #tls: TlsPolicy;
  #serial = 0;

  constructor(seed: number) {
    this.loop = loopOf(seed);
    this.#tls = this.loop === "fake" ? TLS_POLICIES[seed % TLS_POLICIES.length]! : "off";
    this.#random = new Random(seed);
    const options = {
      seed,
      slots: SLOTS,
      window_bytes: MAX_BYTES,
      size_bytes: SIZE_BYTES,
      max_request_bytes: MAX_BYTES,
      read_only: false,
      receives_past_caches: this.#random.chance(50),
      tls: this.#tls,
    };
    const chop_bytes = [0, 0, 100, 5][this.#random.next(4)]!;
    this.#rig = openStage(this.loop, options, chop_bytes);
    this.#rig.engine.piece_bytes = [50, 700, MAX_BYTES][this.#random.next(3)]!;
    this.#rig.engine.pace_percent = 40 + this.#random.next(61);
    this.#witness = this.#rig.client(STYLES[seed % 3]!);
  }

  next(): Conversation {
    const has_tls = this.#tls === "require" || this.#tls === "on" && this.#random.chance(50);
    const conversation = converse(this.#random, has_tls);
    const { messages, changes, answers } = conversation;
    const socket = this.#rig.connect();
    this.#askWitness();
    this.#disturb(socket);
    for (const { bytes, waits } of messages) {
      this.#deliver(socket, bytes);
      if (waits) this.#waitForAnswer(socket);
    }
    this.#calm(socket);
    if (this.#random.chance(50)) this.#turns(this.#random.next(30));
    socket.client_ended = true;
    // Whoever has said nothing wrong is listened to, and reads, to the end.
    if (changes === 0) this.#waitForEnd(socket, true);
    else if (this.#random.chance(50)) this.#turns(40 + this.#random.next(40));
    socket.client_gone = true;
    this.#waitForEnd(socket, false);
    this.#checkWitness();
    const got = Buffer.from(socket.outbox.take(socket.outbox.length));
    this.#checkBytes(got, changes === 0 ? answers : -1);
    this.#rig.forget(socket);
    return conversation;
  }

  /** The witness leaves, and nobody is left. */
  end(): void {
    this.#witness.disconnect();
    this.#waitForEnd(this.#witness.socket, false);
    this.#rig.end();
  }

  #deliver(socket: Socket, bytes: Uint8Array): void {
    for (let at = 0; at < bytes.length;) {
      const len = this.#random.chance(70) ? bytes.length : 1 + this.#random.next(bytes.length);
      socket.inbox.push(bytes.subarray(at, at + len));
      at += len;
      if (this.#random.chance(60)) this.#turns(1 + this.#random.next(4));
    }
  }

  /** Reads until nothing more comes. */
  #waitForAnswer(socket: Socket): void {
    const { stuck } = socket;
    socket.stuck = false;
    for (let quiet = 0; quiet < ANSWER_TURNS; quiet++) if (this.#rig.turn()) quiet = 0;
    socket.stuck = stuck;
  }

  #turns(count: number): void {
    for (let i = 0; i < count; i++) this.#rig.turn();
  }

  /** Things that happen to a server. */
  #disturb(socket: Socket): void {
    const { engine, server } = this.#rig;
    socket.stuck = this.#random.chance(10);
    engine.is_full = this.#random.chance(10);
    engine.is_asleep = this.#random.chance(10);
    if (this.#random.chance(5)) server.hold("requests");
  }

  #calm(socket: Socket): void {
    const { engine, server } = this.#rig;
    socket.stuck = false;
    engine.is_full = false;
    engine.is_asleep = false;
    server.hold(null);
  }

  #askWitness(): void {
    this.#serial += 4;
    const secret = Array.from({ length: 64 }, (_, i) => SECRET[i % SECRET.length]!);
    this.#witness.write(this.#serial, SECRET_OFF + this.#random.next(400), secret);
    this.#witness.request(this.#serial + 1, nbd.CMD_FLUSH, 0, 0);
    this.#witness.request(this.#serial + 2, nbd.CMD_CACHE, 512, 100);
  }

  #checkWitness(): void {
    for (const { cookie, errno } of this.#witness.replies()) {
      assert(errno === OK, `the witness's request ${cookie} failed with ${errno}`);
    }
    assert(this.#witness.expected.size === 0, "the witness was not answered");
  }

  /** Waits until the server has no request left and no client but the witness; or not even that one, if it is the one that goes. */
  #waitForEnd(socket: Socket, says_all: boolean): void {
    const { server, engine } = this.#rig;
    const others = socket === this.#witness.socket ? 0 : 1;
    let quiet_turns = 0;
    for (let turns = 0; turns < MAX_TURNS; turns++) {
      const moved = this.#rig.turn();
      const is_over = socket.closed && server.open_count === others && engine.requests_in_use === 0;
      quiet_turns = is_over && !moved ? quiet_turns + 1 : 0;
      if (quiet_turns === QUIET_TURNS) return;
    }
    const { open_count, unanswered_count } = server;
    const { requests_in_use } = engine;
    const after = says_all ? "its last word" : "it has gone";
    throw new Error(
      `hangs after ${after}: ${open_count} connections open, ${requests_in_use} slots in use, ` +
        `${unanswered_count} requests unanswered`,
    );
  }

  /** `answers`: how many requests have to be answered, in chunks; -1: that cannot be said. */
  #checkBytes(got: Buffer, answers: number): void {
    assert(!got.includes(SECRET_BYTES), "bytes of the witness's payload were sent");
    assert(!got.includes(WITNESS_COOKIE), "bytes of the witness's requests were sent");
    assert(!got.includes(UNUSED), "memory that is not in use was sent");
    const answered = checkReplies(got);
    assert(answers < 0 || answered === answers, `${answered} requests of ${answers} were answered`);
  }
}

import { assert, assertEquals, assertThrows } from "@std/assert";
import { CacheError, EINVAL } from "../../core/errors.ts";
import { EBUSY } from "../libc.ts";
import type { TableConfig } from "../control_protocol.ts";
import type { NbdRecord } from "../node_record.ts";
import { Attachment } from "./attachment.ts";
import type { FakeSocket } from "./fakes.ts";
import type { KernelClient, KernelDeviceSpec } from "./kernel_client.ts";
import { findLeft, giveUp } from "./open_attachment.ts";
import * as nbd from "./protocol.ts";
import { Client, Rig, SIZE_BYTES } from "./rig.ts";

const TABLE: TableConfig = {
  cache_path: "/c",
  backing_path: "/b",
  data_crc: false,
  cache_mode: null,
  eviction: "fifo",
  length_sectors: null,
  read_only: false,
};
const EPERM = 1;
const CONNECTIONS = 4;
const THEIRS = 10_000;

/** The kernel's NBD client, with one device; what it does to its sockets the server sees. */
class FakeKernel implements KernelClient {
  spec: KernelDeviceSpec | null = null;
  backend = "";
  size_bytes = SIZE_BYTES;
  /** What a call fails with. */
  errno = 0;
  disconnects_on_close = false;
  readonly calls: string[] = [];
  /** By descriptor: the ends that somebody outside the server has. */
  readonly ends = new Map<number, FakeSocket>();
  /** Those of them that the kernel has. */
  readonly taken: FakeSocket[] = [];

  connect(spec: KernelDeviceSpec): number {
    this.calls.push("connect");
    if (this.errno !== 0) throw new CacheError(`error ${this.errno}`);
    this.spec = spec;
    this.backend = spec.backend;
    this.#take(spec.fds);
    return spec.index ?? 3;
  }
  reconnect(index: number, backend: string, fds: readonly number[]): number {
    this.calls.push(`reconnect ${fds.length}`);
    if (this.errno !== 0 || index !== 3 || backend !== this.backend) return this.errno || EINVAL;
    this.#take(fds);
    return 0;
  }
  disconnectOnClose(_index: number, backend: string, on: boolean): number {
    this.calls.push(`on close ${on}`);
    if (backend !== this.backend) return EINVAL;
    this.disconnects_on_close = on;
    return 0;
  }
  disconnect(_index: number): number {
    this.calls.push("disconnect");
    this.leave();
    return 0;
  }
  backendOf(index: number): string {
    return index === (this.spec?.index ?? 3) ? this.backend : "";
  }
  numberOf(index: number): { major: number; minor: number } {
    return { major: 43, minor: 32 * index };
  }
  sizeOf(): number {
    return this.size_bytes;
  }

  #take(fds: readonly number[]): void {
    for (const fd of fds) this.taken.push(this.ends.get(fd)!);
  }

  /** The last user has closed the device, or somebody disconnects it. */
  leave(): void {
    for (const socket of this.taken) if (!socket.closed) new Client(socket).disconnect();
    this.backend = "";
  }

  /** It gives up a connection, as it does when a request is not answered. */
  giveUp(): void {
    this.taken.shift()!.client_gone = true;
  }
}

/** An attachment over a server with fakes all around it. */
class AttachmentRig {
  readonly rig = new Rig();
  readonly kernel = new FakeKernel();
  readonly events: string[] = [];
  readonly attachment: Attachment;
  record: NbdRecord | null = null;
  /** What was asked of a thread of the kernel, and has not ended. */
  claim = "";
  now_ms = 0;

  constructor(o: { index?: number; left?: NbdRecord } = {}) {
    const { rig, kernel } = this;
    this.attachment = new Attachment({
      kernel,
      record: {
        write: (record) => void (this.record = record),
        remove: () => void (this.record = null),
        renamed: () => void this.events.push("record renamed"),
      },
      table: TABLE,
      link: (path) => {
        this.events.push(`link to ${path}`);
        return { path: "/l", remove: () => void this.events.push("link removed") };
      },
      index: o.index ?? null,
      connections: CONNECTIONS,
      left: o.left ?? null,
      arena: { alloc: () => 0, bytes: new Uint8Array(Attachment.ARENA_BYTES) },
      ring: {
        open: () => void (this.claim = "open"),
        closeLater: () => void (this.claim = "close"),
      },
      server: rig.server,
      served: rig.served,
      sockets: {
        socketPair: () => {
          const socket = rig.ring.pair();
          kernel.ends.set(socket.fd + THEIRS, socket);
          return [socket.fd, socket.fd + THEIRS];
        },
        close: (fd) => {
          const socket = kernel.ends.get(fd)!;
          if (!kernel.taken.includes(socket)) socket.client_gone = true;
          kernel.ends.delete(fd);
        },
      },
      now_ms: () => this.now_ms,
    });
  }

  /** Time goes by. */
  pass(ms: number): void {
    for (const end_ms = this.now_ms + ms; this.now_ms < end_ms; this.now_ms += 50) {
      this.attachment.turn(this.now_ms);
      this.rig.settle();
    }
  }

  /** A thread of the kernel has done what it was asked; it opens the node as descriptor 7. */
  claimEnds(result = 7): void {
    assert(this.claim !== "", "nothing was asked of a thread of the kernel");
    if (this.claim === "close" && this.kernel.disconnects_on_close) this.kernel.leave();
    const is_open = this.claim === "open";
    this.claim = "";
    this.attachment.handle(is_open ? result : 0);
    this.rig.settle();
  }

  /** Attached, and claimed for a removal. */
  static claimed(): AttachmentRig {
    const rig = new AttachmentRig();
    rig.attachment.start();
    assertEquals(rig.attachment.isBusy(), true, "it is not known yet");
    rig.claimEnds();
    assertEquals(rig.attachment.isBusy(), false);
    return rig;
  }
}

Deno.test("attachment: the kernel gets sockets on which it is served at once, and what it has to know", () => {
  const { rig, kernel, attachment, ...o } = new AttachmentRig({ index: 5 });
  attachment.start();
  const { index, size_bytes, flags, fds } = kernel.spec!;
  assertEquals([index, size_bytes, fds.length], [5, SIZE_BYTES, CONNECTIONS]);
  const wanted = nbd.FLAG_HAS_FLAGS | nbd.FLAG_SEND_FLUSH | nbd.FLAG_SEND_FUA |
    nbd.FLAG_SEND_TRIM | nbd.FLAG_SEND_WRITE_ZEROES | nbd.FLAG_CAN_MULTI_CONN;
  assertEquals(flags & (wanted | nbd.FLAG_READ_ONLY | nbd.FLAG_SEND_DF), wanted);
  assertEquals(kernel.ends.size, 0, "its own copies are closed");
  rig.settle();
  assertEquals([rig.server.attached_count, rig.server.serving_count], [CONNECTIONS, 0]);
  const client = new Client(kernel.taken[1]!);
  client.request(1, nbd.CMD_READ, 0, 512);
  rig.settle();
  assertEquals(client.replies().length, 1);
  assertEquals(o.events, ["link to /dev/nbd5"]);
});

Deno.test("attachment: the device is noted and shown; a new name moves both", () => {
  const o = new AttachmentRig();
  o.attachment.start();
  assertEquals(o.record, { index: 3, backend: o.kernel.backend, table: TABLE });
  assertEquals(o.attachment.node, { path: "/dev/nbd3", major: 43, minor: 96, link: "/l" });
  o.attachment.renamed();
  assertEquals(o.events.slice(1), ["record renamed", "link removed", "link to /dev/nbd3"]);
});

Deno.test("attachment: what the kernel refuses leaves nothing behind", () => {
  const o = new AttachmentRig();
  o.kernel.errno = EBUSY;
  assertThrows(() => o.attachment.start(), CacheError, "error 16");
  o.rig.settle();
  assertEquals([o.record, o.attachment.node, o.rig.server.attached_count], [null, null, 0]);
  o.rig.assertIdle();
});

Deno.test("attachment: a kernel that does not keep what it was told about the device is too old", () => {
  const o = new AttachmentRig();
  o.kernel.backendOf = () => "";
  assertThrows(() => o.attachment.start(), CacheError, "/dev/nbd3: Linux 5.14 or newer is wanted");
  o.rig.settle();
  assertEquals([o.kernel.calls.at(-1), o.record], ["disconnect", null]);
  o.rig.assertIdle();
});

Deno.test("attachment: connections that the kernel has given up are made anew, now and then", () => {
  const o = new AttachmentRig();
  o.attachment.start();
  o.pass(1000);
  assertEquals(o.kernel.calls, ["connect"]);
  assertEquals(o.attachment.nextTimerMs(o.now_ms), Infinity);
  o.kernel.giveUp();
  o.kernel.giveUp();
  o.pass(100);
  assertEquals(o.kernel.calls, ["connect", "reconnect 2"]);
  assertEquals(o.rig.server.attached_count, CONNECTIONS);
  o.kernel.errno = EPERM;
  o.kernel.giveUp();
  o.rig.settle();
  assert(o.attachment.nextTimerMs(o.now_ms) <= 200);
  o.pass(1000);
  const tries = o.kernel.calls.filter((call) => call === "reconnect 1").length;
  assert(tries >= 4 && tries <= 6, `${tries} tries in a second`);
  o.kernel.errno = 0;
  o.pass(400);
  assertEquals(o.rig.server.attached_count, CONNECTIONS);
  assert(o.attachment.node !== null);
});

Deno.test("attachment: somebody else disconnects the device: it is one without from then on", () => {
  for (const says_so of [true, false]) {
    const o = new AttachmentRig();
    o.attachment.start();
    if (says_so) o.kernel.leave();
    else {
      o.kernel.backend = "";
      o.kernel.giveUp();
    }
    o.rig.settle();
    o.pass(500);
    assertEquals([o.attachment.node, o.record, o.rig.server.attached_count], [null, null, 0]);
    assertEquals(o.events.at(-1), "link removed");
    assertEquals(o.attachment.nextTimerMs(o.now_ms), Infinity);
    assertEquals([o.attachment.isBusy(), o.attachment.stop(false)], [false, "gone"]);
  }
});

Deno.test("attachment: let go when the last user, its own claim, has closed it", () => {
  const o = AttachmentRig.claimed();
  assertEquals(o.attachment.stop(false), "going");
  assertEquals([o.kernel.disconnects_on_close, o.claim], [true, "close"]);
  o.claimEnds();
  assertEquals(o.attachment.stop(false), "gone");
  assertEquals([o.attachment.node, o.record], [null, null]);
  o.rig.assertIdle();
});

Deno.test("attachment: somebody else has it open: it stays, and is not let go later behind everybody's back", () => {
  const o = AttachmentRig.claimed();
  o.attachment.stop(false);
  const { leave } = o.kernel;
  o.kernel.leave = () => {};
  o.claimEnds();
  assertEquals(o.attachment.stop(false), "going");
  o.now_ms += 1000;
  assertEquals(o.attachment.stop(false), "busy");
  assertEquals(o.kernel.disconnects_on_close, false);
  assert(o.attachment.node !== null && o.record !== null);
  // The next try finds that he has gone.
  o.kernel.leave = leave;
  o.attachment.isBusy();
  o.claimEnds();
  o.attachment.stop(false);
  o.claimEnds();
  assertEquals(o.attachment.stop(false), "gone");
});

Deno.test("attachment: the last user leaves in the very moment in which the device is given up as busy", () => {
  const o = AttachmentRig.claimed();
  o.attachment.stop(false);
  o.kernel.disconnects_on_close = false;
  o.claimEnds();
  o.attachment.stop(false);
  o.now_ms += 1000;
  o.kernel.leave(); // the word of it is on its way
  assertEquals(o.attachment.stop(false), "going");
  o.rig.settle();
  assertEquals(o.attachment.stop(false), "gone");
});

Deno.test("attachment: a device that is mounted or opened exclusively is busy", () => {
  const o = new AttachmentRig();
  o.attachment.start();
  for (let tries = 0; tries < 3; tries++) {
    assertEquals(o.attachment.isBusy(), true);
    o.claimEnds(-EBUSY);
  }
  o.attachment.unclaim();
  assertEquals(o.claim, "");
});

Deno.test("attachment: by force: its connections end before the kernel is told, users or not", () => {
  const o = new AttachmentRig();
  o.attachment.start();
  o.kernel.leave = () => assert(o.kernel.taken.every((socket) => socket.shut), "dropped first");
  assertEquals(o.attachment.stop(true), "going");
  assertEquals(o.attachment.stop(true), "gone");
  assertEquals([o.attachment.node, o.record], [null, null]);
  o.rig.settle();
  o.rig.assertIdle();
});

Deno.test("attachment: what a process has left is taken over, with the same size only", () => {
  const left = { index: 3, backend: "ours", table: TABLE };
  const o = new AttachmentRig({ left });
  o.kernel.backend = "ours";
  o.attachment.start();
  assertEquals(o.kernel.calls, [`reconnect ${CONNECTIONS}`]);
  assertEquals([o.attachment.node?.path, o.rig.server.attached_count], ["/dev/nbd3", CONNECTIONS]);

  const larger = new AttachmentRig({ left });
  larger.kernel.size_bytes = 2 * SIZE_BYTES;
  assertThrows(() => larger.attachment.start(), CacheError, "/dev/nbd3 has 4096 sectors");
  const refused = new AttachmentRig({ left });
  assertThrows(() => refused.attachment.start(), CacheError, "taking it over: Invalid argument");
  for (const { rig, kernel } of [larger, refused]) {
    rig.settle();
    rig.assertIdle();
    assert(!kernel.calls.includes("disconnect"), "it stays as it is");
  }
});

Deno.test("attachment: what a process has left is found, or forgotten when it is not there any more", () => {
  const left = { index: 3, backend: "ours", table: TABLE };
  for (const [backend, is_found] of [["ours", true], ["somebody's", false], ["", false]] as const) {
    const kernel = new FakeKernel();
    kernel.backend = backend;
    let is_there = true;
    const record = { read: () => left, remove: () => void (is_there = false) };
    assertEquals(findLeft(kernel, record), is_found ? left : null);
    assertEquals(is_there, is_found);
    if (!is_found) continue;
    giveUp(kernel, record, left, false);
    assertEquals([is_there, kernel.calls], [false, ["disconnect"]]);
  }
});

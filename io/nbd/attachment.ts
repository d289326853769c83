/**
 * A device's own block device, `/dev/nbdN`: the kernel's NBD client on pairs of sockets of which the server here has the other
 * ends. So nothing has to be negotiated, whatever clients on the network have to do, and the server knows these
 * connections from all others.
 *
 *   new -> live -> leaving -> gone
 *
 * Invariants:
 * - No call here waits for a request that only this process can answer: opening and closing the node is left to a thread of the
 *   kernel (`Claim`), and who is connected when the device is torn down is dropped before the kernel is told.
 * - A connection that the kernel has given up is made anew. It gives one up when a request is not answered for 30 s, be it that the
 *   backing device is away or the device suspended, and then asks again on another one, for as long as it takes.
 * - Should the process end while it is live, the kernel keeps the block device and its requests, until a process takes it over
 *   (`create --recover`) or it is given up.
 *
 * @module
 */

import { assert } from "../../core/assert.ts";
import { CacheError, EINVAL } from "../../core/errors.ts";
import { userCount } from "../block_users.ts";
import { Claim } from "../claim.ts";
import type { Arena } from "../arena.ts";
import type { TableConfig } from "../control_protocol.ts";
import type { BlockNode } from "../frontend.ts";
import { errorText } from "../libc.ts";
import type { NodeLink } from "../node_link.ts";
import type { NbdRecord, NodeRecord } from "../node_record.ts";
import type { UringRing } from "../uring.ts";
import { type Export, transmissionFlags } from "./handshake.ts";
import type { KernelClient } from "./kernel_client.ts";
import { nodePath } from "./node_path.ts";
import type { NbdServer } from "./server.ts";
import { SIMPLE } from "./session.ts";

/** Between two tries to make connections anew. */
const RETRY_MS = 200;
/** How long somebody may take to leave who looks at the device while it is let go: udev does, and our own claim. */
const LEAVING_MS = 1000;
const LOOK_MS = 50;
const SECTOR_BYTES = 512;

/** What is known before the engine is there. */
export interface AttachmentPlan {
  readonly kernel: KernelClient;
  readonly record: Pick<NodeRecord<"nbd">, "write" | "remove" | "renamed">;
  readonly table: TableConfig;
  /** Makes a link with the device's name to a node. */
  readonly link: (node_path: string) => Pick<NodeLink, "path" | "remove">;
  /** N of `/dev/nbdN`; null: any that is free. */
  readonly index: number | null;
  /** The block device that a process has left, to be taken over; null: a new one. */
  readonly left: NbdRecord | null;
  /** How many connections the kernel gets. */
  readonly connections: number;
}

export interface AttachmentOptions extends AttachmentPlan {
  readonly arena: Pick<Arena, "alloc" | "bytes">;
  readonly ring: Pick<UringRing, "open" | "closeLater">;
  readonly server: Pick<
    NbdServer,
    "adopt" | "dropAttached" | "attached_count" | "has_taken_leave"
  >;
  readonly served: Export;
  readonly sockets: { socketPair(): [number, number]; close(fd: number): void };
  readonly now_ms: () => number;
}

export class Attachment {
  /** Bytes of arena memory that it needs. */
  static readonly ARENA_BYTES = Claim.ARENA_BYTES;

  readonly #o: AttachmentOptions;
  readonly #claim: Claim;
  #state: "new" | "live" | "leaving" | "gone" = "new";
  #index = -1;
  #backend = "";
  #node: BlockNode | null = null;
  #link: Pick<NodeLink, "path" | "remove"> | null = null;
  #retry_ms = 0;
  /** Until when the last user may take to leave; NaN: our own claim is not closed yet. */
  #deadline_ms = NaN;

  constructor(o: AttachmentOptions) {
    this.#o = o;
    this.#claim = new Claim(o.arena, o.ring);
  }

  /** The kernel has requests for it, or will have, or had. */
  get was_live(): boolean {
    return this.#state !== "new";
  }

  /** The block device; null: there is none, or not any more. */
  get node(): BlockNode | null {
    return this.#node;
  }

  /**
   * Connects the kernel.
   *
   * @throws {CacheError} It cannot be done; a device that was left stays as it is.
   */
  start(): void {
    assert(this.#state === "new", "attachment: started twice");
    const { left } = this.#o;
    if (left === null) this.#connect();
    else this.#takeOver(left);
    this.#state = "live";
    this.#show();
  }

  #connect(): void {
    const { kernel, record, served, table, index } = this.#o;
    const backend = `pcache ${crypto.randomUUID()}`;
    this.#index = this.#withSockets(this.#o.connections, (fds) =>
      kernel.connect({
        index,
        backend,
        fds,
        size_bytes: served.size_bytes,
        flags: transmissionFlags(served, SIMPLE),
      }));
    if (kernel.backendOf(this.#index) !== backend) {
      this.#o.server.dropAttached();
      kernel.disconnect(this.#index);
      throw new CacheError(`${nodePath(this.#index)}: Linux 5.14 or newer is wanted`);
    }
    this.#backend = backend;
    record.write({ index: this.#index, backend, table });
  }

  #takeOver({ index, backend }: NbdRecord): void {
    const { kernel, served } = this.#o;
    const path = nodePath(index);
    const size_bytes = kernel.sizeOf(index);
    if (size_bytes !== served.size_bytes) {
      throw new CacheError(
        `${path} has ${size_bytes / SECTOR_BYTES} sectors, but the table says ${
          served.size_bytes / SECTOR_BYTES
        }: it is recovered only with the table it was created with`,
      );
    }
    this.#index = index;
    this.#backend = backend;
    const errno = this.#reconnect(this.#o.connections);
    if (errno !== 0) throw new CacheError(`${path}: taking it over: ${errorText(errno)}`);
  }

  /** Goes on: makes connections anew that the kernel has given up. */
  turn(now_ms: number): void {
    const { server, connections } = this.#o;
    const lacking = connections - server.attached_count;
    if (this.#state !== "live" || lacking === 0) return;
    if (server.has_taken_leave) {
      // Somebody has disconnected it (nbd-client -d).
      if (server.attached_count === 0) this.#ended();
      return;
    }
    if (now_ms < this.#retry_ms) return;
    this.#retry_ms = now_ms + RETRY_MS;
    if (this.#reconnect(lacking) !== EINVAL) return;
    server.dropAttached();
    this.#ended();
  }

  /** How long the loop may sleep. */
  nextTimerMs(now_ms: number): number {
    if (this.#state === "leaving") return LOOK_MS;
    const { attached_count, has_taken_leave } = this.#o.server;
    if (this.#state !== "live" || attached_count === this.#o.connections || has_taken_leave) {
      return Infinity;
    }
    return Math.max(0, this.#retry_ms - now_ms);
  }

  /** An open or a close of the node has ended. */
  handle(result: number): void {
    this.#claim.handle(result);
  }

  /** Mounts, devices on top and swap. */
  userCount(): number {
    return this.#node === null ? 0 : userCount(this.#node);
  }

  /** Whether somebody has the device to himself; true as well until that is known. From then on nobody can. */
  isBusy(): boolean {
    return this.#node !== null && this.#claim.isBusy(this.#node.path) !== false;
  }

  /** Others may have the device again. */
  unclaim(): void {
    this.#claim.drop();
  }

  /** Lets the device go, to be asked until it is over; "busy": somebody has it open. `force`: users do not matter. */
  stop(force: boolean): "going" | "gone" | "busy" {
    if (this.#state === "gone" || this.#state === "new") {
      return this.#claim.drop() ? "gone" : "going";
    }
    return force ? this.#tear() : this.#leave();
  }

  /** Requests that are under way fail; none of them is waited for. */
  #tear(): "going" {
    const { server, kernel } = this.#o;
    server.dropAttached();
    const errno = kernel.disconnect(this.#index);
    if (errno !== 0 && errno !== EINVAL) {
      throw new Error(`${nodePath(this.#index)}: disconnecting it: ${errorText(errno)}`);
    }
    this.#ended();
    return "going";
  }

  /** The kernel disconnects the device when its last user closes it, who is our own claim. */
  #leave(): "going" | "gone" | "busy" {
    const now_ms = this.#o.now_ms();
    if (this.#state === "live") {
      this.#state = "leaving";
      this.#deadline_ms = NaN;
      this.#disconnectOnClose(true);
    }
    if (!this.#claim.drop()) return "going";
    if (this.#o.server.attached_count === 0) {
      this.#ended();
      return "gone";
    }
    if (Number.isNaN(this.#deadline_ms)) this.#deadline_ms = now_ms + LEAVING_MS;
    // It may have been the last moment: the kernel then refuses, and its leave is on the way.
    if (now_ms < this.#deadline_ms || this.#disconnectOnClose(false) !== 0) return "going";
    this.#state = "live";
    return "busy";
  }

  #disconnectOnClose(on: boolean): number {
    return this.#o.kernel.disconnectOnClose(this.#index, this.#backend, on);
  }

  /** The kernel has disconnected the device, whoever wanted it. */
  #ended(): void {
    this.#state = "gone";
    this.#node = null;
    this.#link?.remove();
    this.#o.record.remove();
  }

  /** The device's name has changed. */
  renamed(): void {
    if (this.#node === null) return;
    this.#o.record.renamed();
    this.#link?.remove();
    this.#show();
  }

  #show(): void {
    const path = nodePath(this.#index);
    this.#link = this.#o.link(path);
    this.#node = { ...this.#o.kernel.numberOf(this.#index), path, link: this.#link.path };
  }

  #reconnect(count: number): number {
    const { kernel } = this.#o;
    return this.#withSockets(count, (fds) => kernel.reconnect(this.#index, this.#backend, fds));
  }

  /** Makes connections and has the kernel take them. What it does not take ends at once. */
  #withSockets(count: number, take: (fds: number[]) => number): number {
    const { sockets, server } = this.#o;
    const theirs: number[] = [];
    try {
      for (let i = 0; i < count; i++) {
        const [our_fd, their_fd] = sockets.socketPair();
        theirs.push(their_fd);
        server.adopt(our_fd);
      }
      return take(theirs);
    } finally {
      for (const fd of theirs) sockets.close(fd);
    }
  }
}

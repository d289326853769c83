/**
 * From a device's configuration to its block device of the kernel's NBD client: a new one, or the one that a killed process has
 * left.
 *
 * @module
 */

import { CacheError } from "../../core/errors.ts";
import type { Staging } from "../../core/staging.ts";
import { userCount } from "../block_users.ts";
import { BUSY, type TableConfig } from "../control_protocol.ts";
import { NodeLink } from "../node_link.ts";
import { checkTable, type NbdRecord, NodeRecord, type RecordHome } from "../node_record.ts";
import type { Ring } from "../ring.ts";
import type { Shell } from "../shell.ts";
import { mapStagedFile } from "../staged_file.ts";
import { UringRing } from "../uring.ts";
import type { AttachmentPlan } from "./attachment.ts";
import { type KernelClient, NbdKernelClient } from "./kernel_client.ts";
import { nodePath } from "./node_path.ts";

/** A request need not wait for the payload of another one; the kernel uses as many connections as it has processors. */
const MIN_CONNECTIONS = 2;
const MAX_CONNECTIONS = 4;
const NO_URING = "Failed to attach: io_uring is wanted, which is switched off here";

/** What is known of the device before it is opened. */
export interface AttachmentPlace {
  readonly shell: Pick<Shell, "home" | "attach" | "recover">;
  readonly config: TableConfig;
  readonly ring: Ring;
  /** What has to be undone in the end, when the ring is gone. */
  readonly late_cleanup: DisposableStack;
}

/** A plan that can be carried out, and memory for the engine's staged keys. */
export interface OpenedAttachment extends AttachmentPlan {
  readonly ring: UringRing;
  readonly staging: Staging;
}

/**
 * The block device that an NBD server is to have, or that the process before has left; null: none.
 *
 * @throws {CacheError} It cannot be had, or is in use and not to be taken over.
 */
export function openAttachment(place: AttachmentPlace): OpenedAttachment | null {
  const { shell: { home, attach, recover }, config, ring, late_cleanup } = place;
  const record = new NodeRecord(home, "nbd");
  if (attach === null && record.read() === null) return null;
  if (attach !== null && !(ring instanceof UringRing)) throw new CacheError(NO_URING);
  const kernel = NbdKernelClient.open(late_cleanup);
  if (typeof kernel === "string") {
    if (attach !== null) throw new CacheError(`Failed to attach: ${kernel}`);
    record.remove(); // what it tells of cannot be there
    return null;
  }
  const found = findLeft(kernel, record);
  if (found !== null && recover) checkTable(nodePath(found.index), found.table, config);
  else if (found !== null) giveUp(kernel, record, found, false);
  const left = recover ? found : null;
  if (attach === null && left === null) return null;
  if (!(ring instanceof UringRing)) throw new CacheError(NO_URING);
  const index = attach?.index ?? null;
  if (left === null && index !== null && kernel.isConnected(index)) {
    throw new CacheError(`Failed to attach: ${nodePath(index)}: ${BUSY}: it is connected already`);
  }
  const { staging, close } = mapStagedFile(record.staged_path, left !== null);
  late_cleanup.defer(close);
  const link = (path: string) => NodeLink.make(home, path);
  const processors = navigator.hardwareConcurrency;
  const connections = Math.min(Math.max(processors, MIN_CONNECTIONS), MAX_CONNECTIONS);
  return { kernel, record, table: config, link, index, left, ring, connections, staging };
}

/**
 * Gives up the block device that a killed process has left under a name which the caller has reserved, if there is one.
 *
 * @param force whoever uses it gets errors from now on
 * @throws {CacheError} Somebody uses it.
 */
export function giveUpAttached(home: RecordHome, force: boolean): void {
  const record = new NodeRecord(home, "nbd");
  if (record.read() === null) return;
  using cleanup = new DisposableStack();
  const kernel = NbdKernelClient.open(cleanup);
  if (typeof kernel === "string") return record.remove();
  const left = findLeft(kernel, record);
  if (left !== null) giveUp(kernel, record, left, force);
}

/** The block device that a killed process has left, if it is still there. */
export function findLeft(
  kernel: Pick<KernelClient, "backendOf">,
  record: Pick<NodeRecord<"nbd">, "read" | "remove">,
): NbdRecord | null {
  const left = record.read();
  if (left === null || kernel.backendOf(left.index) === left.backend) return left;
  record.remove();
  return null;
}

/**
 * Disconnects a block device that nobody answers for.
 *
 * @throws {CacheError} Somebody uses it, and it is not by force.
 */
export function giveUp(
  kernel: Pick<KernelClient, "numberOf" | "disconnect">,
  record: Pick<NodeRecord<"nbd">, "remove">,
  left: NbdRecord,
  force: boolean,
): void {
  if (!force && userCount(kernel.numberOf(left.index)) > 0) {
    throw new CacheError(
      `${BUSY}: its block device ${nodePath(left.index)} is in use and waits for a process: ` +
        "create --recover takes it over",
    );
  }
  kernel.disconnect(left.index);
  record.remove();
}

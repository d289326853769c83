/**
 * Opens what a device is served by: the NBD server's socket, or a block device of the ublk driver.
 *
 * It takes two steps: all that can be refused is refused before the cache device is written to, and the engine comes
 * after that.
 *
 * @module
 */

import type { Engine } from "../core/engine.ts";
import { CacheError } from "../core/errors.ts";
import type { Staging } from "../core/staging.ts";
import type { Arena } from "./arena.ts";
import type { TableConfig } from "./control_protocol.ts";
import type { Frontend } from "./frontend.ts";
import { type Entrance, openListeners, removeFile, uriOf } from "./listening.ts";
import type { Medium } from "./medium.ts";
import { NodeRecord } from "./node_record.ts";
import { Attachment } from "./nbd/attachment.ts";
import { NbdFrontend } from "./nbd/frontend.ts";
import type { Export } from "./nbd/handshake.ts";
import { giveUpAttached, openAttachment } from "./nbd/open_attachment.ts";
import type { NbdTls } from "./nbd/ports.ts";
import { NbdServer } from "./nbd/server.ts";
import type { Ring } from "./ring.ts";
import type { Shell } from "./shell.ts";
import * as sockets from "./sockets.ts";
import { mapStagedFile } from "./staged_file.ts";
import type { UblkDriver } from "./ublk/driver.ts";
import { UblkFrontend } from "./ublk/frontend.ts";
import { clearLeft, openDriver, openTarget } from "./ublk/open.ts";
import { UringRing } from "./uring.ts";
import { RECORD_BYTES } from "./tls/stream.ts";

/** Bytes of arena memory that any front-end needs. */
export const FRONTEND_ARENA_BYTES = NbdServer.ARENA_BYTES + Attachment.ARENA_BYTES +
  UblkFrontend.ARENA_BYTES;

/** Where a front-end is opened. */
export interface FrontendPlace {
  readonly shell: Shell;
  readonly config: TableConfig;
  readonly arena: Arena;
  readonly ring: Ring;
  readonly memory: Medium;
  readonly entrance: Entrance;
  readonly size_bytes: number;
  readonly is_rotational: boolean;
  /** What has to be undone in the end, while the ring is there. */
  readonly cleanup: DisposableStack;
  /** The same, for what has to wait until the ring is gone. */
  readonly late_cleanup: DisposableStack;
}

/** The first step is done. */
export interface OpenedFrontend {
  /** What the user should know. */
  readonly notes: readonly string[];
  /** Memory for the engine's staged keys, if they are to outlive the process. */
  readonly staged: { readonly staging?: Staging };
  make(engine: Engine, served: Export): Frontend;
}

/**
 * Takes the first step.
 *
 * @throws {CacheError} The device cannot be served that way; nothing is left behind.
 */
export function openFrontend(place: FrontendPlace): OpenedFrontend {
  const { shell, arena, ring } = place;
  if (shell.frontend === "nbd") {
    clearLeft(arena, ring, shell.home);
    return openNbd(place, []);
  }
  const driver = openDriver(arena, ring);
  if (typeof driver !== "string") return openUblk(place, driver);
  if (shell.frontend === "ublk") throw new CacheError(`Failed to start frontend ublk: ${driver}`);
  return openNbd(place, [`served over NBD, not as a block device: ${driver}`]);
}

function openNbd(place: FrontendPlace, notes: string[]): OpenedFrontend {
  const { shell, arena, ring, memory, cleanup, late_cleanup, entrance } = place;
  const listeners = openListeners(shell, entrance, cleanup);
  const uri = () => uriOf(listeners[0]!, shell.nbd_path, entrance.tls);
  const removeSocket = () => {
    if (shell.listen === null) removeFile(shell.nbd_path);
  };
  const tls = nbdTls(entrance, place);
  const parts = { arena, ring, memory, sockets, listeners, tls, uri, removeSocket };
  const plan = openAttachment(place);
  if (plan === null) {
    const alone = { ...parts, attach: null };
    const make = (engine: Engine, served: Export) => new NbdFrontend({ ...alone, engine, served });
    return { notes, staged: {}, make };
  }
  let attachment: Attachment | null = null;
  late_cleanup.defer(() => {
    // A device that was live stays with the kernel, to be taken over.
    if (plan.left === null && !attachment?.was_live) plan.record.remove();
  });
  const make = (engine: Engine, served: Export) => {
    const now_ms = () => performance.now();
    const attach = (server: NbdServer) =>
      attachment = new Attachment({ ...plan, arena, server, served, sockets, now_ms });
    return new NbdFrontend({ ...parts, engine, served, attach });
  };
  return { notes, staged: { staging: plan.staging }, make };
}

function openUblk(place: FrontendPlace, driver: UblkDriver): OpenedFrontend {
  const { shell, config, arena, ring, late_cleanup, size_bytes, is_rotational } = place;
  late_cleanup.use(driver);
  giveUpAttached(shell.home, false);
  const { read_only } = config;
  const { home, recover } = shell;
  const table = config;
  const spec = { size_bytes, read_only, is_rotational };
  const record = new NodeRecord(home, "ublk");
  const { target, is_recovery } = openTarget(driver, { record, table }, spec, recover);
  let frontend: UblkFrontend | null = null;
  late_cleanup.defer(() => {
    // A device that was live stays with the kernel, to be taken over.
    if (is_recovery || frontend?.was_live) return;
    target.close();
    target.delete();
    record.remove();
  });
  const staged = mapStagedFile(record.staged_path, is_recovery);
  late_cleanup.defer(() => staged.close());
  const make = (engine: Engine, served: Export) => {
    if (!(ring instanceof UringRing)) {
      throw new Error("the ublk driver was opened without io_uring");
    }
    frontend = new UblkFrontend({
      ...{ arena, ring, engine, served, driver, target, is_recovery, home, record },
    });
    return frontend;
  };
  return { notes: [], staged: { staging: staged.staging }, make };
}

/** What the NBD server has to do with TLS. */
function nbdTls(
  { tls }: Entrance,
  { arena, ring }: Pick<FrontendPlace, "arena" | "ring">,
): NbdTls | null {
  if (tls === null) return null;
  const scratch_addr = arena.alloc(RECORD_BYTES);
  return {
    is_required: tls.is_required,
    open: (fd, recv_user, send_user) =>
      tls.open(fd, { arena, ring, scratch_addr, recv_user, send_user }),
  };
}

/**
 * `create --recover` of a device that lives: its process leaves it to the one that is about to be started.
 *
 * @module
 */

import { CacheError } from "../core/errors.ts";
import { callControl } from "../io/control_client.ts";
import { controlPath, isPublished, ProcessEnd } from "../io/run_dir.ts";
import type { Order } from "./device_process.ts";
import { isGone } from "./devices.ts";

/**
 * Ends the process that serves the device now, if there is one. Returns the order for the next one, which keeps what the table does
 * not say.
 *
 * @throws {CacheError} The process cannot leave the device, or not so; it goes on then.
 */
export async function succeed(order: Order): Promise<Order> {
  const { run_root, name, device: { table, frontend } } = order;
  if (table === null || !isPublished(run_root, name)) return order;
  const path = controlPath(run_root, name);
  try {
    using end = new ProcessEnd(run_root, name);
    const info = await callControl(path, { verb: "info" });
    if (!info.ok) throw new CacheError(info.error);
    if (frontend !== "auto" && frontend !== info.frontend) {
      throw new CacheError(
        `its frontend is ${info.frontend}, not ${frontend}, and cannot change while the device lives`,
      );
    }
    const reply = await callControl(path, { verb: "hand_over", table });
    if (!reply.ok) throw new CacheError(reply.error);
    await end.wait();
    const device = { ...order.device, frontend: info.frontend };
    return { ...order, uuid: order.uuid || info.uuid, device };
  } catch (error) {
    if (!isGone(error)) throw error;
    return order; // it was killed
  }
}

/**
 * The device process: what `create` starts in the background. It takes its order as JSON on the standard
 * input, tells its creator how far it is in JSON lines on the standard output, and then serves the device.
 *
 * @module
 */

import { CacheError } from "../core/errors.ts";
import { detachStreams } from "../io/detach.ts";
import { runDevice } from "../io/device.ts";
import type { DeviceConfig, DeviceEvent } from "../io/device_config.ts";
import { reserveDevice } from "../io/run_dir.ts";
import { serverOf } from "../io/table_line.ts";

/** What a device process is told to do. */
export interface Order {
  readonly run_root: string;
  readonly name: string;
  /** "" when none was given. */
  readonly uuid: string;
  /** The minor number that was asked for; null: the lowest free one. */
  readonly minor: number | null;
  readonly device: DeviceConfig;
}

/** Serves the device until it is removed. True: it was; false: it could not be started. */
export async function runDeviceProcess(): Promise<boolean> {
  Deno.umask(0o077);
  const order = JSON.parse(await new Response(Deno.stdin.readable).text()) as Order;
  try {
    serve(order);
    return true;
  } catch (error) {
    if (!(error instanceof CacheError)) throw error;
    tell({ event: "failed", error: error.message });
    return false;
  }
}

/**
 * From `ready` on the folder stays behind when the device fails: its log says why, and nobody else would.
 */
function serve({ run_root, name, uuid, minor, device }: Order): void {
  const reservation = reserveDevice(run_root, name, uuid, minor, serverOf(device.table));
  let is_ready = false;
  try {
    runDevice(reservation, device, (event) => {
      if (event.event === "ready") reservation.publish();
      tell(event);
      if (event.event !== "ready") return;
      detachStreams(reservation.log_path);
      is_ready = true;
    });
  } catch (error) {
    if (!is_ready) reservation.release();
    throw error;
  }
  reservation.release();
}

function tell(event: DeviceEvent): void {
  const bytes = new TextEncoder().encode(JSON.stringify(event) + "\n");
  for (let at = 0; at < bytes.length;) at += Deno.stdout.writeSync(bytes.subarray(at));
}

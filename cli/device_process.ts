/**
 * The device process: what `create` starts in the background. It takes its order as JSON on the standard
 * input, tells its creator how far it is in JSON lines on the standard output, and then serves the device.
 *
 * @module
 */

import { CacheError } from "../core/errors.ts";
import { isNbdUri } from "../core/nbd_uri.ts";
import { detachStreams } from "../io/detach.ts";
import { runDevice } from "../io/device.ts";
import type { DeviceConfig, DeviceEvent } from "../io/device_config.ts";
import { reserveDevice } from "../io/run_dir.ts";

/** What a device process is told to do: a device, but for what the run directory gives it. */
export interface Order {
  readonly run_root: string;
  /** The minor number that was asked for; null: the lowest free one. */
  readonly minor: number | null;
  readonly device: Omit<DeviceConfig, "run_dir" | "minor">;
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
function serve({ run_root, minor: wanted_minor, device }: Order): void {
  const { name, uuid, backing_path } = device;
  const backing_uri = isNbdUri(backing_path) ? backing_path : "";
  const reservation = reserveDevice(run_root, name, uuid, wanted_minor, backing_uri);
  let is_ready = false;
  try {
    const { run_dir, minor } = reservation;
    runDevice({ ...device, run_dir, minor }, (event) => {
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

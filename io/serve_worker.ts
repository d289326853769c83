/**
 * The thread that serves a device for `serve.ts`: the loop of a device process.
 *
 * @module
 */

import { CacheError } from "../core/errors.ts";
import { runDevice } from "./device.ts";
import { reserveDevice } from "./run_dir.ts";
import type { ServeEvent, ServeOrder } from "./serve.ts";
import { serverOf } from "./table_line.ts";

/** The thread, as its own code sees it. */
interface Thread {
  onmessage: ((event: MessageEvent<ServeOrder>) => void) | null;
  postMessage(event: ServeEvent): void;
}

const thread = globalThis as unknown as Thread;

thread.onmessage = ({ data }) => {
  try {
    runServed(data);
    thread.postMessage({ event: "gone" });
  } catch (error) {
    if (!(error instanceof CacheError)) throw error;
    thread.postMessage({ event: "failed", error: error.message });
  }
};

function runServed({ run_root, name, device }: ServeOrder): void {
  const reservation = reserveDevice(run_root, name, "", null, serverOf(device.table));
  try {
    runDevice(reservation, device, (event) => {
      if (event.event === "ready") reservation.publish();
      thread.postMessage(event);
    });
  } finally {
    reservation.release();
  }
}

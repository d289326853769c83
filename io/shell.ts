/**
 * What a device is besides its table: its name, its UUID, its events. It stays when the table changes.
 *
 * @module
 */

import { CacheError } from "../core/errors.ts";
import { type ControlReply, type ControlRequest, GONE } from "./control_protocol.ts";
import { type DeviceConfig, NBD_SOCKET } from "./device_config.ts";
import { Events, type Reply } from "./events.ts";
import type { Reservation } from "./run_dir.ts";

/** It is done, and there is nothing to say. */
export const DONE: ControlReply = { ok: true, notes: [] };

/** One device, whatever its table. */
export class Shell {
  readonly home: Reservation;
  readonly listen: DeviceConfig["listen"];
  readonly frontend: DeviceConfig["frontend"];
  readonly attach: DeviceConfig["attach"];
  readonly recover: boolean;
  readonly events = new Events();
  readonly since_ms = Date.now();
  /** It goes when its last client does. */
  is_deferred = false;
  /** Answers clients of the control socket that serves at the moment. */
  reply: Reply = () => {};

  constructor(home: Reservation, config: DeviceConfig) {
    this.home = home;
    this.listen = config.listen;
    this.frontend = config.frontend;
    this.attach = config.attach;
    this.recover = config.recover;
  }

  /** Wakes those who wait for events. */
  raise(): void {
    this.events.raise(this.reply);
  }

  /** Where the NBD socket of a device that does not listen on TCP is. */
  get nbd_path(): string {
    return `${this.home.run_dir}/${NBD_SOCKET}`;
  }

  /** Answers the requests that have nothing to do with tables; undefined: it is none of them. */
  answer(request: ControlRequest, client: number): ControlReply | null | undefined {
    switch (request.verb) {
      case "wait":
        return this.events.wait(client, request.event_nr);
      case "rename":
        if (request.from !== this.home.name) return { ok: false, error: GONE };
        return this.#change(() => this.home.rename(request.to));
      case "set_uuid":
        return this.#change(() => this.home.setUuid(request.uuid));
      default:
        return undefined;
    }
  }

  #change(act: () => void): ControlReply {
    const reply = answering(act);
    if (reply.ok) this.raise();
    return reply;
  }
}

/** Does something that may be refused. */
export function answering(act: () => void): ControlReply {
  try {
    act();
    return DONE;
  } catch (error) {
    if (!(error instanceof CacheError)) throw error;
    return { ok: false, error: error.message };
  }
}

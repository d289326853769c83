/**
 * The ublk driver's control device: adds, starts, stops and deletes devices, one command at a time.
 *
 * @module
 */

import type { Arena } from "../arena.ts";
import { cString, ERRNO, errorText, libc, O_CLOEXEC, O_RDWR, result } from "../libc.ts";
import { CommandRing } from "./command_ring.ts";
import { pause } from "../pause.ts";
import * as ublk from "./protocol.ts";

/** No device. */
export const ANY_DEVICE = 0xffff_ffff;
/** What every command on one device carries for the queue: none. */
const NO_QUEUE = 0xffff;
const BUFFER_BYTES = 128;
const ENOENT = 2;
const FEATURE_BYTES = 8;
const LOOK_MS = 5;

/** An open control device. */
export class UblkDriver implements Disposable {
  /** What a command reads or writes, as words: `INFO_...` and `PARAMS_...` of protocol.ts are places in it. */
  readonly buffer: Uint32Array<ArrayBuffer>;
  readonly #fd: number;
  readonly #ring: CommandRing;
  readonly #arena: Arena;
  readonly #buffer_addr: number;
  /** `F_...` of protocol.ts. Kernels before 6.5 do not say what they can do: none. */
  readonly features: number;

  /** The driver, or why it cannot be used. */
  static open(arena: Arena): UblkDriver | string {
    const fd = result(libc.open(cString(ublk.CONTROL_PATH), O_RDWR | O_CLOEXEC, 0), ERRNO[0]);
    if (fd < 0) {
      const hint = -fd === ENOENT ? " (modprobe ublk_drv; Linux 6.5 or newer)" : "";
      return `${ublk.CONTROL_PATH}: ${errorText(-fd)}${hint}`;
    }
    const ring = CommandRing.open(arena);
    if (ring instanceof CommandRing) return new UblkDriver(arena, fd, ring);
    libc.close(fd);
    return `io_uring: ${errorText(ring)}`;
  }

  private constructor(arena: Arena, fd: number, ring: CommandRing) {
    this.#arena = arena;
    this.#fd = fd;
    this.#ring = ring;
    this.#buffer_addr = arena.alloc(BUFFER_BYTES);
    this.buffer = arena.words(this.#buffer_addr, BUFFER_BYTES);
    const failed = this.call(ublk.CMD_GET_FEATURES, ANY_DEVICE, FEATURE_BYTES);
    this.features = failed < 0 ? 0 : this.buffer[0]!;
  }

  /** Whether a device can become larger while it is served: the driver's feature, whatever program added the device. */
  get can_resize(): boolean {
    return (this.features & ublk.F_UPDATE_SIZE) !== 0;
  }

  /** Runs a command that ends at once. Returns 0 or more, or an error number negated. */
  call(op: number, dev_id: number, buffer_bytes = 0, data = 0): number {
    this.begin(op, dev_id, buffer_bytes, data);
    return this.#ring.wait();
  }

  /** The same for one that may take long; null: it goes on after `limit_ms`. No other command may follow then. */
  callWithin(op: number, dev_id: number, limit_ms: number): number | null {
    this.begin(op, dev_id);
    for (let left_ms = limit_ms; left_ms > 0; left_ms -= LOOK_MS) {
      const ended = this.take();
      if (ended !== null) return ended;
      pause(LOOK_MS);
    }
    return this.take();
  }

  /** Begins a command that may need the device's loop to go on; `fd` is readable when it has ended, `take` says how. */
  begin(op: number, dev_id: number, buffer_bytes = 0, data = 0): void {
    this.#ring.begin(this.#fd, op, (words, at) => {
      words[at + ublk.CTRL_DEV_ID] = dev_id;
      words[at + ublk.CTRL_QUEUE_AND_LEN] = (NO_QUEUE | (buffer_bytes << 16)) >>> 0;
      if (buffer_bytes > 0) this.#arena.putAddress(words, at + ublk.CTRL_ADDR, this.#buffer_addr);
      words[at + ublk.CTRL_DATA] = data;
      words[at + ublk.CTRL_DATA + 1] = data / 2 ** 32;
    });
  }

  /** How the command that was begun ended; null: it is under way. */
  take(): number | null {
    return this.#ring.take();
  }

  get fd(): number {
    return this.#ring.fd;
  }

  [Symbol.dispose](): void {
    this.#ring[Symbol.dispose]();
    libc.close(this.#fd);
  }
}

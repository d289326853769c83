/**
 * How a device is served: what the device's loop asks of the NBD server and of the block device alike.
 *
 * @module
 */

/** The block device that stands for a device. */
export interface BlockNode {
  readonly major: number;
  readonly minor: number;
  /** The driver's name for it: `/dev/ublkb0`, `/dev/nbd0`. */
  readonly path: string;
  /** A path with the device's name that leads to it. */
  readonly link: string;
}

/**
 * What is held: requests that have not begun, but not the payloads of writes that have; these, too; or answers as well. Null: nothing.
 */
export type Held = "new requests" | "requests" | "requests and answers" | null;

/** One way of serving a device. It sleeps nowhere. */
export interface Frontend {
  readonly name: "nbd" | "ublk";
  /** Where NBD clients connect; "": there are none. */
  readonly uri: string;
  /** The kernel's device; null: there is none. */
  readonly node: BlockNode | null;
  /** Lets clients in. */
  start(): void;
  /**
   * Whether clients are served; until then the loop has to go on.
   *
   * @throws {CacheError} They never will.
   */
  isServing(): boolean;
  /** Handles a completion of one of its kinds of tokens. */
  handle(kind: number, user: number, result: number): void;
  /**
   * Hands on what the engine has placed and answered; to be called before the engine is pumped, so that what is answered leaves first,
   * and right after. True: the engine has got more to do, so pump it again before the loop sleeps.
   */
  turn(now_ms: number): boolean;
  /** How long the loop may sleep before the next turn. */
  nextTimerMs(now_ms: number): number;
  /** Takes less from its clients from now on. */
  hold(what: Held): void;
  /** Requests that the engine is to answer, but for writes whose payload has not come. */
  readonly unanswered_count: number;
  /** Who uses the device, as far as that shows: connections, mounts, devices on top. */
  userCount(): number;
  /** Connections over the network or a socket that do not outlive the process. */
  clientCount(): number;
  /** Whether somebody is in the way of a removal. Where that takes a moment to find out it is true until then. */
  isInUse(): boolean;
  /** Lets new clients in, or keeps them out. */
  admit(on: boolean): void;
  /** Ends the serving, to be asked until it is over; "busy": somebody came in between. `force`: users do not matter. */
  stop(force: boolean): "going" | "gone" | "busy";
  /**
   * Leaves its block device, if it has one, to the process after this one, with all that is asked of it; to be asked until
   * it is true. The engine is at rest.
   */
  leave(): boolean;
  /** Whether the device may become larger while it is served. */
  readonly can_resize: boolean;
  /** It has. */
  resized(size_bytes: number): void;
  /** Whether a table that is loaded may be read-only where the live one is not, or the other way round. */
  readonly can_change_read_only: boolean;
  /** Drops the clients whose last write is not complete. */
  dropUnfinished(): void;
  /** The device's name has changed. */
  renamed(): void;
  /** Removes what is seen of it from outside; serving has ended. */
  close(): void;
}

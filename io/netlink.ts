/**
 * Generic netlink: asking the kernel, one request after another. A call returns when the kernel has done what was asked.
 *
 * @module
 */

import { CacheError } from "../core/errors.ts";
import { EINTR, ERRNO, errorText, libc, result, SOCK_CLOEXEC, SOL_SOCKET } from "./libc.ts";
import {
  type Attribute,
  type Attributes,
  CONTROL_FAMILY,
  CONTROL_FAMILY_ID,
  CONTROL_FAMILY_NAME,
  CONTROL_GET_FAMILY,
  NetlinkFormatError,
  numberOf,
  parseMessages,
  request,
  text,
} from "./netlink_messages.ts";

const AF_NETLINK = 16;
const SOCK_RAW = 3;
const NETLINK_GENERIC = 16;
const SO_RCVTIMEO = 20;
const ENOENT = 2;
/** The kernel answers within the call, or never. */
const ANSWER_S = 10n;
/** More than any answer to what is asked here. */
const ANSWER_BYTES = 32 * 1024;

/** How a request has ended. */
export interface Outcome {
  /** 0, or why it failed. */
  readonly errno: number;
  /** What the kernel said besides. */
  readonly replies: readonly Attributes[];
}

/** What those need who ask. */
export interface NetlinkPort {
  call(family: number, command: number, attributes: readonly Attribute[]): Outcome;
}

/** A socket of generic netlink. */
export class Netlink implements NetlinkPort, Disposable {
  readonly #fd: number;
  readonly #answer = new Uint8Array(ANSWER_BYTES);
  #seq = 0;

  /** @throws {CacheError} There is no netlink here. */
  constructor() {
    this.#fd = result(libc.socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_GENERIC), ERRNO[0]);
    if (this.#fd < 0) throw new CacheError(`netlink: ${errorText(-this.#fd)}`);
    const limit = new Uint8Array(new BigInt64Array([ANSWER_S, 0n]).buffer);
    libc.setsockopt(this.#fd, SOL_SOCKET, SO_RCVTIMEO, limit, limit.length);
  }

  /** The number of a family, or null when the kernel has none of that name. */
  family(name: string): number | null {
    const asked = [[CONTROL_FAMILY_NAME, text(name)]] as const;
    const { errno, replies } = this.call(CONTROL_FAMILY, CONTROL_GET_FAMILY, asked);
    if (errno === ENOENT) return null;
    const [reply] = replies;
    if (errno !== 0 || reply === undefined) {
      throw new CacheError(`netlink: family ${name}: ${errorText(errno)}`);
    }
    return readingAnswer(() => numberOf(reply, CONTROL_FAMILY_ID, 2));
  }

  /**
   * Has the kernel do something.
   *
   * @throws {CacheError} It does not answer.
   */
  call(family: number, command: number, attributes: readonly Attribute[]): Outcome {
    const seq = ++this.#seq;
    const message = request(family, command, seq, attributes);
    const sent = result(libc.send(this.#fd, message, BigInt(message.length), 0), ERRNO[0]);
    if (sent < 0) throw new CacheError(`netlink: asking: ${errorText(-sent)}`);
    const replies: Attributes[] = [];
    for (;;) {
      for (const answer of this.#receive()) {
        if (answer.seq !== seq) continue;
        if (answer.kind === "end") return { errno: answer.errno, replies };
        replies.push(answer.attributes);
      }
    }
  }

  #receive() {
    let got = -EINTR;
    while (got === -EINTR) {
      got = result(libc.recv_into(this.#fd, this.#answer, BigInt(ANSWER_BYTES), 0), ERRNO[0]);
    }
    if (got < 0) throw new CacheError(`netlink: the answer: ${errorText(-got)}`);
    return readingAnswer(() => parseMessages(this.#answer.subarray(0, got)));
  }

  [Symbol.dispose](): void {
    libc.close(this.#fd);
  }
}

function readingAnswer<T>(read: () => T): T {
  try {
    return read();
  } catch (error) {
    if (!(error instanceof NetlinkFormatError)) throw error;
    throw new CacheError(`netlink: the kernel's answer makes no sense: ${error.message}`);
  }
}

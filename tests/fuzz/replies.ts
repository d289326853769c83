/**
 * What a client of the NBD server has got, looked at without its requests: greeting, option replies, and in the styles that
 * say their own lengths every reply. The last message may be cut short.
 *
 * @module
 */

import { assert } from "@std/assert";
import * as nbd from "../../io/nbd/protocol.ts";
import { EXTENDED, SIMPLE, STRUCTURED } from "../../io/nbd/session.ts";
import { MAX_BYTES } from "./conversations.ts";

const GREETING_BYTES = 18;
const OPTION_REPLY_BYTES = 20;
const MAX_TEXT_BYTES = 6 + 200;
const MAX_STATUS_BYTES = 8 + 256 * 16;

/**
 * Throws when something is not what the protocol has there. Returns how many requests were answered, in the styles that say
 * their own lengths.
 */
export function checkReplies(got: Uint8Array): number {
  const view = new DataView(got.buffer, got.byteOffset, got.byteLength);
  let style = SIMPLE;
  let at = GREETING_BYTES;
  while (at + OPTION_REPLY_BYTES <= got.length) {
    if (view.getUint32(at) !== nbd.OPTION_REPLY_MAGIC_HI) {
      // EXPORT_NAME, with 124 zeroes or without: where its answer ends is not said.
      assert(view.getUint32(at) === 0, "not an option reply, and not the size of the export");
      return 0;
    }
    assert(view.getUint32(at + 4) === nbd.OPTION_REPLY_MAGIC_LO, "magic of an option reply");
    const [option, type] = [view.getUint32(at + 8), view.getUint32(at + 12)];
    const len = view.getUint32(at + 16);
    assert(len <= nbd.MAX_OPTION_BYTES, `an option reply of ${len} bytes`);
    at += OPTION_REPLY_BYTES + len;
    if (type !== nbd.REP_ACK) continue;
    if (option === nbd.OPT_STARTTLS) style = SIMPLE;
    if (option === nbd.OPT_STRUCTURED_REPLY) style = STRUCTURED;
    if (option === nbd.OPT_EXTENDED_HEADERS) style = EXTENDED;
    if (option !== nbd.OPT_GO) continue;
    return style === SIMPLE ? 0 : checkChunks(view, at, style === EXTENDED);
  }
  return 0;
}

function checkChunks(view: DataView, from: number, is_extended: boolean): number {
  const head_bytes = is_extended ? nbd.EXTENDED_REPLY_BYTES : nbd.STRUCTURED_REPLY_BYTES;
  const simple_bytes = is_extended ? head_bytes : nbd.SIMPLE_REPLY_BYTES;
  const magic = is_extended ? nbd.EXTENDED_REPLY_MAGIC : nbd.STRUCTURED_REPLY_MAGIC;
  let answered = 0;
  for (let at = from; at + simple_bytes <= view.byteLength;) {
    if (!is_extended && view.getUint32(at) === nbd.SIMPLE_REPLY_MAGIC) {
      assert(view.getUint32(at + 4) === 0, "an error in a simple reply");
      at += nbd.SIMPLE_REPLY_BYTES;
      answered += 1;
      continue;
    }
    if (at + head_bytes > view.byteLength) break;
    assert(view.getUint32(at) === magic, `magic of a reply, ${at} bytes on`);
    const [flags, type] = [view.getUint16(at + 4), view.getUint16(at + 6)];
    const len = view.getUint32(at + head_bytes - 4);
    assert(!is_extended || view.getUint32(at + head_bytes - 8) === 0, "a reply of 4 GiB");
    assert(flags <= nbd.REPLY_FLAG_DONE, `flags ${flags} of a chunk`);
    assert(isLength(type, len, is_extended), `a chunk of type ${type} has ${len} bytes`);
    at += head_bytes + len;
    if ((flags & nbd.REPLY_FLAG_DONE) !== 0 && at <= view.byteLength) answered += 1;
  }
  return answered;
}

function isLength(type: number, len: number, is_extended: boolean): boolean {
  switch (type) {
    case nbd.REPLY_TYPE_NONE:
      return len === 0;
    case nbd.REPLY_TYPE_OFFSET_DATA:
      return len > 8 && len <= 8 + MAX_BYTES;
    case nbd.REPLY_TYPE_OFFSET_HOLE:
      return len === 12;
    case nbd.REPLY_TYPE_ERROR:
      return len > 6 && len <= MAX_TEXT_BYTES;
    case nbd.REPLY_TYPE_BLOCK_STATUS:
      return !is_extended && len > 4 && len % 8 === 4 && len <= MAX_STATUS_BYTES;
    case nbd.REPLY_TYPE_BLOCK_STATUS_EXT:
      return is_extended && len > 8 && len % 16 === 8 && len <= MAX_STATUS_BYTES;
    default:
      return false;
  }
}

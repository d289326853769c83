/**
 * The commands' side of the control socket.
 *
 * @module
 */

import {
  type ControlRequest,
  type ErrorReply,
  MAX_LINE_BYTES,
  type ReplyOf,
} from "./control_protocol.ts";

export type { ControlReply, ControlRequest, ErrorReply, ReplyOf } from "./control_protocol.ts";

/**
 * Sends one request to the device process that listens at `path` and waits for its reply. Errors of the device
 * come back as `{ok: false}`.
 *
 * Throws `Deno.errors.NotFound` or `ConnectionRefused` when no process listens there, and
 * `Deno.errors.UnexpectedEof` when it vanished before it answered.
 */
export async function callControl<R extends ControlRequest>(
  path: string,
  request: R,
): Promise<ReplyOf[R["verb"]] | ErrorReply> {
  const connection = await Deno.connect({ transport: "unix", path });
  try {
    await writeAll(connection, new TextEncoder().encode(JSON.stringify(request) + "\n"));
    const line = await readLine(connection);
    return JSON.parse(line) as ReplyOf[R["verb"]] | ErrorReply;
  } finally {
    connection.close();
  }
}

async function writeAll(connection: Deno.Conn, bytes: Uint8Array): Promise<void> {
  for (let at = 0; at < bytes.length;) {
    at += await connection.write(bytes.subarray(at));
  }
}

async function readLine(connection: Deno.Conn): Promise<string> {
  const bytes = new Uint8Array(MAX_LINE_BYTES);
  let filled = 0;
  while (filled < bytes.length) {
    const got = await connection.read(bytes.subarray(filled));
    if (got === null) {
      throw new Deno.errors.UnexpectedEof("the device process ended before it answered");
    }
    filled += got;
    const end = bytes.subarray(0, filled).indexOf(10);
    if (end >= 0) return new TextDecoder().decode(bytes.subarray(0, end));
  }
  throw new Deno.errors.InvalidData(`reply of the device process: over ${MAX_LINE_BYTES} bytes`);
}

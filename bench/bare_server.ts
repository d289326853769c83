/**
 * A server with no cache behind it: `bare_server.ts SOCKET FILE`. The loop, the ring and the NBD server are those of a device,
 * the engine is `BareEngine` over the file, mapped. It serves until it is killed.
 *
 * @module
 */

import { Arena } from "../io/arena.ts";
import { openDevice } from "../io/files.ts";
import { errorText } from "../io/libc.ts";
import { NbdServer } from "../io/nbd/server.ts";
import { openRing } from "../io/ring.ts";
import * as sockets from "../io/sockets.ts";
import { KIND_SHIFT } from "../io/tokens.ts";
import { BareEngine } from "./bare_engine.ts";

const RING_BYTES = 16 * 1024 * 1024;
const RING_ENTRIES = 256;

function serve(socket_path: string, file_path: string): never {
  const file = openDevice("cache", file_path);
  const arena = new Arena({
    cache_bytes: file.size_bytes,
    buffer_bytes: 0,
    io_bytes: NbdServer.ARENA_BYTES + RING_BYTES,
  });
  const failed = arena.mapCache(file.fd, false);
  if (failed !== 0) throw new Error(`mapping ${file_path}: ${errorText(failed)}`);
  const ring = openRing(arena, RING_ENTRIES);
  const nbd = new NbdServer({
    arena,
    ring,
    memory: {
      receive: (piece, done, from, len_bytes) =>
        void arena.bytes.copyWithin(piece + done, from, from + len_bytes),
      receives_past_caches: false,
    },
    engine: new BareEngine(0),
    sockets,
    served: {
      name: "bare",
      description: "a server with no cache",
      size_bytes: file.size_bytes,
      max_request_bytes: 32 * 1024 * 1024,
      read_only: false,
      is_rotational: false,
      is_failing: false,
    },
    tls: null,
    listeners: [{ fd: sockets.listenUnix(socket_path), tcp: false }],
  });
  nbd.start();
  for (let now_ms = performance.now();;) {
    ring.wait(nbd.nextTimerMs(now_ms));
    while (ring.next()) nbd.handle(ring.user >>> KIND_SHIFT, ring.user, ring.result);
    now_ms = performance.now();
    while (nbd.turn(now_ms));
  }
}

const [socket_path, file_path] = Deno.args;
if (socket_path === undefined || file_path === undefined) {
  throw new Error("usage: bare_server.ts SOCKET FILE");
}
serve(socket_path, file_path);

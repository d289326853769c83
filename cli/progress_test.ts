import { assertEquals } from "@std/assert";
import { FlushProgress } from "./progress.ts";

/** Lets a `FlushProgress` ask a device that answers `replies`, one after another; returns what it wrote. */
async function show(is_terminal: boolean, replies: unknown[]): Promise<string> {
  const dir = Deno.makeTempDirSync();
  using listener = Deno.listen({ transport: "unix", path: `${dir}/control` });
  let written = "";
  const progress = new FlushProgress("d", `${dir}/control`, {
    is_terminal,
    period_ms: 1,
    write: (text) => written += text,
  });
  try {
    for (const reply of replies) {
      using connection = await listener.accept();
      await connection.read(new Uint8Array(4096));
      const before = written;
      await connection.write(new TextEncoder().encode(JSON.stringify(reply) + "\n"));
      while (written === before) await new Promise((wake) => setTimeout(wake, 1));
    }
    progress.finish();
    return written;
  } finally {
    progress.stop();
    Deno.removeSync(dir, { recursive: true });
  }
}

const REPLIES = [
  { ok: true, removing: true, dirty_bytes: 5 << 20, writeback_errors: 0 },
  { ok: true, removing: true, dirty_bytes: 1, writeback_errors: 3 },
];

Deno.test({
  name: "in a pipe the progress is plain lines",
  // A question that nobody answers may be under way when the device is gone.
  sanitizeOps: false,
  sanitizeResources: false,
  fn: async () => {
    assertEquals(
      await show(false, REPLIES),
      "d: 5 MiB to be written back\n" +
        "d: 1 MiB to be written back, 3 errors of the backing device, trying again\n" +
        "d: all data written back\n",
    );
  },
});

Deno.test({
  name: "on a terminal the progress is one line that is redrawn",
  sanitizeOps: false,
  sanitizeResources: false,
  fn: async () => {
    assertEquals(
      await show(true, REPLIES.slice(0, 1)),
      "\r\x1b[Kd: 5 MiB to be written back\r\x1b[Kd: all data written back\n",
    );
  },
});

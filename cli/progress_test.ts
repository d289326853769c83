import { assertEquals } from "@std/assert";
import { FlushProgress, progressText } from "./progress.ts";

const MIB = 1 << 20;

Deno.test("a bar, what is left, the rate, the time to go, and what goes wrong", () => {
  const reply = (mib: number, errors = 0) => ({
    ok: true as const,
    removing: true,
    dirty_bytes: mib * MIB,
    writeback_errors: errors,
  });
  assertEquals(progressText(reply(8), 8 * MIB, 0), `[${".".repeat(24)}] 0%, 8.0 MiB left`);
  assertEquals(
    progressText(reply(2), 8 * MIB, 3000),
    `[${"#".repeat(18)}${".".repeat(6)}] 75%, 2.0 MiB left, 2.0 MiB/s, 1 s to go`,
  );
  assertEquals(
    progressText(reply(9, 3), 8 * MIB, 3000), // clients wrote meanwhile
    `[${".".repeat(24)}] 0%, 9.0 MiB left, 3 errors of the backing device, trying again`,
  );
  assertEquals(progressText(reply(0), 0, 0), `[${"#".repeat(24)}] 100%, 0 B left`);
});

/** Lets a `FlushProgress` ask a device that answers `dirty_bytes`, one after another; returns what it wrote. */
async function show(dirty_bytes: number[], end: "finish" | "stop"): Promise<string> {
  const dir = Deno.makeTempDirSync();
  using listener = Deno.listen({ transport: "unix", path: `${dir}/control` });
  let written = "";
  let now_ms = 0;
  const progress = new FlushProgress("d", `${dir}/control`, {
    first_ms: 1,
    period_ms: 1,
    write: (text) => written += text,
    now_ms: () => now_ms += 1000,
  });
  try {
    for (const bytes of dirty_bytes) {
      using connection = await listener.accept();
      await connection.read(new Uint8Array(4096));
      const before = written;
      const reply = { ok: true, removing: true, dirty_bytes: bytes, writeback_errors: 0 };
      await connection.write(new TextEncoder().encode(JSON.stringify(reply) + "\n"));
      while (written === before) await new Promise((wake) => setTimeout(wake, 1));
    }
    progress[end]();
    return written;
  } finally {
    progress.stop();
    Deno.removeSync(dir, { recursive: true });
  }
}

// A question that nobody answers may be under way when the device is gone.
const LOOSE = { sanitizeOps: false, sanitizeResources: false };

Deno.test({
  name: "the progress is one line that is redrawn, and it ends with a line of its own",
  ...LOOSE,
  fn: async () => {
    assertEquals(
      await show([4 * MIB, 2 * MIB], "finish"),
      `\r\x1b[Kd: [${".".repeat(24)}] 0%, 4.0 MiB left` +
        `\r\x1b[Kd: [${"#".repeat(12)}${".".repeat(12)}] 50%, 2.0 MiB left, 2.0 MiB/s, 1 s to go` +
        "\r\x1b[Kd: all data written back\n",
    );
  },
});

Deno.test({
  name: "what is quick, or is given up, leaves nothing half drawn",
  ...LOOSE,
  fn: async () => {
    assertEquals(await show([], "finish"), "");
    const given_up = await show([4 * MIB], "stop");
    assertEquals(given_up, `\r\x1b[Kd: [${".".repeat(24)}] 0%, 4.0 MiB left\n`);
  },
});

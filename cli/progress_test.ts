import { assertEquals, assertStringIncludes } from "@std/assert";
import { DeviceProgress, progressText } from "./progress.ts";

const MIB = 1 << 20;

Deno.test("a bar, what is left, the rate, the time to go, and what goes wrong", () => {
  const bar = (filled: number) => `[${"#".repeat(filled)}${".".repeat(24 - filled)}]`;
  const NONE = { bytes: 0, elapsed_ms: 0 };
  assertEquals(progressText(0, 8 * MIB, NONE), `${bar(0)} 0%, 8.0 MiB left`);
  assertEquals(
    progressText(6 * MIB, 2 * MIB, { bytes: 3 * MIB, elapsed_ms: 1500 }),
    `${bar(18)} 75%, 2.0 MiB left, 2.0 MiB/s, 1 s to go`,
  );
  assertEquals(
    progressText(0, 9 * MIB, { bytes: 0, elapsed_ms: 3000 }, "3 errors"),
    `${bar(0)} 0%, 9.0 MiB left, 3 errors`,
  );
  assertEquals(progressText(0, 0, NONE), `${bar(24)} 100%, 0 B left`);
});

/** Lets a `DeviceProgress` ask a device that answers `dirty_bytes`, one after another; returns what it wrote. */
async function show(
  dirty_bytes: number[],
  end: "finish" | "stop",
  writeback_errors = 0,
): Promise<string> {
  const dir = Deno.makeTempDirSync();
  using listener = Deno.listen({ transport: "unix", path: `${dir}/control` });
  let written = "";
  let now_ms = 0;
  const progress = new DeviceProgress("d", `${dir}/control`, {
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
      const reply = { ok: true, removing: true, job: null, dirty_bytes: bytes, writeback_errors };
      await connection.write(new TextEncoder().encode(JSON.stringify(reply) + "\n"));
      while (written === before) await new Promise((wake) => setTimeout(wake, 1));
    }
    if (end === "finish") progress.finish("all data written back");
    else progress.stop();
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

Deno.test({
  name: "errors of the backing device are told",
  ...LOOSE,
  fn: async () => {
    assertStringIncludes(
      await show([4 * MIB], "stop", 3),
      " 0%, 4.0 MiB left, 3 errors of the backing device, trying again\n",
    );
  },
});

/**
 * Starts a device process in the background and waits until the device answers.
 *
 * @module
 */

import { CacheError } from "../core/errors.ts";
import type { DeviceEvent, ProgressEvent } from "../io/device_config.ts";
import { runtimeEnv, V8_FLAGS } from "../io/runtime.ts";
import { clearLeftovers } from "../io/run_dir.ts";
import type { Order } from "./device_process.ts";
import { DeviceProcessError } from "./failure.ts";
import { DEVICE_PROCESS } from "./verbs.ts";

/** Signals that end this command: the process that it started ends with it. */
const END_SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

/** What a device says when it answers. */
export type ReadyEvent = Extract<DeviceEvent, { event: "ready" }>;

/**
 * Starts the device and returns when it answers.
 *
 * @param tellProgress Called with what takes time, as it begins and goes on.
 * @throws {CacheError} It could not be started. No process and no file is left behind.
 * @throws {DeviceProcessError} Its process ended without a reason.
 */
export async function launch(
  order: Order,
  tellProgress: (event: ProgressEvent) => void,
): Promise<ReadyEvent> {
  let child: ReturnType<typeof start> | null = null;
  let is_interrupted = false;
  const interrupt = () => {
    is_interrupted = true;
    child?.kill("SIGTERM");
  };
  for (const signal of END_SIGNALS) Deno.addSignalListener(signal, interrupt);
  try {
    child = start();
    const details = new Response(child.stderr).text();
    await hand(child, order);
    const last = await follow(child.stdout, tellProgress);
    if (last?.event === "ready") {
      child.unref();
      return last;
    }
    const status = await child.status;
    clearLeftovers(order.run_root, order.name);
    if (last !== null) throw new CacheError(last.error);
    if (is_interrupted) throw new CacheError("interrupted; nothing is left behind");
    throw endedEarly(status, await details);
  } finally {
    for (const signal of END_SIGNALS) Deno.removeSignalListener(signal, interrupt);
  }
}

/** The same program again. One file (pack/) is its own main module, from source Deno has to be told. */
function start() {
  const is_one_file = Deno.build.standalone || Deno.mainModule.startsWith("data:");
  const args = is_one_file
    ? [DEVICE_PROCESS]
    : ["run", "--allow-all", "--no-prompt", "--quiet", V8_FLAGS, Deno.mainModule, DEVICE_PROCESS];
  return new Deno.Command(Deno.execPath(), {
    args,
    cwd: "/", // so that it keeps no file system busy
    // NO_COLOR: what it writes ends up in a log or a message.
    env: { NO_COLOR: "1", ...runtimeEnv(Deno.env.get("GLIBC_TUNABLES")) },
    detached: true,
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
}

/** A process that dies before it has read its order says more by its end than by the broken pipe. */
async function hand(child: Deno.ChildProcess, order: Order): Promise<void> {
  const writer = child.stdin.getWriter();
  try {
    await writer.write(new TextEncoder().encode(JSON.stringify(order)));
    await writer.close();
  } catch (error) {
    if (!(error instanceof Deno.errors.BrokenPipe)) throw error;
  }
}

/** Reads events until one that ends the start; null when the process ended first. */
async function follow(
  stdout: ReadableStream<Uint8Array<ArrayBuffer>>,
  tellProgress: (event: ProgressEvent) => void,
): Promise<Exclude<DeviceEvent, ProgressEvent> | null> {
  let text = "";
  for await (const chunk of stdout.pipeThrough(new TextDecoderStream())) {
    const lines = (text + chunk).split("\n");
    text = lines.pop()!;
    for (const line of lines) {
      const event = JSON.parse(line) as DeviceEvent;
      if (event.event !== "progress" && event.event !== "reading") return event;
      tellProgress(event);
    }
  }
  return null;
}

function endedEarly(status: Deno.CommandStatus, details: string): Error {
  if (status.signal !== null) {
    return new CacheError(`the device process was ended by ${status.signal} before it answered`);
  }
  const reason = /^error: (?:Uncaught )?(?:\(in promise\) )?(.*)$/m.exec(details)?.[1];
  return new DeviceProcessError(
    `device process: ${reason ?? `status ${status.code} without a reason`}`,
    details,
  );
}

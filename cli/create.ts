/**
 * `create`: starts a device from a table line.
 *
 * @module
 */

import { CacheError } from "../core/errors.ts";
import { parseTable, type Table } from "../core/table.ts";
import { nodeIndex } from "../io/nbd/node_path.ts";
import { checkName, checkUuid, runRoot } from "../io/run_dir.ts";
import { parseConcise } from "./concise.ts";
import type { DeviceConfig } from "../io/device_config.ts";
import { MAJOR } from "./device_fields.ts";
import type { Order } from "./device_process.ts";
import { parseEntrance } from "./entrance.ts";
import { failedOn, UsageError } from "./failure.ts";
import { showVerbose } from "./info.ts";
import { launch } from "./launch.ts";
import { NBD_OPTIONS, type OptionName, type Options } from "./options.ts";
import { warn } from "./output.ts";
import { ProgressBar, terminalScreen } from "./progress.ts";
import { succeed } from "./succession.ts";
import { readStdin, readTable, tableConfig } from "./table_input.ts";

/** `create NAME [FILE]`: returns when the device answers; on failure nothing is left behind. */
export async function run(args: string[], options: Options): Promise<boolean> {
  if (options.concise) return await createConcise(args, options);
  const [name, table_path] = args;
  if (name === undefined) throw new CacheError("Please provide a name for the new device.");
  checkName(name);
  if (options.uuid !== undefined) checkUuid(options.uuid);
  await create({
    name,
    uuid: options.uuid ?? "",
    minor: parseMinor(options),
    read_only: options.readonly === true,
    table: options.notable ? null : await readTable(table_path, options.table),
  }, options);
  await showVerbose("create", name, options);
  return true;
}

/** What is to be created, whichever way it was said. */
interface NewDevice {
  readonly name: string;
  readonly uuid: string;
  readonly minor: number | null;
  readonly read_only: boolean;
  /** Null: it gets one later. */
  readonly table: Table | null;
}

/** `create --concise [DEVICES]`: one after another; the first that fails ends it. */
async function createConcise(args: string[], options: Options): Promise<boolean> {
  if (args.length > 1) throw new CacheError("pcache create --concise takes at most one argument");
  if (CONCISE_EXCLUDES.some((name) => options[name] !== undefined)) {
    throw new CacheError(
      "--concise is incompatible with --[no]table, --minor, --uuid and --inactive.",
    );
  }
  const devices = parseConcise(args[0] ?? await readStdin()).map((device) => {
    checkName(device.name);
    if (device.uuid !== "") checkUuid(device.uuid);
    const table = parseTable(device.table.join("\n"), { kind: "option" });
    return { ...device, read_only: device.read_only || options.readonly === true, table };
  });
  for (const device of devices) {
    await create(device, options);
    await showVerbose("create", device.name, options);
  }
  return true;
}

const CONCISE_EXCLUDES: readonly OptionName[] = ["table", "notable", "minor", "uuid"];

async function create(device: NewDevice, options: Options): Promise<void> {
  const { name, uuid, minor, read_only, table } = device;
  const order: Order = {
    run_root: runRoot(),
    name,
    uuid,
    minor,
    device: {
      table: table === null ? null : tableConfig(table, read_only),
      ...parseEntrance(options),
      frontend: parseFrontend(options),
      attach: parseAttach(options),
      recover: options.recover === true,
      format: options.format === true,
    },
  };
  const is_talkative = options.verbose === true || Deno.stderr.isTerminal();
  const bar = new ProgressBar(name, terminalScreen());
  try {
    const ready = await launch(options.recover ? await succeed(order) : order, (event) => {
      if (event.event === "reading") bar.show(event.done_bytes, event.left_bytes);
      else if (is_talkative) warn(`${name}: ${event.text}`);
    });
    bar.finish("log read");
    for (const note of ready.notes) warn(`${name}: ${note}`);
  } catch (error) {
    bar.stop();
    if (error instanceof CacheError) throw failedOn("create", name, error.message);
    throw error;
  }
}

/** The minor number that was asked for; null: any free one. */
function parseMinor({ major, minor }: Options): number | null {
  if (major === undefined || minor === undefined) return null;
  if (Number(major) !== MAJOR) {
    throw new CacheError(
      `Invalid major number: "${major}", wanted ${MAJOR}: the device is no kernel's`,
    );
  }
  if (!/^[0-9]{1,7}$/.test(minor)) {
    throw new CacheError(`Invalid minor number: "${minor}", wanted a number`);
  }
  return Number(minor);
}

/**
 * Reads how the device is to be served.
 *
 * @throws {UsageError}
 */
function parseFrontend(options: Options): DeviceConfig["frontend"] {
  const { frontend = "nbd" } = options;
  if (frontend !== "nbd" && frontend !== "ublk" && frontend !== "auto") {
    throw new UsageError(`Invalid --frontend argument: "${frontend}", wanted nbd, ublk or auto`);
  }
  const given = NBD_OPTIONS.find((name) => options[name] !== undefined);
  if (frontend === "ublk" && given !== undefined) {
    throw new UsageError(`--${given} is for NBD, but the frontend is ${frontend}`);
  }
  if (frontend === "ublk" && options.attach !== undefined) {
    throw new UsageError("--attach is for NBD, but the frontend is ublk: a block device anyway");
  }
  return frontend;
}

/**
 * Reads of which block device the kernel's NBD client is to be.
 *
 * @throws {UsageError}
 */
function parseAttach({ attach }: Options): DeviceConfig["attach"] {
  if (attach === undefined) return null;
  if (attach === "") return { index: null };
  const index = nodeIndex(attach);
  if (index !== null) return { index };
  throw new UsageError(`Invalid --attach argument: "${attach}", wanted /dev/nbdN`);
}

/**
 * `ls`: the devices and their numbers.
 *
 * @module
 */

import type { InfoReply } from "../io/control_protocol.ts";
import { shortPath } from "./device_fields.ts";
import { livingDevices, printNoDevices } from "./devices.ts";
import { CommandLineError, failedOn } from "./failure.ts";
import type { Options } from "./options.ts";
import { print, printJson, warn } from "./output.ts";
import { formatTree, parseTreeForm } from "./tree.ts";

/** How devices are shown beside their name. */
const FORMS = ["devno", "devname", "blkdevname"] as const;
export type DeviceForm = (typeof FORMS)[number];

/** Prints `NAME\t(MAJ:MIN)` for each device, or `NAME\t(MAJ, MIN)` with `--target`, as dmsetup does. */
export async function run(_args: string[], options: Options): Promise<boolean> {
  const tree_form = options.tree ? parseTreeForm(options.options ?? "") : null;
  const form = options.tree ? "devno" : parseDeviceForm(options.options);
  const all = await livingDevices();
  const { target } = options;
  const devices = target === undefined ? all : all.filter((info) => info.live_target === target);
  if (options.json) {
    printJson(devices.map(({ name, major, minor }) => ({ name, major, minor })));
    return true;
  }
  if (devices.length === 0) printNoDevices();
  else if (tree_form !== null) formatTree(devices, tree_form, isUtf()).forEach(print);
  else if (options.exec !== undefined) return await execute(options.exec, devices);
  const separator = target === undefined ? ":" : ", ";
  if (tree_form === null) { for (const info of devices) print(deviceLine(info, form, separator)); }
  return true;
}

/**
 * Reads what `-o` says about how devices are shown.
 *
 * @throws {CommandLineError}
 */
export function parseDeviceForm(text = "devno"): DeviceForm {
  const form = text.split(",").filter((word) => word !== "").at(-1) ?? "devno";
  const known = FORMS.find((known) => known === form);
  if (known === undefined) throw new CommandLineError(`Option not recognised: ${form}.`);
  return known;
}

/** A device that is served on a socket has no block device: its name is all there is. */
function deviceLine(info: InfoReply, form: DeviceForm, separator: string): string {
  const { name, major, minor, node } = info;
  if (form === "devno") return `${name}\t(${major}${separator}${minor})`;
  return `${name}\t(${form === "blkdevname" && node !== "" ? shortPath(node) : name})`;
}

function isUtf(): boolean {
  const locale = Deno.env.get("LC_ALL") || Deno.env.get("LC_CTYPE") || Deno.env.get("LANG") || "";
  return /utf-?8/i.test(locale);
}

/** Runs a command for each device, its name behind the command's own words. False: one of them failed. */
async function execute(command: string, devices: readonly InfoReply[]): Promise<boolean> {
  const words = command.split(/\s+/).filter((word) => word !== "");
  if (words.length === 0) throw new CommandLineError('Invalid --exec argument: "".');
  let is_ok = true;
  for (const { name } of devices) {
    const problem = await runFor(words, name);
    if (problem === null) continue;
    warn(failedOn("ls", name, problem).message);
    is_ok = false;
  }
  return is_ok;
}

/** Runs the command with the name behind it; says what went wrong, if something did. */
async function runFor([program, ...args]: string[], name: string): Promise<string | null> {
  try {
    const { code, signal } = await new Deno.Command(program!, {
      args: [...args, name],
      stdin: "inherit",
      stdout: "inherit",
      stderr: "inherit",
    }).output();
    return code === 0 ? null : `${program} ended with ${signal ?? `status ${code}`}`;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return `${program}: command not found`;
    if (error instanceof Deno.errors.PermissionDenied) return `${program}: Permission denied`;
    throw error;
  }
}

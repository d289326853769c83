/**
 * `info`: a device's state, where its clients connect, and its process; with `-c` as a report.
 *
 * @module
 */

import type { InfoReply } from "../io/control_protocol.ts";
import { DEVICE_FIELDS, tablesPresent, targetCount } from "./device_fields.ts";
import { ask, askAll, printNoDevices } from "./devices.ts";
import { CommandLineError, ReportHelp } from "./failure.ts";
import type { Options } from "./options.ts";
import { print, printJson, warn } from "./output.ts";
import { parseRepetition, repeat } from "./repeat.ts";
import { formatReport, reportForm, reportObjects } from "./report/report.ts";

/** Prints a block of lines, or with `-c` a line, for each device named, or for all. */
export async function run(names: string[], options: Options): Promise<boolean> {
  const repetition = parseRepetition(options);
  if (options.columns) {
    const form = deviceForm(options);
    return form !== null && await repeat(repetition, () => report(form, names, options));
  }
  if (options.options !== undefined) {
    throw new CommandLineError(`Option not recognised: ${options.options}.`);
  }
  return await repeat(repetition, () => showAll(names, options));
}

/** Null: help was asked for and has been shown; for this verb dmsetup calls that a failure. */
function deviceForm(options: Options) {
  try {
    return reportForm(DEVICE_FIELDS, options);
  } catch (error) {
    if (!(error instanceof ReportHelp)) throw error;
    warn(error.message);
    return null;
  }
}

async function report(
  form: ReturnType<typeof reportForm<InfoReply>>,
  names: string[],
  options: Options,
): Promise<boolean> {
  const { answers, is_ok } = await askAll("info", names, { verb: "info" });
  const rows = answers.map((answer) => answer.reply);
  if (options.json) printJson(reportObjects(form, rows));
  else if (names.length === 0 && rows.length === 0) printNoDevices();
  else for (const line of formatReport(form, rows)) print(line);
  return is_ok;
}

async function showAll(names: string[], options: Options): Promise<boolean> {
  const { answers, is_ok } = await askAll("info", names, { verb: "info" });
  if (options.json) {
    printJson(answers.map(({ reply: { ok: _, ...info } }) => info));
    return is_ok;
  }
  if (names.length === 0 && answers.length === 0) printNoDevices();
  for (const { reply } of answers) print(infoText(reply));
  return is_ok;
}

/** What `-v` adds to a verb that changes a device: its information afterwards. */
export async function showVerbose(verb: string, name: string, options: Options): Promise<void> {
  if (options.verbose) print(infoText(await ask(verb, name, { verb: "info" })));
}

/** dmsetup's lines, then our own in the same column, then an empty line. */
export function infoText(info: InfoReply): string {
  const state = (info.is_suspended ? "SUSPENDED" : "ACTIVE") +
    (info.read_only ? " (READ-ONLY)" : "") + (info.is_deferred ? " (DEFERRED REMOVE)" : "");
  const lines = [
    `Name:              ${info.name}`,
    `State:             ${state}`,
    `Read Ahead:        0`,
    `Tables present:    ${tablesPresent(info)}`,
    `Open count:        ${info.open_count}`,
    `Event number:      ${info.event_nr}`,
    `Major, minor:      ${info.major}, ${info.minor}`,
    `Number of targets: ${targetCount(info)}`,
  ];
  if (info.uuid !== "") lines.push(`UUID: ${info.uuid}`);
  lines.push(`Frontend:          ${info.frontend}`);
  if (info.node !== "") lines.push(`Node:              ${info.node}`);
  if (info.link !== "") lines.push(`Link:              ${info.link}`);
  if (info.uri !== "") lines.push(`URI:               ${info.uri}`);
  lines.push(`PID:               ${info.pid}`);
  const is_on_server = info.backing_path !== "" && info.backing_dev === null;
  if (is_on_server) lines.push(`Backing:           ${backingState(info)}`);
  return lines.join("\n") + "\n";
}

/** How the connection to a backing device on a server is. */
function backingState({ backing_trouble }: InfoReply): string {
  return backing_trouble === "" ? "connected" : `not connected (${backing_trouble})`;
}

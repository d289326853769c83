/**
 * `splitname`: takes a device name apart. It asks no device.
 *
 * @module
 */

import { NAME_PART_FIELDS } from "./device_fields.ts";
import { ReportHelp } from "./failure.ts";
import { LVM, splitName } from "./names.ts";
import type { Options } from "./options.ts";
import { print, printJson, warn } from "./output.ts";
import { parseRepetition, repeat } from "./repeat.ts";
import { formatReport, reportForm, reportObjects } from "./report/report.ts";

/** `splitname NAME [SUBSYSTEM]`: a report of one row. */
export async function run(args: string[], options: Options): Promise<boolean> {
  const [name, subsystem = LVM] = args as [string, string?];
  const repetition = parseRepetition(options);
  let form;
  try {
    form = reportForm(NAME_PART_FIELDS, options);
  } catch (error) {
    if (!(error instanceof ReportHelp)) throw error;
    warn(error.message);
    return true; // as dmsetup does for this verb
  }
  const rows = [splitName(name, subsystem)];
  return await repeat(repetition, () => {
    if (options.json) printJson(reportObjects(form, rows));
    else for (const line of formatReport(form, rows)) print(line);
    return true;
  });
}

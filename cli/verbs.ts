/**
 * The one table of verbs: dispatch, usage and help come from it. A verb's code is loaded when it is called.
 *
 * @module
 */

import { NBD_OPTIONS, type OptionName, type Options } from "./options.ts";

/** Runs a verb. False: it failed on some device and has said why. Throws when it could not go on. */
export type VerbFunction = (args: string[], options: Options) => Promise<boolean> | boolean;

/** The word that makes the program a device process (device_process.ts); it is no verb for users. */
export const DEVICE_PROCESS = "device-process";

/** The options that name a device otherwise than by its name, where a verb takes one. */
export const ADDRESS_OPTIONS: readonly OptionName[] = ["uuid", "major", "minor"];

/** The options of reports. */
const REPORT_OPTIONS: readonly OptionName[] = [
  "columns",
  "options",
  "sort",
  "select",
  "noheadings",
  "separator",
  "nameprefixes",
  "unquoted",
  "rows",
  "count",
  "interval",
  "json",
];

/** A verb of the command line. */
export interface Verb {
  readonly name: string;
  /** What follows the name in the usage. */
  readonly usage: string;
  /** One line of help. */
  readonly help: string;
  readonly min_args: number;
  readonly max_args: number;
  /** Which arguments name devices; `new`: the first names one that is to be. */
  readonly devices: "none" | "new" | "first" | "all";
  /** Another name. */
  readonly alias?: string;
  readonly options: readonly OptionName[];
  readonly load: () => Promise<{ run: VerbFunction }>;
}

/** Every verb, in the order of the help. */
export const VERBS: readonly Verb[] = [
  {
    name: "help",
    usage: "[-c|-C|--columns]",
    help: "Shows this text, with -c the fields of info -c, too",
    min_args: 0,
    max_args: 0,
    devices: "none",
    options: ["columns"],
    load: () => import("./help.ts"),
  },
  {
    name: "create",
    usage: "<dev_name> [-u|--uuid <uuid>] [-j|--major <major> -m|--minor <minor>]\n" +
      "\t    [-n|--notable|--table <table>|<table_file>] [-r|--readonly]\n" +
      "\t    [--listen [<host>:]<port>|systemd[:<name>]] [--insecure] [--format]\n" +
      "\t    [--frontend nbd|ublk|auto] [--attach[=<node>]] [--recover]\n" +
      "\t    [--tls <off|on|require>] [--tls-certificates <dir>] [--tls-verify-peer]\n" +
      "\t    [--tls-psk <file>]\n" +
      "\tcreate --concise [<concise_device_spec_list>]",
    help: "Starts a device. The table comes from --table, a file or the standard input;\n" +
      "with --concise the names and tables of several from one line",
    min_args: 0,
    max_args: 2,
    devices: "new",
    options: [
      "table",
      "notable",
      "readonly",
      "frontend",
      "attach",
      "recover",
      ...NBD_OPTIONS,
      "format",
      "concise",
    ],
    load: () => import("./create.ts"),
  },
  {
    name: "remove",
    usage: "[--flush] [--deferred] [-f|--force] [--retry] <device>...",
    help: "Ends devices. Dirty data stays in the cache, unless --flush writes it back first;\n" +
      "--force drops clients, --deferred waits in the background until they have gone",
    min_args: 0,
    max_args: Infinity,
    devices: "all",
    options: ["flush", "deferred", "force", "retry"],
    load: () => import("./remove.ts"),
  },
  {
    name: "remove_all",
    usage: "[--flush] [--deferred] [-f|--force]",
    help: "Ends all devices and clears away what killed ones left in the run directory",
    min_args: 0,
    max_args: 0,
    devices: "none",
    options: ["flush", "deferred", "force"],
    load: () => import("./remove_all.ts"),
  },
  {
    name: "suspend",
    usage: "[--noflush] [--nolockfs] <device>...",
    help: "Holds I/O: what is under way ends, everything later waits for resume",
    min_args: 0,
    max_args: Infinity,
    devices: "all",
    options: ["noflush", "nolockfs"],
    load: () => import("./suspend.ts"),
  },
  {
    name: "resume",
    usage: "[--noflush] [--nolockfs] <device>...",
    help: "Lets I/O go on, and makes a table that was loaded the live one",
    min_args: 0,
    max_args: Infinity,
    devices: "all",
    options: ["noflush", "nolockfs"],
    load: () => import("./resume.ts"),
  },
  {
    name: "load",
    alias: "reload",
    usage: "<device> [--table <table>|<table_file>] [-r|--readonly]",
    help:
      "Puts a table into the inactive place. Of a live table -r, cache_mode and eviction can change,\n" +
      "and both devices can have become larger",
    min_args: 0,
    max_args: 2,
    devices: "first",
    options: ["table", "readonly"],
    load: () => import("./load.ts"),
  },
  {
    name: "clear",
    usage: "<device>",
    help: "Empties the inactive place",
    min_args: 0,
    max_args: Infinity,
    devices: "all",
    options: [],
    load: () => import("./clear.ts"),
  },
  {
    name: "wipe_table",
    usage: "[-f|--force] [--noflush] [--nolockfs] <device>...",
    help: "Replaces the table by one that fails all I/O, and lets go of both devices",
    min_args: 0,
    max_args: Infinity,
    devices: "all",
    options: ["force", "noflush", "nolockfs"],
    load: () => import("./wipe_table.ts"),
  },
  {
    name: "rename",
    usage: "<device> [--setuuid] <new_name_or_uuid>",
    help: "Gives a device another name, or a UUID if it has none",
    min_args: 2,
    max_args: 2,
    devices: "first",
    options: ["setuuid"],
    load: () => import("./rename.ts"),
  },
  {
    name: "wait",
    usage: "<device> [<event_nr>] [--noflush] [--json]",
    help: "Sleeps until an event after that one: a change of the table or a setting, suspend,\n" +
      "resume, rename, an I/O error, the cache becoming clean or full",
    min_args: 0,
    max_args: 2,
    devices: "first",
    options: ["noflush", "json"],
    load: () => import("./wait.ts"),
  },
  {
    name: "status",
    usage: "[<device>...] [--noflush] [--inactive] [--target <target_type>] [--json]",
    help: "Prints each device's status fields; it never writes anything, with or without --noflush",
    min_args: 0,
    max_args: Infinity,
    devices: "all",
    options: ["noflush", "inactive", "target", "json"],
    load: () => import("./status.ts"),
  },
  {
    name: "table",
    usage: "[<device>...] [--concise] [--inactive] [--target <target_type>] [--noflush]\n" +
      "\t    [--json]",
    help: "Prints each device's table in a form that create accepts",
    min_args: 0,
    max_args: Infinity,
    devices: "all",
    options: ["concise", "inactive", "target", "noflush", "json"],
    load: () => import("./table.ts"),
  },
  {
    name: "message",
    usage: "<device> <sector> <message>",
    help:
      "Changes a setting: gc_percent 0..90, cache_mode MODE, writeback_rate BYTES|max|pause,\n" +
      "eviction fifo|reinsert, sequential_cutoff BYTES. Or has something done, and waits for\n" +
      "it: flush (write back), drop_clean, invalidate <start> <length>, scrub. Sector: use 0",
    min_args: 3,
    max_args: Infinity,
    devices: "first",
    options: [],
    load: () => import("./message.ts"),
  },
  {
    name: "ls",
    usage: "[--target <target_type>] [--exec <command>] [-o|--options <options>] [--tree]\n" +
      "\t    [--json]",
    help: "Lists the devices and their numbers",
    min_args: 0,
    max_args: 0,
    devices: "none",
    options: ["target", "exec", "options", "tree", "json"],
    load: () => import("./ls.ts"),
  },
  {
    name: "info",
    usage: "[<device>...] [--count <count>] [--interval <seconds>] [--json]\n" +
      "\tinfo -c|-C|--columns [-o|--options <fields>] [-O|--sort <sort_fields>]\n" +
      "\t    [-S|--select <selection>] [--nameprefixes] [--unquoted] [--noheadings]\n" +
      "\t    [--separator <separator>] [--rows] [<device>...]",
    help: "Prints each device's state, where clients connect to it, and its process;\n" +
      "with -c as a report",
    min_args: 0,
    max_args: Infinity,
    devices: "all",
    options: REPORT_OPTIONS,
    load: () => import("./info.ts"),
  },
  {
    name: "stats",
    usage: "[<device>...] [--json|--prometheus] [--watch] [--count <count>] [--interval <seconds>]",
    help: "Prints what each device has done: requests, hits, latencies, write-back, errors;\n" +
      "with --watch every second",
    min_args: 0,
    max_args: Infinity,
    devices: "all",
    options: ["json", "prometheus", "watch", "count", "interval"],
    load: () => import("./stats.ts"),
  },
  {
    name: "deps",
    usage: "[-o|--options <options>] [<device>...] [--json]",
    help: "Prints which cache device and backing device each device stands on",
    min_args: 0,
    max_args: Infinity,
    devices: "all",
    options: ["options", "json"],
    load: () => import("./deps.ts"),
  },
  {
    name: "check",
    usage: "<cache_dev> [<backing_dev>] [--data] [--json]",
    help:
      "Checks a cache device that is not in use, a line for each finding; status 1 if one of them\n" +
      "is an error. With the backing device also whether all keys lie on it",
    min_args: 1,
    max_args: 2,
    devices: "none",
    options: ["data", "json"],
    load: () => import("./check.ts"),
  },
  {
    name: "dump",
    usage: "<cache_dev> [--json]",
    help: "Prints what is on a cache device that is not in use: its structures, ksets and keys",
    min_args: 1,
    max_args: 1,
    devices: "none",
    options: ["json"],
    load: () => import("./dump.ts"),
  },
  {
    name: "writeback",
    usage: "<cache_dev> <backing_dev>",
    help: "Writes everything that is dirty in a cache that is not in use back, without serving it",
    min_args: 2,
    max_args: 2,
    devices: "none",
    options: [],
    load: () => import("./writeback.ts"),
  },
  {
    name: "repair",
    usage: "<cache_dev> [<backing_dev>] [--json]",
    help:
      "Says how a damaged cache that is not in use can be repaired, and what is lost; does it with\n" +
      "--yes only",
    min_args: 1,
    max_args: 2,
    devices: "none",
    options: ["json"],
    load: () => import("./repair.ts"),
  },
  {
    name: "grow",
    usage: "<cache_dev>",
    help: "Gives a cache that is not in use the segments that its device has gained",
    min_args: 1,
    max_args: 1,
    devices: "none",
    options: [],
    load: () => import("./grow.ts"),
  },
  {
    name: "format",
    usage: "<cache_dev> [<key> <value>...]",
    help:
      "Makes a new cache, with the keys of a table; over what was a cache, or something else,\n" +
      "with --yes only: its content is lost then",
    min_args: 1,
    max_args: Infinity,
    devices: "none",
    options: [],
    load: () => import("./format.ts"),
  },
  {
    name: "mknodes",
    usage: "[<device>...]",
    help: "Does nothing: there are no nodes to make",
    min_args: 0,
    max_args: Infinity,
    devices: "all",
    options: [],
    load: () => import("./mknodes.ts"),
  },
  {
    name: "splitname",
    usage: "<device> [<subsystem>] [<options of info -c>]",
    help: "Takes a device name apart as LVM composes them",
    min_args: 1,
    max_args: 2,
    devices: "none",
    options: REPORT_OPTIONS,
    load: () => import("./splitname.ts"),
  },
  {
    name: "targets",
    usage: "[--json]",
    help: "Lists the target types and their versions",
    min_args: 0,
    max_args: 0,
    devices: "none",
    options: ["json"],
    load: () => import("./targets.ts"),
  },
  {
    name: "target-version",
    usage: "[<target>...] [--json]",
    help: "Prints the version of target types",
    min_args: 0,
    max_args: Infinity,
    devices: "none",
    options: ["json"],
    load: () => import("./target_version.ts"),
  },
  {
    name: "version",
    usage: "[--json]",
    help: "Prints the version of the program and of its engine",
    min_args: 0,
    max_args: 0,
    devices: "none",
    options: ["json"],
    load: () => import("./version.ts"),
  },
];

/** What is printed after a wrong command line, and by `help`, which adds a line about each verb. */
export function usageText(has_help = false): string {
  const lines = [USAGE_HEAD];
  for (const verb of VERBS) {
    lines.push(`\t${`${verb.name} ${verb.usage}`.trimEnd()}`);
    if (verb.alias !== undefined) lines.push(`\t${verb.alias}: the same`);
    if (has_help) lines.push(...verb.help.split("\n").map((line) => `\t        ${line}`));
  }
  return lines.join("\n") + "\n" + USAGE_TAIL;
}

const USAGE_HEAD = `Usage:

pcache
        [--version] [-h|--help] [-v|--verbose] [-y|--yes]
`;

const USAGE_TAIL = `
<device> may be device name or (if only one) -u <uuid> or -j <major> -m <minor>
<fields> are comma-separated.  Use 'help -c' for list.
<concise_device_specification> has single-device entries separated by semi-colons:
    <name>,<uuid>,<minor>,<flags>,<table>
        where <flags> is 'ro' or 'rw' (the default) and any of <uuid>, <minor>
        and <flags> may be empty.
Table_file contents may be supplied on stdin.
Options are: devno, devname, blkdevname.
Tree specific options are: ascii, utf; inverted, notrunc;
                           blkdevname, [no]device, active, open, rw and uuid.
`;

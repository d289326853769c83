/**
 * The one table of verbs: dispatch, usage and help come from it. A verb's code is loaded when it is called.
 *
 * @module
 */

import type { OptionName, Options } from "./options.ts";

/** Runs a verb. False: it failed on some device and has said why. Throws when it could not go on. */
export type VerbFunction = (args: string[], options: Options) => Promise<boolean> | boolean;

/** The word that makes the program a device process (device_process.ts); it is no verb for users. */
export const DEVICE_PROCESS = "device-process";

/** A verb of the command line. */
export interface Verb {
  readonly name: string;
  /** What follows the name in the usage. */
  readonly usage: string;
  /** One line of help. */
  readonly help: string;
  readonly min_args: number;
  readonly max_args: number;
  readonly options: readonly OptionName[];
  readonly load: () => Promise<{ run: VerbFunction }>;
}

/** Every verb, in the order of the help. */
export const VERBS: readonly Verb[] = [
  {
    name: "help",
    usage: "",
    help: "Shows this text",
    min_args: 0,
    max_args: 0,
    options: [],
    load: () => import("./help.ts"),
  },
  {
    name: "create",
    usage: "<dev_name> [--table <table>|<table_file>] [-u|--uuid <uuid>] [-r|--readonly]\n" +
      "\t    [--listen <host>:<port>] [--format]",
    help: "Starts a device. The table comes from --table, a file or the standard input",
    min_args: 0,
    max_args: 2,
    options: ["table", "uuid", "readonly", "listen", "format"],
    load: () => import("./create.ts"),
  },
  {
    name: "remove",
    usage: "[--flush] [--retry] <device>...",
    help: "Ends devices. Dirty data stays in the cache, unless --flush writes it back first",
    min_args: 0,
    max_args: Infinity,
    options: ["flush", "retry"],
    load: () => import("./remove.ts"),
  },
  {
    name: "remove_all",
    usage: "[--flush]",
    help: "Ends all devices and clears away what killed ones left in the run directory",
    min_args: 0,
    max_args: 0,
    options: ["flush"],
    load: () => import("./remove_all.ts"),
  },
  {
    name: "status",
    usage: "[<device>...] [--noflush] [--target <target_type>] [--json]",
    help: "Prints each device's status fields; it never writes anything, with or without --noflush",
    min_args: 0,
    max_args: Infinity,
    options: ["noflush", "target", "json"],
    load: () => import("./status.ts"),
  },
  {
    name: "table",
    usage: "[<device>...] [--target <target_type>] [--json]",
    help: "Prints each device's table in a form that create accepts",
    min_args: 0,
    max_args: Infinity,
    options: ["target", "json"],
    load: () => import("./table.ts"),
  },
  {
    name: "message",
    usage: "<device> <sector> <message>",
    help: "Changes a setting: gc_percent 0..90. The sector is not needed: use 0",
    min_args: 3,
    max_args: Infinity,
    options: [],
    load: () => import("./message.ts"),
  },
  {
    name: "ls",
    usage: "[--target <target_type>] [--json]",
    help: "Lists the devices and their numbers",
    min_args: 0,
    max_args: 0,
    options: ["target", "json"],
    load: () => import("./ls.ts"),
  },
  {
    name: "info",
    usage: "[<device>...] [--json]",
    help: "Prints each device's state, where clients connect to it, and its process",
    min_args: 0,
    max_args: Infinity,
    options: ["json"],
    load: () => import("./info.ts"),
  },
  {
    name: "deps",
    usage: "[-o <devno|devname>] [<device>...] [--json]",
    help: "Prints which cache device and backing device each device stands on",
    min_args: 0,
    max_args: Infinity,
    options: ["options", "json"],
    load: () => import("./deps.ts"),
  },
  {
    name: "mknodes",
    usage: "[<device>...]",
    help: "Does nothing: there are no nodes to make",
    min_args: 0,
    max_args: Infinity,
    options: [],
    load: () => import("./mknodes.ts"),
  },
  {
    name: "targets",
    usage: "",
    help: "Lists the target types and their versions",
    min_args: 0,
    max_args: 0,
    options: [],
    load: () => import("./targets.ts"),
  },
  {
    name: "target-version",
    usage: "[<target>...]",
    help: "Prints the version of target types",
    min_args: 0,
    max_args: Infinity,
    options: [],
    load: () => import("./target_version.ts"),
  },
  {
    name: "version",
    usage: "",
    help: "Prints the version of the program and of its engine",
    min_args: 0,
    max_args: 0,
    options: [],
    load: () => import("./version.ts"),
  },
];

/** What is printed after a wrong command line, and by `help`. */
export function usageText(): string {
  const lines = ["Usage:", "", "pcache", "        [--version] [-h|--help] [-v|--verbose]", ""];
  for (const verb of VERBS) lines.push(`\t${`${verb.name} ${verb.usage}`.trimEnd()}`);
  return lines.join("\n") + "\n";
}

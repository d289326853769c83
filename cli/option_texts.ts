/**
 * What each option is for: the manual and the shells' completions are made from this and the table of verbs. A new
 * option does not compile without its text.
 *
 * @module
 */

import type { FlagName, OptionalName, ValueName } from "./options.ts";

/** One line of help for an option that is on or off. */
export type FlagText = string;

/** The same for an option that takes a value. */
export interface ValueText {
  /** What stands for the value in a usage line: `<device>`, `<file>`, `<target_type>`, `<table>`, `<a|b>`... */
  readonly value: string;
  readonly help: string;
}

/** The texts of the options that are on or off. */
export const FLAG_TEXTS: { readonly [N in FlagName]: FlagText } = {
  columns: "Print a report: one line for each device, one column for each field",
  concise: "Print devices in one line, or create those of such a line",
  data: "Verify the checksum of all data, too",
  deferred: "Remove a device that is in use when its last client goes",
  flush: "Write all dirty data back before the device ends, and show how far that is",
  force: "Replace the table by one that fails all I/O, drop the clients, and remove the device",
  format: "Format the cache device although a cache was seen on it; its dirty data is lost",
  help: "Show the usage",
  inactive: "Look at the inactive table instead of the live one",
  insecure:
    "Serve an address that is not loopback without TLS: whoever reaches it can do everything",
  json: "Print JSON, for programs",
  nameprefixes: "Print each field as DM_NAME='value', for a shell",
  noflush: "On suspend: do not wait for what is under way; elsewhere accepted for dmsetup's sake",
  noheadings: "Leave out the line of headings, and do not align",
  nolockfs: "Accepted for dmsetup's sake: there is no file system to lock",
  notable: "Create a device without a table; load and resume give it one",
  prometheus: "Print in the text format of Prometheus",
  readonly: "Refuse writes to the cached device",
  recover:
    "Go on with the device in a new process: with the block device that a killed one has left, or in " +
    "place of the living one, which ends",
  retry: "While the device is busy, try again: 25 times, 200 ms apart",
  rows: "Print fields as lines and devices as columns",
  setuuid: "Set the UUID of a device that has none, instead of its name",
  "tls-verify-peer": "Let in only clients with a certificate of the authority in ca-cert.pem",
  tree: "Print devices and what they stand on as a tree",
  unquoted: "With --nameprefixes: leave out the quotes",
  verbose: "Say more of what is going on, and show the details of an internal error",
  version: "Print the version, as the verb version does",
  watch: "Print again and again, until interrupted",
  yes:
    "Answer questions with yes: of format whether what was there may go, of repair whether to write",
};

/** The texts of the options that may have a value. */
export const OPTIONAL_TEXTS: { readonly [N in OptionalName]: FlagText } = {
  attach:
    "Make a block device of it by the kernel's NBD client: any free one, or --attach=/dev/nbdN",
};

/** The texts of the options that take a value. */
export const VALUE_TEXTS: { readonly [N in ValueName]: ValueText } = {
  count: { value: "<count>", help: "How often a report is made; 0: until interrupted" },
  exec: { value: "<command>", help: "Run a command for each device, its name behind the command" },
  frontend: {
    value: "<nbd|ublk|auto>",
    help: "Serve over NBD (the default), as a block device /dev/ublkbN, or as one where that works",
  },
  interval: { value: "<seconds>", help: "Time between two reports; without --count for ever" },
  listen: {
    value: "[<host>:]<port>",
    help:
      "Serve NBD on TCP (loopback where no host is given) instead of a Unix socket; systemd: on " +
      "the unit's sockets; systemd:NAME: on those of that name",
  },
  major: { value: "<major>", help: "With --minor: the device of these numbers" },
  minor: { value: "<minor>", help: "With --major: the device of these numbers, or those it gets" },
  options: { value: "<fields>", help: "Fields of a report, or devno, devname or blkdevname" },
  select: { value: "<selection>", help: "Only rows for which this holds: minor>3 && name=~vol" },
  separator: { value: "<separator>", help: "Print this between two fields, and do not align" },
  sort: { value: "<fields>", help: "Sort by these fields; - in front of one: downwards" },
  table: { value: "<table>", help: "The table line, instead of a file or the standard input" },
  target: { value: "<target_type>", help: "Only devices of this target type" },
  tls: {
    value: "<off|on|require>",
    help: "Whether clients may or have to use TLS; with certificates or keys they have to",
  },
  "tls-certificates": {
    value: "<dir>",
    help: "TLS with the certificate server-cert.pem and its key server-key.pem of a directory",
  },
  "tls-psk": {
    value: "<file>",
    help: "TLS with keys that clients have, too: lines USER:KEY, as psktool makes them",
  },
  uuid: { value: "<uuid>", help: "A UUID of the device: 1 to 128 printable characters" },
};

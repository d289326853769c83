/**
 * What each option is for: the manual and the shells' completions are made from this and the table of verbs. A new
 * option does not compile without its text.
 *
 * @module
 */

import type { FlagName, ValueName } from "./options.ts";

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
  flush: "Write all dirty data back before the device ends, and show how far that is",
  format: "Format the cache device although a cache was seen on it; its dirty data is lost",
  help: "Show the usage",
  json: "Print JSON, for programs",
  noflush: "Accepted for dmsetup's sake: nothing is flushed with it or without it",
  readonly: "Refuse writes to the cached device",
  retry: "While the device is busy, try again: 25 times, 200 ms apart",
  verbose: "Say more of what is going on, and show the details of an internal error",
  version: "Print the version, as the verb version does",
};

/** The texts of the options that take a value. */
export const VALUE_TEXTS: { readonly [N in ValueName]: ValueText } = {
  listen: {
    value: "<host>:<port>",
    help: "Serve NBD on a TCP address instead of a Unix socket, without encryption or passwords",
  },
  options: { value: "<devno|devname>", help: "Print devices as numbers or as names" },
  table: { value: "<table>", help: "The table line, instead of a file or the standard input" },
  target: { value: "<target_type>", help: "Only devices of this target type" },
  uuid: { value: "<uuid>", help: "A UUID of the device: 1 to 128 printable characters" },
};

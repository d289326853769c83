/**
 * The command line as the generators of completions and of the manual need it, from the one table of verbs.
 *
 * @module
 */

import { DEVICE_FIELDS, NAME_PART_FIELDS } from "../cli/device_fields.ts";
import { FLAG_TEXTS, OPTIONAL_TEXTS, VALUE_TEXTS } from "../cli/option_texts.ts";
import { COMMON_OPTIONS, FLAGS, OPTIONALS, type OptionName, VALUES } from "../cli/options.ts";
import { ADDRESS_OPTIONS, type Verb, VERBS } from "../cli/verbs.ts";
import { TARGET_TYPE } from "../core/table.ts";
import { JOB_WORDS } from "../io/jobs.ts";
import { SETTING_WORDS } from "../io/settings.ts";

/** What may stand at a place of the command line; `list`: several of the words, with commas in between. */
export type Offer =
  | { readonly kind: "nothing" | "devices" | "files" | "commands" | "table" }
  | { readonly kind: "words" | "list"; readonly words: readonly string[] };

/** An option of a verb. */
export interface OptionForm {
  /** Letters, then the name, all with their hyphens. */
  readonly words: readonly string[];
  readonly help: string;
  /** What stands for its value, and what may be offered; null: it takes none. */
  readonly value: { readonly placeholder: string; readonly offer: Offer } | null;
}

/** A verb, with what it takes. */
export interface VerbForm {
  readonly names: readonly string[];
  readonly usage: string;
  readonly help: string;
  /** Without those that every verb takes. */
  readonly options: readonly OptionForm[];
  /** What may stand as first and second argument, and after these. */
  readonly args: readonly [Offer, Offer, Offer];
}

const NOTHING: Offer = { kind: "nothing" };
const DEVICES: Offer = { kind: "devices" };
const FILES: Offer = { kind: "files" };
const MESSAGES: Offer = { kind: "words", words: [...SETTING_WORDS, ...JOB_WORDS] };
const TARGETS: Offer = { kind: "words", words: [TARGET_TYPE] };

/** The options that every verb takes. */
export const COMMON_FORMS: readonly OptionForm[] = COMMON_OPTIONS.map((name) =>
  optionForm(name, "")
);

/** Every verb, in the order of the help. */
export const VERB_FORMS: readonly VerbForm[] = VERBS.map((verb) => ({
  names: verb.alias === undefined ? [verb.name] : [verb.name, verb.alias],
  usage: verb.usage,
  help: verb.help.replaceAll("\n", " "),
  options: optionsOf(verb).map((name) => optionForm(name, verb.name)),
  args: argsOf(verb),
}));

function optionsOf(verb: Verb): OptionName[] {
  const names = verb.devices === "none" ? verb.options : [...ADDRESS_OPTIONS, ...verb.options];
  return [...new Set(names)].sort();
}

function argsOf({ devices, usage }: Verb): [Offer, Offer, Offer] {
  if (devices === "all") return [DEVICES, DEVICES, DEVICES];
  if (usage.includes("[<target>...]")) return [TARGETS, TARGETS, TARGETS];
  if (usage.startsWith("<cache_dev>")) {
    return [FILES, usage.includes("<backing_dev>") ? FILES : NOTHING, NOTHING];
  }
  const second = usage.includes("<table_file>") ? FILES : NOTHING;
  const more = usage.includes("<message>") ? MESSAGES : NOTHING;
  return [devices === "first" ? DEVICES : NOTHING, second, more];
}

function optionForm(name: OptionName, verb: string): OptionForm {
  const letters: string = { ...FLAGS, ...VALUES, ...OPTIONALS }[name];
  const words = [...[...letters].map((letter) => `-${letter}`), `--${name}`];
  // The word after it is never its value.
  if (name === "attach") return { words, help: OPTIONAL_TEXTS[name], value: null };
  if (isFlag(name)) return { words, help: FLAG_TEXTS[name], value: null };
  const { value, help } = VALUE_TEXTS[name];
  return { words, help, value: { placeholder: value, offer: valueOffer(name, verb) } };
}

function isFlag(name: OptionName): name is keyof typeof FLAGS {
  return Object.hasOwn(FLAGS, name);
}

function valueOffer(name: OptionName, verb: string): Offer {
  if (name === "table") return { kind: "table" };
  if (name === "target") return TARGETS;
  if (name === "tls") return { kind: "words", words: ["off", "on", "require"] };
  if (name === "tls-certificates" || name === "tls-psk") return FILES;
  if (name === "exec") return { kind: "commands" };
  if (name !== "options" && name !== "sort") return NOTHING;
  if (verb === "splitname") return { kind: "list", words: fieldNames(NAME_PART_FIELDS) };
  if (verb === "info") return { kind: "list", words: fieldNames(DEVICE_FIELDS) };
  return { kind: "words", words: ["devno", "devname", "blkdevname"] };
}

function fieldNames(
  { sections }: { readonly sections: readonly { readonly fields: readonly { id: string }[] }[] },
): string[] {
  return sections.flatMap((section) => section.fields.map((field) => field.id));
}

/**
 * The fields of a report: how they are named, looked up and listed. The listing is dmsetup's, character by character.
 *
 * @module
 */

import { ReportError, ReportHelp } from "../failure.ts";

/** What a field holds; numbers are not negative. */
export type FieldType = "string" | "number";

/** A column that a report may have. */
export interface Field<Row> {
  readonly id: string;
  readonly heading: string;
  /** The column is never narrower. */
  readonly width: number;
  readonly type: FieldType;
  readonly help: string;
  readonly value: (row: Row) => string | number;
}

/** Fields that belong together; `id` followed by `_all` names all of them. */
export interface Section<Row> {
  readonly id: string;
  readonly title: string;
  readonly fields: readonly Field<Row>[];
}

/** Every field of a report, and those that are shown when none is asked for. */
export interface Fields<Row> {
  readonly sections: readonly Section<Row>[];
  /** Field names, separated by commas. */
  readonly standard: string;
}

/** The special field that says whether a row was selected. */
export const SELECTED = "selected";
const SELECTED_HELP = "Set if item passes selection criteria.";
/** Names that ask for the list of fields. */
const HELP_NAMES = ["help", "?"];
/** Field names are padded to this width. */
const NAME_WIDTH = 21;

/** True if the two names are one: upper or lower case and underscores do not count. */
export function isSameName(a: string, b: string): boolean {
  return plain(a) === plain(b);
}

function plain(name: string): string {
  return name.toLowerCase().replaceAll("_", "");
}

/** The field of that name; undefined: there is none. */
export function findField<Row>(fields: Fields<Row>, name: string): Field<Row> | undefined {
  for (const section of fields.sections) {
    const found = section.fields.find((field) => isSameName(field.id, name));
    if (found !== undefined) return found;
  }
  return undefined;
}

/** A column of a report: a field, or whether the row was selected. */
export type Column<Row> = Field<Row> | typeof SELECTED;

/**
 * Reads a list of fields as `-o` takes it; `+` in front adds to the standard ones.
 *
 * @throws {ReportError} A name is unknown: the message lists the fields.
 * @throws {ReportHelp} The list was asked for.
 */
export function parseColumns<Row>(fields: Fields<Row>, text: string): Column<Row>[] {
  if (text.startsWith("+")) {
    return [...parseColumns(fields, fields.standard), ...parseColumns(fields, text.slice(1))];
  }
  return names(text).flatMap((name) => lookUp(fields, name, ""));
}

/** A field to sort by, and which way. */
export interface SortKey<Row> {
  readonly field: Column<Row>;
  readonly is_descending: boolean;
}

/**
 * Reads a list of fields as `-O` takes it: `+` or nothing in front sorts up, `-` down.
 *
 * @throws {ReportError}
 */
export function parseSortKeys<Row>(fields: Fields<Row>, text: string): SortKey<Row>[] {
  return names(text).flatMap((word) => {
    const name = word.replace(/^[-+]/, "");
    const is_descending = word.startsWith("-");
    return lookUp(fields, name, "dm_report: ").map((field) => ({ field, is_descending }));
  });
}

function names(text: string): string[] {
  return text.split(",").filter((name) => name !== "");
}

function lookUp<Row>(fields: Fields<Row>, name: string, prefix: string): Column<Row>[] {
  if (HELP_NAMES.includes(name)) throw new ReportHelp(listFields(fields));
  if (isSameName(name, SELECTED)) return [SELECTED];
  if (isSameName(name, "all")) return fields.sections.flatMap((section) => section.fields);
  const section = fields.sections.find(({ id }) => isSameName(name, `${id}_all`));
  if (section !== undefined) return [...section.fields];
  const field = findField(fields, name);
  if (field !== undefined) return [field];
  throw new ReportError(`${listFields(fields)}\n${prefix}Unrecognised field: ${name}`);
}

/** The list of fields for `-o help`; it ends with a line that holds a blank. */
export function listFields<Row>(fields: Fields<Row>): string {
  const sections = fields.sections.map(({ id, title, fields }) => [
    ...heading(title),
    line(`${id}_all`, "All fields in this section."),
    ...fields.map((field) => line(field.id, field.help)),
    " ",
  ]);
  const special = [
    ...heading("Special Fields"),
    line(SELECTED, SELECTED_HELP),
    ...HELP_NAMES.map((name) => line(name, "Show help.")),
    " ",
  ];
  return [...sections, special].flat().join("\n");
}

/** The list of fields for `-S help`, with what they hold. */
export function listSelectable<Row>(fields: Fields<Row>): string {
  const sections = fields.sections.map(({ title, fields }) => [
    ...heading(title),
    ...fields.map((field) => line(field.id, `${field.help} [${field.type}]`)),
    " ",
  ]);
  const special = [
    ...heading("Special Fields"),
    line(SELECTED, `${SELECTED_HELP} [number]`),
    ...HELP_NAMES.map((name) => line(name, "Show help. [unselectable number]")),
    " ",
  ];
  return [...sections, special].flat().join("\n");
}

function heading(title: string): string[] {
  return [title, "-".repeat(title.length)];
}

function line(name: string, help: string): string {
  return `  ${name.padEnd(NAME_WIDTH)} - ${help}`;
}

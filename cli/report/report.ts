/**
 * Reports: rows and columns as dmsetup prints them with `-c`. Pure: texts in, text out.
 *
 * Invariants:
 * - In the aligned form every column is as wide as its widest cell, its heading or its least width; the last one too.
 * - A row that a selection leaves out is printed only when the column `selected` says so.
 *
 * @module
 */

import type { Options } from "../options.ts";
import {
  type Column,
  type Fields,
  parseColumns,
  parseSortKeys,
  SELECTED,
  type SortKey,
} from "./fields.ts";
import { parseSelection, type Selection } from "./selection.ts";

/** How a report is to look. */
export interface ReportForm<Row> {
  readonly columns: readonly Column<Row>[];
  readonly sort_keys: readonly SortKey<Row>[];
  readonly selection: Selection<Row>;
  readonly has_headings: boolean;
  /** Null: columns are aligned, one blank apart. */
  readonly separator: string | null;
  readonly has_name_prefixes: boolean;
  readonly has_quotes: boolean;
  /** Columns become lines. */
  readonly is_turned: boolean;
}

/** The options that say how a report looks. */
export type ReportOptions = Pick<
  Options,
  | "options"
  | "sort"
  | "select"
  | "noheadings"
  | "separator"
  | "nameprefixes"
  | "unquoted"
  | "rows"
>;

interface Cells<Row> {
  readonly row: Row;
  readonly is_selected: boolean;
}

/**
 * Reads the options of a report.
 *
 * @throws {ReportError} A field or the selection is not understood, or help was asked for.
 */
export function reportForm<Row>(fields: Fields<Row>, options: ReportOptions): ReportForm<Row> {
  const is_turned = options.rows === true;
  const has_headings = options.noheadings !== true;
  const has_name_prefixes = options.nameprefixes === true;
  const is_aligned = has_headings && !is_turned && !has_name_prefixes;
  const standard_separator = is_aligned ? null : has_headings ? " " : ":";
  return {
    columns: parseColumns(fields, options.options ?? fields.standard),
    sort_keys: parseSortKeys(fields, options.sort ?? ""),
    selection: parseSelection(fields, options.select ?? ""),
    has_headings,
    separator: options.separator ?? standard_separator,
    has_name_prefixes,
    has_quotes: options.unquoted !== true,
    is_turned,
  };
}

/** The report's lines; none when no row was selected. */
export function formatReport<Row>(form: ReportForm<Row>, rows: readonly Row[]): string[] {
  const cells = selectedRows(form, rows);
  if (cells.length === 0) return [];
  const table: string[][] = cells.map((each) =>
    form.columns.map((column) => cell(form, column, each))
  );
  if (form.has_headings) table.unshift(form.columns.map(headingOf));
  if (form.is_turned) return turned(table).map((line) => line.join(form.separator ?? " "));
  if (form.separator !== null) return table.map((line) => line.join(form.separator!));
  return aligned(form, table);
}

/** The report as objects, one a row, for `--json`. */
export function reportObjects<Row>(
  form: ReportForm<Row>,
  rows: readonly Row[],
): Record<string, string | number>[] {
  return selectedRows(form, rows).map((each) =>
    Object.fromEntries(form.columns.map((column) => [idOf(column), valueOf(column, each)]))
  );
}

function selectedRows<Row>(form: ReportForm<Row>, rows: readonly Row[]): Cells<Row>[] {
  const shows_all = form.columns.includes(SELECTED);
  return rows.map((row) => ({ row, is_selected: form.selection(row) }))
    .filter(({ is_selected }) => is_selected || shows_all)
    .sort((a, b) => compare(form.sort_keys, a, b));
}

function compare<Row>(keys: readonly SortKey<Row>[], a: Cells<Row>, b: Cells<Row>): number {
  for (const { field, is_descending } of keys) {
    const [x, y] = [valueOf(field, a), valueOf(field, b)];
    if (x !== y) return (x < y ? -1 : 1) * (is_descending ? -1 : 1);
  }
  return 0;
}

function valueOf<Row>(column: Column<Row>, cells: Cells<Row>): string | number {
  return column === SELECTED ? Number(cells.is_selected) : column.value(cells.row);
}

function cell<Row>(form: ReportForm<Row>, column: Column<Row>, cells: Cells<Row>): string {
  const text = String(valueOf(column, cells));
  if (!form.has_name_prefixes) return text;
  const quote = form.has_quotes ? "'" : "";
  return `DM_${idOf(column).toUpperCase()}=${quote}${text}${quote}`;
}

function idOf<Row>(column: Column<Row>): string {
  return column === SELECTED ? SELECTED : column.id;
}

function headingOf<Row>(column: Column<Row>): string {
  return column === SELECTED ? "Selected" : column.heading;
}

function turned(table: string[][]): string[][] {
  return table[0]!.map((_, at) => table.map((line) => line[at]!));
}

function aligned<Row>(form: ReportForm<Row>, table: string[][]): string[] {
  const widths = form.columns.map((column, at) =>
    Math.max(column === SELECTED ? 0 : column.width, ...table.map((line) => line[at]!.length))
  );
  return table.map((line, number) =>
    line.map((text, at) => {
      const column = form.columns[at]!;
      const is_number = column === SELECTED || column.type === "number";
      return is_number && number > 0 ? text.padStart(widths[at]!) : text.padEnd(widths[at]!);
    }).join(" ")
  );
}

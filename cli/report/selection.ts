/**
 * Selections, `-S`: which rows of a report are shown. The grammar is dmsetup's (`-S help`), for the types of fields
 * that there are here:
 *
 * ```text
 * or    = and { ("||" | "#") and }
 * and   = term { ("&&" | ",") term }
 * term  = [ "!" ] "(" or ")" | field operator value
 * ```
 *
 * Values are quoted with ' or ", regular expressions also with ( ) { } or [ ], or end at a blank, a logical operator or a
 * parenthesis. Refusals are dmsetup's, character by character.
 *
 * @module
 */

import { ReportError, ReportHelp } from "../failure.ts";
import {
  type Column,
  type Field,
  type Fields,
  findField,
  isSameName,
  listSelectable,
  SELECTED,
} from "./fields.ts";

/** Says whether a row is selected. */
export type Selection<Row> = (row: Row) => boolean;

/** Comparison operators, a longer one before its beginning. */
const COMPARISONS = [
  "=~",
  "!~",
  "!=",
  ">=",
  "<=",
  "=",
  ">",
  "<",
  "since",
  "after",
  "until",
  "before",
] as const;
type Comparison = (typeof COMPARISONS)[number];

const AND = ["&&", ","];
const OR = ["||", "#"];
/** What ends a value without quotes. */
const VALUE_ENDS = [...AND, ...OR, "(", ")"];
const QUOTES: Readonly<Record<string, string>> = { '"': '"', "'": "'" };
const REGEX_QUOTES: Readonly<Record<string, string>> = { ...QUOTES, "(": ")", "{": "}", "[": "]" };

/**
 * Reads a selection.
 *
 * @throws {ReportError} It is not one.
 * @throws {ReportHelp} It asks for help.
 */
export function parseSelection<Row>(fields: Fields<Row>, text: string): Selection<Row> {
  if (text === "") return () => true;
  const parser = new Parser(fields, text);
  return parser.parse();
}

class Parser<Row> {
  readonly #fields: Fields<Row>;
  readonly #text: string;
  #at = 0;

  constructor(fields: Fields<Row>, text: string) {
    this.#fields = fields;
    this.#text = text;
  }

  parse(): Selection<Row> {
    const selection = this.#or();
    this.#skipBlanks();
    if (this.#rest === "") return selection;
    throw syntaxError("Expecting logical operator", this.#rest);
  }

  get #rest(): string {
    return this.#text.slice(this.#at);
  }

  #skipBlanks(): void {
    while (/\s/.test(this.#text[this.#at] ?? "")) this.#at++;
  }

  /** Takes one of the tokens, if one is next. */
  #take<T extends string>(tokens: readonly T[]): T | undefined {
    this.#skipBlanks();
    const found = tokens.find((token) => this.#text.startsWith(token, this.#at));
    if (found !== undefined) this.#at += found.length;
    return found;
  }

  #or(): Selection<Row> {
    const parts = [this.#and()];
    while (this.#take(OR) !== undefined) parts.push(this.#and());
    return (row) => parts.some((part) => part(row));
  }

  #and(): Selection<Row> {
    const parts = [this.#term()];
    while (this.#take(AND) !== undefined) parts.push(this.#term());
    return (row) => parts.every((part) => part(row));
  }

  #term(): Selection<Row> {
    const is_negated = this.#take(["!"]) !== undefined;
    const is_group = this.#take(["("]) !== undefined;
    if (is_negated && !is_group) {
      throw new ReportError(`Syntax error: left parenthesis expected at '${this.#rest}'`);
    }
    if (!is_group) return this.#comparison();
    const inner = this.#or();
    if (this.#take([")"]) === undefined) {
      throw new ReportError(`Syntax error: right parenthesis expected at '${this.#rest}'`);
    }
    return is_negated ? (row) => !inner(row) : inner;
  }

  #comparison(): Selection<Row> {
    const begin = this.#rest;
    const name = /^[A-Za-z0-9_-]+/.exec(begin)?.[0];
    if (name === undefined) throw syntaxError("Expecting field name", begin);
    this.#at += name.length;
    const field = this.#field(name, begin);
    const after_name = this.#rest;
    const comparison = this.#take(COMPARISONS);
    if (comparison === undefined) {
      const problem = `Unrecognised comparison operator: ${after_name}`;
      throw syntaxError(`${SELECTION_HELP}\n${problem}`, begin);
    }
    checkComparison(field, comparison, begin);
    const value = this.#value(field, comparison, begin);
    if (typeof value === "number") return comparesNumbers(field, comparison, value);
    return comparesTexts(field, comparison, value);
  }

  #field(name: string, begin: string): Column<Row> {
    if (name === "help") {
      throw new ReportHelp(`${listSelectable(this.#fields)}\n${SELECTION_HELP}`);
    }
    if (isSameName(name, SELECTED)) return SELECTED;
    const field = findField(this.#fields, name);
    if (field !== undefined) return field;
    throw syntaxError(
      `${listSelectable(this.#fields)}\nUnrecognised selection field: ${name}`,
      begin,
    );
  }

  /** A number, a text, or for the regular expression operators what they look for. */
  #value(field: Column<Row>, comparison: Comparison, begin: string): number | string | RegExp {
    this.#skipBlanks();
    const { id } = describe(field);
    if (isRegex(comparison)) {
      if (this.#rest === "") {
        throw syntaxError(`Regular expression expected for selection field ${id}`, begin);
      }
      return regex(this.#word(REGEX_QUOTES, id, begin), id);
    }
    if (describe(field).type === "string") return this.#word(QUOTES, id, begin);
    const digits = /^[0-9]+/.exec(this.#rest)?.[0];
    if (digits === undefined) {
      throw syntaxError(`Failed to parse numeric value for selection field ${id}.`, begin);
    }
    this.#at += digits.length;
    return Number(digits);
  }

  #word(quotes: Readonly<Record<string, string>>, id: string, begin: string): string {
    const quote = quotes[this.#text[this.#at] ?? ""];
    if (quote === undefined) return this.#bareWord();
    const end = this.#text.indexOf(quote, this.#at + 1);
    if (end < 0) {
      const problem = `Missing end quote.\nFailed to parse string value for selection field ${id}.`;
      throw syntaxError(problem, begin);
    }
    const word = this.#text.slice(this.#at + 1, end);
    this.#at = end + 1;
    return word;
  }

  #bareWord(): string {
    const from = this.#at;
    while (this.#at < this.#text.length && !/\s/.test(this.#text[this.#at]!)) {
      if (VALUE_ENDS.some((end) => this.#text.startsWith(end, this.#at))) break;
      this.#at++;
    }
    return this.#text.slice(from, this.#at);
  }
}

function syntaxError(problem: string, at: string): ReportError {
  return new ReportError(
    `${problem}\nSelection syntax error at '${at}'.\nUse 'help' for selection to get more help.`,
  );
}

function isRegex(comparison: Comparison): boolean {
  return comparison === "=~" || comparison === "!~";
}

function describe<Row>(field: Column<Row>): Pick<Field<Row>, "id" | "type"> {
  return field === SELECTED ? { id: SELECTED, type: "number" } : field;
}

function checkComparison<Row>(field: Column<Row>, comparison: Comparison, begin: string): void {
  const { id, type } = describe(field);
  if (/^[a-z]/.test(comparison)) {
    throw syntaxError(
      `${SELECTION_HELP}\nOperator can be used only with time fields: ${begin}`,
      begin,
    );
  }
  if (isRegex(comparison) && type === "number") {
    throw new ReportError(`dm_report: incompatible comparison type for selection field ${id}`);
  }
  if (/[<>]/.test(comparison) && type === "string") {
    throw syntaxError(
      `${SELECTION_HELP}\n` +
        `Operator can be used only with number, size, time or percent fields: ${begin}`,
      begin,
    );
  }
}

function regex(pattern: string, id: string): RegExp {
  try {
    if (pattern !== "") return new RegExp(pattern);
  } catch {
    // Said below.
  }
  throw new ReportError(
    `Couldn't parse regex\ndm_report: failed to create regex matcher for selection field ${id}`,
  );
}

/** A row that is asked whether it is selected, while that is found out, is. */
function valueOf<Row>(field: Column<Row>, row: Row): string | number {
  return field === SELECTED ? 1 : field.value(row);
}

function comparesNumbers<Row>(
  field: Column<Row>,
  comparison: Comparison,
  wanted: number,
): Selection<Row> {
  const holds: Partial<Record<Comparison, (value: number) => boolean>> = {
    "=": (value) => value === wanted,
    "!=": (value) => value !== wanted,
    ">": (value) => value > wanted,
    ">=": (value) => value >= wanted,
    "<": (value) => value < wanted,
    "<=": (value) => value <= wanted,
  };
  const compare = holds[comparison]!;
  return (row) => compare(Number(valueOf(field, row)));
}

function comparesTexts<Row>(
  field: Column<Row>,
  comparison: Comparison,
  wanted: string | RegExp,
): Selection<Row> {
  const is_wanted = !comparison.startsWith("!");
  return (row) => {
    const value = String(valueOf(field, row));
    const is_found = typeof wanted === "string" ? value === wanted : wanted.test(value);
    return is_found === is_wanted;
  };
}

/** What dmsetup says about selections; all of it, although sizes, percentages, lists and times are in no field here. */
export const SELECTION_HELP = `Selection operands
------------------
  field               - Reporting field.
  number              - Non-negative integer value.
  size                - Floating point value with units, 'm' unit used by default if not specified.
  percent             - Non-negative integer with or without % suffix.
  string              - Characters quoted by ' or " or unquoted.
  string list         - Strings enclosed by [ ] or { } and elements delimited by either
                        "all items must match" or "at least one item must match" operator.
  regular expression  - Characters quoted by ' or " or unquoted.
 
Selection operators
-------------------
  Comparison operators:
        =~  - Matching regular expression. [regex]
        !~  - Not matching regular expression. [regex]
         =  - Equal to. [number, size, percent, string, string list, time]
        !=  - Not equal to. [number, size, percent, string, string_list, time]
        >=  - Greater than or equal to. [number, size, percent, time]
         >  - Greater than. [number, size, percent, time]
        <=  - Less than or equal to. [number, size, percent, time]
         <  - Less than. [number, size, percent, time]
     since  - Since specified time (same as '>='). [time]
     after  - After specified time (same as '>'). [time]
     until  - Until specified time (same as '<='). [time]
    before  - Before specified time (same as '<'). [time]
 
  Logical and grouping operators:
      &&  - All fields must match
       ,  - All fields must match
      ||  - At least one field must match
       #  - At least one field must match
       !  - Logical negation
       (  - Left parenthesis
       )  - Right parenthesis
       [  - List start
       ]  - List end
       {  - List subset start
       }  - List subset end
 `;

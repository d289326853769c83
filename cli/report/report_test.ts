import { assertEquals, assertThrows } from "@std/assert";
import { ReportError } from "../failure.ts";
import type { Fields } from "./fields.ts";
import { formatReport, reportForm, reportObjects, type ReportOptions } from "./report.ts";

interface Row {
  name: string;
  size: number;
}

const FIELDS: Fields<Row> = {
  sections: [{
    id: "all_there_is",
    title: "All There Is",
    fields: [
      {
        id: "name",
        heading: "Name",
        width: 6,
        type: "string",
        help: "A name.",
        value: (row) => row.name,
      },
      {
        id: "size",
        heading: "Size",
        width: 3,
        type: "number",
        help: "A size.",
        value: (row) => row.size,
      },
    ],
  }],
  standard: "name,size",
};
const ROWS: Row[] = [
  { name: "b", size: 9 },
  { name: "a", size: 10 },
  { name: "a-longer-name", size: 9 },
];

function report(options: ReportOptions): string[] {
  return formatReport(reportForm(FIELDS, options), ROWS);
}

function names(options: ReportOptions): string[] {
  return report({ ...options, noheadings: true, options: "name" });
}

Deno.test("columns grow with their widest cell; texts stand left, numbers right, the last one too", () => {
  assertEquals(report({}), [
    "Name          Size",
    "b                9",
    "a               10",
    "a-longer-name    9",
  ]);
  assertEquals(report({ options: "size,name", select: "size=10" }), ["Size Name  ", "  10 a     "]);
});

Deno.test("rows are sorted by the first key, then by the next; numbers as numbers", () => {
  assertEquals(names({ sort: "size,name" }), ["a-longer-name", "b", "a"]);
  assertEquals(names({ sort: "-size,-name" }), ["a", "b", "a-longer-name"]);
  assertEquals(names({}), ["b", "a", "a-longer-name"]);
});

Deno.test("numbers are compared as numbers, texts as texts", () => {
  const chosen: [selection: string, names: string[]][] = [
    ["size>9", ["a"]],
    ["size>=9", ["b", "a", "a-longer-name"]],
    ["size<10", ["b", "a-longer-name"]],
    ["size<=9 && name!=b", ["a-longer-name"]],
    ["size!=9", ["a"]],
    ["name=~^a", ["a", "a-longer-name"]],
    ["!(name=~^a) || size=10", ["b", "a"]],
    ["name=c", []],
  ];
  for (const [select, wanted] of chosen) assertEquals(names({ select }), wanted, select);
});

Deno.test("turned, each column is a line", () => {
  assertEquals(report({ rows: true, sort: "name" }), ["Name a a-longer-name b", "Size 10 9 9"]);
  assertEquals(report({ rows: true, noheadings: true, nameprefixes: true, select: "size>9" }), [
    "DM_NAME='a'",
    "DM_SIZE='10'",
  ]);
});

Deno.test("as objects numbers stay numbers", () => {
  const form = reportForm(FIELDS, { options: "selected,all", select: "name=a" });
  assertEquals(reportObjects(form, ROWS)[1], { selected: 1, name: "a", size: 10 });
  assertEquals(reportObjects(form, ROWS).length, 3);
});

Deno.test("an unknown field lists those that there are", () => {
  const { message } = assertThrows(() => report({ options: "name,nope" }), ReportError);
  assertEquals(
    message,
    `All There Is
------------
  all_there_is_all      - All fields in this section.
  name                  - A name.
  size                  - A size.
 
Special Fields
--------------
  selected              - Set if item passes selection criteria.
  help                  - Show help.
  ?                     - Show help.
 
Unrecognised field: nope`,
  );
  assertThrows(() => report({ select: "nope=1" }), ReportError, "Unrecognised selection field");
});

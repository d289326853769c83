import { assertEquals, assertThrows } from "@std/assert";
import { CacheError } from "../core/errors.ts";
import { type ConciseDevice, formatConcise, parseConcise } from "./concise.ts";

const DEVICE: ConciseDevice = {
  name: "d",
  uuid: "",
  minor: 3,
  read_only: false,
  table: ["0 8 pcache /dev/a /dev/b 0"],
};

Deno.test("what is printed is taken again, whatever the names hold", () => {
  const devices: ConciseDevice[] = [
    DEVICE,
    { ...DEVICE, name: "a,b;c\\d", uuid: "x,y", minor: null, read_only: true },
    { ...DEVICE, table: ["0 8 pcache my\\ cache,1 b;2 0", "8 8 pcache c d 0"] },
  ];
  assertEquals(parseConcise(formatConcise(devices)), devices);
});

Deno.test("the line is dmsetup's", () => {
  assertEquals(
    formatConcise([DEVICE, { ...DEVICE, name: "a,b", read_only: true, minor: 0 }]),
    "d,,3,rw,0 8 pcache /dev/a /dev/b 0;a\\,b,,0,ro,0 8 pcache /dev/a /dev/b 0",
  );
});

Deno.test("blanks behind a separator, an empty text and a last semicolon are passed over", () => {
  assertEquals(
    parseConcise("d, , ,ro, 0 8 t;\n e,,,, 0 8 t;\n").map(({ name, table }) => [name, table]),
    [
      ["d", ["0 8 t"]],
      ["e", ["0 8 t"]],
    ],
  );
  assertEquals(parseConcise(" \n"), []);
});

Deno.test("what is not such a line is refused in dmsetup's words", () => {
  const refused: [text: string, message: string][] = [
    [
      "a,b",
      "Five comma-separated fields are required for each device\n" +
      "Parsed 2 fields: name: a uuid: b minor: (null) flags: (null) table: (null)",
    ],
    [
      ";",
      "Five comma-separated fields are required for each device\n" +
      "Parsed 1 fields: name:  uuid: (null) minor: (null) flags: (null) table: (null)",
    ],
    [
      "a\\,b,c,,q,",
      "Incomplete entry: five comma-separated fields are required for each device\n" +
      "Parsed 5 fields: name: a,b uuid: c minor:  flags: q table: ",
    ],
    ["a,b,c,d,e", "Invalid flags parameter 'd' must be 'ro' or 'rw' or empty."],
    ["a,b,c,,e", 'Invalid minor number: "c", wanted a number or nothing'],
  ];
  for (const [text, message] of refused) {
    assertEquals(assertThrows(() => parseConcise(text), CacheError).message, message);
  }
});

import { assertEquals, assertThrows } from "@std/assert";
import { CacheError } from "./errors.ts";
import {
  deviceSectors,
  formatTable,
  MAX_TABLE_CHARS,
  parseTable,
  type Table,
  type TableSource,
} from "./table.ts";

const OPTION: TableSource = { kind: "option" };
const PLAIN: Table = {
  length_sectors: null,
  cache_dev: "/c",
  backing_dev: "/b",
  cache_mode: null,
  data_crc: false,
  eviction: "fifo",
};

const GOOD: [name: string, text: string, wanted: Table][] = [
  ["kernel form without options", "0 2048 pcache /c /b", { ...PLAIN, length_sectors: 2048 }],
  ["kernel form, no options counted", "0 8 pcache /c /b 0", { ...PLAIN, length_sectors: 8 }],
  [
    "kernel form, all options",
    "0 8 pcache /c /b 4 cache_mode writeback data_crc true",
    { ...PLAIN, length_sectors: 8, cache_mode: "writeback", data_crc: true },
  ],
  ["short form", "pcache /c /b", PLAIN],
  ["short form, counted", "pcache /c /b 2 data_crc true", { ...PLAIN, data_crc: true }],
  ["short form, not counted", "pcache /c /b data_crc true", { ...PLAIN, data_crc: true }],
  ["short form, both", "pcache /c /b data_crc false cache_mode writethrough", {
    ...PLAIN,
    cache_mode: "writethrough",
  }],
  ["eviction", "pcache /c /b eviction reinsert", { ...PLAIN, eviction: "reinsert" }],
  ["eviction fifo", "pcache /c /b 4 data_crc true eviction fifo", { ...PLAIN, data_crc: true }],
  ["blanks, tabs and comments", "\n# a comment\n \t pcache\t/c   /b \r\n\n", PLAIN],
  ["a path with a blank", "pcache /a\\ b /b\\\\c", {
    ...PLAIN,
    cache_dev: "/a b",
    backing_dev: "/b\\c",
  }],
  ["devices by number", "0 8 pcache 259:0 8:16", {
    ...PLAIN,
    length_sectors: 8,
    cache_dev: "259:0",
    backing_dev: "8:16",
  }],
  ["a backing device on a server", "0 8 pcache /c nbd+unix:///x?socket=/a%20b 0", {
    ...PLAIN,
    length_sectors: 8,
    backing_dev: "nbd+unix:///x?socket=/a%20b",
  }],
];

for (const [name, text, wanted] of GOOD) {
  Deno.test(`parseTable takes: ${name}`, () => {
    const table = parseTable(text, OPTION);
    assertEquals(table, wanted);
    const printed = formatTable(table, 4096);
    assertEquals(parseTable(printed, OPTION), { ...table, length_sectors: 4096 });
  });
}

const BAD: [text: string, message: string][] = [
  ["pcache nbd://h/x /b", "Error opening cache device: nbd://h/x: only a backing device may be"],
  ["pcache /c nbds://@h/x", "Error opening backing device: nbds://@h/x: with a user tls-psk-file"],
  ["", "Empty table"],
  ["# only a comment\n\n", "Empty table"],
  ["pcache /c", "Invalid format on line 1 of table."],
  ["pcache", "Invalid format on line 1 of table."],
  ["\n0 2048", "Invalid format on line 2 of table."],
  ["x 2048 pcache /c /b", "Invalid format on line 1 of table."],
  ["0 -8 pcache /c /b", "Invalid format on line 1 of table."],
  ["0 8k pcache /c /b", "Invalid format on line 1 of table."],
  ["0 2048 linear /c 0", 'Unknown target type: "linear"'],
  ["8 2048 pcache /c /b", "Gap in table: the target starts at sector 8"],
  ["0 0 pcache /c /b", "Invalid target length: 0 sectors"],
  ["0 99999999999999999999 pcache /c /b", "Invalid target length: 99999999999999999999 sectors"],
  ["0 8 pcache", "Insufficient args"],
  ["0 8 pcache /c", 'Insufficient args: "/c"'],
  ["0 8 pcache /c /b x", 'Invalid number of cache option arguments: "x"'],
  ["0 8 pcache /c /b -1", 'Invalid number of cache option arguments: "-1"'],
  ["0 8 pcache /c /b data_crc true", 'Invalid number of cache option arguments: "data_crc"'],
  [
    "0 8 pcache /c /b 2 data_crc",
    "Invalid number of cache option arguments: 2 announced, 1 given",
  ],
  [
    "0 8 pcache /c /b 0 data_crc true",
    "Invalid number of cache option arguments: 0 announced, 2 given",
  ],
  [
    "0 8 pcache /c /b 8 cache_mode writeback data_crc true eviction fifo data_crc true",
    "Invalid number of cache option arguments: 8 announced, 8 given",
  ],
  [
    "pcache /c /b data_crc true data_crc false",
    "Invalid number of cache option arguments: data_crc is given twice",
  ],
  ["0 8 pcache /c /b 1 cache_mode", "Missing value for cache_mode"],
  ["0 8 pcache /c /b 1 data_crc", "Missing value for data_crc"],
  ["pcache /c /b data_crc", "Missing value for data_crc"],
  ["0 8 pcache /c /b 2 cache_mode through", 'Invalid cache mode parameter: "through"'],
  ["0 8 pcache /c /b 2 eviction lru", 'Invalid eviction parameter: "lru"'],
  ["0 8 pcache /c /b 2 data_crc yes", 'Invalid data crc parameter: "yes"'],
  ["0 8 pcache /c /b 2 nonesuch 1", 'Unrecognised cache option requested: "nonesuch"'],
  ["0 8 pcache /c /b 1 nonesuch", 'Unrecognised cache option requested: "nonesuch"'],
  ["0 8 pcache /c /b 4 cache_mode writeback crc true", '(the kernel prints "crc"'],
  ["pcache /c /b\npcache /c /b", "Too many targets: line 2 of table"],
  ["pcache /c\0 /b", "holds a NUL character"],
  ["#".repeat(MAX_TABLE_CHARS + 1), "Table too long: 65537 characters"],
];

for (const [text, message] of BAD) {
  Deno.test(`parseTable refuses ${JSON.stringify(text.slice(0, 70))}`, () => {
    assertThrows(() => parseTable(text, OPTION), CacheError, message);
  });
}

Deno.test("parseTable names the source of a malformed table", () => {
  const bad = (source: TableSource) => () => parseTable("nonsense", source);
  const file: TableSource = { kind: "file", path: "/etc/table" };
  assertThrows(bad(file), CacheError, "Invalid format on line 1 of table /etc/table.");
  assertThrows(bad({ kind: "stdin" }), CacheError, "Invalid format on line 1 of table on stdin.");
});

Deno.test("deviceSectors takes the whole backing device unless the table says less", () => {
  assertEquals(deviceSectors(PLAIN, 1 << 20), 2048);
  assertEquals(deviceSectors(PLAIN, (1 << 20) + 511), 2048);
  assertEquals(deviceSectors({ ...PLAIN, length_sectors: 2048 }, 1 << 20), 2048);
  assertEquals(deviceSectors({ ...PLAIN, length_sectors: 8 }, 1 << 20), 8);
});

Deno.test("deviceSectors refuses a backing device that is too short", () => {
  const long = { ...PLAIN, length_sectors: 2049 };
  assertThrows(() => deviceSectors(long, 1 << 20), CacheError, "/b holds 2048 sectors");
  assertThrows(() => deviceSectors(PLAIN, 511), CacheError, "/b holds 511 bytes");
});

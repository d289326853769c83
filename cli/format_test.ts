/** The formats of DMSETUP, "Output", each from one reply of a device. */

import { assertEquals } from "@std/assert";
import type { InfoReply, StatusReply } from "../io/control_protocol.ts";
import { depsLine } from "./deps.ts";
import { linePrefix, noDevice } from "./devices.ts";
import { infoText } from "./info.ts";
import { formatTree } from "./tree.ts";
import { statusLine } from "./status.ts";
import { targetLine } from "./target_version.ts";

const STATUS: StatusReply = {
  ok: true,
  target: "pcache",
  start: 0,
  length_sectors: 2097152,
  sb_flags: 0,
  seg_total: 31,
  cache_segs: 31,
  segs_used: 29,
  gc_percent: 70,
  cache_flags: 0x1182,
  key_head: { seg: 6, off: 2093904 },
  dirty_tail: { seg: 0, off: 15973104 },
  key_tail: { seg: 0, off: 15645224 },
  counters: {},
};

const INFO: InfoReply = {
  ok: true,
  name: "d",
  uuid: "",
  major: 0,
  minor: 3,
  read_only: false,
  is_suspended: false,
  is_deferred: false,
  live_target: "pcache",
  has_inactive_table: false,
  event_nr: 0,
  open_count: 2,
  frontend: "nbd",
  node: "",
  link: "",
  uri: "nbd+unix:///?socket=/run/pcache/d/nbd",
  pid: 4711,
  since_ms: 0,
  length_sectors: 2097152,
  cache_path: "/dev/pmem0",
  backing_path: "/srv/disk.img",
  cache_dev: { major: 259, minor: 0 },
  backing_dev: { major: 8, minor: 16 },
  backing_trouble: "",
  backing_outages: 0,
  cache_kind: "pmem",
  loop: "io_uring",
};

Deno.test("the status line is the kernel's", () => {
  assertEquals(
    statusLine(STATUS),
    "0 2097152 pcache 0 31 31 29 70 1182 6:2093904 0:15973104 0:15645224",
  );
});

Deno.test("info has dmsetup's lines, then our own, then an empty one", () => {
  assertEquals(
    infoText(INFO) + "\n",
    `Name:              d
State:             ACTIVE
Read Ahead:        0
Tables present:    LIVE
Open count:        2
Event number:      0
Major, minor:      0, 3
Number of targets: 1
Frontend:          nbd
URI:               nbd+unix:///?socket=/run/pcache/d/nbd
PID:               4711

`,
  );
});

Deno.test("info shows the UUID and what makes the device special", () => {
  const lines = infoText({ ...INFO, uuid: "u1", read_only: true }).split("\n");
  assertEquals(lines[1], "State:             ACTIVE (READ-ONLY)");
  assertEquals(lines[8], "UUID: u1");
  assertEquals(lines[9], "Frontend:          nbd");
});

Deno.test("deps prints numbers or names, the cache device first", () => {
  assertEquals(depsLine(INFO, "devno"), "2 dependencies\t: (259, 0) (8, 16)");
  assertEquals(depsLine(INFO, "devname"), "2 dependencies\t: (pmem0) (/srv/disk.img)");
});

Deno.test("a backing device on a server has no number, and a state", () => {
  const info = { ...INFO, backing_path: "nbd://h/x", backing_dev: null };
  assertEquals(depsLine(info, "devno"), "2 dependencies\t: (259, 0) (nbd)");
  assertEquals(depsLine(info, "devname"), "2 dependencies\t: (pmem0) (nbd://h/x)");
  assertEquals(infoText(info).split("\n")[11], "Backing:           connected");
  const tree = (...words: ("inverted" | "blkdevname")[]) =>
    formatTree([info], new Set(words), false);
  assertEquals(tree(), ["d (0:3)", " |- (259:0)", " `- <nbd://h/x>"]);
  assertEquals(tree("inverted"), ["(259:0)", " `-d (0:3)", "<nbd://h/x>", " `-d (0:3)"]);
  const away = infoText({ ...info, backing_trouble: "Connection refused" });
  assertEquals(away.split("\n")[11], "Backing:           not connected (Connection refused)");
});

Deno.test("a target's version stands in column 17", () => {
  assertEquals(targetLine("pcache"), "pcache           v0.1.0");
});

Deno.test("a device's name is put in front only when several are printed", () => {
  assertEquals(linePrefix("d", ["d"], 1), "");
  assertEquals(linePrefix("d", [], 1), "");
  assertEquals(linePrefix("d", [], 2), "d: ");
  assertEquals(linePrefix("d", ["d", "gone"], 1), "d: ");
});

Deno.test("a device that is not there is reported in dmsetup's words", () => {
  assertEquals(noDevice("info", "d").message, "Device does not exist.");
  assertEquals(noDevice("status", "d").message, "Device does not exist.");
  assertEquals(
    noDevice("remove", "d").message,
    "pcache: remove on d failed: No such device or address",
  );
});

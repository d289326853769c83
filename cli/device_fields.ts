/**
 * The fields of `info -c` and `splitname`: dmsetup's, and our own in a section of their own.
 *
 * @module
 */

import type { InfoReply } from "../io/control_protocol.ts";
import { type NameParts, splitName } from "./names.ts";
import type { Field, Fields, FieldType, Section } from "./report/fields.ts";

/** A device that is served on a socket only has no kernel number: this is its major one (DMSETUP, "Output"). */
export const MAJOR = 0;

/** One thing that a device stands on. */
export interface Dependency {
  readonly role: "cache" | "backing";
  /** A path, or an NBD URI. */
  readonly path: string;
  /** null: it is on an NBD server and has no number. */
  readonly major: number | null;
  readonly minor: number | null;
}

const NO_NUMBER = { major: null, minor: null };

/** What the device stands on: the cache device, then the backing device; nothing before a table is loaded. */
export function dependencies(info: InfoReply): Dependency[] {
  if (info.cache_path === "") return [];
  return [
    { role: "cache", path: info.cache_path, ...info.cache_dev },
    { role: "backing", path: info.backing_path, ...(info.backing_dev ?? NO_NUMBER) },
  ];
}

/** A path as dmsetup shows block devices: without /dev/. */
export function shortPath(path: string): string {
  return path.replace(/^\/dev\//, "");
}

/** Four letters: tables, suspended, read-only or writeable. */
function attributes(info: InfoReply): string {
  return (info.live_target === null ? "-" : "L") + (info.has_inactive_table ? "I" : "-") +
    (info.is_suspended ? "s" : "-") + (info.read_only ? "r" : "w");
}

/** Which of its two tables a device has, in the words of `info`. */
export function tablesPresent(info: InfoReply): string {
  if (info.live_target === null) return info.has_inactive_table ? "INACTIVE" : "None";
  return info.has_inactive_table ? "LIVE & INACTIVE" : "LIVE";
}

function tablesLoaded(info: InfoReply): string {
  if (info.live_target === null) return info.has_inactive_table ? "Inactive" : "None";
  return info.has_inactive_table ? "Both" : "Live";
}

function field<Row>(
  id: string,
  heading: string,
  width: number,
  type: FieldType,
  help: string,
  value: (row: Row) => string | number,
): Field<Row> {
  return { id, heading, width, type, help, value };
}

const name = (info: InfoReply) => info.name;
const uuid = (info: InfoReply) => info.uuid;

const NAME_FIELDS: Section<InfoReply> = {
  id: "name",
  title: "Mapped Device Name Fields",
  fields: [
    field("name", "Name", 16, "string", "Name of mapped device.", name),
    field("mangled_name", "MangledName", 16, "string", "Mangled name of mapped device.", name),
    field(
      "unmangled_name",
      "UnmangledName",
      16,
      "string",
      "Unmangled name of mapped device.",
      name,
    ),
    field(
      "uuid",
      "UUID",
      32,
      "string",
      "Unique (optional) identifier for mapped device.",
      uuid,
    ),
    field(
      "mangled_uuid",
      "MangledUUID",
      32,
      "string",
      "Mangled unique (optional) identifier for mapped device.",
      uuid,
    ),
    field(
      "unmangled_uuid",
      "UnmangledUUID",
      32,
      "string",
      "Unmangled unique (optional) identifier for mapped device.",
      uuid,
    ),
    field("read_ahead", "RAhead", 6, "number", "Read ahead value.", () => 0),
  ],
};

const INFO_FIELDS: Section<InfoReply> = {
  id: "info",
  title: "Mapped Device Information Fields",
  fields: [
    field(
      "blkdevname",
      "BlkDevName",
      16,
      "string",
      "Name of block device.",
      (info) => shortPath(info.node),
    ),
    field(
      "attr",
      "Stat",
      4,
      "string",
      "(L)ive, (I)nactive, (s)uspended, (r)ead-only, read-(w)rite.",
      attributes,
    ),
    field(
      "tables_loaded",
      "Tables",
      6,
      "string",
      "Which of the live and inactive table slots are filled.",
      tablesLoaded,
    ),
    field(
      "suspended",
      "Suspended",
      10,
      "string",
      "Whether the device is suspended.",
      (info) => info.is_suspended ? "Suspended" : "Active",
    ),
    field(
      "readonly",
      "Read-only",
      10,
      "string",
      "Whether the device is read-only or writeable.",
      (info) => info.read_only ? "Read-only" : "Writeable",
    ),
    field(
      "devno",
      "DevNo",
      5,
      "string",
      "Device major and minor numbers",
      (info) => `${info.major}:${info.minor}`,
    ),
    field("major", "Maj", 3, "number", "Block device major number.", (info) => info.major),
    field("minor", "Min", 3, "number", "Block device minor number.", (info) => info.minor),
    field(
      "open",
      "Open",
      4,
      "number",
      "Number of references to open device, if requested.",
      (info) => info.open_count,
    ),
    field(
      "segments",
      "Targ",
      4,
      "number",
      "Number of segments in live table, if present.",
      targetCount,
    ),
    field("events", "Event", 6, "number", "Number of most recent event.", (info) => info.event_nr),
  ],
};

/** How many targets the live table has: one, if there is a table. */
export function targetCount(info: InfoReply): number {
  return info.live_target === null ? 0 : 1;
}

/** No kernel device stands on a device that is served on a socket, and nobody asks what it stands on in turn. */
const DEPS_FIELDS: Section<InfoReply> = {
  id: "deps",
  title: "Mapped Device Relationship Information Fields",
  fields: [
    field(
      "device_count",
      "#Devs",
      5,
      "number",
      "Number of devices used by this one.",
      (info) => dependencies(info).length,
    ),
    field(
      "devs_used",
      "DevNamesUsed",
      16,
      "string",
      "List of names of mapped devices used by this one.",
      () => "",
    ),
    field(
      "devnos_used",
      "DevNosUsed",
      16,
      "string",
      "List of device numbers of devices used by this one.",
      (info) =>
        dependencies(info).filter(({ major }) => major !== null)
          .map(({ major, minor }) => `${major}:${minor}`).join(","),
    ),
    field(
      "blkdevs_used",
      "BlkDevNamesUsed",
      16,
      "string",
      "List of names of block devices used by this one.",
      (info) => dependencies(info).map((dep) => shortPath(dep.path)).join(","),
    ),
    field(
      "device_ref_count",
      "#Refs",
      5,
      "number",
      "Number of mapped devices referencing this one.",
      () => 0,
    ),
    field(
      "names_using_dev",
      "DevNamesUsing",
      16,
      "string",
      "List of names of mapped devices using this one.",
      () => "",
    ),
    field(
      "devnos_using_dev",
      "DevNosUsing",
      16,
      "string",
      "List of device numbers of mapped devices using this one.",
      () => "",
    ),
  ],
};

/** The fields of a name's parts, for rows of any kind. */
function splitFields<Row>(parts: (row: Row) => NameParts): Section<Row> {
  return {
    id: "splitname",
    title: "Mapped Device Name Components Fields",
    fields: [
      field(
        "subsystem",
        "Subsys",
        6,
        "string",
        "Userspace subsystem responsible for this device.",
        (row) => parts(row).subsystem,
      ),
      field(
        "vg_name",
        "VG",
        4,
        "string",
        "LVM Volume Group name.",
        (row) => parts(row).vg_name,
      ),
      field(
        "lv_name",
        "LV",
        4,
        "string",
        "LVM Logical Volume name.",
        (row) => parts(row).lv_name,
      ),
      field("lv_layer", "LVLayer", 7, "string", "LVM device layer.", (row) => parts(row).lv_layer),
    ],
  };
}

/** A device's subsystem stands before the first hyphen of its UUID. */
function partsOf(info: InfoReply): NameParts {
  const hyphen = info.uuid.indexOf("-");
  const subsystem = hyphen < 0 ? "" : info.uuid.slice(0, hyphen);
  return splitName(info.name, subsystem);
}

const OWN_FIELDS: Section<InfoReply> = {
  id: "pcache",
  title: "Cached Device Fields",
  fields: [
    field("uri", "URI", 3, "string", "Where clients connect.", (info) => info.uri),
    field("node", "Node", 4, "string", "Path of the block device.", (info) => info.node),
    field("link", "Link", 4, "string", "Path with the device's name to it.", (info) => info.link),
    field("pid", "PID", 3, "number", "Process that serves the device.", (info) => info.pid),
    field("frontend", "Frontend", 8, "string", "How the device is served.", (i) => i.frontend),
    field("cache_dev", "CacheDev", 8, "string", "Path of the cache device.", (i) => i.cache_path),
    field(
      "backing_dev",
      "BackingDev",
      10,
      "string",
      "Path or NBD URI of the backing device.",
      (i) => i.backing_path,
    ),
  ],
};

/** The fields of `info -c`. */
export const DEVICE_FIELDS: Fields<InfoReply> = {
  sections: [NAME_FIELDS, INFO_FIELDS, DEPS_FIELDS, splitFields(partsOf), OWN_FIELDS],
  standard: "name,major,minor,attr,open,segments,events,uuid",
};

/** The fields of `splitname`. */
export const NAME_PART_FIELDS: Fields<NameParts> = {
  sections: [splitFields((parts) => parts)],
  standard: "vg_name,lv_name,lv_layer",
};

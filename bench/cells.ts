/**
 * What is measured: the cells of the table. A cell is one kind of load, laid on every contender in turn.
 *
 * @module
 */

import { ALL_IDS, type ContenderId, PEER_IDS } from "./contenders.ts";

/** A ratio of medians that the project has set itself. */
export interface Wanted {
  readonly of: ContenderId;
  /** The best of these. */
  readonly to: readonly ContenderId[];
  readonly least: number;
}

/** A load by fio's nbd engine, run for a time; rates are compared. */
export interface LoadCell {
  readonly name: string;
  readonly title: string;
  /** What is done to a contender before its first turn, in fio's options; null: nothing. */
  readonly before: readonly string[] | null;
  /** fio's options beside engine, device and time. */
  readonly job: readonly string[];
  readonly connections: number;
  /** A turn ends when so much has been moved; null: after a time. */
  readonly turn_bytes: number | null;
  readonly unit: "IOPS" | "MB/s";
  readonly contenders: readonly ContenderId[];
  readonly wanted: readonly Wanted[];
}

const HITS: readonly Wanted[] = [
  { of: "pcache", to: PEER_IDS, least: 2.0 },
  { of: "pcache_crc", to: PEER_IDS, least: 1.6 },
  { of: "pcache", to: ["bare"], least: 0.8 },
];
const SEQUENTIAL: readonly Wanted[] = [
  { of: "pcache", to: PEER_IDS, least: 1.0 },
  { of: "pcache_crc", to: PEER_IDS, least: 1.0 },
  { of: "pcache", to: ["bare"], least: 0.8 },
];
const FLUSHED: readonly Wanted[] = [
  { of: "pcache_file", to: ["nbdkit_cache"], least: 2.0 },
  { of: "pcache_file", to: ["qemu_nbd"], least: 2.0 },
  { of: "pcache", to: ["nbdkit_cache", "qemu_nbd"], least: 2.0 },
];

/**
 * Reads are of what is cached: all is written once more. The cells before have written more than a cache holds, and its log, a queue,
 * goes over what was not written lately; to have it read would not move it. So a cell may write a gigabyte before reads meet holes.
 */
const WRITE_ALL = ["rw=randwrite", "bs=4k", "iodepth=32"];

const MIXES = [
  { name: "randread", title: "random read", before: WRITE_ALL, job: ["rw=randread"] },
  { name: "randwrite", title: "random write", before: null, job: ["rw=randwrite"] },
  {
    name: "randrw",
    title: "random 70/30",
    before: WRITE_ALL,
    job: ["rw=randrw", "rwmixread=70"],
  },
];

function randomCells(): LoadCell[] {
  const cells: LoadCell[] = [];
  for (const connections of [1, 4]) {
    for (const mix of MIXES) {
      for (const depth of [1, 32]) {
        cells.push({
          name: `${mix.name}-d${depth}-c${connections}`,
          title: `4 KiB ${mix.title}, depth ${depth}, ${connections} connection${
            connections > 1 ? "s" : ""
          }`,
          before: mix.before,
          job: [...mix.job, "bs=4k", `iodepth=${depth}`, "norandommap"],
          connections,
          turn_bytes: null,
          unit: "IOPS",
          contenders: ALL_IDS,
          wanted: HITS,
        });
      }
    }
  }
  return cells;
}

/** What is read was written in the same way, or block by block in any order, which leaves an extent for each in a cache. */
function sequentialCells(): LoadCell[] {
  const rest = { connections: 1, unit: "MB/s", contenders: ALL_IDS, wanted: SEQUENTIAL } as const;
  const in_order = ["rw=write", "bs=128k", "iodepth=8"];
  const read = ["rw=read", "bs=128k", "iodepth=8"];
  return [
    {
      ...rest,
      name: "seqread",
      title: "128 KiB sequential read, depth 8",
      before: in_order,
      job: read,
      turn_bytes: null,
    },
    {
      ...rest,
      name: "seqread-mixed",
      title: "128 KiB sequential read of random 4 KiB writes, depth 8",
      before: WRITE_ALL,
      job: read,
      turn_bytes: null,
    },
    {
      ...rest,
      name: "seqwrite",
      title: "128 KiB sequential write, 1 GiB, depth 8",
      // A turn is a third of a second: V8 compiled in the first two for as long as they took, on a core that the client needs.
      before: [...in_order, "io_size=2g"],
      job: in_order,
      // Half of a cache: what is written for longer comes to be as fast as the backing device, in every write-back cache.
      turn_bytes: 1024 ** 3,
    },
  ];
}

function flushCells(): LoadCell[] {
  return [1, 32].map((every) => ({
    name: `flush${every}`,
    title: `4 KiB random write, depth 1, a flush after ${every === 1 ? "each" : `every ${every}`}`,
    before: null,
    job: ["rw=randwrite", "bs=4k", "iodepth=1", "norandommap", `fsync=${every}`],
    connections: 1,
    turn_bytes: null,
    unit: "IOPS",
    contenders: ALL_IDS,
    wanted: FLUSHED,
  }));
}

/** In the order in which they are run and printed. */
export const LOAD_CELLS: readonly LoadCell[] = [
  ...randomCells(),
  ...sequentialCells(),
  ...flushCells(),
];

/** Cells that are no plain load, each with code of its own in `special_cells.ts`. */
export const SPECIAL_CELLS = ["load-d1", "load-d32", "writeback", "miss", "sync", "idle"] as const;
export type SpecialCell = typeof SPECIAL_CELLS[number];

/** Every name that `--only` can mean. */
export const CELL_NAMES: readonly string[] = [
  ...LOAD_CELLS.map(({ name }) => name),
  ...SPECIAL_CELLS,
];

/** The cells whose name holds one of the parts; all of them for no part. */
export function chosen(names: readonly string[], only: readonly string[]): string[] {
  return names.filter((name) => only.length === 0 || only.some((part) => name.includes(part)));
}

/** The parts that no name holds. */
export function unknownParts(names: readonly string[], only: readonly string[]): string[] {
  return only.filter((part) => chosen(names, [part]).length === 0);
}

/**
 * Statistics as text: a page for people, a line for a log, metrics for Prometheus. Pure.
 *
 * @module
 */

import type { Histogram } from "../core/latencies.ts";
import type { StatsReply } from "../io/control_protocol.ts";

/** The statistics of one device. */
export interface NamedStats {
  readonly name: string;
  readonly reply: StatsReply;
}

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

/** A number of bytes for people: `1.5 MiB`. */
export function formatBytes(bytes: number): string {
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit + 1 < UNITS.length) {
    value /= 1024;
    unit++;
  }
  return `${unit === 0 ? value : value.toFixed(1)} ${UNITS[unit]}`;
}

/** A number of microseconds for people: `512 us`, `2.0 ms`, `3.1 s`. */
export function formatMicroseconds(us: number): string {
  if (us < 1000) return `${Math.round(us)} us`;
  if (us < 1_000_000) return `${(us / 1000).toFixed(1)} ms`;
  return `${(us / 1_000_000).toFixed(1)} s`;
}

/** The upper end of the bucket in which the `share` of all requests is reached, in microseconds; 0 without requests. */
export function quantile({ count, buckets }: Histogram, share: number): number {
  let seen = 0;
  for (const [bucket, number] of buckets.entries()) {
    seen += number;
    if (number > 0 && seen >= share * count) return 2 ** bucket;
  }
  return 0;
}

/** The page of one device. */
export function statsText(name: string, stats: StatsReply): string {
  const c = stats.counters;
  const lines: [what: string, value: string][] = [
    ["Name", name],
    ["Up", `${Math.round(stats.uptime_ms / 1000)} s`],
    [
      "Requests",
      `${c.reads} reads (${formatBytes(c.read_bytes)}), ` +
      `${c.writes} writes (${formatBytes(c.written_bytes)}), ${c.flushes} flushes`,
    ],
    [
      "Zeroed",
      `${c.zeroes} keeping their space (${formatBytes(c.zeroed_bytes)}), ` +
      `${c.trims} giving it up (${formatBytes(c.trimmed_bytes)}), ` +
      `${formatBytes(c.writeback_zeroed_bytes)} by the backing device`,
    ],
    [
      "Reads",
      `${c.read_hits} hits, ${c.read_partial_hits} partial hits, ${c.read_misses} misses` +
      `${share(c.read_hits, c.read_hits + c.read_partial_hits + c.read_misses)}`,
    ],
    [
      "Fills",
      `${c.fills}, ${c.placeholders_waited} waited for, ${c.fills_not_kept} not kept${
        cutoffText(stats)
      }`,
    ],
    ["Read latency", latencyText(stats.latency.read)],
    ["Write latency", latencyText(stats.latency.write)],
    ["Flush latency", latencyText(stats.latency.flush)],
    [
      "Under way",
      `${stats.requests_under_way} requests, ${stats.requests_waiting} wait for space, ` +
      `${c.waited} had to`,
    ],
    ["Cache mode", modeText(stats)],
    ["Dirty", `${formatBytes(c.dirty_bytes)}, oldest ${Math.round(stats.dirty_age_ms / 1000)} s`],
    [
      "Write-back",
      `${formatBytes(stats.writeback_bytes_per_s)}/s, ${formatBytes(c.writeback_bytes)} in ` +
      `${c.writeback_batches} batches${rateText(stats)}`,
    ],
    [
      "GC",
      `${stats.segments_freed_per_s} segments/s, ${c.segments_freed} freed in ${c.gc_rounds} rounds, ` +
      `eviction ${stats.eviction}, ${formatBytes(c.carried_bytes)} carried`,
    ],
    ["Checksums", `${c.checksum_failures} failures, ${c.healed} healed`],
    [
      "Errors",
      errorPlaces(stats).map(([place, count]) => `${place} ${count}`).join(", "),
    ],
  ];
  return lines.map(([what, value]) => `${`${what}:`.padEnd(19)}${value}\n`).join("");
}

/** The limit that the message `writeback_rate` has set. */
function rateText({ writeback_rate }: StatsReply): string {
  if (writeback_rate === null) return "";
  return writeback_rate === 0 ? ", paused" : `, at most ${formatBytes(writeback_rate)}/s`;
}

/** What passed because of the message `sequential_cutoff`. */
function cutoffText({ sequential_cutoff, counters: c }: StatsReply): string {
  const passed = c.passed_bytes === 0 ? "" : `, ${formatBytes(c.passed_bytes)} of streams passed`;
  if (sequential_cutoff === 0) return passed;
  return `${passed}, streams pass from ${formatBytes(sequential_cutoff)} on`;
}

/** A mode that has just begun promises nothing yet. */
function modeText({ cache_mode, is_mode_settled, counters: c }: StatsReply): string {
  const around = c.around_bytes === 0 ? "" : `, ${formatBytes(c.around_bytes)} around the cache`;
  const settling = is_mode_settled ? "" : ", when what was dirty before is written back";
  return cache_mode + settling + around;
}

function share(part: number, all: number): string {
  return all === 0 ? "" : ` (${Math.round((100 * part) / all)}% hits)`;
}

/** 0 means: within one turn of the device's loop. */
function latencyText(histogram: Histogram): string {
  const { count, sum_us } = histogram;
  if (count === 0) return "-";
  const parts = [0.5, 0.99, 1].map((part) => formatMicroseconds(quantile(histogram, part)));
  return `mean ${formatMicroseconds(sum_us / count)}, half under ${parts[0]}, ` +
    `99% under ${parts[1]}, all under ${parts[2]}`;
}

/** How many errors there were, by the place where they happened. */
export function errorPlaces({ counters: c }: StatsReply): [place: string, count: number][] {
  return [
    ["backing_read", c.backing_read_errors],
    ["backing_write", c.backing_write_errors],
    ["backing_flush", c.backing_flush_errors],
    ["cache_data", c.checksum_failures],
    ["cache_log", c.log_damaged],
  ];
}

/** One device at one moment, in a line: what was done since `before`, or ever if there is none. */
export function statsLine(name: string, stats: StatsReply, before?: StatsReply): string {
  const now = stats.counters;
  const since = (key: keyof typeof now) => now[key] - (before?.counters[key] ?? 0);
  return [
    `${name}:`,
    `reads=${since("reads")}`,
    `read_bytes=${since("read_bytes")}`,
    `writes=${since("writes")}`,
    `written_bytes=${since("written_bytes")}`,
    `flushes=${since("flushes")}`,
    `hits=${since("read_hits")}`,
    `misses=${since("read_misses") + since("read_partial_hits")}`,
    `waiting=${stats.requests_waiting}`,
    `dirty_bytes=${now.dirty_bytes}`,
    `dirty_age_ms=${stats.dirty_age_ms}`,
    `writeback_bytes=${since("writeback_bytes")}`,
    `segments_freed=${since("segments_freed")}`,
    `errors=${errorPlaces(stats).reduce((sum, [, count]) => sum + count, 0)}`,
  ].join(" ");
}

interface Metric {
  readonly name: string;
  readonly type: "counter" | "gauge";
  readonly help: string;
  readonly values: (stats: StatsReply) => [labels: Record<string, string>, value: number][];
}

const one =
  (value: (stats: StatsReply) => number) =>
  (stats: StatsReply): [Record<string, string>, number][] => [[{}, value(stats)]];

const METRICS: readonly Metric[] = [
  {
    name: "pcache_requests_total",
    type: "counter",
    help: "Requests begun, by kind.",
    values: ({ counters: c }) => [
      [{ kind: "read" }, c.reads],
      [{ kind: "write" }, c.writes],
      [{ kind: "flush" }, c.flushes],
      [{ kind: "zero" }, c.zeroes],
      [{ kind: "trim" }, c.trims],
    ],
  },
  {
    name: "pcache_bytes_total",
    type: "counter",
    help: "Bytes of answered requests, by kind.",
    values: ({ counters: c }) => [
      [{ kind: "read" }, c.read_bytes],
      [{ kind: "write" }, c.written_bytes],
      [{ kind: "zero" }, c.zeroed_bytes],
      [{ kind: "trim" }, c.trimmed_bytes],
    ],
  },
  {
    name: "pcache_reads_total",
    type: "counter",
    help: "Answered reads, by where their bytes came from.",
    values: ({ counters: c }) => [
      [{ result: "hit" }, c.read_hits],
      [{ result: "partial" }, c.read_partial_hits],
      [{ result: "miss" }, c.read_misses],
    ],
  },
  {
    name: "pcache_passed_bytes_total",
    type: "counter",
    help: "Bytes of misses that were not kept, as they belonged to a long sequential stream.",
    values: one((stats) => stats.counters.passed_bytes),
  },
  {
    name: "pcache_placeholders_waited_total",
    type: "counter",
    help: "Ranges of reads that another read was fetching already.",
    values: one((stats) => stats.counters.placeholders_waited),
  },
  {
    name: "pcache_waited_total",
    type: "counter",
    help: "Requests that had to wait for space.",
    values: one((stats) => stats.counters.waited),
  },
  {
    name: "pcache_requests_waiting",
    type: "gauge",
    help: "Requests that wait for space.",
    values: one((stats) => stats.requests_waiting),
  },
  {
    name: "pcache_requests_under_way",
    type: "gauge",
    help: "Requests that are not done.",
    values: one((stats) => stats.requests_under_way),
  },
  {
    name: "pcache_clients",
    type: "gauge",
    help: "Connected clients.",
    values: one((stats) => stats.open_count),
  },
  {
    name: "pcache_dirty_bytes",
    type: "gauge",
    help: "Bytes not yet written back.",
    values: one((stats) => stats.counters.dirty_bytes),
  },
  {
    name: "pcache_dirty_age_seconds",
    type: "gauge",
    help: "Age of the oldest dirty data.",
    values: one((stats) => stats.dirty_age_ms / 1000),
  },
  {
    name: "pcache_writeback_bytes_total",
    type: "counter",
    help: "Bytes written to the backing device.",
    values: one((stats) => stats.counters.writeback_bytes),
  },
  {
    name: "pcache_gc_segments_freed_total",
    type: "counter",
    help: "Segments made free.",
    values: one((stats) => stats.counters.segments_freed),
  },
  {
    name: "pcache_checksum_failures_total",
    type: "counter",
    help: "Ranges that did not have their checksum.",
    values: one((stats) => stats.counters.checksum_failures),
  },
  {
    name: "pcache_healed_total",
    type: "counter",
    help: "Damaged clean ranges that were read from the backing device again.",
    values: one((stats) => stats.counters.healed),
  },
  {
    name: "pcache_errors_total",
    type: "counter",
    help: "Errors, by place.",
    values: (stats) => errorPlaces(stats).map(([place, count]) => [{ place }, count]),
  },
  {
    name: "pcache_uptime_seconds",
    type: "gauge",
    help: "Time since the device was started.",
    values: one((stats) => stats.uptime_ms / 1000),
  },
];

const LATENCY = "pcache_request_seconds";

/** All devices in the text format of Prometheus (prometheus.io, "Exposition formats"). */
export function prometheusText(all: readonly NamedStats[]): string {
  const lines = METRICS.flatMap(({ name, type, help, values }) => [
    `# HELP ${name} ${help}`,
    `# TYPE ${name} ${type}`,
    ...all.flatMap((device) =>
      values(device.reply).map(([labels, value]) =>
        `${name}${labelText({ device: device.name, ...labels })} ${value}`
      )
    ),
  ]);
  lines.push(
    `# HELP ${LATENCY} Time from a request to its answer; 0 within one turn of the loop.`,
    `# TYPE ${LATENCY} histogram`,
    ...all.flatMap((device) =>
      (["read", "write", "flush"] as const).flatMap((kind) =>
        histogramLines({ device: device.name, kind }, device.reply.latency[kind])
      )
    ),
  );
  return lines.join("\n") + "\n";
}

/** Buckets are cumulative; the last one has no upper end. */
function histogramLines(labels: Record<string, string>, histogram: Histogram): string[] {
  let seen = 0;
  const buckets = histogram.buckets.slice(0, -1).map((number, bucket) => {
    seen += number;
    return `${LATENCY}_bucket${labelText({ ...labels, le: String(2 ** bucket / 1e6) })} ${seen}`;
  });
  return [
    ...buckets,
    `${LATENCY}_bucket${labelText({ ...labels, le: "+Inf" })} ${histogram.count}`,
    `${LATENCY}_sum${labelText(labels)} ${histogram.sum_us / 1e6}`,
    `${LATENCY}_count${labelText(labels)} ${histogram.count}`,
  ];
}

/** Device names hold nothing that has to be escaped (`checkName`). */
function labelText(labels: Record<string, string>): string {
  return `{${Object.entries(labels).map(([key, value]) => `${key}="${value}"`).join(",")}}`;
}

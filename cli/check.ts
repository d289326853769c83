/**
 * `check`: looks at a cache device that nobody uses, and says what is wrong with it.
 *
 * @module
 */

import { checkCache, type CheckReport } from "../core/check.ts";
import { checkData, type DataReport } from "../core/check_data.ts";
import { CacheError } from "../core/errors.ts";
import type { Memory } from "../core/platform.ts";
import { backingBytes, newProgress, withCache } from "./offline.ts";
import type { Options } from "./options.ts";
import { print, printJson } from "./output.ts";
import { formatBytes } from "./stats_text.ts";

/** Largest cached device whose data is looked at when its size is not known: 64 TiB. A forged key may claim any. */
const MAX_UNKNOWN_BYTES = 64 * 1024 ** 4;

/** `check CACHE [BACKING]`: false when there is an error. */
export function run([cache_dev, backing_dev]: string[], options: Options): boolean {
  return withCache("check", cache_dev!, ({ memory }) => {
    const size_bytes = backingBytes(backing_dev);
    const report = checkCache(memory, size_bytes === undefined ? {} : { size_bytes });
    const data = options.data ? verifyData(cache_dev!, memory, report, size_bytes) : null;
    if (options.json) printJson(jsonOf(cache_dev!, report, data));
    else printReport(cache_dev!, report, data);
    return report.findings.errors === 0;
  });
}

/** Null: there was an error before, so that nobody will read any data. */
function verifyData(
  cache_dev: string,
  memory: Memory,
  { cache, log, findings }: CheckReport,
  size_bytes: number | undefined,
): DataReport | null {
  if (cache === null || log === null || findings.errors > 0) return null;
  if (!cache.data_crc) {
    throw new CacheError("the cache was made with data_crc false: its data has no checksums");
  }
  const bytes = size_bytes ?? log.keys_end_bytes;
  if (bytes > MAX_UNKNOWN_BYTES) {
    throw new CacheError(
      `keys reach up to byte ${bytes} of the cached device: name the backing device, too`,
    );
  }
  const { bar, show } = newProgress(cache_dev);
  try {
    return checkData(cache, memory, bytes, findings, show);
  } finally {
    bar.finish("data verified");
  }
}

function printReport(cache_dev: string, report: CheckReport, data: DataReport | null): void {
  const { findings, cache, log } = report;
  for (const { severity, text } of findings.list) print(`${severity}: ${text}`);
  if (findings.dropped > 0) print(`... and ${findings.dropped} more`);
  if (cache !== null && log !== null) {
    const { key_tail } = cache;
    print(
      `${cache_dev}: ${cache.n_segs} segments, data_crc ${cache.data_crc}; log from ${key_tail.seg}:${key_tail.off} ` +
        `to ${log.end.seg}:${log.end.off}: ${log.ksets} ksets, ${log.keys} keys, ${
          formatBytes(log.dirty_bytes)
        } dirty`,
    );
  }
  if (data !== null) {
    print(
      `${cache_dev}: ${formatBytes(data.verified_bytes)} of data verified, ` +
        `${formatBytes(data.damaged_bytes)} damaged`,
    );
  }
  print(
    `${cache_dev}: ${counted(findings.errors, "error")}, ${counted(findings.warnings, "warning")}`,
  );
}

function counted(count: number, what: string): string {
  return `${count} ${what}${count === 1 ? "" : "s"}`;
}

function jsonOf(cache_dev: string, report: CheckReport, data: DataReport | null) {
  const { findings, cache, log } = report;
  return {
    cache_dev,
    errors: findings.errors,
    warnings: findings.warnings,
    findings: findings.list,
    cache_segs: cache?.n_segs ?? null,
    data_crc: cache?.data_crc ?? null,
    key_tail: cache === null ? null : { seg: cache.key_tail.seg, off: cache.key_tail.off },
    dirty_tail: cache === null ? null : { seg: cache.dirty_tail.seg, off: cache.dirty_tail.off },
    key_head: log?.end ?? null,
    ksets: log?.ksets ?? null,
    keys: log?.keys ?? null,
    dead_keys: log?.dead_keys ?? null,
    dirty_bytes: log?.dirty_bytes ?? null,
    verified_bytes: data?.verified_bytes ?? null,
    damaged_bytes: data?.damaged_bytes ?? null,
  };
}

/**
 * `writeback`: drains a cache that nobody uses, without serving it; also one that a kernel left behind.
 *
 * @module
 */

import { drain } from "../io/drain.ts";
import { naming, newProgress } from "./offline.ts";
import { print } from "./output.ts";
import { formatBytes } from "./stats_text.ts";
import { devicePath } from "./table_input.ts";

/** `writeback CACHE BACKING`. */
export function run([cache_dev, backing_dev]: string[]): boolean {
  const reading = newProgress(cache_dev!);
  const writing = newProgress(cache_dev!);
  try {
    const report = naming(
      "writeback",
      cache_dev!,
      () =>
        drain(devicePath(cache_dev!), devicePath(backing_dev!), {
          reading: reading.show,
          opened: () => reading.bar.finish("log read"),
          writing: writing.show,
        }),
    );
    writing.bar.finish("all data written back");
    print(
      `${cache_dev}: ${formatBytes(report.dirty_bytes)} were dirty, ` +
        `${formatBytes(report.written_bytes)} written back; it is clean`,
    );
  } finally {
    reading.bar.stop();
    writing.bar.stop();
  }
  return true;
}

/**
 * `dump`: prints what is on a cache device that nobody uses.
 *
 * @module
 */

import { type LogKey, type LogKset, readLog } from "../core/log_keys.ts";
import type { OpenedCache } from "../core/media.ts";
import type { Memory } from "../core/platform.ts";
import { inspectStored } from "../io/local_cache.ts";
import { withCache } from "./offline.ts";
import type { Options } from "./options.ts";
import { print } from "./output.ts";

/** `dump CACHE`. What can be read of a log that must be refused is printed before the reason why. */
export function run([cache_dev]: string[], options: Options): boolean {
  withCache("dump", cache_dev!, ({ memory }) => {
    const { cache } = inspectStored(memory);
    if (options.json) dumpJson(cache!, memory);
    else dumpText(cache!, memory);
  });
  return true;
}

/** Lines are collected: a log may have a million of them. */
class Lines {
  #text = "";

  add(line: string): void {
    this.#text += (this.#text === "" ? "" : "\n") + line;
    if (this.#text.length > 65536) this.flush();
  }

  flush(): void {
    if (this.#text !== "") print(this.#text);
    this.#text = "";
  }
}

function dumpText(cache: OpenedCache, memory: Memory): void {
  const lines = new Lines();
  const { info, key_tail, dirty_tail } = cache;
  lines.add(`superblock seg_num ${cache.seg_num} flags 0x${cache.sb_flags.toString(16)}`);
  lines.add(
    `cache_info seg_id ${info.seg_id} n_segs ${info.n_segs} flags 0x${info.flags.toString(16)} ` +
      `data_crc ${info.data_crc} gc_percent ${info.gc_percent}`,
  );
  lines.add(`key_tail ${key_tail.seg}:${key_tail.off}`);
  lines.add(`dirty_tail ${dirty_tail.seg}:${dirty_tail.off}`);
  for (const [seg, device_seg] of cache.chain.entries()) {
    lines.add(
      `segment ${seg} device_segment ${device_seg} generation ${cache.generations.get(seg)}`,
    );
  }
  try {
    for (const kset of readLog(cache, memory)) dumpKset(lines, kset);
  } finally {
    lines.flush();
  }
}

function dumpKset(lines: Lines, { seg, off, next_seg, keys }: LogKset): void {
  if (next_seg !== null) return lines.add(`kset ${seg}:${off} last next_seg ${next_seg}`);
  lines.add(`kset ${seg}:${off} keys ${keys.length}`);
  for (const key of keys) lines.add(keyText(key));
}

function keyText({ off, len, seg, seg_off, gen, data_crc, clean, dead }: LogKey): string {
  const crc = data_crc.toString(16).padStart(8, "0");
  return `  key ${off}+${len} at ${seg}:${seg_off} generation ${gen} crc 0x${crc}` +
    `${clean ? " clean" : ""}${dead ? " dead" : ""}`;
}

/** One object, a line for each kset. */
function dumpJson(cache: OpenedCache, memory: Memory): void {
  const lines = new Lines();
  const { info, key_tail, dirty_tail } = cache;
  const head = {
    superblock: { seg_num: cache.seg_num, flags: cache.sb_flags },
    cache_info: {
      seg_id: info.seg_id,
      n_segs: info.n_segs,
      flags: info.flags,
      data_crc: info.data_crc,
      gc_percent: info.gc_percent,
    },
    key_tail: { seg: key_tail.seg, off: key_tail.off },
    dirty_tail: { seg: dirty_tail.seg, off: dirty_tail.off },
    segments: [...cache.chain].map((device_segment, seg) => ({
      device_segment,
      generation: cache.generations.get(seg),
    })),
  };
  lines.add(JSON.stringify(head).slice(0, -1) + ',"ksets":[');
  try {
    let comma = "";
    for (const kset of readLog(cache, memory)) {
      lines.add(comma + JSON.stringify(kset));
      comma = ",";
    }
    lines.add("]}");
  } finally {
    lines.flush();
  }
}

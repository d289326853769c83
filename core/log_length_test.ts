import { assertEquals } from "@std/assert";
import { LogBuilder } from "../tests/log_builder.ts";
import { KSET_HEADER_BYTES, ksetBytes } from "./format.ts";
import { measureLog } from "./log_length.ts";

const KEY = { off: 0, len: 512, seg: 2, seg_off: 0 };

function lengthOf(builder: LogBuilder): number {
  return measureLog(builder.cache, builder.memory);
}

Deno.test("an empty log has no length", () => {
  assertEquals(lengthOf(new LogBuilder({ segments: 5 })), 0);
});

Deno.test("ksets are counted along last ksets, from the key tail on", () => {
  const builder = new LogBuilder({ segments: 5 });
  builder.kset([KEY]);
  const tail = builder.kset([KEY, KEY]);
  builder.kset([KEY, KEY, KEY]);
  builder.last(3);
  builder.kset([KEY]);
  const behind_tail = ksetBytes(2) + ksetBytes(3) + KSET_HEADER_BYTES + ksetBytes(1);
  assertEquals(lengthOf(builder), ksetBytes(1) + behind_tail);
  builder.cache.key_tail.store(tail.seg, tail.off);
  assertEquals(lengthOf(builder), behind_tail);
});

Deno.test("a log that loops, leaves the cache or claims too many keys has an end", () => {
  const loop = new LogBuilder({ segments: 5 });
  loop.last(0);
  assertEquals(lengthOf(loop), 5 * KSET_HEADER_BYTES);

  const outside = new LogBuilder({ segments: 5 });
  outside.last(5, {}, 1);
  assertEquals(lengthOf(outside), KSET_HEADER_BYTES);

  const long = new LogBuilder({ segments: 5 });
  long.kset([KEY]);
  long.kset([KEY], { key_num: 129 });
  assertEquals(lengthOf(long), ksetBytes(1));
});

Deno.test("a log that fills its segment to the end is measured up to there", () => {
  const full = new LogBuilder({ segments: 5 });
  const keys = Array.from({ length: 128 }, () => KEY);
  while (full.off + ksetBytes(128) + KSET_HEADER_BYTES <= full.cache.data_bytes) full.kset(keys);
  const room = full.cache.data_bytes - full.off;
  full.kset(keys.slice(0, Math.floor((room - KSET_HEADER_BYTES) / 40)));
  assertEquals(lengthOf(full), full.off);
});

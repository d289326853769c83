import { assert, assertEquals, assertThrows } from "@std/assert";
import { LogBuilder } from "../tests/log_builder.ts";
import { AssertionFailure } from "./assert.ts";
import { LOG_RESERVE_SEGMENTS, Segments } from "./segments.ts";
import { Space } from "./space.ts";

const TOTAL = 6;
/** Sectors of a data area: 52 KiB. */
const DATA_SECTORS = 104;

/** A data head over six segments, the first of which holds the log. */
function newSpace(): { space: Space; segments: Segments } {
  const { cache, memory } = new LogBuilder({ segments: TOTAL });
  assertEquals(cache.data_bytes, DATA_SECTORS * 512);
  const segments = new Segments(TOTAL, cache.generations, () => {});
  segments.claimForLog(0);
  segments.settle();
  return { space: new Space(cache, memory, segments), segments };
}

function take(space: Space, sectors: number): number[] {
  space.take(sectors);
  return [space.taken_seg, space.taken_place, space.taken_sectors];
}

Deno.test("space is taken in order, cut at the end of the segment, and goes on in the next", () => {
  const { space } = newSpace();
  assertEquals(take(space, 100), [1, 0, 100]);
  assertEquals(take(space, 3), [1, 100, 3]);
  assertEquals(take(space, 50), [1, 103, 1]);
  assertEquals(take(space, 50), [2, 0, 50]);
  assertEquals(take(space, 1000), [2, 50, 54]);
});

Deno.test("what can be taken is what the head's segment has left, and the segments free for data", () => {
  const { space } = newSpace();
  const segments_for_data = TOTAL - 1 - LOG_RESERVE_SEGMENTS;
  const all = segments_for_data * DATA_SECTORS;
  assertEquals(space.available_sectors, all);
  space.take(1);
  assertEquals(space.available_sectors, all - 1);
  for (let left = all - 1; left > 0; left -= space.taken_sectors) space.take(left);
  assertEquals(space.available_sectors, 0);
  assertThrows(() => space.take(1), AssertionFailure, "space was checked");
});

Deno.test("each range pins its segment once, beside the head's own pin", () => {
  const { space, segments } = newSpace();
  space.take(10);
  space.take(10);
  assertEquals(segments.pins(1), 3);
  space.take(DATA_SECTORS);
  space.take(1);
  assertEquals([segments.pins(1), segments.pins(2)], [3, 2], "the head has left segment 1");
});

Deno.test("a segment that the head leaves with nothing in it can be used again", () => {
  const { space, segments } = newSpace();
  space.take(DATA_SECTORS);
  segments.unpin(1); // the payload never came
  assert(!segments.isFree(1));
  space.take(1);
  segments.sealRetired();
  segments.freeSealed();
  assert(segments.isFree(1));
});

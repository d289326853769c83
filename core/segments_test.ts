import { assert, assertEquals, assertThrows } from "@std/assert";
import { LogBuilder } from "../tests/log_builder.ts";
import { AssertionFailure } from "./assert.ts";
import { LOG_RESERVE_SEGMENTS, Segments } from "./segments.ts";
import type { Generations } from "./slots.ts";

const TOTAL = 6;

interface Fixture {
  readonly segments: Segments;
  readonly generations: Generations;
  /** Segments whose bytes became dead, in order. */
  readonly retired: number[];
}

/** Six segments, segment 0 holds the log. */
function newSegments(): Fixture {
  const { generations } = new LogBuilder({ segments: TOTAL }).cache;
  const retired: number[] = [];
  const segments = new Segments(TOTAL, generations, (seg) => retired.push(seg));
  segments.claimForLog(0);
  segments.settle();
  return { segments, generations, retired };
}

/** A barrier passes: what has retired is free. */
function freeRetired(segments: Segments): void {
  segments.sealRetired();
  segments.freeSealed();
}

Deno.test("after replay: segments with keys hold data, the log's hold the log, the others are free", () => {
  const { generations } = new LogBuilder({ segments: TOTAL }).cache;
  const segments = new Segments(TOTAL, generations, () => {});
  segments.claimForLog(4);
  segments.addKey(2);
  segments.addKey(2);
  segments.addKey(3);
  segments.forgetKeys(3);
  segments.settle();
  assertEquals([0, 1, 2, 3, 4, 5].filter((seg) => segments.isFree(seg)), [0, 1, 3, 5]);
  assert(segments.isLog(4) && !segments.isLog(2));
  assertEquals([segments.used, segments.keys(2)], [2, 2]);
});

Deno.test("data leaves the log its reserve, the log may take everything", () => {
  const { segments } = newSegments();
  assertEquals(segments.free_for_data, TOTAL - 1 - LOG_RESERVE_SEGMENTS);
  for (let i = segments.free_for_data; i > 0; i--) assert(segments.takeForData() > 0);
  assertEquals([segments.free_for_data, segments.takeForData()], [0, -1]);
  for (let i = 0; i < LOG_RESERVE_SEGMENTS; i++) assert(segments.takeForLog() > 0);
  assertEquals([segments.takeForLog(), segments.takeForData()], [-1, -1]);
  assertEquals([segments.free_for_data, segments.used], [0, TOTAL]);
});

Deno.test("a data segment retires when its last key and its last pin are gone, in either order", () => {
  for (const pin_goes_last of [true, false]) {
    const { segments, generations, retired } = newSegments();
    const seg = segments.takeForData(); // pinned for the data head
    segments.pin(seg);
    segments.addKey(seg);
    segments.addKey(seg);
    segments.unpin(seg);
    segments.dropKeys(seg, 1);
    if (!pin_goes_last) segments.unpin(seg);
    else segments.dropKeys(seg, 1);
    assertEquals([retired, generations.get(seg)], [[], 0]);
    if (!pin_goes_last) segments.dropKeys(seg, 1);
    else segments.unpin(seg);
    assertEquals([retired, generations.get(seg)], [[seg], 1]);
    assert(!segments.isFree(seg), "its new generation is not durable yet");
    freeRetired(segments);
    assert(segments.isFree(seg));
  }
});

Deno.test("a log segment retires when the key tail has left it", () => {
  const { segments, generations, retired } = newSegments();
  segments.dropLog(0);
  assertEquals([retired, generations.get(0)], [[0], 1]);
  assert(!segments.isFree(0));
  freeRetired(segments);
  assert(segments.isFree(0));
});

Deno.test("a barrier frees what had retired when it was asked for, and no more", () => {
  const { segments } = newSegments();
  const [a, b, c] = [segments.takeForData(), segments.takeForData(), segments.takeForData()];
  segments.unpin(a);
  segments.unpin(c);
  assert(segments.has_unsealed);
  segments.sealRetired();
  assert(!segments.has_unsealed);
  segments.unpin(b);
  assert(segments.has_unsealed);
  segments.freeSealed();
  assertEquals([a, b, c].map((seg) => segments.isFree(seg)), [true, false, true]);
  freeRetired(segments);
  assertEquals([a, b, c].map((seg) => segments.isFree(seg)), [true, true, true]);
});

Deno.test("the segment that has been free longest is taken first", () => {
  const { segments } = newSegments();
  const order: number[] = [];
  for (let i = 0; i < 2 * (TOTAL - 1); i++) {
    const seg = segments.takeForData();
    order.push(seg);
    segments.unpin(seg);
    freeRetired(segments);
  }
  assertEquals(order, [1, 2, 3, 4, 5, 1, 2, 3, 4, 5]);
});

Deno.test("what cannot be is refused", () => {
  const { segments } = newSegments();
  const seg = segments.takeForData();
  segments.addKey(seg);
  assertThrows(() => segments.dropKeys(seg, 2), AssertionFailure, "the keys that the log gives up");
  segments.unpin(seg);
  assertThrows(() => segments.unpin(seg), AssertionFailure, "a pinned segment");
  assertThrows(() => segments.pin(0), AssertionFailure, "only a data segment");
  assertThrows(() => segments.dropLog(seg), AssertionFailure, "a log segment");
});

/** Sequential streams: what is one, and how many are remembered. */

import { assertEquals } from "@std/assert";
import { MOST_STREAMS, Streams } from "./streams.ts";

const KIB = 1024;

function streams(cutoff_bytes: number): Streams {
  const made = new Streams();
  made.setCutoff(cutoff_bytes);
  return made;
}

Deno.test("a stream is past the cutoff with the read that makes it longer", () => {
  const some = streams(8 * KIB);
  const seen = [0, 1, 2, 3].map((n) => some.note(n * 4 * KIB, 4 * KIB));
  assertEquals(seen, [false, false, true, true]);
  assertEquals(some.note(0, 4 * KIB), false, "the start again: a new one");
  assertEquals(some.note(1024 * KIB, 9 * KIB), true, "one read can be long enough");
});

Deno.test("neighbours in any order are one stream", () => {
  for (const order of [[0, 2, 1, 3], [3, 2, 1, 0], [1, 3, 0, 2]]) {
    const some = streams(15 * KIB);
    const seen = order.map((n) => some.note(n * 4 * KIB, 4 * KIB));
    assertEquals(seen, [false, false, false, true], order.join());
  }
});

Deno.test("as many streams as are remembered go on beside each other, one more does not", () => {
  for (const [count, is_seen] of [[MOST_STREAMS, true], [MOST_STREAMS + 1, false]] as const) {
    const some = streams(8 * KIB);
    let last = false;
    for (let round = 0; round < 4; round++) {
      for (let n = 0; n < count; n++) {
        last = some.note(n * 1024 * KIB + round * 4 * KIB, 4 * KIB);
      }
    }
    assertEquals(last, is_seen, `${count} streams`);
  }
});

Deno.test("reads here and there are no stream; another cutoff begins anew", () => {
  const some = streams(4 * KIB);
  for (let n = 0; n < 200; n++) {
    assertEquals(some.note(((n * 7919) % 1009) * 64 * KIB, 4 * KIB), false);
  }
  some.note(0, 4 * KIB);
  some.setCutoff(4 * KIB);
  assertEquals(some.note(4 * KIB, 4 * KIB), false);
});

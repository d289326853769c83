import { assert, assertEquals, assertThrows } from "@std/assert";
import { Random, seedOr } from "../tests/random.ts";
import { AssertionFailure } from "./assert.ts";
import { classFor, classWords, MAX_RUN_WORDS, RunArena } from "./run_arena.ts";

Deno.test("the class for a number of words is the smallest that holds them", () => {
  for (let words = 1; words <= MAX_RUN_WORDS; words += words < 4096 ? 1 : 97) {
    const size_class = classFor(words);
    assert(classWords(size_class) >= words, `${words} words fit`);
    assert(size_class === 0 || classWords(size_class - 1) < words, `${words} words fit no smaller`);
  }
  assertEquals(classWords(classFor(MAX_RUN_WORDS)), MAX_RUN_WORDS);
  assertThrows(() => classFor(MAX_RUN_WORDS + 1), AssertionFailure);
});

Deno.test("a run wastes less than a quarter of what was asked for, from 64 words on", () => {
  for (let words = 64; words < MAX_RUN_WORDS; words++) {
    assert(classWords(classFor(words)) < words * 1.25, `${words} words`);
  }
});

Deno.test("runs in use keep their content, whatever is taken, given back and grown around them", () => {
  const random = new Random(seedOr(11));
  const arena = new RunArena();
  const runs: { run: number; size_class: number; tag: number }[] = [];
  const isIntact = ({ run, size_class, tag }: { run: number; size_class: number; tag: number }) =>
    arena.words.subarray(run, run + classWords(size_class)).every((word) => word === tag);
  for (let step = 1; step <= 20_000; step++) {
    if (runs.length < 200 && random.chance(0.52)) {
      const size_class = classFor(random.between(1, random.pick([8, 100, 2000])));
      const run = arena.take(size_class);
      arena.words.fill(step, run, run + classWords(size_class));
      runs.push({ run, size_class, tag: step });
    } else if (runs.length > 0) {
      const [gone] = runs.splice(random.below(runs.length), 1);
      assert(isIntact(gone!), `run of step ${gone!.tag} at step ${step}`);
      arena.put(gone!.run, gone!.size_class);
    }
  }
  assert(runs.every(isIntact));
});

Deno.test("a run that was given back is taken again before the arena grows", () => {
  const arena = new RunArena();
  const size_class = classFor(100);
  const taken = Array.from({ length: 50 }, () => arena.take(size_class));
  const used_words = arena.used_words;
  assertEquals(used_words, 50 * classWords(size_class));
  for (const run of taken) arena.put(run, size_class);
  const again = taken.map(() => arena.take(size_class));
  assertEquals(again.toSorted((a, b) => a - b), taken);
  assertEquals(arena.used_words, used_words);
  arena.take(size_class);
  assert(arena.used_words > used_words);
});

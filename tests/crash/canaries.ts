/**
 * Canaries: bugs put into a copy of the core, one at a time, each of which the suite must catch. A canary that survives is
 * a hole in the suite.
 *
 * @module
 */

import type { Job } from "./jobs.ts";
import { SCRIPTS } from "./script.ts";

/** A seeded bug. */
export interface Canary {
  readonly name: string;
  /** The script, "random" with a seed, or "faults", that is known to catch it: it is looked for there first, and everywhere after that. */
  readonly by?: string;
  /** File, as seen from core/. */
  readonly file: string;
  /** Text that stands there once, and what it becomes. */
  readonly find: string;
  readonly replace: string;
}

export const CANARIES: readonly Canary[] = [
  {
    name: "a kset is stored before the barrier that makes its data durable",
    file: "log.ts",
    find:
      "    if (!this.#barriers.isDone(this.#barrier)) return false;\n    if (this.#state === MARKING)",
    replace:
      "    if (this.#state !== MARKING && !this.#barriers.isDone(this.#barrier)) return false;\n" +
      "    if (this.#state === MARKING)",
  },
  {
    name: "a flush is answered when its keys are staged",
    file: "flushes.ts",
    find: "return log.durable >= requests.log_target[slot]! &&",
    replace: "return log.appended >= requests.log_target[slot]! &&",
  },
  {
    name: "a flush is answered when its ksets are stored, without the last barrier",
    file: "log.ts",
    find: "    this.#barrier = this.#barriers.cover();\n    this.#state = STORING;",
    replace: "    this.#barrier = 0;\n    this.#state = STORING;",
  },
  {
    name: "data is not persisted",
    file: "state.ts",
    find: "    this.memory.persist(addr, len_bytes);\n",
    replace: "",
  },
  {
    name: "a zero area is not persisted before keys name it",
    by: "the log fills a segment to its very end, pmem",
    file: "zeroes.ts",
    find: "    this.#memory.persist(addr, len_bytes);\n",
    replace: "",
  },
  {
    name: "a zero area is used on when its segment has retired",
    by: "the log fills a segment to its very end, pmem",
    file: "engine.ts",
    find: "    zero_areas.retired(seg);\n",
    replace: "",
  },
  {
    name: "zeroes that the backing device could not make count as made",
    by: "faults",
    file: "writeback.ts",
    find: "    if (errno === 0) {\n      const len_bytes",
    replace: "    if (errno === 0 || ranges.kind !== DATA) {\n      const len_bytes",
  },
  {
    name: "a kset is not persisted",
    file: "log.ts",
    find: "    this.#memory.persist(addr, len_bytes);\n",
    replace: "    if (bytes === ZEROES) this.#memory.persist(addr, len_bytes);\n",
  },
  {
    name: "the end mark behind a kset is left out",
    by: "old ksets behind the key head, pmem",
    file: "log.ts",
    find: "Math.min(Math.ceil(to_off / CLEAR_BYTES) * CLEAR_BYTES, data_bytes)",
    replace: "Math.min(to_off - KSET_HEADER_BYTES, data_bytes)",
  },
  {
    name: "the segment that the log goes on in is not cleared first",
    by: "a kset closes at its segment's end, and a last kset, pmem",
    file: "log.ts",
    find: "        this.#clear_off = 0;\n",
    replace: "        this.#clear_off = this.#cache.data_bytes;\n",
  },
  {
    name: "no room is left for a last kset",
    by: "the log fills a segment to its very end, pmem",
    file: "log.ts",
    find: "if (off + ksetBytes(keys) + KSET_HEADER_BYTES > this.#cache.data_bytes) {",
    replace: "if (off + ksetBytes(keys) > this.#cache.data_bytes) {",
  },
  {
    name: "references are dropped before the key tail is durable",
    by: "a kset closes at its segment's end, and a last kset, pages",
    file: "gc.ts",
    find: "if (!this.#state.barriers.isDone(this.#tail_barrier)) return freed;",
    replace: "",
  },
  {
    name: "GC goes past the durable dirty tail",
    file: "gc.ts",
    find: "      if (reader.seg === dirty_seg && reader.off === dirty_off) break;\n",
    replace:
      "      if (reader.seg === this.#state.log.head_seg && reader.off === this.#state.log.head_off) break;\n",
  },
  {
    name: "the index is not told of a freed segment",
    by: "a kset closes at its segment's end, and a last kset, pmem",
    file: "engine.ts",
    find: "    index.freeSegment(seg);\n",
    replace: "",
  },
  {
    name: "what lay in a freed segment still counts",
    by: "a kset closes at its segment's end, and a last kset, pmem",
    file: "extent_index.ts",
    find: "return this.#live[word & SEGMENT_MASK] === word;",
    replace: "return this.#live[word & SEGMENT_MASK] !== undefined;",
  },
  {
    name: "a copy of a duplicated structure is not persisted",
    file: "slots.ts",
    find:
      "    memory.write(slot_addr, bytes, len_bytes);\n    memory.persist(slot_addr, len_bytes);\n  }\n\n  /** Clears both",
    replace: "    memory.write(slot_addr, bytes, len_bytes);\n  }\n\n  /** Clears both",
  },
  {
    name: "the newest slot of a tail is overwritten",
    file: "slots.ts",
    find:
      "    this.#slot = this.#slot === 0 ? 1 : 0;\n    this.#codec.write(this.#memory, this.#addr, this.#slot, this.#seq);",
    replace:
      "    this.#slot = this.#slot === 1 ? 1 : 0;\n    this.#codec.write(this.#memory, this.#addr, this.#slot, this.#seq);",
  },
  {
    name: "a stored gc_percent does not wait for the one before it",
    by: "gc_percent is changed again while it is being stored",
    file: "engine.ts",
    find: "    if (!this.#state.barriers.isDone(this.#info_barrier)) return false;\n",
    replace: "",
  },
  {
    name: "sequence numbers do not wrap",
    by: "sequence numbers wrap, pmem",
    file: "slots.ts",
    find: "  return ((a - b) << 24 >> 24) > 0;",
    replace: "  return a > b;",
  },
  {
    name: "the dirty tail moves without a flush of the backing device",
    file: "writeback.ts",
    find: "    if (this.#written_bytes > 0) {\n      this.#stage = FLUSHING;",
    replace: "    if (this.#written_bytes < 0) {\n      this.#stage = FLUSHING;",
  },
  {
    name: "a batch is over before its dirty tail is durable",
    by: "the log fills a segment to its very end, pages",
    file: "writeback.ts",
    find:
      "    if (!this.#state.barriers.isDone(this.#barrier)) return false;\n    const { counters, now_ms }",
    replace: "    const { counters, now_ms }",
  },
  {
    name: "write-back writes the oldest version of a batch",
    file: "writeback.ts",
    find: "      this.#merged.insertCached(start,",
    replace: "      if (this.#merged.holds(start) < 0) this.#merged.insertCached(start,",
  },
  {
    name: "a fill is stored over a newer write",
    by: "both slots of every duplicated structure, pmem",
    file: "fills.ts",
    find: "this.#storeRange(fill, start, stop - start);",
    replace: "this.#storeRange(fill, this.#sector[fill]!, this.#sectors[fill]!);",
  },
  {
    name: "in writethrough a flush is answered when the log is durable",
    by: "writethrough: writes over holes, hits and each other, FUA, flushes, pmem",
    file: "flushes.ts",
    find: "      through.flushed >= requests.write_target[slot]! &&\n",
    replace: "",
  },
  {
    name: "in writethrough a flush is answered without a flush of the backing device",
    by: "writethrough: writes over holes, hits and each other, FUA, flushes, pmem",
    file: "flushes.ts",
    find: "      through.flushed >= requests.write_target[slot]! &&\n",
    replace: "      through.written >= requests.write_target[slot]! &&\n",
  },
  {
    name: "a flush does not wait for what went around the cache",
    by: "writearound: writes over holes, hits and each other, FUA, flushes, pmem",
    file: "flushes.ts",
    find: "      backing_flushes.isDurable(requests.backing_flush[slot]!);",
    replace: "      backing_flushes.failures >= 0;",
  },
  {
    name: "a write goes around the cache although the log has an older copy",
    by: "writearound: writes over holes, hits and each other, FUA, flushes, pmem",
    file: "writes.ts",
    find: "if (index.holeEnd(sector, limit) < limit) return false;",
    replace: "if (index.holeEnd(sector, limit) < 0) return false;",
  },
  {
    name: "what went around the cache and is not flushed becomes a clean key",
    by: "writearound: writes over holes, hits and each other, FUA, flushes, pmem",
    file: "fills.ts",
    find: "const is_clean = !arounds.isVolatile(sector);",
    replace: "const is_clean = !arounds.is_barred;",
  },
  {
    name: "write-back overtakes a write that goes around the cache",
    by: "writearound: a write under way is overwritten, and read, pmem",
    file: "writeback.ts",
    find: "    if (!this.#state.arounds.has_passed) return false;\n",
    replace: "",
  },
  {
    name: "what a killed process wrote around the cache counts as flushed",
    by: "writearound: writes over holes, hits and each other, FUA, flushes, pmem",
    file: "arounds.ts",
    find: "this.#first_flush = was_around ? flushes.cover() : 0;",
    replace: "this.#first_flush = was_around ? 0 : 0;",
  },
  {
    name: "writes go around the cache before the media say so",
    by: "the mode changes while gc_percent is being stored",
    file: "engine.ts",
    find: "state.arounds.is_announced = state.cache.info.mode === AROUND_NUMBER &&",
    replace: "state.arounds.is_announced = state.through.is_around ||",
  },
  {
    name: "the media say that none goes around any more, before those that did are flushed",
    by: "the mode changes after writes went around the cache, pmem",
    file: "engine.ts",
    find: "if (this.#mode_wanted >= 0 && !backing_flushes.hasEnded(arounds.flush)) {",
    replace: "if (this.#mode_wanted > 9 && !backing_flushes.hasEnded(arounds.flush)) {",
  },
  {
    name: "writethrough promises at once what it holds when the old dirty data is written back",
    by: "writethrough: writes over holes, hits and each other, FUA, flushes, pmem",
    file: "through.ts",
    find: "return this.#backlog === 0 && this.flushed >= this.#settled_at;",
    replace: "return this.flushed <= this.#settled_at + appended;",
  },
  {
    name: "what is carried to the head is logged without its bytes",
    by: "what was read is carried to the head, and written over meanwhile, pmem",
    file: "eviction.ts",
    find: "      memory.copy(to_addr, from_addr, taken_sectors * SECTOR_BYTES);\n",
    replace: "      memory.copy(to_addr, from_addr, 0);\n",
  },
  {
    name: "what stays where it is is logged again as if it were older",
    by: "what was read is carried to the head, and written over meanwhile, pmem",
    file: "eviction.ts",
    find: "    this.#state.logKey(sector, sectors, seg, place, true, crc);\n",
    replace: "    this.#state.logKey(sector, sectors, seg, 0, true, crc);\n",
  },
  {
    name: "what is carried to the head may have been overwritten",
    by: "what was read is carried to the head, and written over meanwhile, pmem",
    file: "eviction.ts",
    find: "      const is_part = !index.isPlaceholder(extent) && index.isLive(extent) &&",
    replace: "      const is_part = true || index.isLive(extent) &&",
  },
  {
    name: "init done is written before the rest of a format is durable",
    file: "media.ts",
    find: "  formatSegments(memory, cache);\n  memory.barrierSync();\n",
    replace: "  formatSegments(memory, cache);\n",
  },
  {
    name: "opening a cache does not make durable what a killed process had stored",
    file: "replay.ts",
    find: "  memory.barrierSync();\n",
    replace: "",
  },
  {
    name: "what a passing read brought takes a newer write out of the index",
    by: "writearound: a write under way is overwritten, and read, pmem",
    file: "fills.ts",
    find: "else index.remove(start, stop - start);",
    replace: "else index.remove(this.#sector[fill]!, this.#sectors[fill]!);",
  },
  {
    name: "a write goes around the cache although the log has the clean key of what was forgotten",
    by: "writearound: what was forgotten is written, and what was read is kept again, pmem",
    file: "state.ts",
    find: "    this.arounds.bar();\n",
    replace: "",
  },
  {
    name: "drop_clean and invalidate forget what is dirty",
    by: "writeback: all messages, beside requests, pmem",
    file: "upkeep.ts",
    find: "if (!is_live || index.isClean(extent)) ranges.push({ start, stop });",
    replace: "ranges.push({ start, stop });",
  },
  {
    name: "drop_clean and invalidate forget that a range is being read or written",
    by: "writearound: a range that is being written is to be forgotten, and is read, pmem",
    file: "upkeep.ts",
    find: "      most = start;\n      return false;\n",
    replace: "      ranges.push({ start, stop });\n      return true;\n",
  },
  {
    name: "scrub looks at what is being read",
    by: "random 72",
    file: "upkeep.ts",
    find: "if (!index.isLive(extent) || index.isPlaceholder(extent)) return true;",
    replace: "if (!index.isLive(extent)) return true;",
  },
  {
    name: "the message flush is over before everything is written back",
    by: "writeback: all messages, beside requests, pmem",
    file: "../io/jobs.ts",
    find: "const is_there = counters.writeback_key_bytes >= this.#target_bytes;",
    replace: "const is_there = counters.writeback_key_bytes >= this.#seen_bytes;",
  },
  {
    name: "who waits is not told that the log is damaged",
    by: "faults",
    file: "state.ts",
    find: "    this.barriers.fail();\n    return true;\n",
    replace: "    this.barriers.fail();\n    return false;\n",
  },
  {
    name: "a rate of write-back holds up who waits for it",
    by: "writeback: all messages, beside requests, pmem",
    file: "writeback.ts",
    find: "if (is_starved || is_draining || is_closing || through.is_prompt) return true;",
    replace: "if (is_starved || is_closing) return true;",
  },
];

/** How a canary was caught. */
export interface Catch {
  readonly check: string;
  readonly script: string;
}

const ROOT = new URL("../../", import.meta.url).pathname;
/** What the suite is made of. */
const FOLDERS = ["core", "io", "tests", "tests/crash"];

/**
 * Lets the suite look for the canary, in a copy of the repository that has it. Null: it survived.
 * Throws when the text that it changes is not in the core any more.
 */
export async function releaseCanary(canary: Canary, limit_ms: number): Promise<Catch | null> {
  const dir = Deno.makeTempDirSync({ prefix: "canary-" });
  try {
    for (const folder of FOLDERS) copyFolder(folder, dir);
    const path = `${dir}/core/${canary.file}`;
    const text = Deno.readTextFileSync(path);
    if (text.split(canary.find).length !== 2) {
      throw new Error(
        `canary "${canary.name}": core/${canary.file} must hold this once:\n${canary.find}`,
      );
    }
    Deno.writeTextFileSync(path, text.replace(canary.find, () => canary.replace));
    const { stdout, stderr, success } = await new Deno.Command(Deno.execPath(), {
      args: [
        ...["run", "-A", "--no-prompt", "--no-check", "--no-config"],
        ...[`${dir}/tests/crash/hunt.ts`, String(limit_ms), canary.by ?? ""],
      ],
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
    }).output();
    const text_out = new TextDecoder().decode(stdout);
    if (!success) throw new Error(`${canary.name}: ${new TextDecoder().decode(stderr)}`);
    return JSON.parse(text_out) as Catch | null;
  } finally {
    Deno.removeSync(dir, { recursive: true });
  }
}

function copyFolder(folder: string, dir: string): void {
  Deno.mkdirSync(`${dir}/${folder}`, { recursive: true });
  for (const { name, isFile } of Deno.readDirSync(ROOT + folder)) {
    if (isFile && name.endsWith(".ts") && !name.endsWith("_test.ts")) {
      Deno.copyFileSync(`${ROOT}${folder}/${name}`, `${dir}/${folder}/${name}`);
    }
  }
}

/** The jobs of a hunt: what is known to catch it (see `Canary`), then few states everywhere, then more. */
export function* huntJobs(by: string): Generator<Job> {
  const known = SCRIPTS.findIndex(({ name }) => name === by);
  const random = /^random (\d+)$/.exec(by)?.[1];
  for (const most of [8, 64]) {
    if (random !== undefined) yield { kind: "random", seed: Number(random), most };
    if (known >= 0) yield { kind: "script", index: known, seed: most, most };
    if (by === "faults") yield { kind: "faults", seed: most };
  }
  for (const most of [8, 64, 512]) {
    for (let index = 0; index < SCRIPTS.length; index++) {
      yield { kind: "script", index, seed: most, most };
    }
    for (let seed = 1; seed <= 40; seed++) yield { kind: "random", seed: most + seed, most };
    yield { kind: "faults", seed: most };
  }
}

/**
 * A trace through the engine that ships, on a machine without bytes: which blocks that were read came from the cache.
 *
 * @module
 */

import { assert } from "../../core/assert.ts";
import { Engine } from "../../core/engine.ts";
import type { Eviction } from "../../core/eviction.ts";
import { dataBytes, SEGMENTS_ADDR } from "../../core/format.ts";
import { inspectCache, prepareCache } from "../../core/media.ts";
import { InstantBacking, ScratchMemory } from "../scratch_memory.ts";
import { BLOCK_BYTES, type Trace } from "./traces.ts";

const GC_PERCENT = 80;
/** Time between two requests: write-back keeps up. */
const STEP_MS = 40;
/** A cache has about so many segments. */
const SEGMENTS = 128;
const LEAST_SEGMENT_BYTES = 32 * 1024;
const MOST_SEGMENT_BYTES = 4 * 1024 * 1024;

/** What a run has seen. Units: blocks. */
export interface EngineRun {
  readonly hits: number;
  readonly reads: number;
  /** What the cache may hold until GC begins: what the other policies are given. */
  readonly size: number;
  /** Of the blocks that came into the cache, how many GC copied to its main part. */
  readonly carried: number;
  readonly filled: number;
  /** Keys that GC logged again. */
  readonly kept_keys: number;
}

/** Runs a trace through a cache of about `size` blocks. */
export function runEngine(trace: Trace, size: number, eviction: Eviction): EngineRun {
  const wanted = size * BLOCK_BYTES;
  let segment_bytes = LEAST_SEGMENT_BYTES;
  while (segment_bytes < MOST_SEGMENT_BYTES && wanted / segment_bytes > SEGMENTS) {
    segment_bytes *= 2;
  }
  const geometry = { segment_bytes, min_cache_bytes: 0 };
  const data_bytes = dataBytes(geometry);
  const held = Math.max(4, Math.round(wanted / data_bytes));
  const segments = Math.ceil(held * 100 / GC_PERCENT);
  const memory = new ScratchMemory(SEGMENTS_ADDR + segments * segment_bytes);
  const backing = new InstantBacking(trace.footprint * BLOCK_BYTES);
  const cache = prepareCache(memory, inspectCache(memory, { geometry, data_crc: false }));
  const engine = Engine.open({ memory, backing, cache, now_ms: 0, eviction });
  engine.setGcPercent(GC_PERCENT);

  let now_ms = 0;
  let hits = 0;
  let reads = 0;
  const turn = () => {
    engine.pump(now_ms);
    for (let id = backing.take(); id >= 0; id = backing.take()) {
      engine.backingDone(id, 0);
      engine.pump(now_ms);
    }
  };
  for (const { block, count, is_write } of trace.accesses) {
    now_ms += STEP_MS;
    const [off, len] = [block * BLOCK_BYTES, count * BLOCK_BYTES];
    const slot = is_write ? engine.beginWrite(off, len, false) : engine.beginRead(off, len);
    turn();
    if (is_write) {
      for (let waits = 0; engine.takePlaced() !== slot; waits++) {
        assert(waits < 1000, "a write finds a place");
        turn();
      }
      engine.payloadArrived(slot);
    }
    for (let waits = 0; engine.takeAnswered() !== slot; waits++) {
      assert(waits < 1000, "a request is answered");
      turn();
    }
    if (!is_write) {
      reads += count;
      for (let piece = engine.firstPiece(slot); piece >= 0; piece = engine.nextPiece(piece)) {
        if (engine.pieceAddr(piece) < memory.buffer_addr) {
          hits += engine.pieceLen(piece) / BLOCK_BYTES;
        }
      }
    }
    engine.release(slot);
    turn();
  }
  const limit = Math.floor(segments * GC_PERCENT / 100);
  const { carried_bytes, kept_keys, segments_freed } = engine.counters;
  return {
    hits,
    reads,
    size: Math.floor(limit * data_bytes / BLOCK_BYTES),
    carried: carried_bytes / BLOCK_BYTES,
    filled: segments_freed * data_bytes / BLOCK_BYTES,
    kept_keys,
  };
}

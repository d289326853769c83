/**
 * Settings of a running device, as messages change them: `<word> <value>`.
 *
 * @module
 */

import { CACHE_MODES, isCacheMode } from "../core/cache_mode.ts";
import type { Engine } from "../core/engine.ts";
import { CacheError } from "../core/errors.ts";
import { EVICTIONS, isEviction } from "../core/eviction.ts";

/** What settings are made on. */
export type SettableEngine = Pick<
  Engine,
  "setGcPercent" | "setWritebackRate" | "setSequentialCutoff" | "setCacheMode" | "setEviction"
>;

/** By word: checks the value and sets it. */
const SETTINGS: Readonly<Record<string, (engine: SettableEngine, value: string) => void>> = {
  gc_percent: (engine, value) => {
    if (!/^[0-9]{1,3}$/.test(value)) {
      throw new CacheError(`gc_percent ${value}, but it must be 0..90`);
    }
    engine.setGcPercent(Number(value));
  },
  writeback_rate: (engine, value) => {
    if (value !== "max" && value !== "pause" && !/^[0-9]{1,15}$/.test(value)) {
      throw new CacheError(`writeback_rate ${value}, but it must be bytes a second, max or pause`);
    }
    if (value === "0") throw new CacheError("writeback_rate 0, but pause is meant");
    const rates: Record<string, number> = { max: Infinity, pause: 0 };
    engine.setWritebackRate(rates[value] ?? Number(value));
  },
  sequential_cutoff: (engine, value) => {
    if (!/^[0-9]{1,15}$/.test(value)) {
      throw new CacheError(`sequential_cutoff ${value}, but it must be bytes, or 0 for none`);
    }
    engine.setSequentialCutoff(Number(value));
  },
  cache_mode: (engine, value) => {
    if (!isCacheMode(value)) {
      throw new CacheError(`cache_mode ${value}, but it must be one of ${CACHE_MODES.join(", ")}`);
    }
    engine.setCacheMode(value);
  },
  eviction: (engine, value) => {
    if (!isEviction(value)) {
      throw new CacheError(`eviction ${value}, but it must be ${EVICTIONS.join(" or ")}`);
    }
    engine.setEviction(value);
  },
};

/** The first words of these messages. */
export const SETTING_WORDS: readonly string[] = Object.keys(SETTINGS);

/** Applies a message. Throws `CacheError` for one that is not known, or with a value that is out of bounds. */
export function applySetting(engine: SettableEngine, args: readonly string[]): void {
  const [word = "", value] = args;
  const set = Object.hasOwn(SETTINGS, word) ? SETTINGS[word] : undefined;
  if (set === undefined || value === undefined || args.length !== 2) {
    throw new CacheError(`message "${args.join(" ")}" is not known`);
  }
  set(engine, value);
}

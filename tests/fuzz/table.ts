/**
 * How often the server met each kind of change in each state.
 *
 * @module
 */

import { allStates, CHANGES } from "./conversations.ts";

/** `reached`: times, by `state: kind`. */
type Reached = ReadonlyMap<string, number>;

/** How often something was changed in a state. */
export function timesIn(reached: Reached, state: string): number {
  return CHANGES.reduce((sum, kind) => sum + (reached.get(`${state}: ${kind}`) ?? 0), 0);
}

/** Prints states by kinds of change. */
export function printTable(reached: Reached): void {
  const states = allStates();
  const wide = Math.max(...states.map((state) => state.length));
  console.log("".padEnd(wide) + CHANGES.map((kind) => kind.padStart(10)).join(""));
  for (const state of states) {
    const times = CHANGES.map((kind) => String(reached.get(`${state}: ${kind}`) ?? 0));
    console.log(state.padEnd(wide) + times.map((count) => count.padStart(10)).join(""));
  }
}

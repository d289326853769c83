/**
 * What a bench found, as it is kept in `results.json`.
 *
 * @module
 */

import type { LoadCell, Wanted } from "./cells.ts";
import type { ContenderId } from "./contenders.ts";
import type { Load } from "./fio.ts";
import { median, spread } from "./stats.ts";

/** One turn of a contender. */
export interface Turn extends Load {
  /** Processor time that the server took for a request, in microseconds. It hardly depends on what else the machine does. */
  readonly cpu_us: number;
}

/** What one contender did in one cell: medians over the rounds. */
export interface Score {
  readonly id: ContenderId;
  /** Rate in the cell's unit. */
  readonly value: number;
  readonly iops: number;
  /** (largest - smallest) / median of the rates. */
  readonly spread: number;
  readonly p50_us: number;
  readonly p99_us: number;
  readonly p999_us: number;
  readonly cpu_us: number;
  readonly client_us: number;
  /** The rate of each round. */
  readonly rounds: readonly number[];
}

/** A ratio that was wanted, and what came out. */
export interface Verdict extends Wanted {
  /** The best of `to`. */
  readonly best: ContenderId;
  readonly ratio: number;
  /** What the ratio would be for a server that takes no time at all: the client alone sets the rate. */
  readonly bound: number;
}

export interface CellResult {
  readonly name: string;
  /** The day of its measurement. */
  readonly date: string;
  readonly title: string;
  readonly unit: LoadCell["unit"];
  readonly scores: readonly Score[];
  readonly verdicts: readonly Verdict[];
}

/** A figure of a cell that is no plain load. */
export interface Fact {
  readonly who: string;
  readonly what: string;
  readonly value: number;
  readonly unit: string;
  /** What the project has set itself. */
  readonly wanted?: { readonly is: "at least" | "at most"; readonly limit: number };
}

/** What a special cell found. */
export type SpecialResult = Omit<FactsResult, "date">;

export interface FactsResult {
  readonly name: string;
  readonly date: string;
  readonly title: string;
  readonly facts: readonly Fact[];
}

export interface Results {
  readonly machine: string;
  readonly software: string;
  readonly rounds: number;
  readonly seconds: number;
  readonly cells: readonly CellResult[];
  readonly special: readonly FactsResult[];
}

/**
 * The results of a run that had some of the cells, and of an earlier one for the others: in the order of `names`. What was measured
 * elsewhere, or in another way, is left out.
 */
export function merged(now: Results, before: Results | null, names: readonly string[]): Results {
  const is_alike = before !== null && before.machine === now.machine &&
    before.software === now.software && before.rounds === now.rounds &&
    before.seconds === now.seconds;
  if (!is_alike) return now;
  const both = <T extends { readonly name: string }>(own: readonly T[], old: readonly T[]): T[] =>
    names.flatMap((name) => [...own, ...old].find((cell) => cell.name === name) ?? []);
  return {
    ...now,
    cells: both(now.cells, before.cells),
    special: both(now.special, before.special),
  };
}

/** The rate that a cell compares. */
export function rateOf(load: Load, unit: LoadCell["unit"]): number {
  return unit === "IOPS" ? load.iops : load.bytes_per_second / 1e6;
}

/** Sums up the rounds of one contender. */
export function scoreOf(
  id: ContenderId,
  turns: readonly Turn[],
  unit: LoadCell["unit"],
): Score {
  const rounds = turns.map((turn) => rateOf(turn, unit));
  return {
    id,
    value: median(rounds),
    iops: median(turns.map((turn) => turn.iops)),
    spread: spread(rounds),
    p50_us: median(turns.map((turn) => turn.p50_us)),
    p99_us: median(turns.map((turn) => turn.p99_us)),
    p999_us: median(turns.map((turn) => turn.p999_us)),
    cpu_us: median(turns.map((turn) => turn.cpu_us)),
    client_us: median(turns.map((turn) => turn.client_us)),
    rounds,
  };
}

/**
 * Holds the scores against what was wanted.
 *
 * @param clients how many of the load's clients can run at once
 */
export function judge(
  scores: readonly Score[],
  wanted: readonly Wanted[],
  clients: number,
): Verdict[] {
  const client_us = Math.min(...scores.map((score) => score.client_us));
  const valueOf = (id: ContenderId) => scores.find((score) => score.id === id)?.value ?? NaN;
  return wanted.map((wish) => {
    const best = wish.to.reduce((a, b) => valueOf(b) > valueOf(a) ? b : a);
    const best_iops = scores.find(({ id }) => id === best)?.iops ?? NaN;
    const bound = clients * 1e6 / client_us / best_iops;
    return { ...wish, best, ratio: valueOf(wish.of) / valueOf(best), bound };
  });
}

/** Whether a figure is what was wanted; true where nothing was. */
export function isMet({ value, wanted }: Fact): boolean {
  if (wanted === undefined) return true;
  return wanted.is === "at least" ? value >= wanted.limit : value <= wanted.limit;
}

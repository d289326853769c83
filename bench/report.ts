/**
 * The results as text: Markdown that can be read in a terminal.
 *
 * @module
 */

import { type ContenderId, CONTENDERS, PEER_IDS } from "./contenders.ts";
import { type CellResult, type FactsResult, isMet, type Results, type Verdict } from "./results.ts";
import { ratio, short } from "./stats.ts";

/** Columns of the table of ratios. */
const RATIOS: readonly { readonly of: ContenderId; readonly to: readonly ContenderId[] }[] = [
  { of: "pcache", to: PEER_IDS },
  { of: "pcache_crc", to: PEER_IDS },
  { of: "pcache_file", to: PEER_IDS },
  { of: "pcache_file_crc", to: PEER_IDS },
  { of: "pcache", to: ["bare"] },
  { of: "pcache_crc", to: ["bare"] },
  { of: "bare_c", to: PEER_IDS },
];

const IF_FREE =
  "*If free*: what the ratio would be for a server that takes no time at all. The client alone sets that rate: its own " +
  "processor time for a request (*fio CPU* below), on one core for each connection as far as there are cores.";

/** A table with a head; every column as wide as its widest entry. */
export function table(rows: readonly (readonly string[])[]): string {
  const widths = rows[0]!.map((_, i) => Math.max(...rows.map((row) => row[i]!.length), 3));
  const line = (row: readonly string[]) =>
    `| ${row.map((cell, i) => cell.padEnd(widths[i]!)).join(" | ")} |`;
  const rule = `| ${widths.map((width) => "-".repeat(width)).join(" | ")} |`;
  return [line(rows[0]!), rule, ...rows.slice(1).map(line)].join("\n");
}

function valueOf(cell: CellResult, id: ContenderId): number | undefined {
  return cell.scores.find((score) => score.id === id)?.value;
}

function best(cell: CellResult, ids: readonly ContenderId[]): number | undefined {
  const values = ids.map((id) => valueOf(cell, id)).filter((value) => value !== undefined);
  return values.length === 0 ? undefined : Math.max(...values);
}

function ratioTable(cells: readonly CellResult[]): string {
  const head = RATIOS.map(({ of, to }) =>
    `${CONTENDERS[of].title} / ${to.length === 1 ? CONTENDERS[to[0]!].title : "best peer"}`
  );
  const rows = cells.map((cell) => [
    cell.title,
    ...RATIOS.map(({ of, to }) => ratio(valueOf(cell, of), best(cell, to))),
  ]);
  return table([["cell", ...head], ...rows]);
}

function rateTable(cells: readonly CellResult[]): string {
  const ids = cells[0]!.scores.map(({ id }) => id);
  const rows = cells.map((cell) => [
    `${cell.title}, ${cell.unit}`,
    ...ids.map((id) => {
      const score = cell.scores.find((score) => score.id === id);
      return score === undefined ? "-" : short(score.value);
    }),
  ]);
  return table([["cell", ...ids.map((id) => CONTENDERS[id].title)], ...rows]);
}

function latencyTable(cells: readonly CellResult[]): string {
  const rows = cells.flatMap((cell) =>
    cell.scores.map((score) => [
      cell.title,
      CONTENDERS[score.id].title,
      short(score.p50_us),
      short(score.p99_us),
      short(score.p999_us),
      short(score.cpu_us),
      short(score.client_us),
      `${(score.spread * 100).toFixed(0)} %`,
    ])
  );
  return table([[
    "cell",
    "contender",
    "p50 us",
    "p99 us",
    "p99.9 us",
    "server CPU us",
    "fio CPU us",
    "spread of rates",
  ], ...rows]);
}

function verdictRow(cell: string, { of, best, ratio, least, bound }: Verdict): string[] {
  return [
    cell,
    `${CONTENDERS[of].title} / ${CONTENDERS[best].title}`,
    `${ratio.toFixed(2)}x`,
    `at least ${least.toFixed(1)}x`,
    ratio >= least ? "yes" : "NO",
    `${bound.toFixed(2)}x`,
  ];
}

function verdictTable({ cells, special }: Results): string {
  const rows = cells.flatMap((cell) =>
    cell.verdicts.map((verdict) => verdictRow(cell.title, verdict))
  );
  for (const { title, facts } of special) {
    for (const fact of facts) {
      if (fact.wanted === undefined) continue;
      rows.push([
        title,
        `${fact.who}: ${fact.what}`,
        `${short(fact.value)} ${fact.unit}`,
        `${fact.wanted.is} ${fact.wanted.limit} ${fact.unit}`,
        isMet(fact) ? "yes" : "NO",
        "-",
      ]);
    }
  }
  return table([["cell", "what", "measured", "wanted", "met", "if free"], ...rows]);
}

function factTable({ facts }: FactsResult): string {
  return table([
    ["contender", "what", "median"],
    ...facts.map(({ who, what, value, unit }) => [who, what, `${short(value)} ${unit}`]),
  ]);
}

/** The whole report. */
export function markdown(results: Results): string {
  const { cells, special } = results;
  const dates = [...new Set([...cells, ...special].map(({ date }) => date))].sort();
  const parts = [
    "# Measurements",
    `${
      dates.join(", ")
    }, ${results.machine}; ${results.software}. Medians of ${results.rounds} rounds of ` +
    `${results.seconds} s, contenders in turn within each round. Made by \`deno task bench\`.`,
  ];
  if (cells.length > 0) {
    parts.push("## Ratios", ratioTable(cells));
    parts.push("## Rates", rateTable(cells));
  }
  parts.push("## What was wanted", IF_FREE, verdictTable(results));
  for (const one of special) parts.push(`## ${one.title}`, factTable(one));
  if (cells.length > 0) parts.push("## Latencies", latencyTable(cells));
  return parts.join("\n\n") + "\n";
}

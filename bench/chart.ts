/**
 * The rates as a picture: bars, a group for each cell, a colour for each contender. Each group has its own scale, 1 being the
 * best peer, because rates of different cells cannot be compared.
 *
 * @module
 */

import { type ContenderId, CONTENDERS, PEER_IDS } from "./contenders.ts";
import type { CellResult, Results } from "./results.ts";
import { short } from "./stats.ts";

const COLOURS: Record<ContenderId, string> = {
  pcache: "#1b5e9e",
  pcache_crc: "#4a90d0",
  pcache_file: "#2e7d5b",
  pcache_file_crc: "#6bbf95",
  bare: "#9e9e9e",
  bare_c: "#5b6770",
  nbdkit_memory: "#c0504d",
  nbdkit_file: "#d98880",
  nbdkit_cache: "#e0a458",
  qemu_nbd: "#8e6bb0",
};

const WIDTH = 960;
const LEFT = 170;
const RIGHT = 130;
const BAR = 13;
const GAP = 3;
const HEAD = 28;
const TOP = 64;

function text(x: number, y: number, content: string, more = ""): string {
  const escaped = content.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
  return `<text x="${x}" y="${y}" ${more}>${escaped}</text>`;
}

/** How long a bar is: its rate against the best peer's, or against the best where no peer took part. */
export function scaled(cell: CellResult): number[] {
  const peers = cell.scores.filter(({ id }) => PEER_IDS.includes(id));
  const base = Math.max(...(peers.length > 0 ? peers : cell.scores).map(({ value }) => value));
  return cell.scores.map(({ value }) => value / base);
}

function group(cell: CellResult, top: number, unit_px: number): string {
  const parts = [text(16, top + 16, `${cell.title}, ${cell.unit}`, 'font-weight="bold"')];
  const lengths = scaled(cell);
  for (const [i, { id, value }] of cell.scores.entries()) {
    const y = top + HEAD + i * (BAR + GAP);
    const width = Math.max(1, lengths[i]! * unit_px).toFixed(1);
    parts.push(text(LEFT - 8, y + BAR - 2, CONTENDERS[id].title, 'text-anchor="end"'));
    parts.push(
      `<rect x="${LEFT}" y="${y}" width="${width}" height="${BAR}" fill="${COLOURS[id]}"/>`,
    );
    const label = `${short(value)}  (${lengths[i]!.toFixed(2)}x)`;
    parts.push(text(LEFT + Number(width) + 6, y + BAR - 2, label));
  }
  const bottom = top + HEAD + cell.scores.length * (BAR + GAP);
  const x = LEFT + unit_px;
  parts.push(
    `<line x1="${x}" y1="${
      top + HEAD - 4
    }" x2="${x}" y2="${bottom}" stroke="#555" stroke-dasharray="3 3"/>`,
  );
  return parts.join("\n");
}

/** The chart as SVG. */
export function chart({ cells, machine }: Results): string {
  const heights = cells.map(({ scores }) => HEAD + scores.length * (BAR + GAP) + 18);
  const height = TOP + heights.reduce((sum, one) => sum + one, 0);
  const longest = Math.max(1, ...cells.flatMap(scaled));
  const unit_px = (WIDTH - LEFT - RIGHT) / longest;
  const parts = [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" ` +
    `font-family="sans-serif" font-size="11" fill="#222">`,
    `<rect width="${WIDTH}" height="${height}" fill="#fff"/>`,
    text(16, 24, "pcache and what could be used instead; 1x is the best peer", 'font-size="16"'),
    text(16, 44, machine),
  ];
  let top = TOP;
  for (const [i, cell] of cells.entries()) {
    parts.push(group(cell, top, unit_px));
    top += heights[i]!;
  }
  return [...parts, "</svg>"].join("\n") + "\n";
}

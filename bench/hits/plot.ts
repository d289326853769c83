/**
 * The plot of `bench/hits.ts`: for each trace and size a group of bars.
 *
 * @module
 */

import type { Row } from "../hits.ts";

const COLOURS = ["#9aa5b1", "#c2410c", "#64748b", "#0e7490", "#15803d"];
const BAR = 9;
const GROUP_GAP = 14;
const HEIGHT = 160;
const TOP = 40;
const LEFT = 40;
const PANEL_GAP = 60;

/** An SVG image: a panel for each trace, a group for each size, a bar for each of `columns`. */
export function plot(rows: readonly Row[], columns: readonly string[]): string {
  const traces = [...new Set(rows.map(({ trace }) => trace))];
  const group = columns.length * BAR + GROUP_GAP;
  const panels_in_a_line = 2;
  const panel_width = 3 * group + PANEL_GAP;
  const lines = Math.ceil(traces.length / panels_in_a_line);
  const width = LEFT + panels_in_a_line * panel_width + 20;
  const height = TOP + lines * (HEIGHT + PANEL_GAP);
  const parts: string[] = [];
  columns.forEach((name, i) => {
    parts.push(`<rect x="${LEFT + i * 80}" y="12" width="10" height="10" fill="${COLOURS[i]}"/>`);
    parts.push(`<text x="${LEFT + i * 80 + 14}" y="21">${name}</text>`);
  });
  traces.forEach((trace, n) => {
    const x = LEFT + (n % panels_in_a_line) * panel_width;
    const y = TOP + Math.floor(n / panels_in_a_line) * (HEIGHT + PANEL_GAP);
    parts.push(...panel(rows.filter((row) => row.trace === trace), trace, x, y, group));
  });
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" ` +
    `font-family="sans-serif" font-size="10">\n<rect width="${width}" height="${height}" fill="#fff"/>\n` +
    `${parts.join("\n")}\n</svg>\n`;
}

function panel(rows: readonly Row[], trace: string, x: number, y: number, group: number): string[] {
  const base = y + HEIGHT;
  const parts = [`<text x="${x}" y="${y + 12}" font-weight="bold">${trace}: hits, %</text>`];
  for (const tick of [0, 50, 100]) {
    const at = base - tick * (HEIGHT - 24) / 100;
    parts.push(`<line x1="${x}" x2="${x + 3 * group}" y1="${at}" y2="${at}" stroke="#ddd"/>`);
    parts.push(`<text x="${x - 6}" y="${at + 3}" text-anchor="end">${tick}</text>`);
  }
  rows.forEach(({ ratios, size_percent }, n) => {
    const from = x + n * group + GROUP_GAP / 2;
    ratios.forEach((ratio, i) => {
      const tall = ratio * (HEIGHT - 24) / 100;
      const rect = `x="${from + i * BAR}" y="${(base - tall).toFixed(1)}" width="${BAR - 1}"`;
      parts.push(`<rect ${rect} height="${tall.toFixed(1)}" fill="${COLOURS[i]}"/>`);
    });
    const middle = from + ratios.length * BAR / 2;
    parts.push(
      `<text x="${middle}" y="${base + 12}" text-anchor="middle">${size_percent} %</text>`,
    );
  });
  return parts;
}

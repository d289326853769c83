/**
 * What is said of several measurements of one thing.
 *
 * @module
 */

/** The middle one; of an even count the mean of the two in the middle. Throws for none. */
export function median(values: readonly number[]): number {
  if (values.length === 0) throw new RangeError("median of no value");
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

/** How far the values lie apart: (largest - smallest) / median. 0 for a single one. */
export function spread(values: readonly number[]): number {
  const middle = median(values);
  if (middle === 0) return 0;
  return (Math.max(...values) - Math.min(...values)) / middle;
}

/** Three significant figures, thousands as k, millions as M: `"182 k"`. */
export function short(value: number): string {
  if (!Number.isFinite(value)) return "-";
  const [scaled, unit] = Math.abs(value) >= 1e6
    ? [value / 1e6, " M"]
    : Math.abs(value) >= 1e4
    ? [value / 1e3, " k"]
    : [value, ""];
  const size = Math.abs(scaled);
  const digits = size >= 100 || size === 0 ? 0 : size >= 10 ? 1 : 2;
  return scaled.toFixed(digits) + unit;
}

/** A ratio as it stands in a table: `"2.31x"`, `"-"` where one side is missing. */
export function ratio(of: number | undefined, to: number | undefined): string {
  if (of === undefined || to === undefined || to === 0) return "-";
  return `${(of / to).toFixed(2)}x`;
}

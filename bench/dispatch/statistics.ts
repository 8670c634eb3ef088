// Medians and spreads over rounds.
import { median } from '../trials.js';
import type { FigureName } from './figures.js';
import type { Outcome } from './measure.js';

export interface Summary {
  readonly median: number;
  readonly least: number;
  readonly most: number;
}

/** @returns undefined when there is nothing to summarize */
export function summarize(values: readonly number[]): Summary | undefined {
  if (values.length === 0) return undefined;
  return { median: median(values), least: Math.min(...values), most: Math.max(...values) };
}

/** What was measured of a figure, in the order of the rounds. */
export function valuesOf({ rounds, traced }: Outcome, figure: FigureName): number[] {
  return [...rounds, traced].map((figures) => figures[figure]).filter((value) => value !== undefined);
}

/** What comes of a figure of two contestants, round by round: how fast the machine is at the moment is in both. */
export function compare(
  a: Outcome,
  b: Outcome,
  figure: FigureName,
  how: (a: number, b: number) => number,
): Summary | undefined {
  const values: number[] = [];
  for (const [round, figures] of a.rounds.entries()) {
    const [left, right] = [figures[figure], b.rounds[round]?.[figure]];
    if (left !== undefined && right !== undefined) values.push(how(left, right));
  }
  return summarize(values);
}

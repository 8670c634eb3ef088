// How benchmarks measure: contestants take turns (A B C A B C), each trial in processes of its own; medians and spread.

export interface Contestant {
  readonly name: string;
  /** Runs once and returns a figure of which more is better. */
  readonly trial: () => Promise<number>;
}

export interface Outcome {
  readonly name: string;
  /** In the order of the rounds. */
  readonly figures: readonly number[];
}

/** Runs all contestants in turn, `rounds` times, after one round that does not count. */
export async function takeTurns(contestants: readonly Contestant[], rounds: number): Promise<Outcome[]> {
  const outcomes = contestants.map(({ name }) => ({ name, figures: [] as number[] }));
  for (let round = 0; round <= rounds; round++) {
    for (const [index, { name, trial }] of contestants.entries()) {
      showProgress(`${round === 0 ? 'warming up' : `round ${round} of ${rounds}`}: ${name}`);
      const figure = await trial();
      if (round > 0) outcomes[index]?.figures.push(figure);
    }
  }
  showProgress('');
  return outcomes;
}

export function median(figures: readonly number[]): number {
  const sorted = [...figures].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  const upper = sorted[middle] ?? Number.NaN;
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? Number.NaN) + upper) / 2;
}

/** The figures of `a` over those of `b`, round by round: the machine's speed at the moment is in both. */
export function ratios(a: Outcome, b: Outcome): number[] {
  return a.figures.map((figure, round) => figure / (b.figures[round] ?? Number.NaN));
}

function showProgress(text: string): void {
  if (process.stderr.isTTY) process.stderr.write(`\r\x1b[K${text}`);
}

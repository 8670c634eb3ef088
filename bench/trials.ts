// How benchmarks measure: contestants take turns (A B C A B C), each trial in processes of its own; medians and spread.

export interface Contestant {
  readonly name: string;
  /** Runs once and returns a figure of which more is better; or says why it cannot run here. */
  readonly trial: () => Promise<number | { readonly skipped: string }>;
}

export interface Outcome {
  readonly name: string;
  /** In the order of the rounds; empty when it was skipped. */
  readonly figures: readonly number[];
  readonly skipped?: string;
}

/** Runs all contestants in turn, `rounds` times, after one round that does not count. */
export async function takeTurns(contestants: readonly Contestant[], rounds: number): Promise<Outcome[]> {
  const figures = new Map<string, number[]>(contestants.map(({ name }) => [name, []]));
  const skipped = new Map<string, string>();
  for (let round = 0; round <= rounds; round++) {
    for (const { name, trial } of contestants) {
      if (skipped.has(name)) continue;
      showProgress(`${round === 0 ? 'warming up' : `round ${round} of ${rounds}`}: ${name}`);
      const figure = await trial();
      if (typeof figure !== 'number') skipped.set(name, figure.skipped);
      else if (round > 0) figures.get(name)?.push(figure);
    }
  }
  showProgress('');
  return contestants.map(({ name }) => {
    const reason = skipped.get(name);
    return { name, figures: figures.get(name) ?? [], ...(reason !== undefined && { skipped: reason }) };
  });
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

// What it costs to give connections to workers: passfd beside everything else that does it, in one run.
import { fileURLToPath } from 'node:url';

import { type Contestant } from './dispatch/contestants.js';
import { describeMachine } from './dispatch/machine.js';
import { measure } from './dispatch/measure.js';
import { toText, writeReport, type Report } from './dispatch/report.js';
import { scales, type Scale } from './dispatch/scale.js';
import { valuesOf } from './dispatch/statistics.js';
import { endAtSignals } from './dispatch/stage.js';
import { withoutStrace } from './dispatch/syscalls.js';
import type { Work } from './dispatch/works.js';
import { buildPrograms } from './native.js';
import { median } from './trials.js';

export interface Choice {
  readonly scale: Scale['name'];
  readonly works: readonly Work[];
  readonly contestants: readonly Contestant[];
  /** Instead of what the scale says. */
  readonly rounds: number | undefined;
  /** Where the results are written. */
  readonly results: string;
}

export const defaultResults = fileURLToPath(new URL('../../bench/results', import.meta.url));

/** What a machine with nothing else to do takes for itself, and to watch. */
const QUIET_PERCENT = 5;

/** @returns whether every answer came and was right */
export async function run(choice: Choice): Promise<boolean> {
  endAtSignals();
  const notes: string[] = [];
  const present = choice.contestants.filter(({ title, missing }) => {
    const why = missing?.();
    if (why !== undefined) notes.push(`Skipped: ${title}. ${why}`);
    return why === undefined;
  });
  const noSyscalls = await withoutStrace();
  if (noSyscalls !== undefined) notes.push(noSyscalls);
  const plan = {
    programs: await buildPrograms(),
    scale: scales[choice.scale],
    works: choice.works,
    contestants: present,
    rounds: choice.rounds,
    countsSyscalls: noSyscalls === undefined,
  };
  const { outcomes, skippedTrials } = await measure(plan, ({ done, of, text }) => {
    process.stderr.write(`[${done}/${of}] ${text}\n`);
  });
  if (skippedTrials > 0) {
    notes.push(`There was no time for ${skippedTrials} trials: the last rounds have fewer of them.`);
  }
  const elsewhere = median(outcomes.flatMap((outcome) => valuesOf(outcome, 'elsewherePercent')));
  if (elsewhere > QUIET_PERCENT) {
    const share = elsewhere.toFixed(0);
    notes.push(`Not quiet: in half of the trials other processes took ${share} % of the machine or more.`);
  }
  const report: Report = {
    scale: choice.scale,
    date: new Date().toISOString().slice(0, 10),
    machine: describeMachine(),
    notes,
    outcomes,
  };
  console.log(toText(report));
  const paths = await writeReport(report, choice.results, choice.scale);
  process.stderr.write(`Written: ${paths.join(', ')}\n`);
  return outcomes.every(({ problems }) => problems.length === 0);
}

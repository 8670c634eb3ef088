// What it costs to give connections to workers: passfd beside everything else that does it, in one run.
import { fileURLToPath } from 'node:url';

import { type Contestant } from './dispatch/contestants.js';
import { describeMachine } from './dispatch/machine.js';
import { measure } from './dispatch/measure.js';
import { toText, writeReport, type Report } from './dispatch/report.js';
import { scales, type Scale } from './dispatch/scale.js';
import { endAtSignals } from './dispatch/stage.js';
import { withoutStrace } from './dispatch/syscalls.js';
import type { Work } from './dispatch/works.js';
import { buildPrograms } from './native.js';

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

/** @returns whether every answer came and was right */
export async function run(choice: Choice): Promise<boolean> {
  endAtSignals();
  const skipped: string[] = [];
  const present = choice.contestants.filter(({ title, missing }) => {
    const why = missing?.();
    if (why !== undefined) skipped.push(`Skipped: ${title}. ${why}`);
    return why === undefined;
  });
  const noSyscalls = withoutStrace();
  if (noSyscalls !== undefined) skipped.push(noSyscalls);
  const plan = {
    programs: await buildPrograms(),
    scale: scales[choice.scale],
    works: choice.works,
    contestants: present,
    rounds: choice.rounds,
    countsSyscalls: noSyscalls === undefined,
  };
  const outcomes = await measure(plan, ({ done, of, text }) => {
    process.stderr.write(`[${done}/${of}] ${text}\n`);
  });
  const report: Report = {
    scale: choice.scale,
    date: new Date().toISOString().slice(0, 10),
    machine: describeMachine(),
    skipped,
    outcomes,
  };
  console.log(toText(report));
  const paths = await writeReport(report, choice.results, choice.scale);
  process.stderr.write(`Written: ${paths.join(', ')}\n`);
  return outcomes.every(({ problems }) => problems.length === 0);
}

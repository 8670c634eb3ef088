// The goals: ratios within one run, round by round, with two workers.
import { tellNumber, type FigureName } from './figures.js';
import type { Outcome } from './measure.js';
import { compare, summarize, valuesOf, type Summary } from './statistics.js';
import type { WorkId } from './works.js';

interface Goal {
  readonly title: string;
  readonly wanted: { readonly least: number } | { readonly most: number };
  readonly unit: '' | '%' | 'µs' | 'bytes';
  /** Whose figure it is. */
  readonly of: readonly string[];
  /** From this contestant's figures and the others'; undefined when something for it was not measured. */
  readonly measure: (find: Find, contestant: string) => Summary | undefined;
  /** What cannot be told from the goal. */
  readonly tolerance?: (find: Find, contestant: string) => number;
}

/** How far a contestant is with a goal. */
export interface Standing {
  readonly goal: string;
  readonly contestant: string;
  readonly wanted: string;
  readonly unit: Goal['unit'];
  readonly measured: Summary;
  readonly isMet: boolean;
  /** "met", or by how much it is missed. */
  readonly verdict: string;
}

type Find = (work: WorkId, contestant: string, workers?: number) => Outcome | undefined;

const DIRECT = ['passfd-direct'];
const HAND_OFF = ['passfd-run', 'passfd-serve'];
const PASSFD = [...DIRECT, ...HAND_OFF];

/** So much do medians of the same contestant differ from run to run. */
const NOISE = 0.025;

/**
 * V8 takes memory, and gives it back, in pages of 256 KiB. Two of them more or less, shared by all connections that were
 * held, cannot be told from nothing. What the kernel says of descriptors is exact.
 */
const NO_MEMORY = 2 * 256 * 1024;

const goals: readonly Goal[] = [
  {
    title: '(a) connections/s over cluster, round robin',
    wanted: { least: 2.5 },
    unit: '',
    of: DIRECT,
    measure: ratioTo('a', 'perSecond', 'cluster'),
  },
  {
    title: "(a) connections/s over shared accept, the kernel's own",
    wanted: { least: 1 },
    unit: '',
    of: DIRECT,
    measure: ratioTo('a', 'perSecond', 'cluster-shared'),
    tolerance: () => NOISE,
  },
  {
    title: '(a) connections/s over plain SO_REUSEPORT workers',
    wanted: { least: 1.05 },
    unit: '',
    of: DIRECT,
    measure: ratioTo('a', 'perSecond', 'reuse-port'),
  },
  {
    title: '(a) dispatcher CPU per connection',
    wanted: { most: 0.5 },
    unit: 'µs',
    of: DIRECT,
    measure: (find, contestant) => inAllRounds(find('a', contestant), 'dispatcherCpuUs'),
  },
  {
    title: '(a) spread over workers',
    wanted: { most: 2 },
    unit: '%',
    of: HAND_OFF,
    measure: (find, contestant) => inAllRounds(find('a', contestant), 'spreadPercent'),
  },
  {
    title: '(a) dispatcher CPU per connection over the C limit',
    wanted: { most: 1.5 },
    unit: '',
    of: HAND_OFF,
    measure: ratioTo('a', 'dispatcherCpuUs', 'limit'),
  },
  {
    title: "(a) cluster primary's CPU per connection over ours",
    wanted: { least: 8 },
    unit: '',
    of: PASSFD,
    measure: (find, contestant) =>
      between(
        find('a', 'cluster'),
        find('a', contestant),
        'dispatcherCpuUs',
        (theirs, ours) => theirs / ours,
      ),
  },
  {
    title: '(c) connections/s over the recipe in Python',
    wanted: { least: 1.3 },
    unit: '',
    of: DIRECT,
    measure: ratioTo('c', 'perSecond', 'python'),
  },
  {
    title: '(c) connections/s over the recipe in Python',
    wanted: { least: 1 },
    unit: '',
    of: [...HAND_OFF, 'passfd-python'],
    measure: ratioTo('c', 'perSecond', 'python'),
  },
  {
    title: '(d) bulk over one direct Node process',
    wanted: { least: 0.99 },
    unit: '',
    of: PASSFD,
    measure: ratioTo('d', 'mebibytesPerSecond', 'alone'),
  },
  {
    title: '(d) bulk over nginx',
    wanted: { least: 1.5 },
    unit: '',
    of: PASSFD,
    measure: ratioTo('d', 'mebibytesPerSecond', 'nginx'),
  },
  {
    title: '(d) bulk over HAProxy',
    wanted: { least: 1.5 },
    unit: '',
    of: PASSFD,
    measure: ratioTo('d', 'mebibytesPerSecond', 'haproxy'),
  },
  {
    title: '(e) p50 latency added to that of one Node process alone',
    wanted: { most: 5 },
    unit: 'µs',
    of: DIRECT,
    measure: addedLatency,
  },
  {
    title: '(e) p50 latency added to that of one Node process alone',
    wanted: { most: 30 },
    unit: 'µs',
    of: HAND_OFF,
    measure: addedLatency,
  },
  {
    title: '(f) connections/s at 64 workers over shared accept',
    wanted: { least: 1.3 },
    unit: '',
    of: DIRECT,
    measure: (find, contestant) =>
      between(
        find('f', contestant, 64),
        find('f', 'cluster-shared', 64),
        'perSecond',
        (ours, theirs) => ours / theirs,
      ),
  },
  {
    title: '(f) dispatcher CPU per connection at 64 workers over 2 workers',
    wanted: { most: 2 },
    unit: '',
    of: HAND_OFF,
    measure: (find, contestant) =>
      between(
        find('f', contestant, 64),
        find('f', contestant, 2),
        'dispatcherCpuUs',
        (many, two) => many / two,
      ),
  },
  {
    title: '(g) dispatcher memory per connection held by a worker',
    wanted: { most: 0 },
    unit: 'bytes',
    of: PASSFD,
    measure: (find, contestant) => inAllRounds(find('g', contestant), 'dispatcherBytes'),
    tolerance: (find, contestant) =>
      NO_MEMORY / (inAllRounds(find('g', contestant), 'held')?.median ?? Number.NaN),
  },
  {
    title: '(g) dispatcher descriptors per connection held by a worker',
    wanted: { most: 0 },
    unit: '',
    of: PASSFD,
    measure: (find, contestant) => inAllRounds(find('g', contestant), 'dispatcherDescriptors'),
  },
  {
    title: '(i) p99 latency with a sleepy worker over that before',
    wanted: { most: 2 },
    unit: '',
    of: DIRECT,
    measure: (find, contestant) => {
      const rounds = find('i', contestant)?.rounds ?? [];
      return summarize(
        rounds.flatMap(({ p99Us, calmP99Us }) =>
          p99Us !== undefined && calmP99Us !== undefined ? [p99Us / calmP99Us] : [],
        ),
      );
    },
  },
  {
    title: '(i) p99 latency with a sleepy worker over that of plain SO_REUSEPORT workers',
    wanted: { most: 0.1 },
    unit: '',
    of: DIRECT,
    measure: ratioTo('i', 'p99Us', 'reuse-port'),
  },
];

/** Where everything for a goal was measured. */
export function standingsOf(outcomes: readonly Outcome[]): Standing[] {
  const find: Find = (work, contestant, workers) =>
    outcomes.find(
      (outcome) =>
        outcome.work === work &&
        outcome.contestant === contestant &&
        (workers === undefined || outcome.workers === workers),
    );
  return goals.flatMap((goal) =>
    goal.of.flatMap((contestant) => {
      const measured = goal.measure(find, contestant);
      const tolerance = goal.tolerance?.(find, contestant) ?? 0;
      return measured ? [standing(goal, contestant, measured, tolerance)] : [];
    }),
  );
}

function standing(
  { title, wanted, unit }: Goal,
  contestant: string,
  measured: Summary,
  tolerance: number,
): Standing {
  const { median } = measured;
  const [sign, bound, missing] =
    'least' in wanted ? ['≥', wanted.least, wanted.least - median] : ['≤', wanted.most, median - wanted.most];
  const isMet = missing <= tolerance;
  const missedBy =
    bound === 0 ? `${tellNumber(missing, 0)} ${unit}` : `${tellNumber((missing / bound) * 100, 0)} %`;
  return {
    goal: title,
    contestant,
    wanted: bound === 0 ? '0' : `${sign} ${bound}`,
    unit,
    measured,
    isMet,
    verdict: isMet ? 'met' : `missed by ${missedBy}`,
  };
}

function addedLatency(find: Find, contestant: string): Summary | undefined {
  return between(find('e', contestant), find('e', 'alone'), 'p50Us', (ours, alone) => ours - alone);
}

function ratioTo(work: WorkId, figure: FigureName, other: string): Goal['measure'] {
  return (find, contestant) =>
    between(find(work, contestant), find(work, other), figure, (ours, theirs) => ours / theirs);
}

function inAllRounds(outcome: Outcome | undefined, figure: FigureName): Summary | undefined {
  return outcome && summarize(valuesOf(outcome, figure));
}

function between(
  a: Outcome | undefined,
  b: Outcome | undefined,
  figure: FigureName,
  how: (a: number, b: number) => number,
): Summary | undefined {
  return a && b && compare(a, b, figure, how);
}

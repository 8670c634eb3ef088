// Measuring: contestants take turns (A B C A B C), each trial in processes of its own.
import type { Programs } from '../native.js';
import type { Contestant } from './contestants.js';
import type { Figures } from './figures.js';
import { collectingEnvironment } from './garbage.js';
import { Load, type LoadResult } from './load.js';
import type { Scale } from './scale.js';
import type { Settings } from './settings.js';
import { Stage } from './stage.js';
import { countSyscalls } from './syscalls.js';
import { dispatchersOf, type Measurement, type Trial, type Work, type WorkId } from './works.js';

/** What is to be measured, and with what. */
export interface Plan {
  readonly programs: Programs;
  readonly scale: Scale;
  readonly works: readonly Work[];
  /** Those that this machine has. */
  readonly contestants: readonly Contestant[];
  /** Instead of what the scale says. */
  readonly rounds: number | undefined;
  readonly countsSyscalls: boolean;
}

/** A contestant in a work, with so many workers. */
export interface Outcome {
  readonly work: WorkId;
  readonly contestant: string;
  readonly workers: number;
  /** In the order of the rounds; a trial that failed has no figures. */
  readonly rounds: readonly Figures[];
  /** From the trial in which syscalls were counted. */
  readonly traced: Figures;
  /** Answers that came, all of them right. */
  readonly answers: number;
  /** What went wrong: nothing, if all is well. */
  readonly problems: readonly string[];
}

export interface Progress {
  readonly done: number;
  readonly of: number;
  readonly text: string;
}

const WORKERS = 2;

/** All that was measured. */
export interface Measured {
  readonly outcomes: readonly Outcome[];
  /** Trials for which there was no time. */
  readonly skippedTrials: number;
}

/**
 * Runs everything, round by round, so that what there is no time for are the last rounds. What goes wrong with a contestant
 * is in its outcome, and does not stop the others.
 */
export async function measure(plan: Plan, onProgress: (progress: Progress) => void): Promise<Measured> {
  const turns = plan.works.flatMap((work) => turnsOf(plan, work)).sort((a, b) => a.round - b.round);
  const deadline = performance.now() + plan.scale.limitSeconds * 1000;
  let done = 0;
  for (const turn of turns) {
    if (performance.now() > deadline) break;
    const { work, contestant, workers } = turn.entrant;
    const isOneOfSeveral = work.workers !== undefined;
    const text = `(${work.id}) ${turn.when}: ${contestant.title}${isOneOfSeveral ? `, ${workers} workers` : ''}`;
    onProgress({ done: ++done, of: turns.length, text });
    await turn.take();
  }
  const entrants = new Set(turns.map(({ entrant }) => entrant));
  return { outcomes: [...entrants].map(({ outcome }) => outcome), skippedTrials: turns.length - done };
}

interface Turn {
  readonly entrant: Entrant;
  readonly round: number;
  readonly when: string;
  take(): Promise<void>;
}

function turnsOf(plan: Plan, work: Work): Turn[] {
  const rounds = plan.rounds ?? (work.isMain ? plan.scale.rounds.main : plan.scale.rounds.other);
  const contestants = plan.contestants.filter(({ works }) => works.includes(work.id));
  const entrants = (work.workers?.(plan.scale) ?? [WORKERS]).flatMap((workers) =>
    contestants.map((contestant) => new Entrant(plan, work, contestant, workers)),
  );
  const turns: Turn[] = entrants.flatMap((entrant) =>
    Array.from({ length: rounds }, (_, index) => ({
      entrant,
      round: index + 1,
      when: `round ${index + 1} of ${rounds}`,
      take: () => entrant.measure(),
    })),
  );
  // One is enough, since there is little chance in it; behind the first round, for which there is always time.
  const traces: Turn[] = entrants.map((entrant) => ({
    entrant,
    round: 1,
    when: 'counting syscalls',
    take: () => entrant.trace(),
  }));
  return plan.countsSyscalls && plan.scale.traced > 0 && work.isTraced ? [...turns, ...traces] : turns;
}

/** A contestant in a work, and what has come of it. */
class Entrant {
  readonly #plan: Plan;
  readonly work: Work;
  readonly contestant: Contestant;
  readonly workers: number;
  readonly #rounds: Figures[] = [];
  #traced: Figures = {};
  #answers = 0;
  readonly #problems: string[] = [];

  constructor(plan: Plan, work: Work, contestant: Contestant, workers: number) {
    this.#plan = plan;
    this.work = work;
    this.contestant = contestant;
    this.workers = workers;
  }

  get outcome(): Outcome {
    return {
      work: this.work.id,
      contestant: this.contestant.name,
      workers: this.workers,
      rounds: this.#rounds,
      traced: this.#traced,
      answers: this.#answers,
      problems: this.#problems,
    };
  }

  async measure(): Promise<void> {
    this.#rounds.push(await this.#attempt((trial) => this.work.measure(trial)));
  }

  async trace(): Promise<void> {
    this.#traced = await this.#attempt(measureSyscalls);
  }

  /** @returns no figures when it failed */
  async #attempt(body: (trial: Trial) => Promise<Measurement>): Promise<Figures> {
    const { programs, scale } = this.#plan;
    const settings: Settings = {
      app: this.work.app,
      workers: this.workers,
      bulkBytes: scale.bulkBytes,
      ...(this.work.slow !== undefined && { slow: this.work.slow }),
      ...(this.work.sleepy !== undefined && { sleepy: this.work.sleepy }),
    };
    try {
      await using stage = new Stage(this.work.measuresMemory ? collectingEnvironment : undefined);
      const service = await this.contestant.start({ stage, programs, settings });
      const load = new Load(stage, programs.load, service.port);
      const { figures, results } = await body({ stage, service, load, scale, settings });
      // Why a process has ended says more than what its clients have met.
      stage.check();
      for (const result of results) this.#judge(result);
      return figures;
    } catch (error) {
      this.#problems.push((error as Error).message);
      return {};
    }
  }

  /** @throws {Error} when an answer was wrong or missing: figures of such a trial are worth nothing */
  #judge({ completed, failed, reasons }: LoadResult): void {
    this.#answers += completed;
    if (failed > 0) throw new Error(`${failed} of ${completed + failed} failed: ${reasons.join('; ')}`);
  }
}

async function measureSyscalls({ stage, service, load, scale, settings }: Trial): Promise<Measurement> {
  const request = { work: settings.app, connections: scale.connections, count: scale.traced };
  const warmUp = await load.run(request);
  const countings = [
    await countSyscalls(
      stage,
      'workers',
      service.workers.map(({ pid }) => pid),
    ),
  ];
  const dispatchers = dispatchersOf(service);
  if (dispatchers.length > 0) countings.push(await countSyscalls(stage, 'dispatchers', dispatchers));
  const result = await load.run(request);
  const counts = await Promise.all(countings.map((counting) => counting.stop()));
  const [workersSyscalls = Number.NaN, dispatcherSyscalls] = counts.map((count) => count / result.completed);
  return {
    figures: { workersSyscalls, ...(dispatcherSyscalls !== undefined && { dispatcherSyscalls }) },
    results: [warmUp, result],
  };
}

// A recovery is killed at every step, and the next one a step later: the third start has all workers, and no client is lost.
import assert from 'node:assert/strict';
import { mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

import { Journal } from '../../src/service/journal.js';
import type { Step } from '../../src/handoff/index.js';
import { Crowd } from '../support/crowd.js';
import { STUCK_AFTER_MS } from '../support/deadline.js';
import { temporaryDirectory } from '../support/files.js';
import { app, passfd, statusOf } from '../support/passfd.js';
import { untilStopped } from '../support/processes.js';
import { withPrograms, type Program, type Start } from '../support/program.js';
import { servedTwice } from '../support/records.js';
import { withoutWill } from '../support/will.js';

const preload = fileURLToPath(new URL('./fixtures/at-step.js', import.meta.url));

/** Workers of the dispatcher that is killed first. Each one after it has one worker more, so that it has to start one. */
const WORKERS = 2;

/** Clients at a time, who come again and again. */
const CLIENTS = 48;

/** Clients who are served before something happens. */
const SOME = 100;

/** A step, and which time it is reached in that start. */
type Moment = readonly [step: Step, time?: number];

/** Every step of a recovery, in the order in which they are reached. */
const moments: readonly Moment[] = [
  ['wills-settled'],
  ['journal-locked'],
  // With what the one before had noted.
  ['journal-written', 1],
  ['control-opened'],
  ['socket-returned'],
  ['worker-returned', 1],
  ['prepared'],
  // With what is there by then.
  ['journal-written', 2],
  ['worker-started'],
  // With the worker that was started.
  ['journal-written', 3],
  ['worker-returned', 2],
  ['complete'],
];

class Scene {
  readonly #start: Start;
  readonly #directory: string;
  readonly #warnings: unknown[] = [];
  #starts = 0;

  constructor(start: Start, directory: string) {
    this.#start = start;
    this.#directory = directory;
    mkdirSync(this.records);
    mkdirSync(this.#run);
  }

  get records(): string {
    return `${this.#directory}/records`;
  }

  /** Everything there is the service's. */
  get #run(): string {
    return `${this.#directory}/run`;
  }

  get control(): string {
    return `${this.#run}/control`;
  }

  /** Starts the service. @param moment when its dispatcher is killed, if at all */
  start(workers: number, moment?: Moment): Program {
    const flags = ['--workers', String(workers), '--orphan-timeout', '60000', '--control', this.control];
    return this.#start(...passfd('run', ...flags, app('numbers.js'), this.records), {
      env: {
        NODE_OPTIONS: `--import ${preload}`,
        PASSFD_TEST_ACCIDENT: moment ? `old kill ${moment.join(' ')}` : '',
        PASSFD_TEST_ONCE: `${this.#directory}/once-${++this.#starts}`,
      },
    });
  }

  /** Starts it, and waits until it is killed at that moment. */
  async startAndKill(moment: Moment): Promise<void> {
    const killed = this.start(WORKERS + 1, moment);
    assert.equal(await killed.ended, 'SIGKILL', `it is killed at ${moment.join(' ')}`);
  }

  restart(): Program {
    return this.#start(...passfd('restart', '--control', this.control));
  }

  /** The processes of all workers, when there are so many and all are ready. */
  async workers(count: number): Promise<number[]> {
    for await (const workers of this.#looks(() => statusOf(this.control).then((status) => status.workers))) {
      const isComplete = workers.length === count && workers.every(({ state }) => state === 'ready');
      if (isComplete) return workers.map(({ pid }) => pid).sort();
    }
    throw new Error('unreachable');
  }

  /** Resolves when these are the only processes of the service, beside its dispatcher. */
  async untilAlone(workers: readonly number[]): Promise<void> {
    for await (const processes of this.#looks(() => Promise.resolve(workersOf(this.control)))) {
      if (processes.join() === workers.join()) return;
    }
  }

  /** Resolves when the journal lists exactly these processes: the dispatcher writes it only a few times a second. */
  async untilNoted(workers: readonly number[]): Promise<void> {
    for await (const noted of this.#looks(() => Promise.resolve(this.#noted()))) {
      if (noted.join() === workers.join()) break;
    }
    assert.deepEqual(this.#warnings, []);
  }

  #noted(): number[] {
    const journal = new Journal(this.control, { words: [], directory: '' }, (error) =>
      this.#warnings.push(error),
    );
    const survivors = journal.join();
    journal.close();
    return survivors.map(({ pid }) => pid).sort();
  }

  /** What a service has left on the disk. */
  files(): string[] {
    return readdirSync(this.#run);
  }

  /** Asks again and again, for as long as it is not stuck. */
  async *#looks<T>(ask: () => Promise<T>): AsyncGenerator<T> {
    const deadline = AbortSignal.timeout(STUCK_AFTER_MS);
    for (;;) {
      const answer = await ask().catch(() => undefined);
      if (answer !== undefined) yield answer;
      await setImmediate(undefined, { signal: deadline });
    }
  }
}

/** Processes that live and were started as workers of this dispatcher. */
function workersOf(control: string): number[] {
  const pids = readdirSync('/proc')
    .map(Number)
    .filter((pid) => pid > 0);
  return pids
    .filter((pid) => {
      try {
        const variables = readFileSync(`/proc/${pid}/environ`, 'utf8').split('\0');
        return variables.includes(`PASSFD_CONTROL=${control}`);
      } catch {
        return false; // it has ended
      }
    })
    .sort();
}

/** The service is whole, and a restart replaces every process of it. */
async function assertWhole(scene: Scene, service: Program, crowd: Crowd): Promise<void> {
  const before = await scene.workers(WORKERS + 1);
  await crowd.untilMore(SOME);
  await scene.untilAlone(before);
  await scene.untilNoted(before);
  const restart = scene.restart();
  assert.equal(await restart.exit, 0, await restart.stderr);
  const after = await scene.workers(WORKERS + 1);
  assert.deepEqual(
    after.filter((pid) => before.includes(pid)),
    [],
  );
  await scene.untilAlone(after);
  await scene.untilNoted(after);
  await crowd.untilMore(SOME);
  const { lost, wrong } = await crowd.stop();
  assert.deepEqual({ lost, wrong, twice: servedTwice(scene.records) }, { lost: [], wrong: [], twice: [] });
  service.signal('SIGTERM');
  assert.equal(await service.exit, 0);
  await scene.untilAlone([]);
  assert.deepEqual(scene.files(), []);
}

/** A service is killed while clients come, and so is each start after it, until one is left in peace. */
function killedAt(...kills: readonly Moment[]): () => Promise<void> {
  return withPrograms(async (start) => {
    await using directory = await temporaryDirectory();
    const scene = new Scene(start, directory.path);
    const first = scene.start(WORKERS);
    const [, port] = await first.line(/^listening (\d+)$/);
    await scene.workers(WORKERS);
    using crowd = new Crowd({ port: Number(port), concurrency: CLIENTS });
    await crowd.untilMore(SOME);
    first.kill();
    await first.ended;
    for (const moment of kills) await scene.startAndKill(moment);
    await assertWhole(scene, scene.start(WORKERS + 1), crowd);
  });
}

describe('a dispatcher that takes workers back', { skip: withoutWill() }, () => {
  for (const [index, moment] of moments.entries()) {
    const next = moments[index + 1] ?? moment;
    it(
      `and is killed at ${moment.join(' ')}, and the one after it at ${next.join(' ')}, costs nothing`,
      killedAt(moment, next),
    );
  }

  it(
    'and is killed when it gives one up costs nothing, and nor does the one that stays away for good',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const scene = new Scene(start, directory.path);
      const first = scene.start(WORKERS);
      const [, port] = await first.line(/^listening (\d+)$/);
      const [, stopped = 0] = await scene.workers(WORKERS);
      process.kill(stopped, 'SIGSTOP');
      await untilStopped(stopped);
      first.kill();
      await first.ended;
      using crowd = new Crowd({ port: Number(port), concurrency: CLIENTS });
      await scene.startAndKill(['worker-given-up']);
      await assertWhole(scene, scene.start(WORKERS + 1), crowd);
    }),
  );
});

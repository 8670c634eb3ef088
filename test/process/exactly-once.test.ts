// Law 1: every connection is answered once, or was adopted by a worker that was killed, whatever moment a kill picks.
import assert from 'node:assert/strict';
import { mkdir } from 'node:fs/promises';
import { describe, it } from 'node:test';

import type { Status } from '../../src/dispatcher/index.js';
import type { Step } from '../../src/handoff/index.js';
import { Crowd, type Outcome } from '../support/crowd.js';
import { temporaryDirectory } from '../support/files.js';
import { app, passfd, statusOf } from '../support/passfd.js';
import { withPrograms } from '../support/program.js';
import { servedTwice } from '../support/records.js';

/** How long workers are killed and stopped at random; and how long the test may take in all. */
const STORM_MS = 60_000;
const DEADLINE_MS = 180_000;

/** More at a time than a window holds: a stopped worker keeps those that are in flight to it, and others must go on. */
const CLIENTS = 200;

/** Every step that a worker takes, and whether it can have adopted something by then. */
const steps: readonly (readonly [step: Step, mayLose: boolean])[] = [
  ['hello-sent', false],
  ['welcomed', false],
  ['listen-sent', false],
  ['listening', false],
  ['ready-sent', false],
  ['received', true],
  ['adopted', true],
  ['delivered', true],
  ['closed-sent', true],
];

/** What the dispatcher counts and what the clients saw tell the same story. */
function assertExactlyOnce(outcome: Outcome, status: Status, records: string): void {
  assert.deepEqual(outcome.wrong, []);
  assert.deepEqual(servedTwice(records), []);
  const { adopted, refused, waiting, inFlight } = status.connections;
  assert.deepEqual({ refused, waiting, inFlight }, { refused: 0, waiting: 0, inFlight: 0 });
  assert.equal(
    outcome.answered + outcome.lost.length,
    adopted,
    'a connection without an answer was adopted by a worker that was killed',
  );
}

describe('a worker that is killed', () => {
  for (const [step, mayLose] of steps) {
    it(
      `at the step "${step}" costs ${mayLose ? 'what it had adopted' : 'nothing'}`,
      withPrograms(async (start) => {
        await using directory = await temporaryDirectory();
        const control = `${directory.path}/control`;
        const records = `${directory.path}/records`;
        await mkdir(records);
        const program = start(
          ...passfd('run', '--workers', '2', '--control', control, app('numbers.js'), records),
          {
            env: {
              NODE_OPTIONS: `--import ${app('kill-at-step.js')}`,
              KILL_AT_STEP: step,
              KILL_MARK: `${directory.path}/mark`,
            },
          },
        );
        const [, port] = await program.line(/^listening (\d+)$/);
        const crowd = new Crowd({ port: Number(port), concurrency: 20, count: 1000 });
        const outcome = await crowd.finished();
        assertExactlyOnce(outcome, await statusOf(control), records);
        if (!mayLose) assert.deepEqual(outcome.lost, []);
        program.signal('SIGTERM');
        assert.equal(await program.exit, 0);
        assert.match(await program.stderr, /SIGKILL/, 'the worker was killed');
      }),
    );
  }
});

describe('workers that are killed and stopped at random moments, under full load', () => {
  it(
    'lose nothing but what they had adopted, and serve nothing twice',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const control = `${directory.path}/control`;
      const records = `${directory.path}/records`;
      await mkdir(records);
      const program = start(
        ...passfd('run', '--workers', '4', '--control', control, app('numbers.js'), records),
      );
      const [, port] = await program.line(/^listening (\d+)$/);
      const crowd = new Crowd({ port: Number(port), concurrency: CLIENTS });
      let kills = 0;
      for (const end = performance.now() + STORM_MS; performance.now() < end;) {
        await crowd.untilMore(1 + Math.floor(Math.random() * 1000));
        const ready = (await statusOf(control)).workers.filter(({ state }) => state === 'ready');
        const victim = ready[Math.floor(Math.random() * ready.length)];
        // One has to be left, or nobody would tell when to go on.
        if (!victim || ready.length < 2) continue;
        if (Math.random() < 0.5) {
          process.kill(victim.pid, 'SIGSTOP');
          await crowd.untilMore(1 + Math.floor(Math.random() * 1000));
          if (Math.random() < 0.5) process.kill(victim.pid, 'SIGCONT');
        }
        process.kill(victim.pid, 'SIGKILL');
        kills++;
      }
      const outcome = await crowd.stop();
      assert.ok(kills > 10, `${kills} workers were killed`);
      assertExactlyOnce(outcome, await statusOf(control), records);
      console.log(
        `${outcome.answered} answered, ${outcome.lost.length} lost with ${kills} workers that had adopted them`,
      );
      program.signal('SIGTERM');
      assert.equal(await program.exit, 0);
    }, DEADLINE_MS),
  );
});

// Law 1 at every step: a worker is killed or stopped exactly there, and every connection is answered once or was its own.
import assert from 'node:assert/strict';
import { mkdir } from 'node:fs/promises';
import { existsSync, readFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import { setImmediate } from 'node:timers/promises';

import type { Step } from '../../src/handoff/index.js';
import { ACCEPT_MODES, type AcceptMode } from '../support/accept-modes.js';
import { Crowd, type Outcome } from '../support/crowd.js';
import { STUCK_AFTER_MS } from '../support/deadline.js';
import { temporaryDirectory } from '../support/files.js';
import { app, passfd, statusOf } from '../support/passfd.js';
import { withPrograms, type Start } from '../support/program.js';
import { assertExactlyOnce } from '../support/records.js';

interface Case {
  readonly step: Step;
  /** Whether it can have adopted something by then. */
  readonly mayLose: boolean;
  /** What brings a worker there, beside clients. */
  readonly by?: 'coming and going' | 'a drain';
}

/** Every step that a worker takes, where connections are handed to it. */
const ofHandOff: readonly Case[] = [
  { step: 'hello-sent', mayLose: false },
  { step: 'welcomed', mayLose: false },
  { step: 'listen-sent', mayLose: false },
  { step: 'listening', mayLose: false },
  { step: 'ready-sent', mayLose: false },
  { step: 'received', mayLose: true },
  { step: 'adopted', mayLose: true },
  { step: 'delivered', mayLose: true },
  { step: 'closed-sent', mayLose: true },
  { step: 'refused', mayLose: true, by: 'coming and going' },
  { step: 'unlisten-sent', mayLose: true, by: 'coming and going' },
  { step: 'unlistened', mayLose: true, by: 'coming and going' },
  { step: 'drain-received', mayLose: true, by: 'a drain' },
];

/** Every step that a worker takes, where it accepts by itself. */
const ofDirectAccept: readonly Case[] = [
  { step: 'hello-sent', mayLose: false },
  { step: 'welcomed', mayLose: false },
  { step: 'board-received', mayLose: false },
  { step: 'listen-sent', mayLose: false },
  { step: 'listening', mayLose: false },
  { step: 'ready-sent', mayLose: false },
  { step: 'watching', mayLose: false },
  { step: 'accepted', mayLose: true },
  { step: 'unlisten-sent', mayLose: true, by: 'coming and going' },
  { step: 'unlistened', mayLose: true, by: 'coming and going' },
  { step: 'drain-received', mayLose: true, by: 'a drain' },
];

const cases: Readonly<Record<AcceptMode, readonly Case[]>> = {
  direct: ofDirectAccept,
  'hand-off': ofHandOff,
};

/** A stopped worker holds a window that it has adopted, and one in flight: some more are left for the other worker. */
const CLIENTS = 3 * 128;

/** Connections that are served while one worker is stopped, and behind that. */
const MEANWHILE = 500;

/** How a worker is interrupted: the signal that it sends itself, and the one that it gets when others have gone on. */
interface Interruption {
  readonly signal: 'SIGKILL' | 'SIGSTOP';
  readonly then?: 'SIGKILL' | 'SIGCONT';
}

/** @returns what became of the clients who came before, meanwhile and behind it */
async function interrupted(
  start: Start,
  accept: AcceptMode,
  { step, by }: Case,
  { signal, then }: Interruption,
): Promise<Outcome> {
  await using directory = await temporaryDirectory();
  const control = `${directory.path}/control`;
  const records = `${directory.path}/records`;
  const mark = `${directory.path}/mark`;
  await mkdir(records);
  const habit = by === 'coming and going' ? ['comes-and-goes'] : [];
  const program = start(
    ...passfd(
      'run',
      '--accept',
      accept,
      '--workers',
      '2',
      '--control',
      control,
      app('numbers.js'),
      records,
      ...habit,
    ),
    {
      env: {
        NODE_OPTIONS: `--import ${app('signal-at-step.js')}`,
        SIGNAL: signal,
        AT_STEP: step,
        SIGNAL_MARK: mark,
      },
    },
  );
  let [, port] = await program.line(/^listening (\d+)$/);
  // An address is free when the last server there is closed: the other one has to be there.
  if (by === 'coming and going') [, port] = await program.line(/^listening (\d+)$/);
  using crowd = new Crowd({ port: Number(port), concurrency: CLIENTS });
  if (by === 'a drain') start(...passfd('drain', '1', '--control', control));
  const pid = await pidIn(mark);
  if (then) await untilStopped(pid);
  await crowd.untilMore(MEANWHILE);
  if (then) {
    process.kill(pid, then);
    await crowd.untilMore(MEANWHILE);
  }
  const outcome = await crowd.stop();
  // A worker counts a connection after it has accepted it.
  const uncounted = accept === 'direct' ? 1 : 0;
  assertExactlyOnce(outcome, await statusOf(control), records, uncounted);
  program.signal('SIGTERM');
  assert.equal(await program.exit, 0);
  return outcome;
}

/** The process that has reached the step, as it says in a file. */
async function pidIn(mark: string): Promise<number> {
  const deadline = AbortSignal.timeout(STUCK_AFTER_MS);
  while (!existsSync(mark)) await setImmediate(undefined, { signal: deadline });
  return Number(readFileSync(mark, 'utf8'));
}

/** The kernel stops it when it returns from the call by which it sent itself the signal. */
async function untilStopped(pid: number): Promise<void> {
  while (!readFileSync(`/proc/${pid}/stat`, 'utf8').includes(') T ')) await setImmediate();
}

for (const accept of ACCEPT_MODES) {
  describe(`a worker, ${accept},`, () => {
    for (const interruptedCase of cases[accept]) {
      const { step, mayLose, by } = interruptedCase;
      const where = `at the step "${step}"${by ? `, brought there by ${by},` : ''}`;
      const cost = mayLose ? 'what it had taken' : 'nothing';
      it(
        `that is killed ${where} costs ${cost}`,
        withPrograms(async (start) => {
          const { lost } = await interrupted(start, accept, interruptedCase, { signal: 'SIGKILL' });
          if (!mayLose) assert.deepEqual(lost, []);
        }),
      );
      it(
        `that is stopped ${where} keeps no other from serving, and costs nothing when it goes on`,
        withPrograms(async (start) => {
          const { lost } = await interrupted(start, accept, interruptedCase, {
            signal: 'SIGSTOP',
            then: 'SIGCONT',
          });
          assert.deepEqual(lost, []);
        }),
      );
      it(
        `that is stopped ${where} and killed then costs ${cost}`,
        withPrograms(async (start) => {
          const { lost } = await interrupted(start, accept, interruptedCase, {
            signal: 'SIGSTOP',
            then: 'SIGKILL',
          });
          if (!mayLose) assert.deepEqual(lost, []);
        }),
      );
    }
  });
}

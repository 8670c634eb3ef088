// A worker at its descriptor limit, under load: its clients are answered, by others or when it has room.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdir, readdir } from 'node:fs/promises';
import { describe, it } from 'node:test';

import { ACCEPT_MODES } from '../support/accept-modes.js';
import { Crowd } from '../support/crowd.js';
import { temporaryDirectory } from '../support/files.js';
import { app, passfd, statusOf } from '../support/passfd.js';
import { withPrograms } from '../support/program.js';
import { assertExactlyOnce } from '../support/records.js';

/** Many times as many as the worker has room for. */
const AT_A_TIME = 200;
const COUNT = 4_000;

/** Descriptors that the worker may still open. */
const ROOM = 10;

describe(
  'a worker at its descriptor limit',
  { skip: process.platform !== 'linux' && 'needs prlimit' },
  () => {
    for (const accept of ACCEPT_MODES) {
      for (const workers of ['1', '2']) {
        it(
          `costs no client its answer, where there ${workers === '1' ? 'is no other worker' : 'is another one'}: ${accept}`,
          withPrograms(async (start) => {
            await using directory = await temporaryDirectory();
            const control = `${directory.path}/control`;
            const records = `${directory.path}/records`;
            await mkdir(records);
            const flags = ['--accept', accept, '--workers', workers, '--control', control];
            const program = start(...passfd('run', ...flags, app('numbers.js'), records));
            const [, port] = await program.line(/^listening (\d+)$/);
            const pid = (await readyAt(control, Number(workers)))[0] ?? 0;
            await limit(pid);
            using crowd = new Crowd({ port: Number(port), concurrency: AT_A_TIME, count: COUNT });
            const outcome = await crowd.finished();
            assert.deepEqual([outcome.answered, outcome.lost], [COUNT, []]);
            assertExactlyOnce(outcome, await statusOf(control), records);
            program.signal('SIGTERM');
            assert.equal(await program.exit, 0);
          }),
        );
      }
    }
  },
);

/** Processes of the workers, once so many are ready. */
async function readyAt(control: string, count: number): Promise<number[]> {
  for (;;) {
    const { workers } = await statusOf(control);
    const ready = workers.filter(({ state }) => state === 'ready');
    if (ready.length === count) return ready.map(({ pid }) => pid);
  }
}

/** The limit is above the highest number in use, so that closed numbers below it are the room. */
async function limit(pid: number): Promise<void> {
  const numbers = (await readdir(`/proc/${pid}/fd`)).map(Number);
  execFileSync('prlimit', ['--pid', String(pid), `--nofile=${Math.max(...numbers) + 1 + ROOM}:`]);
}

// Direct accept, and everything is killed: workers, dispatchers, and both in one turn. Only what a killed worker had accepted is
// lost.
import assert from 'node:assert/strict';
import { readdirSync, readlinkSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { describe, it } from 'node:test';

import { ACCEPT_MODES } from '../support/accept-modes.js';
import { Crowd } from '../support/crowd.js';
import { temporaryDirectory } from '../support/files.js';
import { app, passfd, statusOf } from '../support/passfd.js';
import { untilStopped } from '../support/processes.js';
import { withPrograms, type Program } from '../support/program.js';
import { servedTwice } from '../support/records.js';

/** How long it is killed at random, and how often at least, however slow the machine is. */
const STORM_MS = 60_000;
const MIN_ROUNDS = 6;

const WORKERS = 4;
const CLIENTS = 256;

/** Clients that are served while there is no dispatcher. */
const MEANWHILE = 300;

const victims = ['worker', 'dispatcher', 'both'] as const;

describe(
  'workers that accept by themselves, and their dispatcher, killed at random moments under full load,',
  { skip: !ACCEPT_MODES.includes('direct') && 'needs Linux' },
  () => {
    it(
      'lose nothing but what a killed worker had accepted, and serve nothing twice',
      withPrograms(async (start) => {
        await using directory = await temporaryDirectory();
        const control = `${directory.path}/control`;
        const records = `${directory.path}/records`;
        await mkdir(records);
        const run = (): Program => {
          const flags = ['--accept', 'direct', '--workers', String(WORKERS), '--orphan-timeout', '60000'];
          return start(...passfd('run', ...flags, '--control', control, app('numbers.js'), records));
        };
        let service = run();
        const [, port] = await service.line(/^listening (\d+)$/);
        using crowd = new Crowd({ port: Number(port), concurrency: CLIENTS });
        const rounds = { worker: 0, dispatcher: 0, both: 0 };
        let mostLost = 0;
        let round = 0;
        for (
          const end = performance.now() + STORM_MS;
          performance.now() < end || round < MIN_ROUNDS;
          round++
        ) {
          const workers = await readyAt(control);
          await crowd.untilMore(1 + Math.floor(Math.random() * 1000));
          const what = victims[round % victims.length] ?? 'worker';
          const worker = workers[Math.floor(Math.random() * workers.length)] ?? 0;
          if (what !== 'dispatcher') {
            // Stopped at a random moment, so that what it has accepted by then can be counted.
            process.kill(worker, 'SIGSTOP');
            await untilStopped(worker);
            mostLost += socketsOf(worker);
          }
          if (what !== 'worker') service.kill();
          if (what !== 'dispatcher') process.kill(worker, 'SIGKILL');
          if (what !== 'worker') {
            await service.ended;
            await crowd.untilMore(MEANWHILE);
            service = run();
          }
          rounds[what]++;
        }
        await readyAt(control);
        const { answered, lost, wrong } = await crowd.stop();
        assert.deepEqual(wrong, []);
        assert.deepEqual(servedTwice(records), []);
        assert.ok(lost.length <= mostLost, `${lost.length} lost, ${mostLost} were in killed workers`);
        console.log(
          `${answered} answered, ${lost.length} of ${mostLost} in killed workers lost: ${JSON.stringify(rounds)}`,
        );
        service.signal('SIGTERM');
        assert.equal(await service.exit, 0);
      }),
    );

    it(
      'lose nothing when only dispatchers are killed',
      withPrograms(async (start) => {
        await using directory = await temporaryDirectory();
        const control = `${directory.path}/control`;
        const records = `${directory.path}/records`;
        await mkdir(records);
        const run = (accept: string, workers: number): Program => {
          const flags = ['--accept', accept, '--workers', String(workers), '--orphan-timeout', '60000'];
          return start(...passfd('run', ...flags, '--control', control, app('numbers.js'), records));
        };
        let service = run('direct', WORKERS);
        const [, port] = await service.line(/^listening (\d+)$/);
        await readyAt(control);
        using crowd = new Crowd({ port: Number(port), concurrency: CLIENTS });
        // The mode and the number of workers change.
        for (const [accept, workers] of [
          ['hand-off', WORKERS],
          ['direct', WORKERS + 1],
          ['direct', WORKERS],
          ['auto', WORKERS - 1],
          ['direct', WORKERS],
        ] as const) {
          await crowd.untilMore(MEANWHILE);
          service.kill();
          await service.ended;
          service = run(accept, workers);
          await readyAt(control, workers);
          await crowd.untilMore(MEANWHILE);
        }
        const { lost, wrong } = await crowd.stop();
        assert.deepEqual([lost, wrong, servedTwice(records)], [[], [], []]);
        service.signal('SIGTERM');
        assert.equal(await service.exit, 0);
      }),
    );
  },
);

/** Processes of the workers, once all are ready. */
async function readyAt(control: string, count = WORKERS): Promise<number[]> {
  for (;;) {
    const workers = await statusOf(control).then(
      (status) => status.workers,
      () => [], // nobody is there yet
    );
    const ready = workers.filter(({ state }) => state === 'ready');
    if (ready.length === count && workers.length === count) return ready.map(({ pid }) => pid);
  }
}

/** Connections of a process that is stopped, and its few other sockets. */
function socketsOf(pid: number): number {
  return readdirSync(`/proc/${pid}/fd`).filter((fd) => {
    try {
      return readlinkSync(`/proc/${pid}/fd/${fd}`).startsWith('socket:');
    } catch {
      return false;
    }
  }).length;
}

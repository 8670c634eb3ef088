// How connections are shared out between workers, by the policies.
import assert from 'node:assert/strict';
import { mkdir } from 'node:fs/promises';
import { describe, it } from 'node:test';

import type { Status } from '../../src/dispatcher/index.js';
import { Crowd } from '../support/crowd.js';
import { temporaryDirectory } from '../support/files.js';
import { app, passfd, statusOf } from '../support/passfd.js';
import { withPrograms, type Start } from '../support/program.js';

const WORKERS = 4;
const CLIENTS = 32;

/**
 * How many connections each worker has adopted after a crowd was served, in the order of their ids.
 * @param nearlyDone called when all have been answered but those who can be at one worker at a time
 */
async function shares(
  start: Start,
  name: string,
  policy: string,
  count: number,
  nearlyDone?: (status: Status) => void,
): Promise<number[]> {
  await using directory = await temporaryDirectory();
  const control = `${directory.path}/control`;
  const records = `${directory.path}/records`;
  await mkdir(records);
  const options = ['--workers', String(WORKERS), '--policy', policy, '--control', control];
  const program = start(...passfd('run', ...options, app(name), records));
  let port = '';
  for (let worker = 0; worker < WORKERS; worker++) [, port = ''] = await program.line(/^listening (\d+)$/);
  using crowd = new Crowd({ port: Number(port), concurrency: CLIENTS, count });
  if (nearlyDone) {
    await crowd.untilMore(count - CLIENTS);
    nearlyDone(await statusOf(control));
  }
  const { answered } = await crowd.finished();
  assert.equal(answered, count);
  const { workers } = await statusOf(control);
  program.signal('SIGTERM');
  assert.equal(await program.exit, 0);
  return workers.map(({ adopted }) => adopted);
}

describe('10 000 short connections over four idle workers', () => {
  it(
    'differ from worker to worker by 2 % at most, round robin',
    withPrograms(async (start) => {
      const counts = await shares(start, 'numbers.js', 'round-robin', 10_000);
      assert.equal(counts.length, WORKERS);
      for (const count of counts) assert.ok(Math.abs(count - 2500) <= 50, counts.join(' '));
    }),
  );
});

describe('a worker that answers nobody for as long as it is stuck', () => {
  it(
    'gets its share of the clients at a time by least-connections, and not of the connections in all',
    withPrograms(async (start) => {
      const [stuck = 0, ...others] = await shares(
        start,
        'stuck-first.js',
        'least-connections',
        2000,
        ({ workers }) => {
          const [worker] = workers;
          assert.ok(worker);
          process.kill(worker.pid, 'SIGUSR2');
        },
      );
      assert.ok(stuck > 0, 'it gets some');
      // What it holds, and what comes to it between its release and the end.
      assert.ok(stuck <= 2 * CLIENTS, `${stuck} to ${others.join(' ')}`);
      for (const other of others) assert.ok(stuck * 4 < other, `${stuck} to ${others.join(' ')}`);
    }),
  );
});

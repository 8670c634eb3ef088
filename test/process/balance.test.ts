// How connections are shared out between workers, by the policies.
import assert from 'node:assert/strict';
import { mkdir } from 'node:fs/promises';
import { describe, it } from 'node:test';

import { Crowd } from '../support/crowd.js';
import { temporaryDirectory } from '../support/files.js';
import { app, passfd, statusOf } from '../support/passfd.js';
import { withPrograms, type Start } from '../support/program.js';

const WORKERS = 4;

/** How many connections each worker has adopted after a crowd was served, in the order of their ids. */
async function shares(start: Start, name: string, policy: string, count: number): Promise<number[]> {
  await using directory = await temporaryDirectory();
  const control = `${directory.path}/control`;
  const records = `${directory.path}/records`;
  await mkdir(records);
  const options = ['--workers', String(WORKERS), '--policy', policy, '--control', control];
  const program = start(...passfd('run', ...options, app(name), records));
  let port = '';
  for (let worker = 0; worker < WORKERS; worker++) [, port = ''] = await program.line(/^listening (\d+)$/);
  const { answered } = await new Crowd({ port: Number(port), concurrency: 32, count }).finished();
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

describe('a worker that takes longer for each connection', () => {
  it(
    'gets fewer of them by least-connections: its share of what can be served, and not of the count',
    withPrograms(async (start) => {
      const [slow = 0, ...others] = await shares(start, 'slow-first.js', 'least-connections', 2000);
      assert.ok(slow > 0, 'it gets some');
      for (const other of others) assert.ok(slow * 2 < other, `${slow} to ${others.join(' ')}`);
    }),
  );

  it(
    'gets as many as the others by round robin',
    withPrograms(async (start) => {
      const counts = await shares(start, 'slow-first.js', 'round-robin', 1000);
      for (const count of counts) assert.ok(Math.abs(count - 250) <= 5, counts.join(' '));
    }),
  );
});

// AwaitedWorkers: how long a dispatcher waits for the workers of a dead one.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { AwaitedWorkers, type AwaitedWorker } from '../../../src/dispatcher/awaited-workers.js';
import { isPending } from '../../support/loop.js';
import { withPrograms, type Program } from '../../support/program.js';

const TIMEOUT_MS = 10_000;

function asKnown(...programs: readonly Program[]): AwaitedWorker[] {
  return programs.map(({ pid }, index) => ({ id: index + 1, pid }));
}

describe('the return of workers', () => {
  it(
    'is awaited until one worker has returned with everything; workers that return later are still known',
    withPrograms(async (start) => {
      const [first, second] = [start('cat', []), start('cat', [])];
      const awaited = new AwaitedWorkers();
      const decided = awaited.any(asKnown(first, second), TIMEOUT_MS);
      awaited.note(first.pid, false);
      assert.equal(await isPending(decided), true);
      awaited.note(second.pid, true);
      await decided;
      assert.deepEqual([awaited.idOf(first.pid), awaited.idOf(second.pid)], [1, 2]);
      assert.equal(awaited.idOf(process.pid), undefined);
      awaited.close();
    }),
  );

  it(
    'is not awaited when the last awaited worker has ended, and its id is free then',
    withPrograms(async (start) => {
      const [first, second] = [start('cat', []), start('cat', [])];
      const awaited = new AwaitedWorkers();
      const decided = awaited.any(asKnown(first, second), TIMEOUT_MS);
      awaited.note(first.pid, false);
      assert.equal(await isPending(decided), true);
      second.endInput();
      await decided;
      assert.deepEqual([awaited.idOf(first.pid), awaited.idOf(second.pid)], [1, undefined]);
      awaited.close();
    }),
  );

  it('is not awaited when no worker is expected', async () => {
    await new AwaitedWorkers().any([], TIMEOUT_MS);
  });

  it(
    'is awaited no longer than the time limit',
    withPrograms(async (start) => {
      const { pid } = start('cat', []);
      const awaited = new AwaitedWorkers();
      await awaited.any([{ id: 1, pid }], 1);
      awaited.close();
      assert.equal(awaited.idOf(pid), undefined);
    }),
  );
});

// AwaitedWorkers: how long a dispatcher waits for the workers of one that died.
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
    'is waited for until one is back that brought everything; who comes later is still known',
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
    'is not waited for when the last one that could come has ended, and its number is nobody’s then',
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

  it('is not waited for where nobody is awaited', async () => {
    await new AwaitedWorkers().any([], TIMEOUT_MS);
  });

  it(
    'is waited for no longer than it is given',
    withPrograms(async (start) => {
      const { pid } = start('cat', []);
      const awaited = new AwaitedWorkers();
      await awaited.any([{ id: 1, pid }], 1);
      awaited.close();
      assert.equal(awaited.idOf(pid), undefined);
    }),
  );
});

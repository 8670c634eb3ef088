// Returns: how long a dispatcher waits for the workers of one that died.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { Returns, type AwaitedWorker } from '../../../src/dispatcher/returns.js';
import { isPending } from '../../support/loop.js';
import { withPrograms, type Program } from '../../support/program.js';

const TIMEOUT_MS = 10_000;

function awaited(...programs: readonly Program[]): AwaitedWorker[] {
  return programs.map(({ pid }, index) => ({ id: index + 1, pid }));
}

describe('the return of workers', () => {
  it(
    'is waited for until one is back that brought everything; who comes later is still known',
    withPrograms(async (start) => {
      const [first, second] = [start('cat', []), start('cat', [])];
      const returns = new Returns();
      const decided = returns.any(awaited(first, second), TIMEOUT_MS);
      returns.note(first.pid, false);
      assert.equal(await isPending(decided), true);
      returns.note(second.pid, true);
      await decided;
      assert.deepEqual([returns.idOf(first.pid), returns.idOf(second.pid)], [1, 2]);
      assert.equal(returns.idOf(process.pid), undefined);
      returns.close();
    }),
  );

  it(
    'is not waited for when the last one that could come has ended, and its number is nobody’s then',
    withPrograms(async (start) => {
      const [first, second] = [start('cat', []), start('cat', [])];
      const returns = new Returns();
      const decided = returns.any(awaited(first, second), TIMEOUT_MS);
      returns.note(first.pid, false);
      assert.equal(await isPending(decided), true);
      second.endInput();
      await decided;
      assert.deepEqual([returns.idOf(first.pid), returns.idOf(second.pid)], [1, undefined]);
      returns.close();
    }),
  );

  it('is not waited for where nobody is awaited', async () => {
    await new Returns().any([], TIMEOUT_MS);
  });

  it(
    'is waited for no longer than it is given',
    withPrograms(async (start) => {
      const { pid } = start('cat', []);
      const returns = new Returns();
      await returns.any([{ id: 1, pid }], 1);
      returns.close();
      assert.equal(returns.idOf(pid), undefined);
    }),
  );
});

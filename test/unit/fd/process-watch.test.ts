// Which process a number means, and a watch of one that is not there. Real ends are in test/process/process-watch.test.ts.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { isSameProcess, processIdentity, ProcessWatch } from '../../../src/fd/internal.js';
import { keepsDescriptors } from '../../support/descriptors.js';
import { turns } from '../../support/loop.js';

/** No process has it: it is above the most that Linux and macOS give. */
const NOBODY = 2 ** 31 - 1;

function tellsNothing(): void {
  assert.fail('no end is told');
}

describe('the identity of a process', () => {
  it('stays the same', () => {
    assert.match(processIdentity(process.pid) ?? '', /^\d+$/);
    assert.equal(processIdentity(process.pid), processIdentity(process.pid));
    assert.equal(isSameProcess(process.pid, processIdentity(process.pid)), true);
  });

  it('tells another process with the same number', () => {
    assert.equal(isSameProcess(process.pid, '1'), false);
  });

  it('is none of a number that no process has, and no process is taken for it', () => {
    assert.equal(processIdentity(NOBODY), undefined);
    assert.equal(isSameProcess(NOBODY, undefined), false);
    assert.equal(isSameProcess(NOBODY, '1'), false);
  });

  it('that was not known is that of any process with the number', () => {
    assert.equal(isSameProcess(process.pid, undefined), true);
  });
});

describe('a watch of a process that is not there', () => {
  it(
    'tells so once, and not before it is made',
    keepsDescriptors(async () => {
      let told = 0;
      using watch = ProcessWatch.start(NOBODY, () => told++);
      assert.equal(told, 0);
      await turns();
      assert.equal(told, 1);
      watch.close();
      await turns();
      assert.equal(told, 1);
    }),
  );

  it(
    'tells nothing when it is closed before',
    keepsDescriptors(async () => {
      let told = 0;
      const watch = ProcessWatch.start(NOBODY, () => told++, { keepsAlive: true });
      watch.close();
      watch.close();
      await turns();
      assert.equal(told, 0);
    }),
  );
});

describe('a watch of a process that lives', () => {
  it(
    'tells nothing, and frees its descriptor when it is closed',
    keepsDescriptors(async () => {
      using watch = ProcessWatch.start(process.pid, tellsNothing);
      await turns();
      watch.close();
    }),
  );
});

describe('a watch of what is no process', () => {
  it(
    'is a TypeError',
    keepsDescriptors(() => {
      for (const pid of [0, -1, 1.5, Number.NaN, 2 ** 31]) {
        assert.throws(() => ProcessWatch.start(pid, tellsNothing), TypeError);
      }
    }),
  );
});

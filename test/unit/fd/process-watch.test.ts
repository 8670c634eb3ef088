// Which process a process id names, and watching a process that does not exist. Real ends: test/process/process-watch.test.ts.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { isSameProcess, processIdentity, ProcessWatch } from '../../../src/fd/internal.js';
import { keepsDescriptors } from '../../support/descriptors.js';
import { turns } from '../../support/loop.js';

/** No process has this id: it is above the highest of Linux and macOS. */
const NOBODY = 2 ** 31 - 1;

function tellsNothing(): void {
  assert.fail('no end is reported');
}

describe('the identity of a process', () => {
  it('stays the same', () => {
    assert.match(processIdentity(process.pid) ?? '', /^\d+$/);
    assert.equal(processIdentity(process.pid), processIdentity(process.pid));
    assert.equal(isSameProcess(process.pid, processIdentity(process.pid)), true);
  });

  it('differs from that of another process with the same pid', () => {
    assert.equal(isSameProcess(process.pid, '1'), false);
  });

  it('is undefined for a pid without a process, and matches no process', () => {
    assert.equal(processIdentity(NOBODY), undefined);
    assert.equal(isSameProcess(NOBODY, undefined), false);
    assert.equal(isSameProcess(NOBODY, '1'), false);
  });

  it('that was unknown matches any process with the pid', () => {
    assert.equal(isSameProcess(process.pid, undefined), true);
  });
});

describe('a watch of a pid without a process', () => {
  it(
    'reports the end once, and not before start returns',
    keepsDescriptors(async () => {
      let reports = 0;
      using watch = ProcessWatch.start(NOBODY, () => reports++);
      assert.equal(reports, 0);
      await turns();
      assert.equal(reports, 1);
      watch.close();
      await turns();
      assert.equal(reports, 1);
    }),
  );

  it(
    'reports nothing after close',
    keepsDescriptors(async () => {
      let reports = 0;
      const watch = ProcessWatch.start(NOBODY, () => reports++, { keepsAlive: true });
      watch.close();
      watch.close();
      await turns();
      assert.equal(reports, 0);
    }),
  );
});

describe('a watch of a live process', () => {
  it(
    'reports nothing, and frees its descriptor when it is closed',
    keepsDescriptors(async () => {
      using watch = ProcessWatch.start(process.pid, tellsNothing);
      await turns();
      watch.close();
    }),
  );
});

describe('a watch of a wrong pid', () => {
  it(
    'is a TypeError',
    keepsDescriptors(() => {
      for (const pid of [0, -1, 1.5, Number.NaN, 2 ** 31]) {
        assert.throws(() => ProcessWatch.start(pid, tellsNothing), TypeError);
      }
    }),
  );
});

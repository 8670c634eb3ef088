// Starvation: a freed descriptor goes to a reserve, or to the acceptor that has waited longest.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { awaitFreed, awaitReserve, noteFreed, stopAwaiting } from '../../../src/fd/starvation.js';
import { turns } from '../../support/loop.js';

describe('a descriptor that is closed', () => {
  it('wakes one waiter, the one that waits longest, and each once', async () => {
    const reports: string[] = [];
    for (const name of ['a', 'b', 'c']) awaitFreed(() => reports.push(name));
    noteFreed();
    assert.deepEqual(reports, [], 'not from within');
    await turns();
    assert.deepEqual(reports, ['a']);
    noteFreed();
    noteFreed(5);
    await turns();
    assert.deepEqual(reports, ['a', 'b', 'c']);
    noteFreed(5);
    await turns();
    assert.deepEqual(reports, ['a', 'b', 'c']);
  });

  it('lets a waiter that found none free wait again as the last', async () => {
    const reports: string[] = [];
    const waitFor = (name: string): (() => void) => {
      const goOn = (): void => {
        reports.push(name);
        awaitFreed(goOn);
      };
      awaitFreed(goOn);
      return goOn;
    };
    const all = ['a', 'b', 'c'].map(waitFor);
    for (let count = 0; count < 4; count++) {
      noteFreed();
      await turns();
    }
    noteFreed(100);
    await turns();
    assert.deepEqual(reports, ['a', 'b', 'c', 'a', 'b', 'c', 'a']);
    for (const goOn of all) stopAwaiting(goOn);
  });

  it('goes to a reserve first, at once, and to no waiter when the reserve takes it', async () => {
    let isFree = false;
    let isRefilled = false;
    let hasGoneOn = false;
    awaitFreed(() => (hasGoneOn = true));
    const refill = (): boolean => (isRefilled = isFree);
    awaitReserve(refill);
    noteFreed(0);
    assert.equal(isRefilled, false);
    isFree = true;
    noteFreed();
    assert.equal(isRefilled, true);
    await turns();
    assert.equal(hasGoneOn, false);
    noteFreed();
    await turns();
    assert.equal(hasGoneOn, true);
  });

  it('does not wake a waiter that has stopped waiting, also when another waiter has stopped it meanwhile', async () => {
    const reports: string[] = [];
    const second = (): void => void reports.push('second');
    awaitFreed(() => {
      stopAwaiting(second);
      reports.push('first');
    });
    awaitFreed(second);
    noteFreed(2);
    await turns();
    assert.deepEqual(reports, ['first']);
  });
});

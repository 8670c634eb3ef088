// Ledger: everything sent is settled once, in the order of sending.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { Ledger } from '../../../src/handoff/index.js';
import { failsWith } from '../../support/errors.js';

function ledgerOf(count: number): Ledger<number> {
  const ledger = new Ledger<number>();
  for (let position = 1; position <= count; position++) ledger.add(position);
  return ledger;
}

describe('a Ledger', () => {
  it('is settled up to a position, which counts from the beginning', () => {
    const ledger = ledgerOf(5);
    assert.deepEqual(ledger.settleUpTo(2), [1, 2]);
    assert.equal(ledger.size, 3);
    ledger.add(6);
    assert.deepEqual(ledger.settleUpTo(3), [3]);
    assert.deepEqual(ledger.settleUpTo(6), [4, 5, 6]);
    assert.equal(ledger.size, 0);
  });

  it('returns what was not sent, and goes on with the same positions', () => {
    const ledger = ledgerOf(5);
    assert.deepEqual(ledger.settleUpTo(1), [1]);
    assert.deepEqual(ledger.takeFrom(4), [4, 5]);
    assert.deepEqual([ledger.last, ledger.takeFrom(4)], [3, []]);
    ledger.add(4);
    assert.deepEqual(ledger.settleUpTo(4), [2, 3, 4]);
  });

  it('returns everything in flight', () => {
    const ledger = ledgerOf(5);
    assert.deepEqual(ledger.settleUpTo(3), [1, 2, 3]);
    assert.deepEqual(ledger.takeAll(), [4, 5]);
    assert.deepEqual(ledger.takeAll(), []);
    ledger.add(6);
    assert.deepEqual(ledger.settleUpTo(6), [6]);
  });

  it('refuses what is not in flight, and stays as it was', () => {
    const ledger = ledgerOf(3);
    ledger.settleUpTo(1);
    for (const position of [0, 1, 4, Number.MAX_SAFE_INTEGER]) {
      assert.throws(
        () => ledger.settleUpTo(position),
        failsWith('ERR_PROTOCOL', new RegExp(`position ${position}, and positions 2 to 3 are in flight`)),
      );
    }
    assert.throws(() => ledger.settleUpTo(3, 2), failsWith('ERR_PROTOCOL', /positions 2 to 2 are in flight/));
    assert.throws(() => ledger.settleUpTo(2, 1), failsWith('ERR_PROTOCOL', /nothing is in flight/));
    assert.deepEqual(ledger.settleUpTo(3), [2, 3]);
    assert.throws(() => ledger.settleUpTo(3), failsWith('ERR_PROTOCOL', /nothing is in flight/));
  });

  it('settles each entry once and in order, in steps of any size', () => {
    for (const [added, settled] of [
      [1, 1],
      [252, 1],
      [3, 2],
      [2000, 7],
      [1, 1025],
    ] as const) {
      const ledger = new Ledger<number>();
      const taken: number[] = [];
      let next = 1;
      while (next <= 10_000) {
        for (let count = 0; count < added; count++) ledger.add(next++);
        while (ledger.size >= settled) taken.push(...ledger.settleUpTo(ledger.settled + settled));
        assert.equal(ledger.size, next - 1 - taken.length);
      }
      taken.push(...ledger.takeAll());
      assert.equal(taken.length, next - 1);
      assert.ok(taken.every((entry, index) => entry === index + 1));
    }
  });
});

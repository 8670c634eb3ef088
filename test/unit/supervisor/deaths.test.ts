// What follows when a child dies: the pause before its next start, and the crash loop.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { afterDeath, noDeaths, type Consequence, type Life } from '../../../src/supervisor/deaths.js';

const never: Life = { startedAt: 0, readyAt: undefined, endedAt: 60_000 };

/** The consequence of each of these deaths in a row. */
function consequences(lives: readonly Life[]): Consequence[] {
  let history = noDeaths;
  return lives.map((life) => {
    const consequence = afterDeath(history, life);
    history = consequence.history;
    return consequence;
  });
}

function pauses(lives: readonly Life[]): number[] {
  return consequences(lives).map(({ restartInMs }) => restartInMs);
}

function crashLoops(lives: readonly Life[]): boolean[] {
  return consequences(lives).map(({ crashLoopBegan }) => crashLoopBegan);
}

function repeated(life: Life, count: number): Life[] {
  return Array.from({ length: count }, () => life);
}

describe('the pause before a restart', () => {
  it('doubles from 100 ms, and is never longer than 30 s', () => {
    assert.deepEqual(
      pauses(repeated(never, 11)),
      [100, 200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600, 30_000, 30_000],
    );
  });

  it('stays 30 s however many deaths there were', () => {
    assert.equal(pauses(repeated(never, 5_000)).at(-1), 30_000);
  });

  it('is 100 ms again for a child that was ready for a second', () => {
    const stable: Life = { startedAt: 0, readyAt: 1_000, endedAt: 2_000 };
    const almost: Life = { ...stable, endedAt: 1_999 };
    assert.deepEqual(pauses([never, never, almost, stable, never]), [100, 200, 400, 100, 200]);
  });
});

describe('a crash loop', () => {
  const early: Life = { startedAt: 0, readyAt: 100, endedAt: 9_999 };

  it('begins with the fifth child in a row that dies within 10 s of its start, or before it is ready', () => {
    assert.deepEqual(crashLoops([early, never, early, never, early]), [false, false, false, false, true]);
  });

  it('is reported once', () => {
    assert.equal(crashLoops(repeated(early, 50)).filter(Boolean).length, 1);
  });

  it('does not begin when one child in between lives for 10 s', () => {
    const late: Life = { ...early, endedAt: 10_000 };
    assert.deepEqual(
      crashLoops([...repeated(early, 4), late, ...repeated(early, 4)]),
      Array.from({ length: 9 }, () => false),
    );
  });

  it('can begin again after it was over', () => {
    const late: Life = { ...early, endedAt: 10_000 };
    const loops = crashLoops([...repeated(early, 5), late, ...repeated(early, 5)]);
    assert.deepEqual(
      loops.flatMap((began, index) => (began ? [index] : [])),
      [4, 10],
    );
  });
});

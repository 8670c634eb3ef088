// How the goals are computed from what was measured.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import type { Figures } from '../../bench/dispatch/figures.js';
import { standingsOf } from '../../bench/dispatch/goals.js';
import type { Outcome } from '../../bench/dispatch/measure.js';

function outcome(
  work: Outcome['work'],
  contestant: string,
  rounds: readonly Figures[],
  workers = 2,
): Outcome {
  return { work, contestant, workers, rounds, traced: {}, answers: 1, problems: [] };
}

function perSecond(...figures: readonly number[]): Figures[] {
  return figures.map((figure) => ({ perSecond: figure }));
}

describe('a goal', () => {
  it('is a ratio within each round, whatever the machine does between rounds', () => {
    const [standing] = standingsOf([
      outcome('a', 'passfd-direct', perSecond(300, 3100, 31)),
      outcome('a', 'cluster', perSecond(100, 1000, 10)),
    ]);
    assert.deepEqual(standing?.measured, { median: 3.1, least: 3, most: 3.1 });
    assert.equal(standing.verdict, 'met');
  });

  it('says by how much it is missed', () => {
    const verdicts = standingsOf([
      outcome('a', 'passfd-direct', perSecond(150)),
      outcome('a', 'cluster', perSecond(100)),
      outcome('a', 'cluster-shared', perSecond(200)),
      outcome('e', 'passfd-run', [{ p50Us: 160 }]),
      outcome('e', 'alone', [{ p50Us: 100 }]),
    ]).map(({ goal, verdict }) => `${goal}: ${verdict}`);
    assert.deepEqual(verdicts, [
      '(a) connections/s over cluster, round robin: missed by 40 %',
      "(a) connections/s over shared accept, the kernel's own: missed by 25 %",
      '(e) p50 latency added to that of one Node process alone: missed by 100 %',
    ]);
  });

  it('of no memory is met by what cannot be told from nothing', () => {
    const verdictOf = (dispatcherBytes: number): string | undefined =>
      standingsOf([outcome('g', 'passfd-serve', [{ dispatcherBytes, held: 10_000 }])])[0]?.verdict;
    assert.equal(verdictOf(-3), 'met');
    assert.equal(verdictOf(12), 'met');
    assert.equal(verdictOf(500), 'missed by 500 bytes');
  });

  it('that is no less than another is met within the noise', () => {
    const verdictOf = (figure: number): string | undefined =>
      standingsOf([
        outcome('a', 'passfd-direct', perSecond(figure)),
        outcome('a', 'cluster-shared', perSecond(1000)),
      ])[0]?.verdict;
    assert.deepEqual([verdictOf(980), verdictOf(950)], ['met', 'missed by 5 %']);
  });

  it('of one worker asleep compares a contestant with itself, and with those that let their clients wait', () => {
    const standings = standingsOf([
      outcome('i', 'passfd-direct', [{ p99Us: 300, calmP99Us: 200 }, { p99Us: 900 }]),
      outcome('i', 'reuse-port', [{ p99Us: 6000, calmP99Us: 250 }]),
    ]);
    assert.deepEqual(
      standings.map(({ measured }) => measured.median),
      [1.5, 0.05],
    );
  });

  it('by the number of workers compares a contestant with itself', () => {
    const [standing] = standingsOf([
      outcome('f', 'passfd-run', [{ dispatcherCpuUs: 10 }], 2),
      outcome('f', 'passfd-run', [{ dispatcherCpuUs: 12 }], 64),
    ]);
    assert.equal(standing?.measured.median, 1.2);
  });

  it('leaves out rounds in which one side has failed', () => {
    const [standing] = standingsOf([
      outcome('a', 'passfd-direct', [...perSecond(400), {}, ...perSecond(500)]),
      outcome('a', 'cluster', [...perSecond(100, 100), {}]),
    ]);
    assert.deepEqual(standing?.measured, { median: 4, least: 4, most: 4 });
  });

  it('has no row when something for it was not measured', () => {
    assert.deepEqual(standingsOf([outcome('a', 'passfd-run', perSecond(1))]), []);
  });
});

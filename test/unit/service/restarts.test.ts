// Restarts that are requested while none can begin: no request is lost, and one restart follows for all of them.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { Restarts, type ReportProgress } from '../../../src/service/restarts.js';
import { isPending, turns } from '../../support/loop.js';

interface Run {
  readonly progress: ReportProgress;
  readonly without: readonly string[];
  readonly resolve: (result: number) => void;
  readonly reject: (error: Error) => void;
}

/** Restarts whose steps the test controls. */
class Stage {
  readonly runs: Run[] = [];
  readonly restarts: Restarts<number>;
  untilFree: Promise<boolean> = Promise.resolve(true);

  constructor() {
    this.restarts = new Restarts({
      restart: (progress, without) =>
        new Promise((resolve, reject) => {
          this.runs.push({ progress, without, resolve, reject });
        }),
      untilFree: () => this.untilFree,
    });
  }

  run(index: number): Run {
    const run = this.runs[index];
    assert.ok(run, `restart ${index} has begun`);
    return run;
  }
}

describe('a requested restart', () => {
  it('begins at once when nothing runs, and resolves with its result', async () => {
    const stage = new Stage();
    const heard: string[] = [];
    const done = stage.restarts.ask('command', (text) => heard.push(text));
    await turns();
    assert.equal(stage.restarts.isUnderWay, true);
    stage.run(0).progress('half of it');
    stage.run(0).resolve(2);
    assert.equal(await done, 2);
    assert.deepEqual(heard, ['half of it']);
    await turns();
    assert.equal(stage.restarts.isUnderWay, false);
  });

  it('follows one that runs, once for all requests, which get the progress of that one only', async () => {
    const stage = new Stage();
    const heard: string[][] = [[], [], []];
    const [first, second, third] = heard.map((texts) =>
      stage.restarts.ask('command', (text) => texts.push(text)),
    );
    assert.ok(first && second && third);
    await turns();
    const late = stage.restarts.ask('signal');
    const later = stage.restarts.ask('command', (text) => heard[2]?.push(`later: ${text}`));
    stage.run(0).progress('the first');
    stage.run(0).resolve(1);
    await Promise.all([first, second, third]);
    await turns();
    assert.equal(stage.runs.length, 2);
    assert.equal(await isPending(later), true);
    stage.run(1).progress('the second');
    stage.run(1).resolve(2);
    assert.deepEqual(await Promise.all([late, later]), [2, 2]);
    assert.deepEqual(heard, [['the first'], ['the first'], ['the first', 'later: the second']]);
    await turns();
    assert.equal(stage.runs.length, 2);
  });

  it('follows one that failed, too', async () => {
    const stage = new Stage();
    const first = stage.restarts.ask('signal');
    await turns();
    const second = stage.restarts.ask('signal');
    stage.run(0).reject(new Error('no database'));
    await assert.rejects(first, /no database/);
    await turns();
    stage.run(1).resolve(1);
    assert.equal(await second, 1);
  });

  it('gives up the addresses of all its requests, and none of an earlier restart', async () => {
    const stage = new Stage();
    const first = stage.restarts.ask('command', undefined, ['3000']);
    await turns();
    const others = [
      stage.restarts.ask('command', undefined, ['4000', '5000']),
      stage.restarts.ask('signal'),
      stage.restarts.ask('command', undefined, ['5000']),
    ];
    assert.deepEqual(stage.run(0).without, ['3000']);
    stage.run(0).resolve(1);
    await first;
    await turns();
    assert.deepEqual(stage.run(1).without, ['4000', '5000']);
    stage.run(1).resolve(1);
    await Promise.all(others);
  });

  it('waits until it may begin, or is left to the next generation', async () => {
    const stage = new Stage();
    let decide: (isHere: boolean) => void = () => undefined;
    stage.untilFree = new Promise((resolve) => (decide = resolve));
    const asked = stage.restarts.ask('command');
    assert.equal(stage.restarts.isSignalled, false);
    stage.restarts.ask('signal').catch(() => undefined);
    assert.equal(stage.restarts.isSignalled, true);
    await turns();
    assert.equal(stage.runs.length, 0);
    decide(false);
    await turns();
    assert.equal(stage.runs.length, 0);
    assert.equal(await isPending(asked), true);
    assert.equal(stage.restarts.isSignalled, true);
  });

  it('fails when it cannot be found out whether it may begin', async () => {
    const stage = new Stage();
    stage.untilFree = Promise.reject(new Error('broken'));
    await assert.rejects(stage.restarts.ask('command'), /broken/);
  });
});

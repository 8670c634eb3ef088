// Repeats: one line at once, and then one that sums up any number of others.
import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, it, mock } from 'node:test';

import { Repeats } from '../../../src/service/repeats.js';

describe('a repeated event', () => {
  beforeEach(() => {
    mock.timers.enable({ apis: ['setTimeout'] });
  });
  afterEach(() => {
    mock.timers.reset();
  });

  it('is written once, and then summed up at growing intervals', () => {
    const repeats = new Repeats();
    const lines: string[] = [];
    const flood = (count: number): void => {
      for (let index = 1; index <= count; index++) {
        repeats.log('flood', (more) => lines.push(`${index}, and ${more} more`));
      }
    };
    flood(3000);
    assert.deepEqual(lines.splice(0), ['1, and 0 more']);
    mock.timers.tick(1_000);
    assert.deepEqual(lines.splice(0), ['3000, and 2999 more']);
    flood(7);
    mock.timers.tick(1_999);
    assert.deepEqual(lines, []);
    mock.timers.tick(1);
    assert.deepEqual(lines.splice(0), ['7, and 7 more']);
    let written = 0;
    for (let minute = 0; minute < 60; minute++) {
      flood(9);
      mock.timers.tick(60_000);
      written += lines.splice(0).length;
    }
    assert.ok(written >= 58 && written <= 62, String(written));
  });

  it('is written at once again after a pause without events', () => {
    const repeats = new Repeats();
    const lines: number[] = [];
    for (let times = 0; times < 3; times++) {
      repeats.log('seldom', (more) => lines.push(more));
      mock.timers.tick(1_000);
    }
    assert.deepEqual(lines, [0, 0, 0]);
  });

  it('does not hide an event of another kind', () => {
    const repeats = new Repeats();
    const lines: string[] = [];
    for (const name of ['one', 'other', 'one']) repeats.log(name, (more) => lines.push(`${name} ${more}`));
    assert.deepEqual(lines, ['one 0', 'other 0']);
    mock.timers.tick(1_000);
    assert.deepEqual(lines, ['one 0', 'other 0', 'one 1']);
  });
});

// The file that tells the next dispatcher which workers there are.
import assert from 'node:assert/strict';
import { readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { describe, it } from 'node:test';

import { Survivors } from '../../../src/cli/survivors.js';
import { temporaryDirectory } from '../../support/files.js';

const worker = { id: 3, pid: process.pid, isChild: true, isLeaving: true };

describe('the workers that survive a dispatcher', () => {
  it('are read as they were written, as far as they live', async () => {
    await using directory = await temporaryDirectory();
    const survivors = new Survivors(`${directory.path}/control`);
    assert.deepEqual(survivors.read(), []);
    survivors.write([worker]);
    const [read, ...others] = survivors.read();
    assert.deepEqual({ ...read, identity: undefined }, { ...worker, identity: undefined });
    assert.deepEqual(others, []);
    survivors.remove();
    assert.deepEqual(survivors.read(), []);
  });

  it('are not written where a link leads that somebody has put there', async () => {
    await using directory = await temporaryDirectory();
    const control = `${directory.path}/control`;
    const victim = `${directory.path}/victim`;
    writeFileSync(victim, 'precious');
    symlinkSync(victim, `${control}.workers.new`);
    const survivors = new Survivors(control);
    survivors.write([worker]);
    assert.equal(readFileSync(victim, 'utf8'), 'precious');
    assert.equal(survivors.read().length, 1);
  });
});

// How the programs of the benchmarks are compiled, and the histogram that they count with.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readdirSync, statSync, utimesSync } from 'node:fs';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';

import { buildPrograms } from '../../bench/native.js';
import { temporaryDirectory } from '../support/files.js';
import { withoutPrograms } from './programs.js';

// They are not compiled by tsc, so they stay in the source tree.
const inSource = (path: string): string => fileURLToPath(new URL(`../../../${path}`, import.meta.url));

describe('the programs of the benchmarks', { skip: withoutPrograms }, () => {
  it('are compiled when they are missing or older than a source, and else not', async () => {
    await using directory = await temporaryDirectory();
    const { load, limit, answer } = await buildPrograms(directory.path);
    const files = [load, limit, answer];
    const inodes = (): number[] => files.map((path) => statSync(path).ino);
    const before = inodes();
    utimesSync(answer, 0, 0);
    await buildPrograms(directory.path);
    const [, , compiled = 0] = inodes();
    assert.deepEqual(inodes(), [before[0], before[1], compiled]);
    assert.notEqual(compiled, before[2]);
    await buildPrograms(directory.path);
    assert.deepEqual(inodes(), [before[0], before[1], compiled]);
    assert.deepEqual(readdirSync(directory.path).sort(), ['answer', 'limit', 'load']);
  });

  it('tell durations to within 0.4 %, from a nanosecond to 18 minutes', async () => {
    await using directory = await temporaryDirectory();
    const binary = `${directory.path}/histogram_test`;
    const source = [inSource('test/bench/histogram_test.c'), '-I', inSource('bench/native')];
    const compiled = spawnSync('cc', [
      '-std=c11',
      '-Wall',
      '-Wextra',
      '-Werror',
      ...source,
      '-o',
      binary,
      '-lm',
    ]);
    assert.equal(compiled.status, 0, compiled.stderr.toString());
    const run = spawnSync(binary);
    assert.equal(run.status, 0, run.stdout.toString());
  });
});

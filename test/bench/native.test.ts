// How the programs of the benchmarks are compiled, and the histogram that they count with.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { statSync, utimesSync } from 'node:fs';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';

import { buildPrograms } from '../../bench/native.js';
import { temporaryDirectory } from '../support/files.js';
import { programs, withoutPrograms } from './programs.js';

// They are not compiled by tsc, so they stay in the source tree.
const inSource = (path: string): string => fileURLToPath(new URL(`../../../${path}`, import.meta.url));

describe('the programs of the benchmarks', { skip: withoutPrograms }, () => {
  it('are compiled when a source is newer, and then not again', async () => {
    utimesSync(programs.answer, 0, 0);
    await buildPrograms();
    const compiled = statSync(programs.answer);
    assert.notEqual(compiled.mtimeMs, 0);
    await buildPrograms();
    assert.equal(statSync(programs.answer).ino, compiled.ino);
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

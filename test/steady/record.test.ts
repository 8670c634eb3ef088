// The record of test:steady: what is done survives an interruption, and not a change of the code.
import assert from 'node:assert/strict';
import { appendFileSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';

import { temporaryDirectory } from '../support/files.js';
import { codeVersion, Record } from './record.js';

describe('the record of runs', () => {
  it('knows the runs of an interrupted command, except a line that was not written as a whole', async () => {
    await using directory = await temporaryDirectory();
    const first = new Record(directory.path, 'v1');
    first.passed('unit/a.test.js');
    const failure = first.failed('unit/a.test.js', 'why it failed');
    appendFileSync(join(directory.path, 'record.jsonl'), '{"file":"unit/a.te');
    const second = new Record(directory.path, 'v1');
    assert.deepEqual(second.of('unit/a.test.js'), [
      { file: 'unit/a.test.js' },
      { file: 'unit/a.test.js', failure },
    ]);
    assert.equal(readFileSync(failure, 'utf8'), 'why it failed');
    second.passed('unit/b.test.js');
    assert.equal(new Record(directory.path, 'v1').of('unit/b.test.js').length, 1);
  });

  it('drops the runs of other code, and says how many', async () => {
    await using directory = await temporaryDirectory();
    new Record(directory.path, 'v1').passed('unit/a.test.js');
    const other = new Record(directory.path, 'v2');
    assert.equal(other.dropped, 1);
    assert.deepEqual(other.of('unit/a.test.js'), []);
  });

  it('begins anew with the files of a command that has ended, and keeps those of others', async () => {
    await using directory = await temporaryDirectory();
    const record = new Record(directory.path, 'v1');
    record.passed('unit/a.test.js');
    record.passed('unit/b.test.js');
    record.finish(['unit/a.test.js']);
    const next = new Record(directory.path, 'v1');
    assert.deepEqual([next.of('unit/a.test.js').length, next.of('unit/b.test.js').length], [0, 1]);
  });
});

describe('the version of the code', () => {
  it('changes with a file that counts, and with no other', async () => {
    await using directory = await temporaryDirectory();
    const version = (): string => codeVersion([directory.path], ['.js']);
    const empty = version();
    appendFileSync(join(directory.path, 'notes.txt'), 'x');
    assert.equal(version(), empty);
    appendFileSync(join(directory.path, 'code.js'), 'x');
    assert.notEqual(version(), empty);
  });
});

// The prefix before each line of a child's output.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { LinePrefixer } from '../../../src/supervisor/lines.js';

/** The output after each chunk, and at the end. */
function outputs(...chunks: readonly (string | Buffer)[]): string[] {
  const prefixer = new LinePrefixer('[1] ');
  const behindChunks = chunks.map((chunk) => prefixer.push(Buffer.from(chunk)).toString());
  return [...behindChunks, prefixer.end().toString()];
}

describe('a line of output', () => {
  it('gets the prefix, also when it is empty', () => {
    assert.deepEqual(outputs('one\n\ntwo\n'), ['[1] one\n[1] \n[1] two\n', '']);
  });

  it('is written as a whole when it arrives in pieces', () => {
    assert.deepEqual(outputs('o', 'n', 'e\nt', 'wo', '\n'), ['', '', '[1] one\n', '', '[1] two\n', '']);
  });

  it('keeps a character that arrives in two pieces', () => {
    const bytes = Buffer.from('né\n');
    assert.deepEqual(outputs(bytes.subarray(0, 2), bytes.subarray(2)), ['', '[1] né\n', '']);
  });

  it('gets a newline when it is the last one and has none', () => {
    assert.deepEqual(outputs('one\ntwo'), ['[1] one\n', '[1] two\n']);
  });

  it('is split when it is longer than 64 KiB', () => {
    const long = 'x'.repeat(65_536);
    assert.deepEqual(outputs(long, 'y\n'), [`[1] ${long}\n`, '[1] y\n', '']);
  });
});

describe('no output', () => {
  it('gets no prefix', () => {
    assert.deepEqual(outputs(''), ['', '']);
  });
});

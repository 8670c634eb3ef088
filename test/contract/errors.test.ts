// The codes of errors: the same in the code and in docs/errors.md.
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';

import { errorMeanings } from '../../src/fd/errors.js';

const root = fileURLToPath(new URL('../../../', import.meta.url));

const documented = [
  ...readFileSync(join(root, 'docs/errors.md'), 'utf8').matchAll(
    /^\| `(ERR_\w+)`\s*\| (.*?)\s*\| (.*?)\s*\|$/gm,
  ),
].map(([, code = '', meaning = '', advice = '']) => ({ code, meaning, advice }));

describe('an error code', () => {
  it('stands in docs/errors.md with the meaning that the code gives it', () => {
    assert.deepEqual(
      Object.fromEntries(documented.map(({ code, meaning }) => [code, meaning])),
      errorMeanings,
    );
  });

  it('has a row that says what to do', () => {
    assert.deepEqual(
      documented.filter(({ advice }) => advice === ''),
      [],
    );
  });

  it('is given by some line of the source', () => {
    const source = readdirSync(join(root, 'src'), { recursive: true, encoding: 'utf8' })
      .filter((path) => path.endsWith('.ts') && !path.endsWith('errors.ts'))
      .map((path) => readFileSync(join(root, 'src', path), 'utf8'))
      .join('\n');
    const unused = Object.keys(errorMeanings).filter((code) => !source.includes(`'${code}'`));
    assert.deepEqual(unused, []);
  });
});

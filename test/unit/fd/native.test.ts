// The binary is not used if it is older than the JavaScript beside it.
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { describe, it } from 'node:test';

import { failsWith } from '../../support/errors.js';

const require = createRequire(import.meta.url);

describe('a binary that was compiled from older sources', () => {
  it('is refused when it is loaded, and the message says what to do', async () => {
    const loader = require.cache[require.resolve('node-gyp-build')];
    assert.ok(loader);
    const real = loader.exports as (directory: string) => object;
    loader.exports = (directory: string) => ({ ...real(directory), lock: undefined, peer: undefined });
    try {
      // Another copy of the module: this one loads the binary anew.
      const copy = '../../../src/fd/native.js?older';
      await assert.rejects(
        import(copy),
        failsWith(
          'ERR_UNSUPPORTED',
          /^The binary in \S+ is of another version: it lacks lock, peer; run `npm run build`$/,
        ),
      );
    } finally {
      loader.exports = real;
    }
  });
});

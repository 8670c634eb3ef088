// The name under which a listening socket is stored.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { storedName } from '../../../src/systemd/index.js';

describe('the name of a stored socket', () => {
  it('is its address, with invalid characters escaped', () => {
    const addresses = [
      { host: '127.0.0.1', port: 8080 },
      { host: '::1', port: 80 },
      { path: '/run/a b%.sock' },
      { path: '\0abstract' },
      { path: '/ü\n' },
    ];
    assert.deepEqual(addresses.map(storedName), [
      'listener-127.0.0.1%3A8080',
      'listener-[%3A%3A1]%3A80',
      'listener-/run/a%20b%25.sock',
      'listener-@abstract',
      'listener-/%C3%BC%0A',
    ]);
  });

  it('is never too long, and differs for different addresses', () => {
    const names = ['ü'.repeat(53), 'ö'.repeat(53)].map((path) => storedName({ path: `/${path}` }));
    for (const name of names) assert.match(name, /^listener-[\x20-\x39\x3b-\x7e]{1,246}$/);
    assert.equal(new Set(names).size, 2);
  });
});

// Addresses: which are valid, and how they are written for people.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { formatAddress, isAbstract, resolveHost, toAddress } from '../../../src/fd/address.js';

describe('an address', () => {
  it('is a path, or a host and a port', () => {
    assert.deepEqual(toAddress('/run/s'), { path: '/run/s' });
    assert.deepEqual(toAddress({ path: '\0name\0' }), { path: '\0name\0' });
    assert.deepEqual(toAddress({ host: 'localhost', port: 0 }), { host: 'localhost', port: 0 });
    assert.deepEqual(toAddress({ host: '::1', port: 65_535 }), { host: '::1', port: 65_535 });
  });

  it('is printed as people write it', () => {
    for (const [address, written] of [
      [{ path: '/run/s' }, '/run/s'],
      [{ path: '\0name' }, '@name'],
      [{ host: '127.0.0.1', port: 80 }, '127.0.0.1:80'],
      [{ host: '::1', port: 80 }, '[::1]:80'],
      [{ host: 'localhost', port: 0 }, 'localhost:0'],
    ] as const) {
      assert.equal(formatAddress(address), written);
    }
  });

  it('is abstract when it begins with a NUL', () => {
    assert.deepEqual(['\0name', '/name', '@name'].map(isAbstract), [true, false, false]);
  });
});

describe('a host', () => {
  it('is left as it is when it is numeric, also with a zone', async () => {
    for (const host of ['127.0.0.1', '::1', 'fe80::1%lo']) assert.deepEqual(await resolveHost(host), [host]);
  });
});

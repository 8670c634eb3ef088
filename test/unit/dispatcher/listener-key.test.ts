// The keys of listeners, by which the next dispatcher recognizes a socket.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { inheritedKey, ownKey, wantedIn, wantedKey } from '../../../src/dispatcher/listener-key.js';

const address = { path: '/tmp/a', mode: 0o600 };

describe('the key of a listener', () => {
  it('has the words of a worker that asked for its address', () => {
    assert.deepEqual(wantedIn(wantedKey(address)), address);
    assert.deepEqual(wantedIn(inheritedKey(address)), address);
  });

  it('has no words of a worker when another asked for the address, nor in a form that a later release makes', () => {
    for (const key of [
      ownKey('127.0.0.1:80'),
      ownKey({ fd: 3 }),
      'api wanted',
      'wanted-twice {}',
      'wanted',
      '',
    ]) {
      assert.equal(wantedIn(key), undefined, key);
    }
  });
});

// inheritedDescriptors: how it reads the variables. test/process shows that it takes the right descriptors.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { inheritedDescriptors, listenersNamed } from '../../../src/systemd/index.js';
import { failsWith } from '../../support/errors.js';

const PID = 4711;
const announced = { LISTEN_PID: String(PID), LISTEN_FDS: '1' };

describe('the variables of inherited descriptors', () => {
  it('are removed, and ignored when they are for another process', () => {
    const strangers = [
      {},
      { LISTEN_FDS: '1' },
      { LISTEN_PID: '4712', LISTEN_FDS: 'x', LISTEN_FDNAMES: 'a', LISTEN_PIDFDID: '7' },
      { LISTEN_PID: '04711', LISTEN_FDS: '1' },
      { LISTEN_PID: String(PID) },
      { LISTEN_PID: String(PID), LISTEN_FDS: '0' },
    ];
    for (const env of strangers) {
      assert.deepEqual(inheritedDescriptors(env, PID), []);
      assert.deepEqual(env, {});
    }
  });

  it('are removed, and an error when they are invalid', () => {
    const nonsense = [
      { ...announced, LISTEN_FDS: '' },
      { ...announced, LISTEN_FDS: '-1' },
      { ...announced, LISTEN_FDS: '1.5' },
      { ...announced, LISTEN_FDS: ' 1' },
      { ...announced, LISTEN_FDS: '99999999999999999999' },
      { ...announced, LISTEN_FDNAMES: 'one:two' },
      { ...announced, LISTEN_FDS: '2', LISTEN_FDNAMES: 'one' },
    ];
    for (const env of nonsense) {
      assert.throws(() => inheritedDescriptors(env, PID), failsWith('ERR_ACTIVATION', /LISTEN_FDS/));
      assert.deepEqual(env, {});
    }
  });
});

describe('a name of inherited descriptors', () => {
  it('that no descriptor has is an error with a likely reason', () => {
    assert.throws(
      () => listenersNamed([], 'web'),
      failsWith('ERR_ACTIVATION', /"web"; this process has inherited none: check that systemd starts it/),
    );
  });
});

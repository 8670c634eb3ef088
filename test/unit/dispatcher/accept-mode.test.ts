// AcceptMode: which way of accepting the options of a dispatcher mean, and which of them contradict each other.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { acceptModeOf, canAcceptDirectly } from '../../../src/dispatcher/direct/accept-mode.js';
import { Dispatcher, type AcceptMode } from '../../../src/dispatcher/index.js';
import { failsWith } from '../../support/errors.js';

describe('the accept option', () => {
  it('is hand-off with a policy, with overload: refuse, and where the system has no direct accept', () => {
    assert.equal(acceptModeOf({ policy: 'round-robin' }, true), 'hand-off');
    assert.equal(acceptModeOf({ accept: 'auto', overload: 'refuse' }, true), 'hand-off');
    assert.equal(acceptModeOf({ accept: 'auto' }, false), 'hand-off');
    assert.equal(acceptModeOf({ accept: 'hand-off', policy: 'p2c', overload: 'refuse' }, true), 'hand-off');
  });

  it('may be direct where no option needs hand-off', () => {
    assert.equal(acceptModeOf({ accept: 'direct', overload: 'wait' }, true), 'direct');
  });

  it('cannot be direct with a policy, even the default one, and the error says why', () => {
    const options = { accept: 'direct', policy: 'round-robin' } as const;
    assert.throws(() => new Dispatcher(options), {
      name: 'TypeError',
      message: /no policy, because workers accept by themselves/,
    });
  });

  it('cannot be direct with overload: refuse, and the error says why', () => {
    const options = { accept: 'direct', overload: 'refuse' } as const;
    assert.throws(() => new Dispatcher(options), {
      name: 'TypeError',
      message: /leaves clients in the kernel/,
    });
  });

  it('cannot be direct where the system has no direct accept', () => {
    assert.throws(() => acceptModeOf({ accept: 'direct' }, false), failsWith('ERR_UNSUPPORTED'));
    assert.equal(canAcceptDirectly, process.platform === 'linux');
  });

  it('is one of three words', () => {
    assert.throws(() => acceptModeOf({ accept: 'both' as AcceptMode }, true), {
      name: 'TypeError',
      message: /one of auto, direct, hand-off, not both/,
    });
  });
});

// The settings of a service: defaults, the order of their sources, and what is not allowed.
import assert from 'node:assert/strict';
import { availableParallelism } from 'node:os';
import { describe, it } from 'node:test';

import { defaultControlPath } from '../../../src/handoff/index.js';
import { defaultSettings, settingsFrom, withAbsolutePaths } from '../../../src/service/settings.js';

describe('the settings of a service', () => {
  it('have defaults', () => {
    assert.deepEqual(settingsFrom(), {
      ...defaultSettings,
      controlPath: defaultControlPath(),
      listen: [],
      workers: availableParallelism(),
      allowUids: [],
      allowGids: [],
    });
  });

  it('name no policy, unless a source does', () => {
    assert.equal('policy' in settingsFrom(), false);
    assert.equal(settingsFrom({ policy: 'round-robin' }).policy, 'round-robin');
  });

  it('come from the first source that has them', () => {
    const { policy, maxExtra, logLevel } = settingsFrom(
      { policy: 'p2c', maxExtra: undefined },
      { policy: 'client-ip', maxExtra: 3 },
    );
    assert.deepEqual([policy, maxExtra, logLevel], ['p2c', 3, 'info']);
  });

  it('are refused when their value or their name is wrong', () => {
    assert.throws(() => settingsFrom({ drainTimeoutMs: 0 }), TypeError);
    assert.throws(() => settingsFrom({ workers: 1.5 }), TypeError);
    assert.throws(() => settingsFrom({ controlPath: '' }), TypeError);
    assert.throws(() => settingsFrom({ accept: 'shared' } as object), /accept/);
    assert.throws(() => settingsFrom({ drainTimeout: 5 } as object), /drainTimeout/);
  });

  it('name sockets by absolute paths', () => {
    const settings = settingsFrom({ controlPath: 'c', rawControlPath: 'r', listen: [{ path: 's' }] });
    const directory = process.cwd();
    const { controlPath, rawControlPath, listen } = withAbsolutePaths(settings);
    assert.deepEqual(
      [controlPath, rawControlPath, listen],
      [`${directory}/c`, `${directory}/r`, [{ path: `${directory}/s` }]],
    );
    assert.equal(withAbsolutePaths(settings, '/elsewhere').controlPath, '/elsewhere');
  });
});

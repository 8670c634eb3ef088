// A client of `passfd/multiprocessing` that gives up on a listener does not wait for what that has passed.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { describe, it } from 'node:test';

import { Client } from '../../src/multiprocessing/index.js';
import { STUCK_AFTER_MS } from '../support/deadline.js';
import { temporaryDirectory } from '../support/files.js';
import { withPrograms } from '../support/program.js';
import { withoutPython } from '../support/python.js';
import { SLOW_LISTENER, slowCloses } from '../support/slow-close.js';

describe('a client', { skip: withoutPython }, () => {
  it(
    'gives up on a listener at once though that has passed something that is slow to close',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const path = `${directory.path}/listener`;
      const passed = `${directory.path}/passed`;
      const listener = start('python3', ['-c', SLOW_LISTENER, path, passed]);
      await listener.line(/listening/);
      const denied = new Error('not this one');
      const checkPeer = (): void => {
        // The event loop stands still, so that nothing is read before.
        const wait = 'until [ -e "$0" ]; do sleep 0.01; done';
        assert.equal(spawnSync('/bin/sh', ['-c', wait, passed], { timeout: STUCK_AFTER_MS }).status, 0);
        throw denied;
      };
      await assert.rejects(Client(path, { checkPeer }), denied);
      assert.equal(slowCloses(), 1);
      listener.kill();
      await listener.exit;
      while (slowCloses() > 0) await new Promise((resolve) => setImmediate(resolve));
    }),
  );
});

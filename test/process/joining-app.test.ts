// An unmodified app that joins a dispatcher: the messages on its terminal while no dispatcher is there.
import { describe, it } from 'node:test';
import assert from 'node:assert/strict';

import { temporaryDirectory } from '../support/files.js';
import { app, passfd } from '../support/passfd.js';
import { withPrograms } from '../support/program.js';

describe('an app that is started by `passfd worker`', () => {
  it(
    'reports that it waits while no dispatcher is there, and listens when one comes',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const control = `${directory.path}/control`;
      const worker = start(...passfd('worker', '--control', control, app('http.js')), { ownGroup: true });
      await worker.errorLine(/^passfd: no dispatcher at .*\/control yet: waiting for one$/);
      start(...passfd('serve', '--listen', '127.0.0.1:0', '--control', control));
      await worker.line(/^listening \d+$/);
    }),
  );

  it(
    'reports why it ends when its dispatcher is gone and no other dispatcher comes',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const control = `${directory.path}/control`;
      const dispatcher = start(...passfd('serve', '--listen', '127.0.0.1:0', '--control', control));
      await dispatcher.errorLine(/127\.0\.0\.1:\d+/);
      const worker = start(...passfd('worker', '--control', control, app('http.js')), {
        env: { PASSFD_ORPHAN_TIMEOUT: '1' },
        ownGroup: true,
      });
      await worker.line(/^listening \d+$/);
      dispatcher.signal('SIGKILL');
      await worker.errorLine(/^passfd: no dispatcher any more: this process drains, then exits$/);
      assert.equal(await worker.exit, 'SIGTERM');
    }),
  );
});

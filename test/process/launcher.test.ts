// Commands that start the app, and servers that start before passfd: neither is a worker, and each is told with what to do.
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { describe, it } from 'node:test';

import { launchedBy } from '../../src/supervisor/internal.js';
import { temporaryDirectory } from '../support/files.js';
import { app, passfd, statusOf } from '../support/passfd.js';
import { withPrograms } from '../support/program.js';

describe('an app that only starts another program', () => {
  it(
    'is not ready, though it has a socket named by its process id',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const control = `${directory.path}/control`;
      const flags = ['--workers', '1', '--control', control, '--ready-timeout', '1'];
      const launcher = [app('launcher.cjs'), app('http.js'), directory.path];
      const service = start(...passfd('run', ...flags, ...launcher));
      await service.line(/^listening/);
      await service.errorLine(/not ready yet/);
      await service.errorLine(/worker joined/);
      const { workers, listeners } = await statusOf(control);
      assert.deepEqual([workers.map(({ state }) => state), listeners], [['starting'], []]);
      service.signal('SIGTERM');
      assert.equal(await service.exit, 0);
    }),
  );

  it(
    'is known by what it has started',
    withPrograms(async (start) => {
      const launcher = start(process.execPath, [app('launcher.cjs'), app('http.js')]);
      await launcher.line(/^listening/);
      assert.match(launchedBy(launcher.pid) ?? '', /^process \d+ \(.*node.*\)$/);
      launcher.signal('SIGTERM');
      await launcher.exit;
      assert.equal(launchedBy(launcher.pid), undefined);
    }),
  );

  it(
    'is refused at once where the file tells it, or the name is that of a command',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const script = `${directory.path}/app`;
      const files = [
        ['#!/bin/sh\nexec node app.js\n', /is a script for sh, not JavaScript/],
        ['#!/usr/bin/env bash\nexec node app.js\n', /is a script for bash, not JavaScript/],
        ['#!/usr/bin/env python3\n', /is a script for python3, not JavaScript/],
        ['\x7fELF\x02\x01', /is a program of this machine, not JavaScript/],
      ] as const;
      for (const [content, reason] of files) {
        writeFileSync(script, content, 'latin1');
        const refused = start(...passfd('run', script));
        assert.equal(await refused.exit, 2);
        assert.match(await refused.stderr, reason);
        assert.match(await refused.stderr, /give passfd run the file that Node runs/);
      }
      const command = start(...passfd('run', 'sh', 'app.sh'), { cwd: directory.path });
      assert.equal(await command.exit, 2);
      assert.match(await command.stderr, /there is no file sh in .*, and sh is a command: give passfd run/);
    }),
  );

  it(
    'is run when Node can run it, whatever its first line names',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      for (const line of [
        '#!/usr/bin/env node',
        '#!/usr/bin/env -S node --no-warnings',
        '#!/usr/bin/env tsx',
        // A shell passes it on to Node, and to Node the second line is a string and a comment.
        '#!/bin/sh\n":" //# ; exec /usr/bin/env node "$0" "$@"',
      ]) {
        writeFileSync(`${directory.path}/app.cjs`, `${line}\nconsole.log('it runs');\n`);
        const flags = ['--workers', '1', '--control', `${directory.path}/control`];
        const service = start(...passfd('run', ...flags, `${directory.path}/app.cjs`));
        await service.line(/^it runs$/);
        assert.equal(await service.exit, 0);
      }
    }),
  );
});

describe('a server that a preload starts before passfd', () => {
  it(
    'is told of with what to do',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const flags = ['--workers', '1', '--control', `${directory.path}/control`];
      // Only the worker has it.
      const variables = `${directory.path}/variables`;
      writeFileSync(variables, `NODE_OPTIONS=--require=${app('early-server.cjs')}\n`);
      const service = start(...passfd('run', ...flags, '--worker-env-file', variables, app('http.js')));
      await service.line(/^listening/);
      await service.errorLine(
        /a preload .* listened before passfd was loaded.*Import that module in the app/,
      );
      service.signal('SIGTERM');
      assert.equal(await service.exit, 0);
    }),
  );
});

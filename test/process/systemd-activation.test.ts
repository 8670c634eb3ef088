// What systemd's own tool passes to a program, and what a program makes of announcements that are not true.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { connect } from 'node:net';
import { text } from 'node:stream/consumers';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';

import { temporaryDirectory } from '../support/files.js';
import { withPrograms } from '../support/program.js';

const fixture = fileURLToPath(new URL('./fixtures/service.js', import.meta.url));
const node = [process.execPath, fixture];

const activate = 'systemd-socket-activate';
const withoutActivate = spawnSync(activate, ['--version']).status === 0 ? false : `needs ${activate}`;

describe('a program that systemd-socket-activate starts', { skip: withoutActivate }, () => {
  it(
    'serves the client that it was started for, and those at its other socket',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const paths = ['a', 'b'].map((name) => `${directory.path}/${name}`);
      const listen = paths.flatMap((path) => ['-l', path]);
      const program = start(activate, [...listen, '--fdname=web:web', '--', ...node, 'name=web']);
      await program.errorLine(/^Listening on .*\/b as 4\.$/);
      const client = connect(paths[0] ?? '');
      const [line] = await program.line(/^\{.*/);
      const report = JSON.parse(line) as { pid: number; addresses: unknown; ofChildren: unknown };
      // It becomes the program, so that LISTEN_PID is true.
      assert.equal(report.pid, program.pid);
      assert.deepEqual(
        report.addresses,
        paths.map((path) => ({ path })),
      );
      assert.deepEqual(report.ofChildren, []);
      assert.equal(await text(client), `${program.pid}\n`);
      assert.equal(await text(connect(paths[1] ?? '')), `${program.pid}\n`);
      program.signal('SIGTERM');
      assert.equal(await program.exit, 0);
    }),
  );

  it(
    'has the names of none, and all the same every socket, where the tool was told no names',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const path = `${directory.path}/a`;
      const program = start(activate, ['-l', path, '--', ...node, path]);
      await program.errorLine(/^Listening on /);
      const client = connect(path);
      const [line] = await program.line(/^\{.*/);
      const { found } = JSON.parse(line) as { found: readonly (string | null)[] };
      assert.notDeepEqual(found, [null]);
      assert.equal(await text(client), `${program.pid}\n`);
    }),
  );
});

describe('a program whose descriptors are announced wrongly', () => {
  /** Becomes the fixture with its own pid in LISTEN_PID, as a manager does it. */
  const announcing = (count: number): [string, string[]] => [
    '/bin/sh',
    ['-c', `LISTEN_PID=$$ LISTEN_FDS=${count} exec "$@"`, 'sh', ...node],
  ];

  it(
    'takes none of its own for one that it was given, where more are announced than there are',
    withPrograms(async (start) => {
      for (const descriptors of [[], [0], [0, 0]]) {
        const program = start(...announcing(descriptors.length + 1), { descriptors });
        assert.equal(await program.exit, 1);
        assert.match(await program.stderr, new RegExp(`number ${3 + descriptors.length} is Node's own`));
      }
    }),
  );

  it(
    'finds nothing where a shell stands between it and who announced them',
    withPrograms(async (start) => {
      const command = 'LISTEN_PID=$$ LISTEN_FDS=1 "$@"; exit $?';
      const program = start('/bin/sh', ['-c', command, 'sh', ...node, 'name=web'], { descriptors: [0] });
      await program.errorLine(/this process has inherited none/);
      assert.equal(await program.exit, 1);
    }),
  );
});

// What docs/compatibility.md says about servers that listen without the dispatcher, and about the entry of an app.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { temporaryDirectory } from '../support/files.js';
import { app, passfd, statusOf } from '../support/passfd.js';
import { withPrograms } from '../support/program.js';

describe('an app with a thread and a cluster of its own, under `passfd run`', () => {
  it(
    'shares only the server of its own process: thread and child listen by themselves',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const control = `${directory.path}/control`;
      const flags = ['--workers', '1', '--control', control];
      const program = start(...passfd('run', ...flags, app('by-itself.cjs')), { ownGroup: true });
      const ports = new Map<string, string>();
      while (ports.size < 3) {
        const [, name = '', port = ''] = await program.line(/^listening (\w+) (\d+)$/);
        ports.set(name, port);
      }
      const { listeners } = await statusOf(control);
      assert.deepEqual(
        listeners.map(({ address }) => address),
        [`127.0.0.1:${ports.get('process') ?? ''}`],
      );
      for (const [name, port] of ports) {
        const headers = { connection: 'close' };
        assert.equal(await (await fetch(`http://127.0.0.1:${port}/`, { headers })).text(), name);
      }
      assert.ok(program.lines.includes('parent undefined main true'), program.lines.join('\n'));
      // In the turn of its listen.
      assert.ok(program.lines.includes('address process null'), program.lines.join('\n'));
      assert.equal(await start(...passfd('stop', '--control', control)).exit, 0);
      assert.equal(await program.ended, 0);
    }),
  );
});

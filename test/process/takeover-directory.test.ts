// A takeover behind a deployment that swaps the working directory: the new code runs, and the service stays where it was.
import assert from 'node:assert/strict';
import { mkdirSync, readdirSync, renameSync, symlinkSync } from 'node:fs';
import { describe, it } from 'node:test';

import { temporaryDirectory } from '../support/files.js';
import { app, passfd, statusOf } from '../support/passfd.js';
import { withPrograms } from '../support/program.js';

describe('a takeover to a directory that has taken the place of the former one', () => {
  it(
    'keeps the control path that was named from there, and leaves nothing behind at the end',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const { path } = directory;
      const current = `${path}/current`;
      for (const name of ['first', 'second']) mkdirSync(`${path}/${name}`);
      symlinkSync('first', current);
      const words = ['run', '--workers', '1', '--control', 'control', app('slow.js')];
      const service = start(...passfd(...words), { cwd: current, env: { PWD: current } });
      await service.line(/^listening/);
      symlinkSync('second', `${current}.new`);
      renameSync(`${current}.new`, current);
      const control = `${path}/first/control`;
      assert.equal(await start(...passfd('takeover', '--control', control)).exit, 0);
      assert.equal((await statusOf(control)).generation, 2);
      assert.deepEqual(readdirSync(`${path}/second`), []);
      assert.deepEqual(readdirSync(`${path}/first`).sort(), ['control', 'control.workers']);
      assert.equal(await start(...passfd('restart', '--control', control)).exit, 0);
      service.signal('SIGTERM');
      assert.equal(await service.exit, 0);
      assert.deepEqual(readdirSync(`${path}/first`), []);
    }),
  );
});

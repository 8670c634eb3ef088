// A deployment that swaps the working directory under a service: new code runs, and the control path stays where it was.
import assert from 'node:assert/strict';
import { mkdirSync, readdirSync, renameSync, symlinkSync } from 'node:fs';
import { describe, it } from 'node:test';

import { temporaryDirectory } from '../support/files.js';
import { app, passfd, statusOf } from '../support/passfd.js';
import { withPrograms } from '../support/program.js';

describe('a service whose working directory another one has taken the place of', () => {
  it(
    'stays at the control path that was named from there, also for workers that come back to it',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const { path } = directory;
      const current = `${path}/current`;
      for (const name of ['first', 'second']) mkdirSync(`${path}/${name}`);
      symlinkSync('first', current);
      const run = ['run', '--workers', '1', '--orphan-timeout', '60000', '--control'];
      const words = passfd(...run, 'control', app('slow.js'));
      const there = { cwd: current, env: { PWD: current } };
      const service = start(...words, there);
      await service.line(/^listening/);
      symlinkSync('second', `${current}.new`);
      renameSync(`${current}.new`, current);
      const control = `${path}/first/control`;
      assert.equal(await start(...passfd('restart', '--control', control)).exit, 0);
      const { pid, workers } = await statusOf(control);
      process.kill(pid, 'SIGKILL');
      await service.ended;
      // The same command from the same directory, by its name: otherwise it would be another service.
      const next = start(...passfd(...run, control, app('slow.js')), there);
      await next.errorLine(new RegExp(`"pid":${String(workers[0]?.pid)}.*worker returned`));
      next.signal('SIGTERM');
      assert.equal(await next.exit, 0);
      assert.deepEqual([readdirSync(`${path}/first`), readdirSync(`${path}/second`)], [[], []]);
    }),
  );
});

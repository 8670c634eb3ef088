// Whoever reads the log may stop reading: the service goes on all the same, and ends when it is stopped.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { closeSync, constants, openSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';

import { temporaryDirectory } from '../support/files.js';
import { app, passfd } from '../support/passfd.js';
import { withPrograms } from '../support/program.js';

/** A pipe that takes nothing more. @returns its path, and a descriptor that keeps it so */
function fullPipe(directory: string): [path: string, fd: number] {
  const path = join(directory, 'pipe');
  execFileSync('mkfifo', [path]);
  const fd = openSync(path, constants.O_RDWR | constants.O_NONBLOCK);

  const bytes = Buffer.alloc(4096, 'x');
  for (let size = bytes.length; size > 0;) {
    try {
      writeSync(fd, bytes, 0, size);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EAGAIN') throw error;
      size = Math.floor(size / 2);
    }
  }
  return [path, fd];
}

describe('a service whose log nobody reads', () => {
  it(
    'serves, and ends with 0 when it is stopped',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const control = `${directory.path}/control`;
      const [pipe, fd] = fullPipe(directory.path);
      try {
        const [program, args] = passfd('run', '--workers', '1', '--control', control, app('throws.js'));
        const service = start('/bin/sh', ['-c', 'exec "$@" 2>"$0"', pipe, program, ...args]);
        const [, port = ''] = await service.line(/^listening (\d+)$/);
        assert.equal((await fetch(`http://127.0.0.1:${port}/`)).status, 200);
        assert.equal(await start(...passfd('stop', '--control', control)).exit, 0);
        assert.equal(await service.exit, 0);
      } finally {
        closeSync(fd);
      }
    }),
  );
});

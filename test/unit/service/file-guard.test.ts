// FileGuard: checks files when something happens to one, and stops watching a directory with its last file.
import assert from 'node:assert/strict';
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { describe, it } from 'node:test';

import { FileGuard } from '../../../src/service/file-guard.js';
import { temporaryDirectory } from '../../support/files.js';

/** Directories and files that this process watches (proc_pid_fdinfo(5)). */
function watches(): number {
  return readdirSync('/proc/self/fdinfo')
    .map((fd) => {
      try {
        return readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8').match(/^inotify wd:/gm)?.length ?? 0;
      } catch {
        return 0; // the directory that was read
      }
    })
    .reduce((sum, count) => sum + count, 0);
}

describe('a guard of files', () => {
  it('checks when one of them is removed', async () => {
    await using directory = await temporaryDirectory();
    const path = `${directory.path}/socket`;
    writeFileSync(path, '');
    // A guard keeps no process alive.
    const keeping = setInterval(() => undefined, 60_000);
    await new Promise<void>((resolve) => {
      const guard = new FileGuard(() => {
        guard[Symbol.dispose]();
        resolve();
        return Promise.resolve();
      });
      guard.add(path);
      rmSync(path);
    });
    clearInterval(keeping);
  });

  it(
    'watches a directory until its last file is no longer guarded',
    { skip: process.platform !== 'linux' && 'no inotify' },
    async () => {
      await using directory = await temporaryDirectory();
      using guard = new FileGuard(() => Promise.resolve());
      const before = watches();
      for (let start = 0; start < 3; start++) {
        const own = `${directory.path}/${start}`;
        mkdirSync(own);
        guard.add(`${own}/one`);
        guard.add(`${own}/other`);
        assert.equal(watches(), before + 1);
        guard.remove(`${own}/one`);
        assert.equal(watches(), before + 1);
        guard.remove(`${own}/other`);
        assert.equal(watches(), before);
      }
      guard.remove(`${directory.path}/nothing`);
    },
  );
});

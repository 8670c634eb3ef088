// Survivors: the file that tells the next dispatcher whom to wait for; and when it is not believed.
import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { describe, it } from 'node:test';

import { Survivors } from '../../../src/cli/survivors.js';
import { processIdentity } from '../../../src/fd/index.js';
import { temporaryDirectory } from '../../support/files.js';

/** Above the most that a process's number can be. */
const NOBODY = 2 ** 31 - 1;

function withFile(
  body: (survivors: Survivors, path: string, directory: string) => void,
): () => Promise<void> {
  return async () => {
    await using directory = await temporaryDirectory();
    const control = `${directory.path}/control`;
    body(new Survivors(control), `${control}.workers`, directory.path);
  };
}

const { pid } = process;
const living = { id: 3, pid, isChild: true, isLeaving: true };

describe('the survivors of a dispatcher', () => {
  it(
    'are those of the workers that it had noted last which live',
    withFile((survivors) => {
      survivors.write([{ ...living, id: 1 }]);
      survivors.write([living, { ...living, id: 4, pid: NOBODY }]);
      assert.deepEqual(survivors.read(), [{ ...living, identity: processIdentity(pid) }]);
    }),
  );

  it(
    'are not those whose number another process has by now',
    withFile((survivors, path) => {
      writeFileSync(path, JSON.stringify({ workers: [{ ...living, identity: '1' }] }));
      assert.deepEqual(survivors.read(), []);
    }),
  );

  it(
    'are noted for this user alone, and the file is there whole or not at all',
    withFile((survivors, path, directory) => {
      survivors.write([living]);
      assert.equal(statSync(path).mode & 0o777, 0o600);
      assert.deepEqual(readdirSync(directory), ['control.workers']);
    }),
  );

  it(
    'are not written where a link leads that somebody has put there',
    withFile((survivors, path, directory) => {
      const victim = `${directory}/victim`;
      writeFileSync(victim, 'precious');
      symlinkSync(victim, `${path}.new`);
      survivors.write([living]);
      assert.equal(readFileSync(victim, 'utf8'), 'precious');
      assert.equal(survivors.read().length, 1);
    }),
  );

  it(
    'are none behind an end in good order, which can be told twice',
    withFile((survivors, path) => {
      survivors.write([living]);
      survivors.remove();
      survivors.remove();
      assert.equal(existsSync(path), false);
      assert.deepEqual(survivors.read(), []);
    }),
  );

  for (const [what, text] of [
    ['is cut off', '{"workers":[{"id":1'],
    ['says something else', '{"workers":"all"}'],
    ['names a process that cannot be one', JSON.stringify({ workers: [{ ...living, pid: -1 }] })],
    ['is absurdly long', JSON.stringify({ workers: [living] }) + ' '.repeat(1024 * 1024)],
  ] as const) {
    it(
      `are none by a file that ${what}`,
      withFile((survivors, path) => {
        writeFileSync(path, text);
        assert.deepEqual(survivors.read(), []);
      }),
    );
  }
});

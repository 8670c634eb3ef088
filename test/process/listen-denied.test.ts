// Which users may listen and connect: the directory and the mode of the socket file decide, and errors name the reason.
import assert from 'node:assert/strict';
import { chmod } from 'node:fs/promises';
import { describe, it } from 'node:test';

import { listen } from '../../src/fd/index.js';
import { Child } from '../support/child.js';
import { keepsDescriptors } from '../support/descriptors.js';
import { temporaryDirectory } from '../support/files.js';
import { leaveSocketFile } from '../support/listeners.js';

const skip = process.getuid?.() === 0 ? false : 'needs root, to become another user';

/** The result when a user without rights tries. */
async function asNobody(
  listenAt: readonly string[],
  connectTo: readonly string[],
): Promise<Record<string, string | undefined>> {
  await using child = new Child('nobody');
  await child.channel.send(Buffer.from(JSON.stringify({ listenAt, connectTo })));
  const outcomes = await child.next<Record<string, string>>();
  assert.equal(await child.exit, 0);
  return outcomes;
}

describe('a user without rights', { skip }, () => {
  it(
    'cannot listen in a directory of another user',
    keepsDescriptors(async () => {
      await using directory = await temporaryDirectory();
      await chmod(directory.path, 0o755);
      const visible = `${directory.path}/s`;
      const { [visible]: outcome } = await asNobody([visible], []);
      assert.match(outcome ?? '', /^ERR_ADDRESS_DENIED: .*EACCES; this user may not create files in /);
    }),
  );

  it(
    'cannot replace the socket of another user, and gets an error',
    keepsDescriptors(async () => {
      await using directory = await temporaryDirectory();
      await chmod(directory.path, 0o1777);
      const alive = `${directory.path}/alive`;
      const stale = `${directory.path}/stale`;
      await using acceptor = await listen(alive);
      await leaveSocketFile(stale);
      const open = `${directory.path}/open`;
      await leaveSocketFile(open, 0o666);
      const outcomes = await asNobody([alive, stale, open], []);
      for (const path of [alive, stale]) {
        assert.match(outcomes[path] ?? '', /^ERR_ADDRESS_IN_USE: .*another user/);
      }
      assert.match(outcomes[open] ?? '', /^ERR_ADDRESS_DENIED: .*may not remove it/);
      assert.equal(acceptor.closed, false);
    }),
  );

  it(
    'connects only where the mode allows it',
    keepsDescriptors(async () => {
      await using directory = await temporaryDirectory();
      await chmod(directory.path, 0o755);
      const paths = [`${directory.path}/private`, `${directory.path}/public`];
      const [closed = '', open = ''] = paths;
      await using own = await listen(closed);
      await using everyones = await listen(open, { mode: 0o666 });
      const outcomes = await asNobody([], paths);
      assert.match(outcomes[closed] ?? '', /^ERR_ADDRESS_DENIED: .*EACCES/);
      assert.equal(outcomes[open], 'done');
      assert.equal(own.closed || everyones.closed, false);
    }),
  );
});

// Socket files that an app, or a cleaner, removes while the service lives: clients reach it again.
import assert from 'node:assert/strict';
import { rmSync } from 'node:fs';
import { connect } from 'node:net';
import { text } from 'node:stream/consumers';
import { describe, it } from 'node:test';

import { temporaryDirectory } from '../support/files.js';
import { app, passfd, statusOf } from '../support/passfd.js';
import { withPrograms } from '../support/program.js';

const REQUEST = 'GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n';

/** At the workers or the log, each by a process of its own. */
const MOST_LOOKS = 100;

async function ask(path: string): Promise<string> {
  const socket = connect(path);
  socket.write(REQUEST);
  return text(socket);
}

describe('a service whose app removes its socket file before it listens and when it ends', () => {
  it(
    'is reached behind a restart, behind a cleaner, and behind a kill of the dispatcher',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const [control, path] = [`${directory.path}/control`, `${directory.path}/web`];
      const flags = ['--workers', '2', '--orphan-timeout', '60000', '--control', control];
      const words = passfd('run', ...flags, app('removes-its-socket.js'));
      const env = { SOCKET_PATH: path };
      const first = start(...words, { env });
      const workers = async (): Promise<number[]> => {
        for (let tries = 0; tries < MOST_LOOKS; tries++) {
          const all = (await statusOf(control).catch(() => undefined))?.workers ?? [];
          if (all.length === 2 && all.every(({ state }) => state === 'ready')) {
            return all.map(({ pid }) => pid);
          }
        }
        throw new Error('There are never two workers, both ready');
      };
      const isOneOf = (pids: readonly number[], said: string): boolean =>
        pids.includes(Number(/process (\d+)/.exec(said)?.[1]));
      const before = await workers();
      assert.ok(isOneOf(before, await ask(path)));
      assert.equal(await start(...passfd('restart', '--control', control)).exit, 0);
      // At once: the command does not say that it is done before it is.
      const said = await ask(path);
      const fresh = await workers();
      assert.ok(isOneOf(fresh, said), said);

      rmSync(path);
      const told = first.errorLines.length;
      const isTold = (): boolean =>
        first.errorLines.slice(told).some((line) => line.includes('listening there anew'));
      for (let tries = 0; !isTold(); tries++) {
        assert.ok(tries < MOST_LOOKS, 'nobody opened it anew');
        await statusOf(control);
      }
      assert.ok(isOneOf(fresh, await ask(path)));
      // What the workers keep is the socket that is there now.
      first.signal('SIGKILL');
      await first.ended;
      const next = start(...words, { env });
      assert.deepEqual(await workers(), fresh);
      assert.ok(isOneOf(fresh, await ask(path)));
      next.signal('SIGTERM');
      assert.equal(await next.exit, 0);
    }, 120_000),
  );
});
